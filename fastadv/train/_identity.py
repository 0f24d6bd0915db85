"""What a run is, for its folder and for the processes that share it."""

from typing import Any

import torch
from torch import nn

from fastadv.runs.card import data_hash
from fastadv.runs.description import describe, describe_model
from fastadv.train._optimizers import MakeOptimizer
from fastadv.train._steps import Steps
from fastadv.train.ending import Ending
from fastadv.train.execution import Execution
from fastadv.train.measuring import Measures
from fastadv.train.optim import describe_options
from fastadv.train.ramp import Ramp


def describe_run(
    steps: Steps,
    epochs: int,
    optimizer: str | MakeOptimizer,
    learning_rate: float | None,
    identity: str | None,
) -> dict[str, Any]:
    """Describe what is trained, but for its data: a folder with another description is not resumed."""
    model, feed, optimization, execution = steps.model, steps.feed, steps.optimization, steps.execution
    ramp = optimization.ramp
    return {
        "model": describe_model(model, identity),
        "recipe": describe(steps.recipe, model, identity),
        # with the constant schedule, which does not depend on it, a run may be made longer
        "epochs": None if optimization.schedule == "constant" else epochs,
        "batch_size": feed.batch_size,
        "optimizer": describe(optimizer, model, identity),
        "learning_rate": learning_rate,
        **describe_options(optimization),
        "ramp": {**vars(ramp), "epochs": len(steps.ramp)} if isinstance(ramp, Ramp) else None,
        "schedule": describe(optimization.schedule, model, identity),
        "augment": feed.augment and describe(feed.augment.parts, model, identity),
        "precision": execution.precision,
        "seed": steps.seed,
        "identity": identity,
    }


def describe_around(
    model: nn.Module, measure: Measures, ending: Ending, execution: Execution, identity: str | None
) -> dict[str, Any]:
    """Describe what may change when a run is resumed, and must be the same in all of its processes."""
    test = measure.test
    return {
        "test_every": measure.every,
        "test_attacks": describe(test.attacks, model, identity),
        "test_limit": test.limit,
        "patience": ending.patience,
        "on_alarm": ending.on_alarm,
        "checkpoint_every": execution.checkpoint_every,
        "torch": torch.__version__,
        "initial weights": data_hash(*model.state_dict().values()),
    }

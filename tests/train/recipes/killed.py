"""Runs of the recipes that own their step, each killed in the middle of its second epoch."""

import os
import signal
import sys
from pathlib import Path

import torch

from fastadv.threat import Linf
from fastadv.train import AWP, FreeTraining, PGDTraining
from tests.train.nets import run

THREAT = Linf(0.1)
RECIPES = {"free": FreeTraining(THREAT, 2), "awp": AWP(PGDTraining(THREAT, 2))}
SETTINGS = {"epochs": 2, "checkpoint_every": None}

if __name__ == "__main__":
    from tests.kills import killed_at

    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    for name, recipe in RECIPES.items():
        run(
            None, recipe=recipe, epochs=1
        )  # what is slow the first time is done before the process multiplies
        if os.fork() == 0:
            # the files before: the report, checkpoints after 3, 6 and 7 steps, the report again
            killed_at(5, "after")
            run(folder / name, recipe=recipe, **SETTINGS | {"checkpoint_every": 3})
            os._exit(1)
        assert os.waitstatus_to_exitcode(os.wait()[1]) == -signal.SIGKILL

"""From names on the command line to models, data sets and devices."""

import pkgutil
from inspect import Parameter, signature
from pathlib import Path
from typing import Any

import torch
import typer
from torch import nn

from fastadv.cli import _options as o
from fastadv.cli._output import note
from fastadv.data import FolderSet, Mixture, NpzSet, load, load_folder, names
from fastadv.data._export import is_set
from fastadv.models import create, load_weights


def make_device(text: str | None) -> torch.device:
    """Find the device of that name; by default the GPU where there is one."""
    if text is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(text)
        torch.zeros((), device=device).item()  # meta tensors hold no values
    except (RuntimeError, AssertionError) as error:
        raise typer.BadParameter(
            f"device {text!r} is not there ({str(error).splitlines()[0]}); 'fastadv doctor' shows what is."
        ) from error
    return device


def load_data(
    data: str,
    split: o.Split | None = None,
    data_dir: Path | None = None,
    size: int | None = None,
    limit: int | None = None,
    *,
    default: o.Split = "test",
) -> Any:
    """Load the data set of that name, or the constructed or exported set in that folder, which has no split.

    `default` is the part that is meant where `split` is None.
    """
    if data in names():
        return load(data, split or default, data_dir=data_dir, size=size, limit=limit)
    if not is_set(data):
        o.refuse(
            f"no data set {data!r}; there are {', '.join(names())}, and the folder of any constructed "
            "or exported set."
        )
    for option, value in (("--split", split), ("--size", size)):
        if value is not None:
            o.refuse(f"{option} has no effect on the constructed set {data}; leave it out.")
    made = load_folder(data)
    return made if limit is None or limit >= len(made) else made.subset(range(limit))


def load_mixture(real: Any, generated: Path, fraction: float) -> Mixture:
    """Mix `real`, read into memory, with the generated images of that file or folder."""
    return Mixture(real.in_memory() if isinstance(real, FolderSet) else real, NpzSet(generated), fraction)


def load_model(
    name: str,
    arguments: list[str] | None,
    weights: Path | None,
    dataset: Any,
    device: torch.device,
    seed: int = 0,
    *,
    fresh: bool = False,
) -> nn.Module:
    """Load the model, made for the images and classes of `dataset`, in eval mode on the device.

    A built-in model gets shape, classes and seed; a user's own factory those of them that it takes. Both get
    `arguments`, each KEY=VALUE. `fresh` says that untrained weights are wanted.
    """
    offered = {"shape": tuple(dataset.shape), "classes": dataset.num_classes, "seed": seed}
    own = o.pairs(arguments or [], "--option")
    if ":" not in name and own.keys() & {"shape", "classes"}:
        o.refuse("--option: shape and classes follow from --data; leave them out.")
    with o.usage():
        model = create(name, **(_accepted(name, offered) | own))
    if weights is not None:
        load_weights(model, weights)
    elif not fresh and ":" not in name:
        note(f"{name} has its first, untrained weights; give trained ones with --weights")
    return model.to(device).eval()


def _accepted(name: str, offered: dict[str, Any]) -> dict[str, Any]:
    if ":" not in name:
        return offered
    try:
        takes = signature(pkgutil.resolve_name(name)).parameters
    except (ImportError, AttributeError, ValueError, TypeError):
        return {}  # create says what is wrong
    everything = any(parameter.kind is Parameter.VAR_KEYWORD for parameter in takes.values())
    return {key: value for key, value in offered.items() if everything or key in takes}

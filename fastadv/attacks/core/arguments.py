"""The arguments that every attack takes, and the table of their checks."""

from collections.abc import Callable
from typing import Any, TypedDict

from torch import Tensor

from fastadv._checks import check_count
from fastadv.attacks.core.checks import check_images
from fastadv.attacks.core.classified import Classified
from fastadv.attacks.core.criterion import Criterion, check_criterion
from fastadv.engine import Prepared, prepare
from fastadv.errors import InputError
from fastadv.labels import check_index
from fastadv.threat.checks import check_threat


class Common(TypedDict, total=False):
    """The arguments that every attack takes, by name only.

    Args:
        others: as in `pgd`.
    """

    targets: Tensor | None
    criterion: Criterion | None
    mask: Tensor | None
    eot: int
    ids: Tensor | None
    freeze: bool | None


SHARED: dict[str, Any] = {
    "targets": None, "criterion": None, "mask": None, "eot": 1, "ids": None, "freeze": None,
}  # fmt: skip

# What came in a call, of which each check makes what the task has
Call = dict[str, Any]
Check = Callable[[Any, Call], Any]


def _images(x: Any, call: Call) -> Tensor:
    """Return x [B, ...], whose values are known where it is that of a task in the same box."""
    model, box = call["model"], call["threat"].box
    known = isinstance(model, Classified) and x is model.x and model.box == box
    images = check_images(x, box, values=not known)
    if images.ndim == 3 and not _are_several(call["y"], images.shape[0]):
        raise InputError(
            f"x: expected a batch [B, C, H, W], got one image {list(images.shape)} and one label; add a "
            "batch dimension: x[None], and y as a tensor [1]"
        )
    return images


def _are_several(y: Any, size: int) -> bool:
    """Return whether y are labels of a batch, and not the one of a single image."""
    return y is None or (isinstance(y, Tensor) and (y.numel() > 1 or y.shape == (size,)))


def _prepared(model: Any, call: Call) -> Prepared:
    """Return what answers, by the passes of a model that was prepared unless the call asks for several."""
    eot = call["eot"]
    return prepare(
        model.classifier if isinstance(model, Classified) else model,
        eot if eot > 1 else None,
        work=call["passes"] * call["x"].shape[0],
        freeze=call["freeze"],
        outputs=call["criterion"].outputs,
    )


def _labels(name: str) -> Check:
    """Return the check of y or of the targets."""

    def check(labels: Any, call: Call) -> Tensor | None:
        x = call["x"]
        return call["criterion"].labels(name, labels, x.shape[0], x.device)  # type: ignore[no-any-return]

    return check


# The arguments of a call in the order in which they are checked: each check sees the call with what those
# before it have returned, and is asked where the argument was given. A mask is like the parameters of a map,
# and comes after it.
CHECKS: dict[str, Check] = {
    "threat": lambda threat, call: check_threat(threat, maps=True),
    "criterion": lambda criterion, call: check_criterion(criterion).for_labels(call["y"]),
    "x": _images,
    "eot": lambda eot, call: check_count("eot", eot, 1),
    "model": _prepared,
    "y": _labels("y"),
    "targets": _labels("targets"),
    "ids": lambda ids, call: check_index("ids", ids, call["x"].shape[0], call["x"].device),
}

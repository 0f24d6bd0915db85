"""What a prepared model takes, and what it accepts as outputs."""

from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeGuard

import torch
from torch import Tensor

from fastadv._checks import kind_of
from fastadv._torch import is_transformed
from fastadv.errors import InputError

# What to do with a model that takes more than x
TWO_INPUTS = (
    "hold the rest in a torch.nn.Module around it, one for all images or for a batch of that size, or join "
    "it to the image"
)


def check_input(x: object, device: torch.device | None) -> Tensor:
    """Return `x` detached; InputError unless it is a floating tensor [B, ...] on `device`."""
    if not is_floating(x) or x.ndim == 0:
        raise InputError(f"x: expected a floating tensor [B, ...], got {kind_of(x)}; convert it")
    if device is not None and x.device != device:
        raise InputError(f"x: expected a tensor on {device}, where the model is, got {x.device}; move it")
    return plain(x)


def plain(x: Tensor) -> Tensor:
    """Return `x` detached and of no subclass; InputError where it is not dense."""
    if is_transformed():
        raise InputError("x: expected a plain tensor, got one in a transform of torch.func; call it outside")
    if x.layout is not torch.strided or x.is_nested:
        kind = "nested" if x.is_nested else str(x.layout)
        raise InputError(f"x: expected a dense tensor [B, ...], got a {kind} one; convert it")
    if type(x) is not Tensor:
        x = x.as_subclass(Tensor)
    return x.clone() if x.is_inference() else x.detach()


def check_model(model: object) -> None:
    if isinstance(model, type):
        raise InputError(f"model: expected a model, got the class {model.__name__}; make one of it")
    if not callable(model):
        raise InputError(f"model: expected a module or a function of x, got {type(model).__name__}")
    if type(model).__module__.startswith(("transformers.", "open_clip.")) and hasattr(model, "logit_scale"):
        advice = "which takes texts, too; fastadv.models.zero_shot(model, tokenizer, classes) is a classifier"
        raise InputError(f"model: expected one of x alone, got {type(model).__name__}, {advice}")


def classes_for(loss: object, y: object, targets: object) -> tuple[Tensor | None, Tensor | None]:
    """Return labels and targets [B] or None, targets in place of labels; a loss of ours has either."""
    y, targets = _indices("y", y), _indices("targets", targets)
    if not isinstance(loss, str):
        return y, targets
    if y is None and targets is None:
        raise InputError(
            f"input_gradient: expected labels or targets for loss {loss!r}, got neither; "
            "pass y, or a loss of your own"
        )
    return targets if y is None else y, targets


def _indices(name: str, classes: object) -> Tensor | None:
    """Classes [B] or None; InputError for what is no tensor. The losses check their values."""
    if classes is None:
        return None
    if not isinstance(classes, Tensor):
        raise InputError(f"{name}: expected a tensor of classes [B] or None, got {kind_of(classes)}")
    # the graph of a callable loss may save them, which inference tensors refuse
    return classes.clone() if classes.is_inference() else classes


def is_floating(value: object) -> TypeGuard[Tensor]:
    return isinstance(value, Tensor) and value.is_floating_point()


def checked_directions(directions: object, logits: Tensor) -> Tensor:
    """Return `directions` detached; InputError unless they are a floating [B, C, K] that fits the logits."""
    if is_floating(directions):
        form = directions.ndim, directions.shape[::2], directions.device
        if form == (3, logits.shape, logits.device):
            return directions.detach()
    raise InputError(
        f"directions: expected a floating tensor [B, C, K] with B, K = {tuple(logits.shape)} "
        f"on {logits.device}, got {kind_of(directions)} on {getattr(directions, 'device', 'no device')}"
    )


# A search takes for outputs the logits of two or more classes, one logit, or anything
Outputs = Literal["classes", "logit", "any"]


def checked_logits(logits: object, size: int) -> Tensor:
    """Return what `check_logits` does, in float32 or float64."""
    return _wide(check_logits(logits, size))


def checked_logit(logits: object, size: int) -> Tensor:
    """Return one logit z a sample, [B] or [B, 1], as the two logits (0, z)."""
    if isinstance(logits, Tensor) and logits.numel() != size:
        raise InputError(
            f"model: expected one logit for each of {size} samples, as Signs() asks with one label each, "
            f"got {tuple(logits.shape)}; give Signs() labels [B, K], or leave it out for classes"
        )
    return checked_outputs(logits, size)


def checked_outputs(outputs: object, size: int) -> Tensor:
    """Return outputs as rows [B, N] in float32 or float64; of one value z a sample, (0, z)."""
    if is_floating(outputs):
        values = outputs[None] if size == 1 and outputs.ndim < 2 else outputs
        if values.shape[:1] == (size,):
            rows = _wide(values.reshape(size, values.shape[1:].numel()))
            return rows if rows.shape[1] > 1 else torch.cat([torch.zeros_like(rows), rows], 1)
    raise InputError(f"model: expected floating outputs [B, ...] with B = {size}, {_got(outputs)}")


OUTPUTS: dict[Outputs, Callable[[object, int], Tensor]] = {
    "classes": checked_logits, "logit": checked_logit, "any": checked_outputs,
}  # fmt: skip


def _wide(rows: Tensor) -> Tensor:
    return rows if rows.dtype in (torch.float32, torch.float64) else rows.float()


def check_logits(logits: object, size: int) -> Tensor:
    """Return `logits`; InputError unless they are floating [B, K], or [K] of one sample, with K >= 2."""
    if is_floating(logits):
        rows = logits[None] if size == logits.ndim == 1 else logits
        if rows.shape[:-1] == (size,) and rows.shape[-1] > 1:
            return rows
    raise InputError(_refusal(logits, size))


def _refusal(logits: Any, size: int) -> str:
    """Return what is wrong with logits, and what to do."""
    got = _got(logits)
    if is_floating(logits) and logits.ndim < 3 and logits.shape[:1].numel() == size:
        return f"model: expected at least two classes, {got}; {_for_one(logits)}"
    advice = "; for classes at positions pass criterion=fastadv.attacks.Share(least)"
    advice *= getattr(logits, "ndim", 0) > 2
    return f"model: expected floating logits [B, K] with B = {size}, {got}{advice}"


def _for_one(logits: Tensor) -> str:
    """Return what to do with one logit a sample."""
    advice = (
        "attack one logit z with criterion=fastadv.attacks.Signs(), a number to predict with "
        "Beyond(distance); elsewhere return torch.cat([torch.zeros_like(z), z], dim=1)"
    )
    if logits.numel() and not logits.is_meta and bool(((logits >= 0) & (logits <= 1)).all()):
        advice = f"all are in [0, 1]: for a probability p return torch.cat([1 - p, p], dim=1); {advice}"
    return advice if logits.ndim == 2 else f"{advice}, each with .view(-1, 1)"


# What to do with outputs that are no tensor, by the first of these names that they hold
ADVICE = {
    "boxes": " of boxes; detectors are not attacked: wrap the part whose outputs are one tensor",
    "logits": "; fastadv.models.adapt(model, mean=..., std=...) returns its logits",
    "out": ' with {keys}; wrap it so that it returns the tensor "out"',
    "": "; wrap it so that it returns one tensor",
}


def _got(outputs: object) -> str:
    """Return what a model returned in place of floating rows, and what to do where that is known."""
    got = f"got {kind_of(outputs)}"
    if isinstance(outputs, Tensor):
        return got
    parts = [outputs, *(outputs if isinstance(outputs, list | tuple) else ())]
    keys = [str(key) for part in parts if isinstance(part, Mapping) for key in part]
    advice = next(text for name, text in ADVICE.items() if name in ("", *keys, *dir(outputs)))
    return got + advice.format(keys=", ".join(keys))

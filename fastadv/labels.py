"""What labels must be, and what to do with others."""

from typing import Any

import torch
from torch import Tensor

from fastadv._checks import kind_of, warn
from fastadv.errors import InputError
from fastadv.intervals import clopper_pearson

LABELS = "labels: "  # how flags of `label_flags` begin
OTHERS = "Signs()", "Share(least)", "Beyond(distance)"  # what takes labels that are no classes
ROUNDING = 0.01  # of the sum of a row of probabilities, in half precision, too
INTEGERS = {getattr(torch, f"{sign}int{bits}") for sign in ("", "u") for bits in (8, 16, 32, 64)}
FEW = 32  # outputs, which may lie in [0, 1] by chance


def check_index(name: str, values: Any, size: int, device: torch.device) -> Tensor:
    """Return one integer for each of `size` samples, as int64 [size] on the device; InputError otherwise."""
    if not isinstance(values, Tensor) or values.dtype not in INTEGERS or values.shape != (size,):
        raise InputError(
            f"{name}: expected one integer for each of {size} samples, a tensor [{size}], "
            f"got {kind_of(values)}{instead(name, values, size)}"
        )
    return on_device(name, values, device).long()


def instead(name: str, values: Any, size: int) -> str:
    """Return what to pass in place of labels that are no classes, as the end of an error; "" if unknown."""
    signs, share, beyond = (f"criterion=fastadv.attacks.{each}" for each in OTHERS)
    if values is None:
        return f"; without labels pass {beyond}"
    known = isinstance(values, Tensor) and values.shape[:1] == (size,) and not values.is_complex()
    if not known or not values.numel():
        return ""
    floats, two = values.is_floating_point(), bool(((values == 0) | (values == 1)).all())
    rows = values.ndim == 2 and values.shape[1] > 1
    if rows and bool((values >= 0).all() & ((values.double().sum(1) - 1).abs() < ROUNDING).all()):
        kind = "one-hot rows pass" if two else "probabilities pass the likeliest class,"
        return f"; of {kind} {name}.argmax(1)"
    whole = not floats or bool((values == values.round()).all())
    if values.shape[1:].numel() == 1 and whole:
        squeezed = {1: name, 2: f"{name}.squeeze(1)"}.get(values.ndim, f"{name}.flatten()")
        others = (
            f"for one logit pass {signs}, " if two else f"for numbers to predict pass {beyond}, " * floats
        )
        cast = ".long()" * (floats or values.dtype == torch.bool)
        return f"; {others}for classes {'' if others else 'pass '}{squeezed}{cast}"
    if rows and two:
        return f"; for labels of which several hold pass {signs}"
    return f"; for numbers to predict pass {beyond}" if floats else f"; for classes at positions pass {share}"


def are_one_hot(y: Any, ignore: int) -> bool:
    """Return whether y are masks [B, K, ...] of several classes with one 1 at each position that counts."""
    if not isinstance(y, Tensor) or y.ndim < 3 or y.shape[1] < 2:
        return False
    ones, zeros, ignored = (y == 1).sum(1), (y == 0).sum(1), (y == ignore).all(1)
    one_hot = ((ones == 1) & (zeros == y.shape[1] - 1)) | ignored
    return bool(one_hot.all()) and int((y == 1).movedim(1, 0).flatten(1).any(1).sum()) > 1


def of_one_hot(name: str) -> str:
    return f"; of one-hot masks pass {name}.argmax(1)"


def on_device(name: str, values: Tensor, device: torch.device) -> Tensor:
    """Return labels that follow no gradient; InputError unless they are on the device."""
    if values.device != device:
        raise InputError(
            f"{name}: expected a tensor on {device}, where x is, got {values.device}; move one to the other"
        )
    return values.clone() if values.is_inference() else values.detach()


def check_classes(name: str, values: Tensor, classes: int) -> None:
    if not len(values):
        return
    least, most = torch.stack(values.aminmax()).tolist()
    if least < 0 or most >= classes:
        raise InputError(
            f"{name}: expected classes 0 to {classes - 1}, which the model has, got {least} to {most}"
        )


def check_targets(y: Tensor, targets: Tensor) -> None:
    """Raise InputError where the target of a sample is its label."""
    if bool((targets == y).any()):
        place = int((targets == y).nonzero()[0])
        raise InputError(
            "targets: expected a class other than the label, "
            f"got label {int(y[place])} as target of sample {place}"
        )


def label_flags(right: int, count: int, classes: int = 0) -> tuple[str, ...]:
    """Return a flag where no sample was right before the attack, or fewer than by chance among `classes`."""
    if not right:
        who, wrong = "all {} were" if count > 1 else "the sample was", "misclassified" if classes else "wrong"
        warning = f"{who.format(count)} {wrong} before the attack: nothing was attacked"
    # one in a thousand batches of guesses has so few
    elif 0 < right * classes < count and clopper_pearson(right, count, level=0.998).high < 1 / classes:
        warning = (
            f"{right} of {count} were right before the attack, fewer than chance, 1 in {classes}, allows"
        )
    else:
        return ()
    return (f"{LABELS}{warning}; are labels and model of one kind?",)


def warn_of_probabilities(outputs: Tensor, kind: str = "any", reads: bool = True) -> None:
    """Warn of outputs whose sign is to decide, if only probabilities are such: on both sides of a half."""
    if kind == "classes" or not reads or outputs.numel() < FEW:  # reading values waits for a GPU
        return
    z = outputs[:, 1] if kind == "logit" else outputs  # (0, z)
    if 0 <= z.min() < 0.5 < z.max() <= 1:
        warn(
            "model: expected logits, of which those above 0 mean yes, got outputs that all lie in [0, 1]; if "
            "they are probabilities, leave the sigmoid out of the model"
        )

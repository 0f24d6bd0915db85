"""An ABS model as one safetensors file: tensors, options and card."""

import dataclasses
import json
import os
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fastadv.errors import CorruptFileError, InputError
from fastadv.models.abs.decoder import Decoders
from fastadv.models.abs.options import InferenceOptions
from fastadv.models.abs.prior import PriorBank
from fastadv.runs.files import load_tensors, save_tensors

KIND = "fastadv.ABS"
FACTORS, PRIOR = "factors", "_prior"


@dataclass(frozen=True, eq=False)
class Stored:
    """What a file of `ABS.save` holds."""

    decoders: Decoders
    prior: PriorBank
    factors: Tensor
    options: InferenceOptions
    card: dict[str, Any]


def write_abs(path: str | os.PathLike[str], model: Stored) -> None:
    """Write a model; see ABS.save."""
    decoders = model.decoders
    tensors = {FACTORS: model.factors, PRIOR: model.prior.latents}
    tensors |= {f"weight_{i}": weight for i, weight in enumerate(decoders.weights)}
    tensors |= {f"bias_{i}": bias for i, bias in enumerate(decoders.biases)}
    constants = dataclasses.asdict(model.options) | {"strides": list(decoders.shape.strides)}
    save_tensors(
        path, tensors, {"kind": KIND, "constants": json.dumps(constants), "card": json.dumps(model.card)}
    )


def read_abs(path: str | os.PathLike[str]) -> Stored:
    """Read a model; see ABS.load."""
    tensors, metadata = load_tensors(path)
    if metadata.get("kind") != KIND:
        raise CorruptFileError(
            f"{path}: expected a file that ABS.save wrote, got a {metadata.get('kind', 'safetensors')} file; "
            "check the path"
        )
    try:
        constants = json.loads(metadata["constants"])
        strides = constants.pop("strides")
        options = InferenceOptions().changed(**_every_option(constants))
        weights, biases = (
            [tensors.pop(f"{part}_{i}") for i in range(len(strides))] for part in ("weight", "bias")
        )
        decoders = Decoders(weights, biases, strides)
        prior = PriorBank.checked(tensors.pop(PRIOR), decoders)
        factors = checked_factors(tensors.pop(FACTORS), decoders.classes)
        card = json.loads(metadata["card"])
    except (KeyError, TypeError, AttributeError, InputError, json.JSONDecodeError) as error:
        raise CorruptFileError(
            f"{path}: expected the tensors and constants of an ABS model, got others ({error}); "
            "save the model again"
        ) from error
    if tensors:
        raise CorruptFileError(
            f"{path}: expected only an ABS model's tensors, got also {sorted(tensors)[:3]}; "
            "save the model again"
        )
    return Stored(decoders, prior, factors, options, card)


def _every_option(constants: dict[str, Any]) -> dict[str, Any]:
    """Return the constants; KeyError where an option is missing, because a default would be another model."""
    return {field.name: constants[field.name] for field in dataclasses.fields(InferenceOptions)} | constants


def checked_factors(factors: Any, classes: int) -> Tensor:
    """Class factors as a float32 tensor [K]; InputError unless they are K positive finite numbers."""
    try:
        given = torch.as_tensor(factors, dtype=torch.float32).detach().clone()
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"factors: expected {classes} positive numbers, one a class, got {factors!r}"
        ) from error
    if given.shape != (classes,) or not bool((given.isfinite() & (given > 0)).all()):
        raise InputError(f"factors: expected {classes} positive numbers, one a class, got {given.tolist()}")
    return given

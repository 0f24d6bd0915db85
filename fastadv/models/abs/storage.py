"""ABS models in files: one safetensors file, and the ten state dicts that the paper's authors published."""

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastadv.errors import CorruptFileError, InputError
from fastadv.files import load_tensors, save_tensors
from fastadv.models.abs.decoder import NORM, Decoders, fold_batch_norm
from fastadv.models.abs.options import InferenceOptions
from fastadv.models.abs.prior import PriorBank
from fastadv.models.weights import COUNTER, listing, read_plain

KIND = "fastadv.ABS"
FACTORS, PRIOR = "factors", "_prior"


Stored = tuple[Decoders, PriorBank, Tensor, InferenceOptions, dict[str, Any]]
"""Decoders, prior, factors, options and card: what a file of `ABS.save` holds."""


def write_abs(path: str | os.PathLike[str], stored: Stored) -> None:
    decoders, prior, factors, options, card = stored
    tensors = {FACTORS: factors, PRIOR: prior.latents}
    tensors |= {f"weight_{i}": weight for i, weight in enumerate(decoders.weights)}
    tensors |= {f"bias_{i}": bias for i, bias in enumerate(decoders.biases)}
    constants = dataclasses.asdict(options) | {"strides": list(decoders.shape.strides)}
    save_tensors(path, tensors, {"kind": KIND, "constants": json.dumps(constants), "card": json.dumps(card)})


def read_abs(path: str | os.PathLike[str]) -> Stored:
    tensors, metadata = load_tensors(path)
    if metadata.get("kind") != KIND:
        raise CorruptFileError(
            f"{path}: expected a file that ABS.save wrote, got a {metadata.get('kind', 'safetensors')} file; "
            "check the path"
        )
    try:
        constants = json.loads(metadata["constants"])
        strides = constants.pop("strides")
        # KeyError where an option is missing, because a default would be another model
        known = {field.name: constants[field.name] for field in dataclasses.fields(InferenceOptions)}
        options = InferenceOptions().changed(**known | constants)
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
    return decoders, prior, factors, options, card


def checked_factors(factors: Any, classes: int) -> Tensor:
    """Class factors as a float32 tensor [K]; InputError unless they are K positive finite numbers."""
    try:
        values = torch.as_tensor(factors, dtype=torch.float32).detach().clone()
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"factors: expected {classes} positive numbers, one a class, got {factors!r}"
        ) from error
    if values.shape != (classes,) or not bool((values.isfinite() & (values > 0)).all()):
        raise InputError(f"factors: expected {classes} positive numbers, one a class, got {values.tolist()}")
    return values


def read_official(
    folder: str | os.PathLike[str], classes: int = 10, layers: int = 4
) -> tuple[list[Tensor], list[Tensor]]:
    """Return the layers' weights [K, cin, cout, k, k] and biases [K, cout] in ABS_0.net .. ABS_9.net."""
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(
            f"{folder}: expected the folder that holds ABS_0.net .. ABS_{classes - 1}.net, got no folder; "
            "check the path"
        )
    expected = {f"Decoder.conv_{i}.{part}" for i in range(layers) for part in ("weight", "bias")}
    expected |= {f"Decoder.bn_{i}.{part}" for i in range(layers - 1) for part in NORM}
    states = []
    for k in range(classes):
        path = folder / f"ABS_{k}.net"
        state = {
            name: value
            for name, value in read_plain(path)[0].items()
            if name.startswith("Decoder.") and not name.endswith(COUNTER)
        }
        missing, foreign = expected - state.keys(), state.keys() - expected
        if missing or foreign:
            raise CorruptFileError(
                f"{path}: expected the decoder of one class ({layers} layers), got another: missing "
                f"{listing(missing)}; unexpected {listing(foreign)}; give the authors' published file"
            )
        states.append(state)

    def stacked(name: str) -> Tensor:
        shapes = {tuple(state[name].shape) for state in states}
        if len(shapes) > 1:
            raise CorruptFileError(
                f"{folder}: expected {name} of one shape in every class, got {sorted(shapes)}; "
                "give files of one training"
            )
        return torch.stack([state[name].float() for state in states])

    weights, biases = [], []
    for i in range(layers):
        weight, bias = stacked(f"Decoder.conv_{i}.weight"), stacked(f"Decoder.conv_{i}.bias")
        if i < layers - 1:
            norm = [stacked(f"Decoder.bn_{i}.{part}") for part in NORM]
            weight, bias = fold_batch_norm(weight, bias, *norm)
        weights.append(weight.contiguous())
        biases.append(bias.contiguous())
    return weights, biases

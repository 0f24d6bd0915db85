"""An ABS model as one safetensors file: tensors, constants and card."""

import json
import os
from typing import TypeVar

from fastadv._card import card, data_hash
from fastadv._files import load_tensors, save_tensors
from fastadv.errors import CorruptFileError, InputError
from fastadv.models.abs.generators import Generators

Model = TypeVar("Model", bound=Generators)

KIND = "fastadv.ABS"
SET_LATER = ("steps", "step_size", "prune_gain")
CONSTANTS = (
    "beta",
    "binary",
    "scale",
    "floor",
    "max_norm",
    "input_grad",
    "prune",
    "precision",
    "steps",
    "step_size",
    "prune_gain",
)


def save_abs(model: Generators, path: str | os.PathLike[str]) -> None:
    """Write `model`; see ABS.save."""
    constants = {name: getattr(model, name) for name in CONSTANTS} | {"strides": list(model.shape.strides)}
    about = {**card("abs", constants, weights=data_hash(*model.weights, *model.biases)), **model.card}
    save_tensors(
        path,
        model.state_dict(),
        {"kind": KIND, "constants": json.dumps(constants), "card": json.dumps(about)},
    )


def load_abs(cls: type[Model], path: str | os.PathLike[str]) -> Model:
    """Read `model`; see ABS.load."""
    tensors, metadata = load_tensors(path)
    if metadata.get("kind") != KIND:
        raise CorruptFileError(
            f"{path}: expected a file that ABS.save wrote, got a {metadata.get('kind', 'safetensors')} file; check the path"
        )
    try:
        constants = json.loads(metadata["constants"])
        layers = len(constants["strides"])
        weights, biases = ([tensors.pop(f"{part}_{i}") for i in range(layers)] for part in ("weight", "bias"))
        options = {name: constants[name] for name in CONSTANTS if name not in SET_LATER}
        model = cls(
            weights,
            biases,
            constants["strides"],
            factors=tensors.pop("factors").tolist(),
            prior_samples=len(weights[0]),
            **options,
        )
        model.prior_latents = tensors.pop("_prior")
        for name in SET_LATER:
            setattr(model, name, constants[name])
        model.card = json.loads(metadata["card"])
    except (KeyError, TypeError, InputError, json.JSONDecodeError) as error:
        raise CorruptFileError(
            f"{path}: expected the tensors and constants of an ABS model, got others ({error}); save the model again"
        ) from error
    if tensors:
        raise CorruptFileError(
            f"{path}: expected only an ABS model's tensors, got also {sorted(tensors)[:3]}; save the model again"
        )
    return model

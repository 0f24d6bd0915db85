"""The prior samples that every latent search starts from, and the images that they decode to."""

from collections.abc import MutableMapping
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from fastadv import rng
from fastadv._checks import check_count, check_seed
from fastadv._torch import version
from fastadv.errors import InputError
from fastadv.hashes import data_hash
from fastadv.models.abs.decoder import Decoders
from fastadv.ops.latent_decode import latent_decode
from fastadv.ops.nearest_prototype import nearest_prototype

DISMISSED = 0.1


def draw_prior(count: int, latents: int, seed: int = 0) -> Tensor:
    """Draw the likeliest `count` of int(count / 0.9) standard normal latents [S, L], as the authors do."""
    check_count("prior_samples", count, 1)
    ids = torch.arange(int(count / (1 - DISMISSED)), device="cpu")
    drawn = rng.normal(latents, rng.derive(check_seed(seed), "abs prior"), ids)
    likely = drawn.norm(dim=1).argsort(stable=True)[:count].sort().values
    return drawn[likely]


class PriorBank(nn.Module):
    """Prior samples: latents, and their images [K, S, D] under each decoder, which copies share (250 MB)."""

    latents: Tensor

    def __init__(self, latents: Tensor) -> None:
        super().__init__()
        self.register_buffer("latents", latents.detach().contiguous())
        self._decoded = _Decoded()

    @classmethod
    def checked(cls, latents: Tensor, decoders: Decoders) -> Self:
        """Make a bank from checked latents, on the device of the decoders."""
        fits = latents.ndim == 2 and latents.shape[1] == decoders.latents
        if not fits or len(latents) < decoders.classes or not bool(latents.isfinite().all()):
            raise InputError(
                f"prior_latents: expected finite [S, {decoders.latents}] with S >= {decoders.classes}, "
                f"got {tuple(latents.shape)}"
            )
        return cls(latents.to(decoders.weights[0]))

    def images(self, decoders: Decoders) -> Tensor:
        if (images := self._decoded.images(self.latents, decoders)) is not None:
            return images
        self._decoded = _Decoded()
        return self.images(decoders)

    def nearest(
        self, seen: Tensor, decoders: Decoders, beta: float, part: slice = slice(None)
    ) -> tuple[Tensor, Tensor]:
        """Find the prior sample that explains each image best."""
        latents = self.latents[part]
        bias = (beta / 2 * latents.square().sum(1)).expand(decoders.classes, -1)
        least, index = nearest_prototype(seen.flatten(1), self.images(decoders)[:, part], bias.contiguous())
        return least / seen.shape[1:].numel(), latents[index]


class _Decoded:
    """Images of a bank's latents, with a record of what they were decoded from."""

    def __init__(self) -> None:
        self._images: Tensor | None = None
        self._hash = ""
        # Tensors that held a part of what the images were made of, by its number and theirs of writes, so
        # that a set of them is hashed once.
        self._known: MutableMapping[Tensor, tuple[int, int | None]] = WeakIdKeyDictionary()

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return _Decoded, ()

    def describe(self) -> str:
        """Say the same whether the images are decoded yet or not: they follow from latents and weights."""
        return "images of the latents"

    def images(self, latents: Tensor, decoders: Decoders) -> Tensor | None:
        parts = [latents, *decoders.weights, *decoders.biases]
        counted = not any(part.is_inference() for part in parts)  # whether each counts writes into it
        seen = [(i, version(part) if counted else None) for i, part in enumerate(parts)]
        if self._images is None:
            with torch.inference_mode(False), torch.no_grad():
                several, strides = latents.expand(decoders.classes, -1, -1), decoders.shape.strides
                decoded = latent_decode(several, decoders.weights, decoders.biases, strides)
                self._images = decoded.flatten(2)
            self._hash = data_hash(*parts)
        elif all(self._known.get(part) == written for part, written in zip(parts, seen, strict=True)):
            return self._images
        elif latents.device != self._images.device or data_hash(*parts) != self._hash:
            return None
        if counted:
            self._known.update(zip(parts, seen, strict=True))
        return self._images

"""The prior samples that start every latent search, and the bank of images they decode to."""

from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor

from fastadv import rng
from fastadv._card import data_hash
from fastadv.errors import InputError
from fastadv.ops.latent_decode import latent_decode

DISMISSED = 0.1


def draw_prior(count: int, latents: int, seed: int = 0) -> Tensor:
    """`count` samples [S, L] of a standard normal, after the least likely tenth of int(count / 0.9) was dropped (Schott et al. 2018, code)."""
    if count < 1:
        raise InputError(f"prior samples: expected at least one, got {count}")
    drawn = rng.normal(latents, seed, torch.arange(int(count / (1 - DISMISSED))))
    likely = drawn.norm(dim=1).argsort(stable=True)[:count].sort().values
    return drawn[likely]


class Bank:
    """Images [K, S, D] of the prior latents under every class, decoded at first use.

    Copies of a model share it: it is the largest thing an ABS holds (250 MB for MNIST), and attacks copy their model.
    """

    def __init__(self) -> None:
        self._images: Tensor | None = None
        self._hash = ""
        # tensors known to hold what the bank was made of, by place and version, so that their contents are compared once
        self._known: set[tuple[Any, ...]] = set()

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def images(
        self, prior: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor], strides: Sequence[int]
    ) -> Tensor | None:
        """The bank; None where it was made of other prior latents, weights or biases, or on another device."""
        parts = (prior, *weights, *biases)
        key = tuple(
            (part.data_ptr(), part.device, part.dtype, 0 if part.is_inference() else part._version)
            for part in parts
        )
        if self._images is None:
            with torch.inference_mode(False), torch.no_grad():
                self._images = latent_decode(
                    prior.expand(len(weights[0]), -1, -1), weights, biases, strides
                ).flatten(2)
            self._hash = data_hash(*parts)
            self._known.add(key)
        elif key not in self._known:
            if prior.device != self._images.device or data_hash(*parts) != self._hash:
                return None
            self._known.add(key)
        return self._images

"""Mapped: a classifier of parameters, which asks another with the images that a map makes of them."""

from collections.abc import Callable
from copy import copy
from typing import Any

import torch
from torch import Tensor

from fastadv.engine.arguments import Outputs
from fastadv.engine.bound import CleanPass, Gradient, pull
from fastadv.engine.precision import no_autocast, no_gradient, with_gradient
from fastadv.engine.prepared import Directions, Loss, Prepared, Rows, read_from
from fastadv.errors import InputError

VALUES = 1 << 22  # of images that pass at once


class Mapped(Prepared):
    """A classifier before another: t [B, ...] to the logits of images map(x, t), with gradients at t."""

    # The classifier inside counts passes; the map itself counts none

    eot, counts, model, dtype, device = read_from("inner", "eot", "counts", "model", "dtype", "device")
    notes, compared, search_dtype = read_from("inner", "notes", "compared", "search_dtype")
    outputs, output_shape, parts, patient = read_from("inner", "outputs", "output_shape", "parts", "patient")
    in_eval, sees, differs, add_note = read_from("inner", "in_eval", "sees", "differs", "add_note")

    def __init__(self, inner: Prepared, threat: Any, x: Tensor, ids: Tensor) -> None:
        """Take a map `threat.image`, images x [B, ...] and their ids int64 [B]; InputError for equal ones."""
        self.inner, self.threat, self.x, self.ids, self.source = inner, threat, x, ids, self
        order = ids.sort().values
        if bool((order[1:] == order[:-1]).any()):
            raise InputError(
                f"ids: expected each once with {threat.name}, which goes by them, got one twice; "
                "number the rows"
            )

    def of(self, x: Tensor, ids: Tensor) -> "Mapped":
        """Return the same for parameters x of some samples of the batch, which the ids tell."""
        order = self.ids.argsort()
        places = order[torch.searchsorted(self.ids[order], ids).clamp_max(len(order) - 1)]
        if not torch.equal(self.ids[places], ids):
            raise InputError("ids: expected some of the batch whose parameters these are, got others")
        return Mapped(self.inner, self.threat, self.x[places], ids)

    def over(self, inner: Prepared) -> "Mapped":
        """Return the same before another classifier."""
        mapped = copy(self)
        mapped.inner, mapped.source = inner, mapped
        return mapped

    def having(self, *, eot: int, outputs: Outputs) -> Prepared:
        return self.over(self.inner.having(eot=eot, outputs=outputs))

    @property
    def as_given(self) -> Prepared:
        inner = self.inner.as_given
        return self if inner is self.inner else self.over(inner)

    def images(self, t: Tensor, rows: Rows) -> Tensor:
        """Return the images of parameters [n, ...]."""
        x, ids = (self.x, self.ids) if rows is None else (self.x[rows], self.ids[rows])
        if len(t) != len(x):
            raise InputError(f"rows: expected one for each of {len(t)} points, got {len(x)}")
        images: Tensor = self.threat.image(t, x, ids)
        # Images take the precision to which a search casts points
        return images if self.inner.sees(images.dtype) == images.dtype else images.to(t.dtype)

    def _seen(self, t: Tensor, rows: Rows) -> Tensor:
        with no_gradient(), no_autocast(t.device.type):
            return self.images(t.detach(), rows)

    def _followed(self, t: Tensor, rows: Rows) -> tuple[Tensor, Tensor]:
        """Return t to follow a gradient to it, and the images, which do."""
        with with_gradient(), no_autocast(t.device.type):
            leaf = t.detach().requires_grad_()
            return leaf, self.images(leaf, rows)

    def _pull(self, leaf: Tensor, images: Tensor, by_images: Tensor, retain_graph: bool = False) -> Tensor:
        """Return the gradient at `leaf` from that at the images."""
        cuts = (
            f"map: expected images that depend on t differentiably, got others from {self.threat.name}; "
            "use an attack without gradients, such as fastadv.attacks.grid"
        )
        return pull(leaf, images, by_images.to(images.dtype), retain_graph, cuts)

    def __call__(self, x: Tensor, rows: Rows = None) -> Tensor:
        # images are larger than parameters, of which a search may pass many at once
        step = max(1, VALUES // max(1, self.x[:1].numel()))
        rows = torch.arange(len(self.x), device=x.device) if rows is None else rows
        parts = zip(torch.split(x, step), torch.split(rows, step), strict=True)
        return torch.cat([self.inner(self._seen(*part), part[1]) for part in parts])

    def verdict(self, x: Tensor, rows: Rows = None) -> Tensor:
        return self.inner.verdict(self._seen(x, rows), rows)

    def input_gradient(
        self, x: Tensor, y: Tensor | None, loss: Loss = "ce", targets: Tensor | None = None,
        direction: bool = False, rows: Rows = None,
    ) -> Gradient:  # fmt: skip
        leaf, images = self._followed(x, rows)
        value, logits, gradient = self.inner.input_gradient(
            images.detach(), y, loss, targets, direction, rows
        )
        return value, logits, self._pull(leaf, images, gradient)

    def jacobian(
        self, x: Tensor, directions: Directions, reduce: Callable[[Tensor], Tensor] | None = None,
        rows: Rows = None,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        leaf, images = self._followed(x, rows)
        logits, gradients = self.inner.jacobian(images.detach(), directions, rows=rows)
        last, pulled = gradients.shape[1] - 1, list[Tensor]()
        for place, gradient in enumerate(gradients.unbind(1)):
            pulled.append(self._pull(leaf, images, gradient, retain_graph=place < last))
        return logits, torch.stack(pulled if reduce is None else list(map(reduce, pulled)), 1)

    def clean_pass(self, x: Tensor, rows: Rows = None) -> CleanPass | None:
        leaf, images = self._followed(x, rows)
        inner = self.inner.clean_pass(images.detach(), rows)
        if inner is None:
            return None

        def back(by_logits: Tensor) -> Tensor:
            return self._pull(leaf, images, inner.back(by_logits))

        return CleanPass(self, x, rows, inner.logits, back)

    def layout(self, x: Tensor) -> Tensor:
        self.inner.layout(self.x)  # which prepares its search
        return x

    def full_batch(self, x: Tensor) -> int:
        return self.inner.full_batch(self.x)

"""Common corruptions as an augmentation of training images."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from fastadv import rng
from fastadv._checks import check_choice
from fastadv.data.corruption.card import SEVERITIES, TABLES, check_severity, named
from fastadv.data.corruption.sets import corrupt
from fastadv.data.imageset import check_images, to_unit
from fastadv.errors import InputError
from fastadv.ops._rows import check_column


@dataclass(frozen=True)
class Corrupt:
    """Corrupt each image in a way that is drawn for it: pass it to `fa.train.fit` as `augment`.

    A corruption and a severity, each as likely, are drawn anew in each epoch, by the seed and the sample's
    number: not by its batch.

    Args:
        names: of corruptions, "c15" for the fifteen or "all", as in `fa.data.corrupted`.
        severities: one or several, from 1 to 5.
        constants: as in `fa.data.corrupted`.

    Raises:
        InputError: an argument is none of these.

    Example:
        >>> import torch, fastadv as fa
        >>> noisy = fa.data.Corrupt(["gaussian_noise", "impulse_noise"], (1, 2, 3))
        >>> x, ids = torch.rand(5, 3, 32, 32), torch.arange(5)
        >>> torch.equal(noisy(x, ids=ids, seed=0)[3:], noisy(x[3:], ids=ids[3:], seed=0))
        True

    Source:
        Hendrycks and Dietterich 2019, who ask not to train on corruptions that a net is measured on.
    """

    names: str | Iterable[str] = "c15"
    severities: int | Iterable[int] = SEVERITIES
    constants: str | None = None

    def __post_init__(self) -> None:
        severities = [self.severities] if isinstance(self.severities, int) else self.severities
        levels = tuple(map(check_severity, severities))
        if not levels or len(set(levels)) < len(levels):
            raise InputError(f"severities: expected some of 1, 2, 3, 4, 5, each once, got {list(levels)}")
        if self.constants is not None:
            check_choice("constants", self.constants, TABLES)
        object.__setattr__(self, "names", named(self.names))
        object.__setattr__(self, "severities", levels)

    def __call__(self, x: Tensor, *, ids: Tensor, seed: int) -> Tensor:
        """Return images [B, C, H, W], uint8 or float32 in [0, 1], corrupted; floats are on 256 levels."""
        check_images(x, "corrupt")
        cells = [*product(self.names, self.severities)]  # type: ignore[arg-type]  # a tuple by now
        ids = ids.to(x.device)
        check_column("ids", ids, x, torch.int64)
        drawn = rng.integers(len(cells), rng.derive(seed, "corrupt"), ids)
        y = torch.empty_like(x)
        for k in torch.unique(drawn).tolist():
            (name, severity), rows = cells[k], (drawn == k).nonzero()[:, 0]
            some = corrupt(x[rows], name, severity, seed, ids[rows], self.constants)
            y[rows] = some if x.dtype == torch.uint8 else to_unit(some)
        return y

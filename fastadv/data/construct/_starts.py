"""Where the search for each sample starts: at another image, at noise, or at the image itself."""

from torch import Tensor

from fastadv import rng
from fastadv.data.construct._base import Base

STARTS = ("images", "noise")


def starting_point(start: str | None, x: Tensor, ids: Tensor, base: Base, seed: int) -> Tensor:
    """Return the start for the samples `ids` [B] with images `x` [B, ...], by its name; None: x itself."""
    if start is None:
        return x
    return _noise(x, seed, ids) if start == "noise" else base.fetch(_partners(ids, base.count, seed))[0]


def _partners(ids: Tensor, count: int, seed: int) -> Tensor:
    """Return for each sample the number of another one, uniform over the others."""
    return (ids + 1 + rng.integers(count - 1, rng.derive(seed, "construct partners"), ids)) % count


def _noise(x: Tensor, seed: int, ids: Tensor) -> Tensor:
    """Starts for `x` [B, ...]: Gaussian noise of deviation 1/20 around 1/2."""
    normal = rng.normal(x[0].numel(), rng.derive(seed, "construct noise"), ids).to(x.device).reshape(x.shape)
    return (0.5 + normal / 20).clamp(0, 1)

"""Square Attack: random search with squares (Andriushchenko et al. 2020)."""

import math
from functools import cache
from typing import Unpack

import torch
from torch import Tensor

from fastadv import rng
from fastadv._checks import check_share
from fastadv.attacks import core
from fastadv.attacks.core.record import Climb
from fastadv.attacks.core.task import handed
from fastadv.attacks.methods.geometry import width
from fastadv.attacks.methods.random_search import ends_behind, random_search, search_loss
from fastadv.ops._windows import signs
from fastadv.ops.square_bumps import square_bumps
from fastadv.ops.square_linf import square_linf
from fastadv.threat import Threat

# the share of pixels halves after each of these queries, of 10,000
HALVED = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
TILES = 5  # on a side of the first point in L2
TINY = 1e-12
AHEAD, WORDS = 32, 1024  # queries whose random words are drawn together, with so many words of an image

Window = tuple[int, int]


class _Rows(Climb):
    """With the ends [n, ...] of the ball in the box."""

    lower: Tensor
    upper: Tensor


@core.registered(
    knowledge="score", random=True, tolerance=2.5, paper="Andriushchenko et al. 2020; Croce and Hein 2021"
)
@core.tested(quick={"queries": 30}, oracle={"queries": 2000})
@core.takes_common(norms=("linf", "l2", "l1"), finite=True, through="images", queries=0)
def square(
    model: core.Classifier, x: Tensor, y: Tensor | None, threat: Threat, *, queries: int = 5000,
    share: float = 0.8, rescale: bool | None = None, restarts: int = 1, stop_early: bool = True,
    seed: int = 0, **common: Unpack[core.Common],
) -> core.AttackResult:  # fmt: skip
    """Maximize margin(model(z), y) over z in ball and box, by random search that needs logits only.

    Each query changes a square of pixels and is kept where it raises the loss. Under Linf a square goes to
    one end of the ball in each channel, and the search starts with vertical stripes. Under L2 a square with
    two bumps of opposite signs takes the length of another square. Under L1 the bumps are steeper, and the
    exact projection on ball and box replaces the rescaling. Squares shrink along the schedule of the paper.
    The loss is the margin of the criterion; where targets are given without a criterion, the cross-entropy.

    Args:
        threat: Linf, L2 or L1; the radius is finite, a number or [B].
        x: floating [B, ..., H, W] inside the box; [B, D] is one row of pixels.
        queries: points tried in each restart; 0 leaves x as it is. 5,000 as in AutoAttack; the paper of
            Square itself has 10,000.
        share: the share of pixels in the first square, in (0, 1].
        rescale: stretch the schedule, made for 10,000 queries, to `queries`. False, as in AutoAttack, shrinks
            the squares after the paper's numbers of queries. None is True in Linf, and False in L2 and L1,
            where few queries then break fewer samples.
        others: as in `pgd`, and so are Returns and Raises.

    Example:
        >>> out = fa.attacks.square(model, x, y, fa.Linf(0.3), queries=200)
        >>> bool(out.success.all()), out.backwards
        (True, 0)

    Source:
        Andriushchenko et al. 2020, "Square Attack" (arXiv 1912.00049), algorithms 2 and 3; for L1, Croce and
        Hein 2021 (arXiv 2103.01208).
    """
    check_share("share", share, one=True)
    stretched = threat.norm == "linf" if rescale is None else rescale

    def rule(search: core.Search[_Rows]) -> None:
        draw = _Draw(search)
        change = CHANGES[search.threat.norm](draw)
        whole = draw.height * draw.width

        def propose(search: core.Search[_Rows], query: int) -> Tensor:
            return change.propose(search, _share(query - 1, queries, share, stretched) * whole, query)

        random_search(search, queries, change.start, propose)

    return core.run(
        model, x, y, threat, rule, rows=_Rows, loss=search_loss(handed(model)), restarts=restarts,
        stop_early=stop_early, seed=seed, **common,
    )  # fmt: skip


def _share(query: int, queries: int, share: float, rescale: bool) -> float:
    return share * 0.5 ** ends_behind(query, queries, HALVED, rescale)


class _Draw:
    """Images [n, C, H, W] seen in inputs of any rank, and random words for each of them."""

    def __init__(self, search: core.Search[_Rows]) -> None:
        self.seed = rng.derive(search.seed, "square", search.restart)
        shape = search.x.shape[1:]
        self.width = shape[-1]
        self.height = shape[-2] if len(shape) > 1 else 1
        self.channels = math.prod(shape[:-2])
        self.shape = (self.channels, self.height, self.width)
        self._asked: tuple[core.Search[_Rows], int, int, int] | None = None

    def images(self, points: Tensor) -> Tensor:
        return points.reshape(len(points), *self.shape)

    def words(self, search: core.Search[_Rows], count: int, query: int) -> Tensor:
        """Return int64 [n, count] in [0, 2^32), drawn for several queries at once."""
        ids, ahead = search.ids, min(AHEAD, max(WORDS // count, 1))
        first = query - query % ahead
        asked = search, count, first, len(ids)
        if asked != self._asked:  # samples that leave take their rows along
            self._asked = asked
            self._words = rng.bits(count, self.seed, ids, first, ahead).view(ahead, len(ids), count)
        return self._words[query - first]

    def window(self, pixels: float, least: int = 1, odd: bool = False) -> Window:
        """Height and width of a square of so many pixels; of a rectangle where the image is too narrow."""
        side = max(round(math.sqrt(pixels)), least)
        side += odd and side % 2 == 0
        height, width = min(side, self.height), min(side, self.width)
        if height < side:
            width = min(max(round(pixels / height), width), self.width)
        elif width < side:
            height = min(max(round(pixels / width), height), self.height)
        return height, width


class _Ends:
    """Linf: pixels at the ends of the ball."""

    def __init__(self, draw: _Draw) -> None:
        self.draw = draw

    def start(self, search: core.Search[_Rows]) -> Tensor:
        """Return vertical stripes."""
        draw, rows, x, threat = self.draw, search.rows, search.x, search.threat
        radius = torch.as_tensor(threat.radius, dtype=x.dtype, device=x.device).view(-1, *[1] * (x.ndim - 1))
        rows.upper = threat.project((x + radius).clamp(*threat.box), x)
        rows.lower = threat.project((x - radius).clamp(*threat.box), x)
        up = (draw.words(search, draw.channels * draw.width, 0) & 1).bool()
        up = up.view(-1, draw.channels, 1, draw.width)
        return torch.where(up, draw.images(rows.upper), draw.images(rows.lower)).reshape(x.shape)

    def propose(self, search: core.Search[_Rows], pixels: float, query: int) -> Tensor:
        """Return the best points with one square at an end of the ball, where not all of it is already."""
        draw, rows = self.draw, search.rows
        words = draw.words(search, 3 + draw.channels, query)
        return square_linf(rows.best, rows.lower, rows.upper, words, draw.shape, draw.window(pixels))


class _Bumps:
    """L2: squares of two bumps, which take the length of the perturbation elsewhere."""

    order = 2

    def __init__(self, draw: _Draw) -> None:
        self.draw = draw
        self._window: Window | None = None

    def start(self, search: core.Search[_Rows]) -> Tensor:
        """Return x and tiles, brought to the length of the radius."""
        x, threat, delta = search.x, search.threat, self._tiles(search)
        radius = torch.as_tensor(threat.radius, dtype=x.dtype, device=x.device)
        length = torch.linalg.vector_norm(delta.flatten(1), dim=1).clamp_min(TINY)
        moved = x + (delta * (radius / length).view(-1, 1, 1, 1)).reshape(x.shape)
        return threat.project(moved.clamp(*threat.box), x)

    def _tiles(self, search: core.Search[_Rows]) -> Tensor:
        """Return [n, C, H, W], each tile of length 1 in each channel."""
        draw, x = self.draw, search.x
        side = max(min(draw.height, draw.width) // TILES, 1)
        down, right = draw.height // side, draw.width // side
        words = draw.words(search, (draw.channels + 1) * down * right, 0)
        words = words.view(-1, draw.channels + 1, down, right)
        tiles = self._bumps((side, side), x)[words[:, 0] & 1]
        tiles = tiles[:, None] * signs(words[:, 1:]).to(x.dtype)[..., None, None]
        high, wide = down * side, right * side
        delta = torch.zeros(len(x), *draw.shape, dtype=x.dtype, device=x.device)
        above, left = (draw.height - high) // 2, (draw.width - wide) // 2
        grid = delta[:, :, above : above + high, left : left + wide]
        grid.copy_(tiles.permute(0, 1, 2, 4, 3, 5).reshape(grid.shape))
        return delta

    def propose(self, search: core.Search[_Rows], pixels: float, query: int) -> Tensor:
        """Return the best points with bumps in one square, which take the length of another square too."""
        draw, x, threat = self.draw, search.x, search.threat
        words = draw.words(search, 5 + draw.channels, query)
        bumps = self._bumps(draw.window(pixels, least=3, odd=True), x)
        return square_bumps(
            search.rows.best, x, words, bumps, draw.shape, threat.norm, threat.radius, threat.box
        )

    def _bumps(self, window: Window, x: Tensor) -> Tensor:
        """Return [2, height, width] of length 1: the bumps one above the other, and beside each other."""
        if window != self._window:
            self._window = window
            values = [two_bumps(*window, beside, self.order) for beside in (False, True)]
            self._values = torch.tensor(values, dtype=x.dtype, device=x.device).view(2, *window)
        return self._values


class _Peaks(_Bumps):
    """L1: the same with steeper bumps, and the nearest point of ball and box for what comes out."""

    order = 1

    def start(self, search: core.Search[_Rows]) -> Tensor:
        """Return the points nearest to tiles, each of the length of the box's width in each channel."""
        x, threat = search.x, search.threat
        return threat.project(x + (self._tiles(search) * width(threat)).reshape(x.shape), x)


CHANGES: dict[str, type[_Ends] | type[_Bumps]] = {"linf": _Ends, "l2": _Bumps, "l1": _Peaks}


# The shapes that are added in L2 and L1: two bumps of opposite signs in a rectangle.

# powers, by the order of the norm, with which a bump falls from its middle
FALLS = {2: 2, 1: 4}


@cache
def two_bumps(height: int, width: int, beside: bool, order: int = 2) -> tuple[float, ...]:
    """Return a rectangle of length 1, of two bumps of opposite signs: one above or beside the other."""
    if beside:
        whole = torch.tensor(two_bumps(width, height, False, order), device="cpu").view(width, height).T
        return tuple(whole.flatten().tolist())
    half = height // 2
    whole = torch.cat([_bump(half, width, order), -_bump(height - half, width, order)])
    return tuple((whole / whole.norm(order)).flatten().tolist())


def _bump(height: int, width: int, order: int) -> Tensor:
    """Return [height, width] of length 1, a sum of squares around the middle, of sides 1, 3, 5 and so on."""
    # heights 1, 1/4, 1/9 ... (Andriushchenko et al. 2020, section 3.4), or 1, 1/16, 1/81 ... for L1 (Croce &
    # Hein 2021, appendix)
    bump = torch.zeros(height, width, device="cpu")
    top, left = height // 2, width // 2
    for n in range(max(height // 2, width // 2) + 1):
        rows = slice(max(top - n, 0), max(top + n + 1, 0))
        bump[rows, max(left - n, 0) : left + n + 1] += 1 / (n + 1) ** FALLS[order]
    return bump / bump.norm(order) if height else bump

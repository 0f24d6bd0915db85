"""How the guard judges gradients and logits, by functions that stand for a search and its model."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import fastadv as fa
from fastadv.engine import guard
from tests.engine.planted import X, Y


def test_kinks_are_no_mistakes() -> None:
    """Where the gradient of the model itself jumps beside x, the other one is right as well."""
    x, by_logits, own, other = torch.rand(16, 6), torch.rand(16, 3), torch.rand(16, 6), torch.rand(16, 6)

    def given(at: Tensor, by_logits: Tensor) -> Tensor:
        return own if torch.equal(at, x) else other

    ways = guard.Ways(searched=given, given=given, plain=given)
    assert guard.agrees(ways, x, by_logits, other, torch.float32)


def given_beside(x: Tensor, own: Tensor, jump: Tensor) -> guard.Pass:
    """The gradient `own` of the rows of x, and off by `jump` [B, ...] anywhere else."""
    places = {tuple(row.tolist()): place for place, row in enumerate(x)}

    def pull(at: Tensor, by_logits: Tensor) -> Tensor:
        rows = by_logits[:, 0].long()  # their places, as told by the logits
        there = torch.tensor([tuple(row.tolist()) in places for row in at])
        return torch.where(there[:, None], own[rows], own[rows] + jump[rows])

    return pull


def judged(x: Tensor, own: Tensor, found: Tensor, jump: Tensor, left: Tensor | None = None) -> bool | None:
    """What the guard says of `found`, of rows that are not `left` out for logits without a derivative."""
    by_logits = torch.stack([torch.arange(len(x)), torch.ones(len(x))], 1).to(x)
    pull = given_beside(x, own, jump)

    def given(at: Tensor, some: Tensor) -> Tensor:
        return pull(at, some.nan_to_num())

    if left is not None:
        by_logits[left, 1] = torch.nan
    ways = guard.Ways(searched=lambda at, some: found, given=given, plain=given)
    return guard.agrees(ways, x, by_logits, found, x.dtype)


@pytest.mark.parametrize(("times", "fine"), [(1.9, True), (2.1, False)])
def test_a_kink_explains_twice_the_jump_of_the_model_beside_it(times: float, fine: bool) -> None:
    x, own = torch.rand(16, 6), 1 + torch.rand(16, 6)
    jump = torch.linspace(0.01, 0.2, 16)[:, None] * torch.randn(16, 6)  # each row has its own
    assert judged(x, own, own + times * jump, jump) == fine


@pytest.mark.parametrize(
    ("count", "left", "off", "fine"),
    [(16, 0, 2, True), (16, 0, 3, False), (15, 0, 2, False), (32, 16, 3, False)],
)
def test_one_row_in_eight_may_have_a_kink_that_no_nudge_has_met(count, left, off, fine):
    """Of the rows that are compared, where they go much the same way."""
    x, own = torch.rand(count, 6), 1 + torch.rand(count, 6)
    found, none = own.clone(), torch.zeros(count, 6)
    found[:off] *= 1.01
    assert judged(x, own, found, none, torch.arange(count) >= count - left) == fine
    found[0] *= -1
    assert not judged(x, own, found, none)


@pytest.mark.parametrize(("format", "most"), [(torch.float32, 1e-3), ("tf32", 1e-2), (torch.bfloat16, 0.1)])
@pytest.mark.parametrize("factor", [0.8, 1.25])
def test_the_bound_of_rounding(format, most, factor):
    """A shift of all logits of a row decides nothing, and a row that is NaN does not count."""
    x, given = torch.rand(9, 6), torch.randn(9, 5)
    found, spread = given + 7, (given - given.mean(1, keepdim=True)).abs()[1:].max()
    found[4, :2] += factor * most * spread * torch.tensor([1.0, -1.0])
    given[0] = torch.nan
    ways = guard.Ways(lambda x: found, lambda x: given, lambda x: given)
    assert guard.same_logits(ways, x, found, [torch.float32, format]) == (factor < 1)
    assert guard.same_logits(ways, x, found * torch.nan, [format]) is False
    given[:] = torch.nan
    assert guard.same_logits(ways, x, found, [format]) is None


@pytest.mark.parametrize(("shift", "agrees"), [(1.9, True), (2.1, False)])
def test_means_are_compared_within_the_spread_of_the_model(shift: float, agrees: bool) -> None:
    """Passes of the model are 1 and -1 times a row; those of its copy 9 and -9 times it, plus the shift."""
    row, told = torch.tensor([[1.0, -1.0, 0.0]]) / 2**0.5, list[int]()
    verdicts, searches = ([scale * sign for sign in (1, -1) * 4] for scale in (1, 9))
    ways = guard.Ways(
        lambda x: (searches.pop() + shift) * row, lambda x: verdicts.pop() * row if told else row, None,
        by_means=lambda: None,
    )  # type: ignore[arg-type]  # fmt: skip
    told.append(1)
    verdicts.append(1)
    assert guard.same_logits(ways, row, 9 * row, [torch.float64]) == agrees


def test_a_randomized_model_is_judged_by_the_same_draws() -> None:
    """Which excuses no rows that are wrong."""
    x, by_logits, wrong = torch.rand(16, 6), torch.rand(16, 3), torch.arange(16) % 2 == 0
    passes = list[int]()

    def given(at: Tensor, some: Tensor) -> Tensor:
        passes.append(len(at))
        return 1 + at + 0.1 * torch.randn_like(at)

    def searched(at: Tensor, some: Tensor) -> Tensor:
        return torch.where(wrong[:, None], -1, 1) * given(at, some)

    ways = guard.Ways(searched=searched, given=given, plain=given)
    assert not guard._randomized_alike(ways, x, by_logits, torch.ones(16, dtype=torch.bool), torch.float32)
    passes.clear()
    assert guard._randomized_alike(ways, x, by_logits, ~wrong, torch.float32)
    assert len(passes) == 4  # twice to see that it draws, and once beside the search: means would take more


@pytest.mark.parametrize("format", [torch.float32, torch.bfloat16])
def test_zero_is_the_gradient_only_where_it_is_the_models(format: torch.dtype) -> None:
    x, by_logits, own = torch.rand(16, 6), torch.rand(16, 3), torch.rand(16, 6)
    zero, here_and_there = torch.zeros(16, 6), own.clone()
    here_and_there[3::8] = 0  # as few as may have a kink

    def answer(found: Tensor, given: Tensor) -> bool | None:
        def pull(gradient: Tensor) -> guard.Pass:
            rows = {tuple(row.tolist()): place for place, row in enumerate(by_logits)}
            return lambda x, some: gradient[[rows[tuple(row.tolist())] for row in some]]

        ways = guard.Ways(searched=pull(found), given=pull(given), plain=pull(given))
        return guard.agrees(ways, x, by_logits, found, format)

    assert answer(own, own)
    assert answer(zero, zero)
    assert not answer(zero, own)
    assert not answer(own, zero)
    if format == torch.float32:
        assert not answer(here_and_there, own)


def directions() -> tuple[Tensor, Tensor]:
    """Return a gradient of length 1 for each of 16 rows, and noise of that length at a right angle to it."""
    own, noise = F.normalize(torch.randn(2, 16, 500, generator=torch.Generator().manual_seed(0)), dim=2)
    return own, F.normalize(noise - (noise * own).sum(1, keepdim=True) * own)


def in_half(found: Tensor, own: Tensor, plain: Tensor) -> tuple[bool | None, list[float]]:
    """What the guard says of `found` in bfloat16, and the cosines that it tells."""
    told = list[float]()
    ways = guard.Ways(lambda *at: found, lambda *at: own, lambda *at: plain, measured=told.append)
    return guard.agrees(ways, torch.rand(16, 500), torch.rand(16, 3), found, torch.bfloat16), told


@pytest.mark.parametrize("alike", [0.2, 0.45])
def test_half_precision_that_is_mostly_noise_is_refused_though_the_plain_search_is_no_better(alike):
    """`alike` is the cosine of the search and of the plain search with the model: 0.3 is the least."""
    own, noise = directions()
    found = alike * own + (1 - alike**2) ** 0.5 * noise
    assert in_half(found, own, found)[0] == (alike > guard.LEAST_ALIKE)


def tilted(own: Tensor, noise: Tensor, cosine: float, each: int) -> Tensor:
    found = own.clone()
    found[::each] = (cosine * own + (1 - cosine**2) ** 0.5 * noise)[::each]
    return found


def lengthened(own: Tensor, factor: float, each: int) -> Tensor:
    found = own.clone()
    found[::each] *= factor
    return found


HALF_ROWS: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], bool]] = {
    "right": (lambda own, noise: own, True),
    "one row of sixteen": (lambda own, noise: tilted(own, noise, 0.2, 16), True),
    "every eighth row, a little": (lambda own, noise: tilted(own, noise, 0.86, 8), False),
    "every eighth row zero": (lambda own, noise: tilted(own, noise, 0.0, 8) * 0, False),
    "every eighth row too short": (lambda own, noise: lengthened(own, 0.45, 8), False),
    "every eighth row a bit short": (lambda own, noise: lengthened(own, 0.9, 8), True),
    "half the rows": (lambda own, noise: lengthened(own, 3, 2), False),
}


@pytest.mark.parametrize("case", HALF_ROWS)
def test_half_precision_is_judged_by_its_worst_rows(case: str) -> None:
    own, noise = directions()
    change, fine = HALF_ROWS[case]
    agreed, told = in_half(change(own, noise), own, own)
    assert (agreed, len(told)) == (fine, fine)


class Rough(nn.Module):
    """Logits that are almost linear, with ripples whose gradient no bfloat16 tells."""

    def __init__(self, ripples: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fc, self.own, self.ripples = nn.Linear(64, 64), nn.Linear(64, 5), ripples

    def forward(self, x: Tensor) -> Tensor:
        h = self.fc(x.flatten(1))
        return self.own(h + self.ripples * (3000 * h).sin())


@pytest.mark.parametrize(("ripples", "far"), [(0.0, False), (0.0003, True)])
def test_the_cosine_in_half_precision_is_told_and_a_poor_one_warned_of(ripples, far, logged):
    frozen = fa.freeze(Rough(ripples).eval(), "bf16")
    for _ in range(2):
        frozen.input_gradient(X, Y)
    assert frozen.search_dtype == torch.bfloat16
    told = [note for note in frozen.notes if "mean cosine with the model's" in note]
    assert len(told) == 1
    assert (float(told[0].split()[-1]) < 0.8) == far
    assert [record.levelname for record in logged.records] == ["WARNING"] * far

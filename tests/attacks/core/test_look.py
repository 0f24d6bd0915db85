"""What a look at a point says where values are not finite, and how points rank whose loss tells nothing."""

import pytest
import torch
from torch import Tensor, nn

from fastadv.attacks import Status
from fastadv.attacks.core.run import run
from fastadv.attacks.core.search import Search
from fastadv.attacks.core.waiting import surely_finite
from fastadv.engine import freeze
from fastadv.losses import Loss
from fastadv.threat import Linf


class Steep(nn.Module):
    """An infinite gradient where the first coordinate is 0, an infinite logit where the second is > 1/2."""

    def forward(self, x: Tensor) -> Tensor:
        far = torch.where(x[:, 1] > 0.5, torch.inf, 0.0)
        return torch.stack([1 + x[:, 2], x[:, 0].sqrt() + x[:, 1] + far], 1)


def test_a_gradient_that_is_not_finite_is_zero_there_and_nowhere_else() -> None:
    x, looks = torch.tensor([[0.0, 0.2, 0.3], [0.25, 0.2, 0.3]]), []

    def rule(search: Search) -> None:
        looks.append(search.gradient(search.start(), "margin").gradient)

    out = run(Steep(), x, torch.zeros(2, dtype=torch.long), Linf(0.1), rule, loss="margin")
    assert torch.equal(looks[0], torch.tensor([[0.0, 1.0, -1.0], [1.0, 1.0, -1.0]]))
    assert out.status.tolist() == [Status.FAILED, Status.HELD]


class Cliff(nn.Module):
    """The gradient of the second logit where x is 0: infinite either way, NaN, and 1."""

    def forward(self, x: Tensor) -> Tensor:
        up, down, nowhere, slope = x.unbind(1)
        return torch.stack([1 + 0 * slope, up.sqrt() - down.sqrt() + 0 * nowhere.sqrt() + slope], 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("masked", [False, True])
def test_no_look_has_a_gradient_that_is_not_finite_or_outside_the_mask(
    masked: bool, dtype: torch.dtype
) -> None:
    found: list[Tensor] = []

    def rule(search: Search) -> None:
        both = torch.tensor([[-1.0, 1.0], [1.0, -1.0]], dtype=dtype).expand(len(search.x), 2, 2)
        found.append(search.gradient(search.start(), "margin").gradient)
        found.extend(search.jacobian(search.start(), both).gradients.unbind(1))

    x, y = torch.zeros(2, 4, dtype=dtype), torch.zeros(2, dtype=torch.long)
    mask = torch.tensor([[True, True, True, True], [True, True, True, not masked]])
    run(Cliff(), x, y, Linf(0.1), rule, loss="margin", mask=mask if masked else None)
    expected = torch.tensor([[0.0, 0.0, 0.0, 1.0], [0.0, 0.0, 0.0, float(not masked)]], dtype=dtype)
    for gradient, sign in zip(found, (1, 1, -1), strict=True):
        assert torch.equal(gradient, sign * expected)


def test_a_gradient_stays_in_bfloat16_where_the_rule_allows_it() -> None:
    model, found = nn.Sequential(nn.Linear(4, 2)).eval(), []

    def rule(search: Search) -> None:
        found.extend(search.gradient(search.x, narrow=narrow).gradient.dtype for narrow in (False, True))

    x = torch.rand(2, 4)
    y = model(x).argmax(1)
    run(freeze(model, "bf16"), x, y, Linf(0.0), rule)
    run(freeze(model.half()), x.half(), y, Linf(0.0), rule)
    assert found == [torch.float32, torch.bfloat16, torch.float32, torch.float32]


class Slope(nn.Module):
    """The first logit, the largest below 1/2, is 1 plus the first coordinate."""

    def forward(self, x: Tensor) -> Tensor:
        first = 1 + x[:, 0]
        return torch.stack([first, torch.where(x[:, 0] > 0.5, 2 * first, 0 * first)], 1)


@pytest.mark.parametrize("how", ["gradient", "score"])
@pytest.mark.parametrize("asked", [None, lambda logits, y, targets: -logits[:, 0]])
def test_points_rank_by_the_loss_of_the_plan_whatever_was_asked_for(how: str, asked: Loss | None) -> None:
    x, y = torch.full((2, 3), 0.2), torch.zeros(2, dtype=torch.long)

    def below_zero(logits: Tensor, y: Tensor, targets: Tensor | None) -> Tensor:
        return logits[:, 0] - 10

    losses: list[Tensor] = []

    def rule(search: Search) -> None:
        for place in (0.1, 0.3, 0.2):
            losses.append(getattr(search, how)(torch.full_like(search.x, place), asked).loss)

    out = run(Slope(), x, y, Linf(0.5), rule, loss=below_zero)
    assert torch.equal(out.x_adv, torch.full_like(x, 0.3))
    torch.testing.assert_close(losses[0], torch.full((2,), -8.9 if asked is None else -1.1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("how", ["gradient", "score", "decide"])
def test_what_is_not_judged_is_not_kept(how: str, dtype: torch.dtype) -> None:
    """Nor is it rounded as what may be returned is."""
    x, looks = torch.full((2, 3), 0.2, dtype=dtype), []

    def rule(search: Search) -> None:
        looks.append(getattr(search, how)(torch.full_like(search.x, 0.6), judge=False))
        search.decide(search.x)

    out = run(Slope(), x, torch.zeros(2, dtype=torch.long), Linf(0.5), rule)
    assert looks[0].adversarial.all()
    assert looks[0].seen is looks[0].x_adv
    assert out.status.tolist() == [Status.HELD] * 2
    assert torch.equal(out.x_adv, x)


def test_an_infinite_logit_is_no_success() -> None:
    x, verdicts = torch.full((2, 3), 0.25), []

    def rule(search: Search) -> None:
        verdicts.append(search.decide(search.x + torch.tensor([0.0, 0.4, 0.0])).adversarial)

    out = run(Steep(), x, torch.zeros(2, dtype=torch.long), Linf(0.5), rule, stop_early=False)
    assert not verdicts[0].any()
    assert out.status.tolist() == [Status.FAILED] * 2


def test_an_infinite_logit_does_not_compete() -> None:
    """Though its loss, which does not read that logit, is finite and larger."""
    x, finite = torch.full((2, 3), 0.25), torch.tensor([0.0, 0.1, 0.0])

    def loss(logits: Tensor, y: Tensor, targets: Tensor | None) -> Tensor:
        return -logits[:, 0]

    def rule(search: Search) -> None:
        for step in (torch.tensor([0.0, 0.4, -0.1]), finite):
            search.decide(search.x + step)

    out = run(Steep(), x, torch.zeros(2, dtype=torch.long), Linf(0.5), rule, loss=loss)
    torch.testing.assert_close(out.x_adv, x + finite)


@pytest.mark.parametrize(("places", "flat"), [((0.7, 0.2), False), ((0.2, 0.7), False), ((0.2,), True)])
def test_one_gradient_is_enough(places: tuple[float, ...], flat: bool) -> None:
    """A later gradient of zero does not take the place of the largest."""

    class Bent(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.stack([torch.ones(len(x)), (x[:, 0] - 0.5).relu()], 1)

    def rule(search: Search) -> None:
        for place in places:
            search.gradient(torch.full_like(search.x, place), "margin")

    out = run(Bent(), torch.full((2, 3), 0.3), torch.zeros(2, dtype=torch.long), Linf(0.5), rule)
    assert out.zero_gradient.tolist() == [flat] * 2


def test_sizes_that_are_known_to_be_finite() -> None:
    for sizes, known in (
        ([0.0, 1e38], True),
        ([], True),
        ([1.0, torch.inf], False),
        ([torch.nan, 1.0], False),
    ):
        assert surely_finite(torch.tensor(sizes)) == known

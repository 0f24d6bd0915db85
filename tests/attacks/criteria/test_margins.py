"""The margin of every criterion is positive exactly where it is met."""

import torch
from hypothesis import given
from hypothesis.strategies import DrawFn, composite, integers, sampled_from
from torch import Tensor

from fastadv.attacks import Beyond, ConfidentlyWrong, Criterion, OutsideTopK, Share, Signs, Unless, WrongBy
from fastadv.attacks.core import WRONG

INF = float("inf")
OF_CLASSES = [
    WRONG, WrongBy(0.0), WrongBy(0.1), WrongBy(2.0), OutsideTopK(1), OutsideTopK(2), OutsideTopK(4),
    Unless(0), Unless(1), Unless(-1), *map(ConfidentlyWrong, (0.05, 0.1, 0.3, 0.5, 0.7, 0.99)),
]  # fmt: skip
OF_ANY = [Beyond(0.1), Beyond(0.0, by="l1"), Beyond(INF), Beyond(0.5, by="linf"), Beyond(1.0, by="cosine")]
OF_SIGNS, OF_POSITIONS = [Signs(), Signs(2), Signs("all")], [*map(Share, (0.3, 0.5, 1.0))]
OF_POSITIONS += [Share(0.5, of=WrongBy(0.1)), Share(0.5, of=ConfidentlyWrong(0.2))]


@composite
def cases(draw: DrawFn) -> tuple[Criterion, Tensor, Tensor, Tensor | None]:
    """Draw a criterion with outputs [6, K], whose few levels are often equal, labels and targets."""
    seed, classes = torch.Generator().manual_seed(draw(integers(0, 1 << 30))), draw(integers(2, 10))
    unit = draw(sampled_from([0.1, 0.5, 1.0, 30.0, 1e-30]))
    z = unit * torch.randint(-3, 4, (6, classes), generator=seed)
    z = z.to(draw(sampled_from([torch.float32, torch.float64])))
    y, aims = (torch.randint(0, classes, (6,), generator=seed) for _ in range(2))
    kind = draw(sampled_from(["classes", "signs", "positions", "numbers"]))
    if kind == "classes":
        criterion = draw(sampled_from(OF_CLASSES))
        aims = torch.where(aims == y, (y + 1) % classes, aims)
        if isinstance(criterion, Unless) and classes > 2:
            place = criterion.reject % classes
            y, aims = (
                torch.where(to == place, (place + step) % classes, to) for to, step in ((y, 1), (aims, 2))
            )
            aims = torch.where(aims == y, 3 * place + 3 - place - y if classes == 3 else aims, aims)
        elif isinstance(criterion, Unless) or (isinstance(criterion, OutsideTopK) and criterion.k >= classes):
            criterion = WRONG
        aimed = draw(sampled_from([False, True])) and not isinstance(criterion, OutsideTopK)
    elif kind == "numbers":
        criterion, aimed = draw(sampled_from(OF_ANY)), draw(sampled_from([False, True]))
        y, aims = (unit * torch.randint(-3, 4, z.shape, generator=seed).to(z) for _ in range(2))
    else:
        criterion = draw(sampled_from(OF_SIGNS if kind == "signs" else OF_POSITIONS))
        y, aims = (torch.randint(0, 2, z.shape, generator=seed) for _ in range(2))
        aimed = draw(sampled_from([False, True]))
    return criterion, z, y, aims if aimed else None


@given(cases())
def test_a_margin_is_positive_exactly_where_the_criterion_is_met(
    case: tuple[Criterion, Tensor, Tensor, Tensor | None],
) -> None:
    criterion, z, y, targets = case
    for one in (criterion, *criterion.ways(y, targets, True), *criterion.ways(y, targets, False)):
        margin = one.margin(z.clone().requires_grad_(), y, targets)
        assert torch.equal(margin > 0, one.met(z, y, targets)), (one, margin, z, y, targets)
    met = criterion.met(z, y, targets)
    parts = [one.met(z, y, targets) for one in criterion.ways(y, targets, False)]
    assert torch.equal(torch.stack(parts).any(0), met)


def test_a_margin_of_the_sign_of_a_tie_keeps_its_gradient() -> None:
    z = torch.tensor([[1.0, 1.0], [1.0, 1.0]], requires_grad=True)
    margin = WRONG.margin(z, torch.tensor([0, 1]), None)
    assert (margin > 0).tolist() == [False, True]
    assert margin.abs().max() < 1e-30
    (gradient,) = torch.autograd.grad(margin.sum(), z)
    assert gradient.tolist() == [[-1.0, 1.0], [1.0, -1.0]]


def test_a_confidence_below_a_half_asks_for_the_class_as_well() -> None:
    z, y = torch.tensor([[0.2, 0.0, -5.0], [0.0, 0.2, -5.0]]), torch.tensor([0, 0])
    margin = ConfidentlyWrong(0.3).margin(z, y, None)
    torch.testing.assert_close(margin, torch.tensor([-0.2, 0.2]))

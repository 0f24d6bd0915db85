"""The margin of every criterion is positive exactly where it is met."""

from collections.abc import Iterator

import pytest
import torch
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


def cases(classes: int, unit: float) -> Iterator[tuple[Criterion, Tensor, Tensor, Tensor]]:
    """Criteria with outputs [300, K], whose few levels are often equal, labels and targets."""
    seed, size = torch.Generator().manual_seed(0), (300, classes)
    z, *numbers = (unit * torch.randint(-3, 4, size, generator=seed) for _ in range(3))
    for criterion in OF_CLASSES:
        reject = range(classes)[criterion.reject] if isinstance(criterion, Unless) else None
        some = torch.tensor([label for label in range(classes) if label != reject])
        if len(some) > getattr(criterion, "k", 1):
            y, aims = some[torch.rand(300, len(some), generator=seed).argsort(1)[:, :2]].unbind(1)
            yield criterion, z, y, aims
    for criterion in (*OF_SIGNS, *OF_POSITIONS):
        yield criterion, z, *torch.randint(0, 2, (2, *size), generator=seed)
    for criterion in OF_ANY:
        yield criterion, z, *numbers


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("unit", [0.1, 0.5, 1.0, 30.0, 1e-30])
def test_a_margin_is_positive_exactly_where_the_criterion_is_met(unit: float, dtype: torch.dtype) -> None:
    for criterion, z, y, aims in (case for classes in (2, 3, 4, 10) for case in cases(classes, unit)):
        logits = z.to(dtype)
        for targets in (None, aims)[: 1 if isinstance(criterion, OutsideTopK) else 2]:
            parts = criterion.ways(y, targets, False)
            for one in (criterion, *criterion.ways(y, targets, True), *parts):
                margin = one.margin(logits.clone().requires_grad_(), y, targets)
                assert torch.equal(margin > 0, one.met(logits, y, targets)), one
            met = [one.met(logits, y, targets) for one in parts]
            assert torch.equal(torch.stack(met).any(0), criterion.met(logits, y, targets))


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

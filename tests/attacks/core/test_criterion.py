"""What is right without an attack is what the criterion says."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import pytest
import torch
from torch import Tensor

import fastadv as fa
from fastadv.attacks import AttackResult, ConfidentlyWrong, OutsideTopK, Share, Signs, Unless, WrongBy
from fastadv.attacks.core import Criterion
from fastadv.attacks.core.criterion import fitting
from fastadv.errors import InputError
from tests.attacks.masking.nets import honest

TEST = fa.data.load("digits", "test", limit=40)
X, Y, THREAT = TEST.x, TEST.y, fa.Linf(0.15)


@cache
def embeddings() -> Tensor:
    return honest("standard")(X).detach()


@dataclass(frozen=True)
class Far(Criterion):
    """An encoder: a success is a cosine with the clean embedding below a threshold; y is of no interest."""

    least: float

    def clean(self, y: Tensor) -> Tensor:
        return embeddings()[y]

    def met(self, logits: Tensor, y: Tensor, targets: Tensor | None) -> Tensor:
        return self.margin(logits, y, targets) > 0

    def margin(self, logits: Tensor, y: Tensor, targets: Tensor | None) -> Tensor:
        return self.least - torch.cosine_similarity(logits, self.clean(y).to(logits), dim=1)


@dataclass(frozen=True)
class Says(Far):
    def right(self, logits: Tensor, y: Tensor) -> Tensor:
        return y % 2 == 0


def test_no_loss_is_the_margin_of_the_criterion() -> None:
    model = honest("standard")
    outs = [fa.attacks.pgd(model, X, Y, THREAT, steps=3, loss=loss) for loss in (None, "margin")]
    assert torch.equal(outs[0].x_adv, outs[1].x_adv)
    assert torch.equal(outs[0].loss, outs[1].loss)


@pytest.mark.slow
@pytest.mark.parametrize("run", [fa.attacks.pgd, partial(fa.attacks.ddn, steps=100)], ids=["pgd", "ddn"])
def test_accuracies_follow_a_criterion_of_ones_own(run: Callable[..., AttackResult]) -> None:
    rows = torch.arange(10)  # of the classes of the net, which are numbers of clean embeddings here
    threat = fa.L2(torch.inf) if "ddn" in str(run) else THREAT
    model, criterion = honest("standard"), Far(0.7)
    out = run(model, X[:10], rows, threat, criterion=criterion)
    assert out.clean_accuracy == 1
    met = criterion.met(model(out.x_adv).detach(), rows, None)
    assert torch.equal(met, out.success)
    assert met.any()
    assert out.robust_accuracy == pytest.approx(1 - float(met.double().mean()))
    half = run(model, X[:10], rows, threat, criterion=Says(0.7))
    assert half.clean_accuracy == 0.5
    assert torch.equal(half.correct, rows % 2 == 0)


@pytest.mark.parametrize("criterion", [ConfidentlyWrong(0.9), WrongBy(2.0), OutsideTopK(2)])
def test_of_those_that_ask_for_more_than_a_wrong_class_the_class_is_right(criterion: Criterion) -> None:
    logits = honest("standard")(X).detach()
    assert torch.equal(criterion.right(logits, Y), logits.argmax(1) == Y)
    y = (Y + torch.arange(40) % 2) % 10
    out = fa.attacks.pgd(honest("standard"), X, y, THREAT, criterion=criterion, steps=2)
    assert torch.equal(out.correct, logits.argmax(1) == y)


def test_one_evaluation_has_one_meaning_of_right() -> None:
    attacks = [partial(fa.attacks.fgsm, threat=THREAT, criterion=each) for each in (Far(0.7), None)]
    with pytest.raises(InputError, match="expected criteria that agree on what is right"):
        fa.evaluate(honest("standard"), TEST, dict(zip("ab", attacks, strict=True)))


def test_a_loss_of_ones_own_gets_the_outputs_in_their_shape() -> None:
    model, seen = torch.nn.Conv2d(1, 3, 3, padding=1), set()
    y = model(X).argmax(1)

    def loss(z: Tensor, y: Tensor, targets: Tensor | None) -> Tensor:
        seen.add(tuple(z.shape[1:]))
        return z.logsumexp(1).mean((1, 2))

    out = fa.attacks.bim(model, X, y, THREAT, criterion=Share(0.9), loss=loss, steps=2)
    assert seen == {(3, 8, 8)}
    assert torch.allclose(out.loss, loss(model(out.x_adv), y, None), atol=1e-5)


def test_a_margin_whose_sign_is_wrong_is_refused() -> None:
    class Wrong(Criterion):
        def margin(self, logits: Tensor, y: Tensor, targets: Tensor | None) -> Tensor:
            return -super().margin(logits, y, targets)

    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3))
    y = model(X).argmax(1)
    for call in (
        lambda: fa.attacks.pgd(model, X, y, THREAT, criterion=Wrong()),
        lambda: fa.evaluate(model, (X, y), "pgd", threat=THREAT, criterion=Wrong()),
    ):
        with pytest.raises(InputError, match=r"margin above 0 where met is True .* opposite for \d+ of"):
            call()


def test_a_success_may_be_narrowed_without_a_margin() -> None:
    class Never(Criterion):
        def met(self, logits: Tensor, y: Tensor, targets: Tensor | None) -> Tensor:
            return torch.zeros_like(y, dtype=torch.bool)

    assert not fa.attacks.pgd(torch.nn.Flatten(), X, Y, THREAT, criterion=Never()).success.any()


def test_a_margin_is_refused_where_most_of_it_is_opposite() -> None:
    class Times(Criterion):
        signs: Tensor

        def margin(self, logits: Tensor, y: Tensor, targets: Tensor | None) -> Tensor:
            return self.signs * super().margin(logits, y, targets)

    criterion, logits = Times(), torch.eye(4)
    for signs in ((0, 0, 0, 0), (-1, -1, 1, 1), (-1, -1, -1, 1)):
        criterion.signs = torch.tensor(signs)
        with pytest.raises(InputError, match="for 3 of 4") if sum(signs) < 0 else nullcontext():
            fitting(criterion, logits, None, torch.tensor([0, 2, 2, 3]), None)


def test_what_a_criterion_cannot_take_is_refused() -> None:
    dense = torch.nn.Conv2d(1, 3, 3, padding=1)
    tags = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3))
    two = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 2))
    y, held = dense(X).argmax(1), (tags(X) > 0).to(torch.uint8)
    void, held[:, 0] = y.clamp_min(1), 255
    void[:, 0] = 255  # which stands for no class, not for the one that rejects
    others, best = (y + 1) % 3, Share(0.5, of=OutsideTopK(1))
    bad: list[tuple[str, Any, Tensor, Criterion, Tensor | None]] = [
        ("expected k below the 3 classes", dense, y, Share(0.5, of=OutsideTopK(3)), None),
        ("no targets with OutsideTopK", dense, y, best, others),
        ("targets: expected", dense, y, Share(0.5), y[:, :4]),
        (
            r"y: expected classes 0 to 2, or ignore=-1, got 255; .*Share\(ignore",
            dense,
            void,
            Share(0.5),
            None,
        ),
        (r"0 and 1, or -1 .*, got 255", tags, held, Signs(), None),
        ("three classes or more with Unless", two, Y * 0, Unless(1), None),
    ]
    for message, model, labels, criterion, targets in bad:
        with pytest.raises(InputError, match=message):
            fa.attacks.pgd(model, X, labels, THREAT, targets=targets, criterion=criterion)
    fa.attacks.pgd(dense, X, void, THREAT, steps=2, criterion=Share(0.5, of=Unless(0), ignore=255))

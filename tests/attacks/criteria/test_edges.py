"""Criteria at their edges: no samples, ignored positions with targets, what a model means, three classes."""

import math
import warnings
from itertools import permutations

import pytest
import torch
from torch import Tensor, nn

import fastadv as fa
from fastadv.attacks import Beyond, ConfidentlyWrong, Criterion, OutsideTopK, Share, Signs, Unless, WrongBy
from fastadv.evaluation.sums import figure, sums_at

X = torch.rand(4, 1, 6, 6, generator=torch.Generator().manual_seed(0))
DENSE = nn.Conv2d(1, 3, 3, padding=1)
TAGS = nn.Sequential(nn.Flatten(), nn.Linear(36, 3))
for each in (DENSE, TAGS[1]):
    torch.manual_seed(0)
    each.reset_parameters()


@pytest.mark.parametrize(
    ("model", "criterion", "shape"),
    [(DENSE, Share(0.3), (6, 6)), (TAGS, Signs(), (3,)), (TAGS, Beyond(0.1), None),
     (TAGS, OutsideTopK(2), ()), (TAGS, ConfidentlyWrong(0.9), ()), (TAGS, None, ())],
)  # fmt: skip
def test_no_samples_are_no_error(model: nn.Module, criterion: object, shape: tuple[int, ...] | None) -> None:
    y = None if shape is None else torch.zeros(0, *shape).long()
    for run in (fa.attacks.pgd, fa.attacks.fmn):
        out = run(model, X[:0], y, fa.Linf(math.inf if run is fa.attacks.fmn else 0.1), criterion=criterion)
        assert out.success.shape == out.loss.shape == (0,)
        assert out.x_adv.shape == (0, 1, 6, 6)


def test_a_confidence_that_is_just_reached_counts() -> None:
    for y, targets in ((1, None), (2, torch.tensor([0]))):
        outputs = torch.tensor([[0.0, 0.0, -torch.inf]])
        assert ConfidentlyWrong(0.5).met(outputs, torch.tensor([y]), targets).all()


def test_targets_do_not_count_where_labels_are_ignored() -> None:
    y, share = DENSE(X).argmax(1), Share(0.5, ignore=255)
    y[:, 1:] = 255
    targets = (DENSE(X).argmax(1) + 1) % 3
    out = fa.attacks.pgd(DENSE, X, y, fa.Linf(1.0), targets=targets, criterion=share, steps=40)
    reached = (DENSE(out.x_adv).argmax(1) == targets).double()
    assert torch.equal(out.success, reached[:, :1].mean((1, 2)) >= 0.5)
    assert bool((out.success & (reached.mean((1, 2)) < 0.5)).any())


class Sigmoids(nn.Conv2d):
    """A model that means a sigmoid by each logit."""

    def log_confidence(self, logits: Tensor) -> Tensor:
        return nn.functional.logsigmoid(logits)


def test_a_criterion_at_positions_asks_what_the_model_means() -> None:
    model = Sigmoids(1, 3, 3, padding=1)
    model.load_state_dict(DENSE.state_dict())
    y, sure = DENSE(X).argmax(1), Share(0.1, of=ConfidentlyWrong(0.5))
    out = fa.attacks.pgd(model, X, y, fa.Linf(1.0), criterion=sure, steps=20)
    best = model(out.x_adv).sigmoid().scatter(1, y[:, None], 0.0).amax(1)
    wrong = (best >= 0.5) & (model(out.x_adv).argmax(1) != y)
    assert torch.equal(out.success, wrong.flatten(1).double().mean(1) >= 0.1)
    assert out.success.any()


def figures(criterion: Criterion, outputs: Tensor, y: Tensor) -> dict[str, float]:
    model = fa.engine.prepare(lambda x: outputs[x.flatten().long()], outputs="any")
    sums = sums_at(criterion, model, torch.arange(float(len(y)))[:, None], y)
    return {name: figure(name, each) for name, each in sums.items()}


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("places", [1, 7, 12])
def test_a_sample_that_is_not_finite_is_wrong_and_decides_nothing(places: int, broken: float) -> None:
    """By any numbers of the classes, at all positions or at some of them."""
    y = torch.randint(0, 3, (2, 12), generator=torch.Generator().manual_seed(4))
    y[1] = y[0]  # so that a decision for another class would be counted to it
    for order in permutations(range(3)):
        labels = torch.tensor(order)[y]
        outputs = nn.functional.one_hot(labels, 3).movedim(2, 1).float()
        outputs[1, 0, :places] = broken
        assert figures(Share(0.5), outputs, labels) == {"pixel accuracy": 0.5, "mean IoU": 0.5}
    wrong = outputs[:, [1, 2, 0]].where(outputs.isfinite().flatten(1).all(1)[:, None, None], math.nan)
    assert figures(Share(0.5), wrong, labels)["mean IoU"] == 0


@pytest.mark.parametrize("flip", [0, 1])
def test_tags_and_numbers_that_are_not_finite(flip: int) -> None:
    y = torch.tensor([[1, 0, 1, 1], [0, 0, 1, 1]]) ^ flip
    outputs = 2.0 * y - 1
    outputs[1, 2:] = math.nan
    assert figures(Share(1.0), outputs, y) == {"label accuracy": 0.5}
    apart = outputs + torch.tensor([1.0, -1.0, 3.0, -1.0])  # the second sample is in no error
    assert figures(Beyond(1.0), apart, outputs.nan_to_num(0.0)) == {"MAE": 1.5, "RMSE": math.sqrt(3)}
    abstains = torch.tensor([[0.0, 0.0, 1.0], [0.0, math.nan, 0.0]])
    assert figures(Unless(2 - flip), abstains, torch.zeros(2).long()) == {"abstained": 0.5 * (1 - flip)}


@pytest.mark.parametrize(
    ("criterion", "fixed"),
    [
        (Signs(), True),
        (Share(0.5, of=ConfidentlyWrong(0.6)), True),
        (Share(0.5, of=ConfidentlyWrong(0.6)).meant_by(Sigmoids(1, 3, 3)), False),
        (Beyond(0.1), True),
        (Beyond(0.1, by=lambda z, y: (z - y).norm(dim=1)), False),
    ],
)
def test_what_calls_the_callers_functions_is_not_replayed(criterion, fixed):
    assert criterion.fixed is fixed


@pytest.mark.parametrize("criterion", [Signs(), Share(0.5), Beyond(0.1)])
def test_a_loss_of_its_own_is_followed_as_it_is_and_another_in_the_shape_of_y(criterion: Criterion) -> None:
    y, rows = torch.ones(2, 3, 4).long(), torch.rand(2, 12)
    assert criterion.followed(criterion.margin) == criterion.margin
    shapes = list[torch.Size]()
    criterion.followed(lambda outputs, *_: shapes.append(outputs.shape))(rows, y, None)
    assert shapes == [(2, 1, 3, 4) if isinstance(criterion, Share) else (2, 3, 4)]


@pytest.mark.parametrize("k", [1, 2, 3])
def test_of_equal_logits_the_first_are_the_largest(k: int) -> None:
    """As the decision is the first of them."""
    levels = torch.randint(0, 3, (40, 50), generator=torch.Generator().manual_seed(k)).float()
    order = levels.argsort(dim=1, descending=True, stable=True)
    for place in range(5):
        assert OutsideTopK(k).met(levels, order[:, place], None).tolist() == [place >= k] * 40
    assert torch.equal(Criterion().rivals(levels, order[:, 0]), order[:, 1:])
    some = (order[:, 0] != 49) & (order[:, -1] != 49)
    rivals = Unless(-1).rivals(levels[some], order[some, 0])
    assert rivals.tolist() == [[rival for rival in row if rival != 49] for row in order[some, 1:].tolist()]


def test_positions_that_are_ignored_never_meet_a_lead() -> None:
    logits = torch.tensor([[[[5.0, 0.0, 0.0, 0.0]], [[0.0, 5.0, 5.0, 5.0]]]])  # class 0, then 1 three times
    y = torch.tensor([[[0, 0, 255, 255]]])
    for share, met in ((0.5, True), (0.6, False)):
        assert Share(share, of=WrongBy(1.0), ignore=255).met(logits, y, None).item() is met


@pytest.mark.parametrize("labels", [1, 3])
def test_probabilities_are_told_from_logits_whose_sign_decides(labels):
    torch.manual_seed(0)
    net, x, signs = nn.Sequential(nn.Flatten(), nn.Linear(16, labels)), torch.rand(40, 1, 4, 4), Signs()
    with torch.no_grad():
        net[1].bias -= net(x).mean(0)
    y = (net(x) > 0).long()
    for call in (
        lambda model: fa.attacks.pgd(model, x, y, fa.Linf(0.1), steps=1, criterion=signs),
        lambda model: fa.evaluate(model, (x, y), criterion=signs),
        lambda model: fa.train.PGDTraining(fa.Linf(0.1), steps=1, criterion=signs)(model, x, y),
    ):
        with pytest.warns(UserWarning, match=r"outputs that all lie in \[0, 1\]; if they are probabilities"):
            call(nn.Sequential(net, nn.Sigmoid()).eval())
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            call(net.eval())


@pytest.mark.parametrize(("low", "warned"), [(0.6, False), (0.1, True), (-0.1, False)])
def test_one_logit_is_judged_without_the_zero_beside_it(low: float, warned: bool) -> None:
    x = torch.linspace(low, 0.9, 40)[:, None]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fa.attacks.fgsm(lambda x: x, x, (x > 0).long(), fa.Linf(0.1, (-1, 1)), criterion=Signs())
    assert any("leave the sigmoid out" in str(each.message) for each in caught) is warned


@pytest.mark.slow
def test_several_tags_turn_at_once_as_near_as_by_short_steps() -> None:
    digits = fa.data.load("digits")
    x, y = fa.data.load("digits", "test").x[:30], fa.data.load("digits", "test").y[:30]

    def tags(y: Tensor) -> Tensor:
        return torch.stack([y % 2, (y > 4).long(), (y == 0).long(), (y < 3).long()], 1)

    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 4))
    fa.train.fit(net, (digits.x, tags(digits.y)), fa.train.Standard(criterion=Signs()), epochs=30)
    options = {"threat": fa.Linf(math.inf), "criterion": Signs("all"), "steps": 100}
    best = fa.attacks.fmn(net.eval(), x, tags(y), variant="published", **options).distance.median()
    for nearest in (fa.attacks.fmn, fa.attacks.pdpgd):
        assert nearest(net, x, tags(y), **options).distance.median() <= 1.1 * best

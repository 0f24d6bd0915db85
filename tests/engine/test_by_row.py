"""Models that know more of a row than x: of one batch size, with something kept of each row, or by ids."""

from collections.abc import Callable
from copy import deepcopy
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastadv as fa
from fastadv.attacks.special.bounded_outputs import bounded
from fastadv.engine.by_row import ByRow
from fastadv.engine.mapped import Mapped
from fastadv.engine.plain import Plain
from fastadv.engine.prepare import prepare
from fastadv.errors import InputError
from tests.attacks.masking.nets import honest
from tests.refusals import refuses

TEST, INF = fa.data.load("digits", "test", limit=24), torch.inf
X, Y, COUNT = TEST.x, TEST.y, 24
MOVED = torch.linspace(-0.05, 0.05, 100)
THREAT = fa.Linf(0.1)


class OneSize(nn.Module):
    def __init__(self, size: int = COUNT) -> None:
        super().__init__()
        self.net, self.size = honest("standard"), size

    def forward(self, x: Tensor) -> Tensor:
        if len(x) != self.size:
            raise RuntimeError(f"shape [{self.size}, 1, 8, 8] is invalid for {len(x)} rows")
        return self.net(x)


class State(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = honest("standard")
        self.register_buffer("kept", MOVED[:COUNT, None, None, None])

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x + self.kept)


class ById(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = honest("standard")

    def forward(self, x: Tensor, *, ids: Tensor) -> Tensor:
        return self.net(x + MOVED[ids][:, None, None, None])


def by_id(x: Tensor, ids: Tensor) -> Tensor:
    return honest("standard")(x + MOVED[ids][:, None, None, None])


WHOLE: dict[str, Any] = {"whole_batches": True}
KINDS: dict[str, tuple[Callable[[], Any], dict[str, Any]]] = {
    "state": (State, WHOLE), "ids": (ById, {}),
    "closure": (lambda: lambda x: honest("standard")(x + MOVED[:COUNT, None, None, None]), WHOLE),
    "function of ids": (lambda: by_id, {}), "ids in whole batches": (ById, WHOLE),
    "method": (lambda: ById().eval().forward, {}),
}  # fmt: skip
ATTACKS: dict[str, Callable[..., fa.attacks.AttackResult]] = {
    "pgd": partial(fa.attacks.pgd, threat=THREAT, steps=8, restarts=2),
    "square": partial(fa.attacks.square, threat=THREAT, queries=40),
    "hopskipjump": partial(fa.attacks.hopskipjump, threat=fa.L2(INF), queries=150),
    "minimum_norm": partial(fa.attacks.minimum_norm, threat=fa.L2(INF), steps=60),
    "autoattack": partial(fa.attacks.autoattack, threat=THREAT, version=["apgd-ce"], indicators=False),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ATTACKS)
def test_every_row_is_attacked_as_itself(name: str) -> None:
    """A row of its own knowledge is a row that is moved: what is found for it is a success of that row."""
    outs = []
    for make, options in list(KINDS.values())[: 2 if name == "autoattack" else None]:
        out = ATTACKS[name](make(), X, Y, **options)
        assert torch.equal(by_id(out.x_adv, torch.arange(COUNT)).detach().argmax(1) != Y, out.success)
        outs.append(out)
    for other in outs[1:]:
        torch.testing.assert_close(other.x_adv, outs[0].x_adv)
        assert other.flags == outs[0].flags
    # rows that were filled in do not count
    passes = [(out.forwards, out.backwards) for out in outs]
    assert max(passes) == min(passes)


@pytest.mark.slow
@pytest.mark.parametrize("name", ATTACKS)
def test_a_model_of_one_batch_size_is_attacked_as_any(name: str) -> None:
    net, model = honest("standard"), OneSize().eval()
    refused = "passes only the rows that are still to be broken; use whole_batches=True"
    if name != "minimum_norm":  # all of whose rows stay here
        refuses(refused, ATTACKS[name], model, X, Y)
    out, wanted = ATTACKS[name](model, X, Y, whole_batches=True), ATTACKS[name](net, X, Y, freeze=False)
    torch.testing.assert_close(out.x_adv, wanted.x_adv)
    assert torch.equal(out.success, wanted.success)
    assert out.forwards <= wanted.forwards  # nothing that was filled in counts


@pytest.mark.slow
def test_an_evaluation_fills_its_last_batch() -> None:
    data = fa.data.load("digits", "test", limit=38)
    attacks = {"pgd": partial(fa.attacks.pgd, threat=THREAT, steps=5), "square": ATTACKS["square"]}
    refuses("use whole_batches=True", fa.evaluate, OneSize(16).eval(), data, {}, batch_size=16)
    table = fa.evaluate(OneSize(16).eval(), data, attacks, batch_size=16, whole_batches=True)
    wanted = fa.evaluate(honest("standard"), data, attacks, batch_size=16, freeze=False)
    assert table.clean_accuracy == wanted.clean_accuracy
    for one, other in zip(table.rows, wanted.rows, strict=True):
        assert torch.equal(one.broken, other.broken)
        assert (one.forwards, one.backwards) == (other.forwards, other.backwards)
    assert table.verdict == wanted.verdict
    # sample numbers reach the model from every batch
    numbered = fa.evaluate(ById().eval(), data, attacks, batch_size=16)
    single = fa.attacks.pgd(ById().eval(), data.x, data.y, THREAT, steps=5)
    assert torch.equal(numbered["pgd"].broken, single.success & single.correct)


@pytest.mark.slow
@pytest.mark.parametrize("attack", ["pgd", "apgd"])
def test_a_loss_gets_the_ids_of_its_rows(attack: str) -> None:
    """A reference for each sample: the loss is the distance of the logits from it."""
    wanted, net = torch.randn(100, 10, generator=torch.Generator().manual_seed(0)), honest("standard")

    def far(logits: Tensor, y: Tensor, targets: Tensor | None, ids: Tensor) -> Tensor:
        assert len(ids) == len(logits)
        return (logits - wanted[ids]).square().sum(1)

    run = partial(getattr(fa.attacks, attack), net, threat=THREAT, loss=far, stop_early=True, steps=5)
    numbers = torch.arange(COUNT) + 40
    whole = run(X, Y, ids=numbers)
    torch.testing.assert_close(
        whole.loss, (net(whole.x_adv) - wanted[numbers]).square().sum(1).detach(), rtol=1e-4, atol=1e-4
    )
    parts = [run(X[rows], Y[rows], ids=numbers[rows]) for rows in (slice(0, 5), slice(5, COUNT))]
    torch.testing.assert_close(torch.cat([part.x_adv for part in parts]), whole.x_adv)


def test_an_error_of_another_kind_stays_as_it_is() -> None:
    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        fa.attacks.pgd(Broken(), X, Y, THREAT, steps=2)
    with pytest.raises(InputError, match="ids: expected each once with whole_batches"):
        fa.attacks.pgd(honest("standard"), X, Y, THREAT, whole_batches=True, ids=torch.arange(COUNT) // 2)
    with pytest.raises(InputError, match="whole_batches: expected True or False, got 3"):
        fa.attacks.pgd(honest("standard"), X, Y, THREAT, whole_batches=3)  # type: ignore[arg-type]


def test_each_question_says_of_which_rows_its_points_are() -> None:
    numbers, rows = torch.tensor([3, 70, 41]), torch.tensor([2, 0, 0, 2])
    for size in (0, 3, 5):
        classifier = ByRow(ById().eval(), size=size).of(X[:3], numbers)
        points = torch.rand(4, 1, 8, 8)
        wanted = by_id(points, numbers[rows]).detach()
        torch.testing.assert_close(classifier(points, rows), wanted)
        torch.testing.assert_close(classifier.verdict(points, rows), wanted)
        torch.testing.assert_close(classifier.input_gradient(points, rows, rows=rows)[1], wanted)
        some = classifier.of(points[:2], numbers[1:])  # a part of the batch
        torch.testing.assert_close(some(points[:2]), by_id(points[:2], numbers[1:]).detach())
        for several in (points, points[:2]):
            refuses("points of the whole batch in its order, 3 rows", classifier, several)
    # the first call tries a few rows where the model's dtype is another
    model = ById().eval()
    model.net = deepcopy(model.net).double()
    logits = ByRow(model).of(X[:3], numbers).verdict(X[:3])
    torch.testing.assert_close(logits.float(), by_id(X[:3], numbers).detach(), rtol=1e-4, atol=1e-4)


def test_a_map_is_never_asked_about_other_rows() -> None:
    """Points of some samples need their rows; of parameters of others there are none."""
    light = fa.Through(lambda x, t: (x + t.view(-1, 1, 1, 1)).clamp(0, 1), fa.Linf(0.3, box=(-1, 1)),
                       still=lambda x: x.new_zeros(len(x), 1))  # fmt: skip
    net, numbers, rows = honest("standard"), torch.tensor([3, 70, 41]), torch.tensor([1, 2, 1, 0])
    mapped, t = Mapped(Plain(net), light, X[:3], numbers), torch.rand(4, 1)
    torch.testing.assert_close(mapped(t, rows), Plain(net)(light.image(t, X[rows])))
    part = mapped.of(t[:2], numbers[1:])
    torch.testing.assert_close(part(t[:2]), Plain(net)(light.image(t[:2], X[1:3])))
    for points, some in ((t, None), (t, rows[:3]), (t[:2], None)):
        refuses("rows: expected one for each of", mapped, points, some)
    refuses("ids: expected some of the batch", mapped.of, t[:2], torch.tensor([3, 4]))


def test_a_success_is_proved_by_its_own_row() -> None:
    """The first two of four samples are wrong already, and the others leave as they would alone."""

    def model(x: Tensor, ids: Tensor) -> Tensor:
        first = x.flatten(1)[:, 0]
        return torch.stack([0 * first, first - torch.where(ids < 2, 5.0, 0.5)], 1)

    x, y, ids = torch.full((4, 3), 0.2), torch.tensor([1, 1, 0, 0]), torch.arange(4)
    out, alone = (
        fa.attacks.bim(model, x[part], y[part], fa.Linf(0.7), steps=5, step_size=0.4, eot=2, ids=ids[part])
        for part in (slice(None), slice(2, None))
    )
    assert out.success.all()
    assert out.backwards == alone.backwards


@pytest.mark.parametrize("name", ["own", "own whole", "transfer"])
def test_an_attack_of_ones_own_asks_about_the_samples_that_are_left(name: str) -> None:
    """Each as in a call of its own, whether others have left or not."""

    def noise(model, x, y, *, threat, ids, **goal):
        unit = MOVED[ids].sign().view(-1, 1, 1, 1) * torch.linspace(-1, 1, 64).view(1, 8, 8)
        points = (x + threat.radius.view(-1, 1, 1, 1) * unit).clamp(0, 1)
        return torch.where((model(points).argmax(1) != y).view(-1, 1, 1, 1), points, x)

    if name == "transfer":
        bim = partial(fa.attacks.bim, steps=3)
        run = partial(fa.attacks.transfer, ById(), threat=fa.Linf(0.5), source=ById(), attack=bim, searches=3)
    else:
        model, whole = (OneSize(), True) if name == "own whole" else (ById(), False)
        run = partial(
            fa.attacks.minimum_radius, model, threat=fa.Linf(INF), attack=noise, searches=3,
            whole_batches=whole,
        )  # fmt: skip
    ids = torch.arange(COUNT)
    out = run(x=X, y=Y, ids=ids)
    assert len(out.distance.unique()) > 3
    if name != "own whole":
        parts = [run(x=X[row], y=Y[row], ids=row).distance for row in ids.split(1)]
        torch.testing.assert_close(out.distance, torch.cat(parts))


def test_a_batch_larger_than_the_size_passes_in_parts_with_its_own_ids() -> None:
    x, ids = X[:10], torch.arange(10) + 2
    torch.testing.assert_close(ByRow(by_id, size=4).of(x, ids).verdict(x), by_id(x, ids).detach())


def test_what_was_prepared_otherwise_is_told_its_rows() -> None:
    for given in (Plain(by_id), fa.freeze(by_id)):
        out = fa.attacks.bim(given, X, Y, THREAT, steps=3)
        assert torch.equal(out.x_adv, fa.attacks.bim(by_id, X, Y, THREAT, steps=3).x_adv)
    assert prepare(ByRow(by_id, size=4), size=8).size == 8  # type: ignore[attr-defined]
    more = prepare(ByRow(by_id, size=4), 3)
    assert (more.eot, more.size) == (3, 4)  # type: ignore[attr-defined]
    frozen = prepare(fa.freeze(honest("standard")), 3, size=4)
    assert (frozen.eot, frozen.size) == (3, 4)  # type: ignore[attr-defined]


def test_squashed_outputs_are_asked_about_their_own_rows() -> None:
    def squashed(x: Tensor, ids: Tensor) -> Tensor:
        return (3 * by_id(x, ids)).sigmoid()

    ids, y = torch.arange(COUNT), Y.clone()
    y[:9] = (y[:9] + 1) % 10  # wrong already
    assert bounded(squashed(X, ids)) is not None
    out = fa.attacks.pgd(squashed, X, y, THREAT, steps=5)
    part = fa.attacks.pgd(squashed, X[9:], y[9:], THREAT, steps=5, ids=ids[9:])
    torch.testing.assert_close(out.x_adv[9:], part.x_adv)

"""Steps replayed as one graph a bucket find what single steps find, to the bit."""

from functools import partial
from typing import Any
from weakref import ref

import pytest
import torch
from torch import Tensor, nn

import fastadv as fa
from fastadv.attacks.core.criterion import ConfidentlyWrong, OutsideTopK, WrongBy
from fastadv.attacks.core.record import Rows
from fastadv.attacks.core.repeat import counted, repeat
from fastadv.attacks.core.run import run
from fastadv.attacks.core.search import Search
from fastadv.attacks.methods import auto_pgd
from fastadv.engine.cpu.norms import NOTE
from fastadv.engine.graph import Graphs
from fastadv.errors import InputError
from fastadv.ops import _graphs
from tests import recorded
from tests.attacks.graphed import SIZE, as_on_a_gpu, batch, graphed, kinds, net, same

THREATS = {
    "linf": fa.Linf(0.03),
    "l2": fa.L2(0.4),
    "l1": fa.L1(3.0),
    "l0": fa.L0(6),
    "own radii": fa.Linf(torch.linspace(0.0, 0.06, SIZE)),
}


pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("asked_alone")]


@pytest.fixture(autouse=True)
def _gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    as_on_a_gpu(monkeypatch)


@pytest.mark.parametrize("stop_early", [True, False])
@pytest.mark.parametrize(
    ("name", "threat"),
    [*(("pgd", threat) for threat in THREATS), ("bim", "l2"), ("mim", "l1"), ("mim", "own radii")],
)
def test_replays_find_what_steps_find(name: str, threat: str, stop_early: bool) -> None:
    model = net()
    plain, replayed = fa.freeze(model), graphed(model)
    run = partial(getattr(fa.attacks, name), steps=14, stop_early=stop_early)
    more = {} if name == "bim" else {"restarts": 2}
    for seed in range(2):  # the second batch meets graphs of the first, with other radii if it has its own
        x, y = batch(model, seed)
        ball = fa.Linf(THREATS[threat].radius.roll(seed)) if threat == "own radii" else THREATS[threat]
        same(run(replayed, x, y, ball, **more), wanted := run(plain, x, y, ball, **more))
        assert (wanted.x_adv != x).any()
    assert kinds(replayed) == {"ascent"}
    assert replayed.notes == plain.notes


@pytest.mark.parametrize("threat", ["linf", "l2", "l1", "own radii"])
@pytest.mark.parametrize("stop_early", [True, False])
def test_the_stages_of_apgd(stop_early: bool, threat: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auto_pgd, "INTERVAL_L1", 0.3)  # several moves between two checkpoints
    model = net()
    plain, replayed = fa.freeze(model), graphed(model)
    run = partial(fa.attacks.apgd, threat=THREATS[threat], steps=33, stop_early=stop_early, loss="dlr")
    for seed in range(2):
        x, y = batch(model, seed)
        same(run(replayed, x, y, seed=seed), wanted := run(plain, x, y, seed=seed))
        assert (wanted.x_adv != x).any()
    assert kinds(replayed) == {"Sparse" if threat == "l1" else "Dense", "gradient"}
    # a graph has no batch of a single row
    assert {*plain.notes} - {*replayed.notes} <= {NOTE}
    assert {*replayed.notes} <= {*plain.notes}


@pytest.mark.parametrize(
    "options",
    [
        {"criterion": WrongBy(0.05)},
        {"criterion": OutsideTopK(2)},
        {"criterion": ConfidentlyWrong(0.4)},
        {"loss": "margin"},
        {"loss": lambda logits, y, targets: -logits.gather(1, y[:, None]).squeeze(1)},
        {"step_size": torch.linspace(0.002, 0.02, SIZE)},
        {"step_size": 0.002},
        {"mask": torch.arange(128).view(2, 8, 8) % 3 > 0},
        {"targets": True},
        {"ids": torch.arange(SIZE).flip(0) + 100},
    ],
    ids=", ".join,
)
def test_whatever_the_attack_is_asked_for(options: dict[str, Any]) -> None:
    model = net()
    x, y = batch(model)
    if "targets" in options:
        options = {"targets": (y + 1) % 5}
    plain, replayed = fa.freeze(model), graphed(model)
    run = partial(fa.attacks.pgd, x=x, y=y, threat=fa.Linf(0.03), steps=11, seed=3)
    run(plain)
    run(replayed)  # graphs of another kind of call are there
    for _ in range(2):
        same(run(replayed, **options), run(plain, **options))
    assert replayed.search.graphs is not None


@pytest.mark.parametrize("name", ["pgd", "apgd"])
@pytest.mark.parametrize("precision", ["images", "bf16", "fp16"])
def test_half_precision(name: str, precision: Any) -> None:
    """Of the images, or of the search."""
    model = net()
    x, y = batch(model, size=16)  # as large as its graph: padding could change the coarse bits of sums
    x, precision = (x.half(), "fp32") if precision == "images" else (x, precision)
    plain, replayed = fa.freeze(model, precision), graphed(model, precision)
    attack = partial(getattr(fa.attacks, name), x=x, y=y, threat=fa.L2(0.4), steps=9, stop_early=False)
    for _ in range(2):
        same(attack(replayed), attack(plain))
    assert replayed.search.graphs


@pytest.mark.parametrize("threat", ["linf", "own radii"])
@pytest.mark.parametrize("each", [False, True])
def test_the_last_iterate(threat: str, each: bool) -> None:
    model = net()
    plain, replayed = fa.freeze(model), graphed(model)
    size = torch.linspace(0.001, 0.01, SIZE) if each else 0.01
    for seed in range(2):
        x, y = batch(model, seed)
        options: dict[str, Any] = {"steps": 7, "step_size": size, "targets": (y + 1) % 5, "start": x * 0.999}
        before = replayed.forwards, replayed.backwards
        found, wanted = (
            fa.attacks.last_iterate(f, x, None, THREATS[threat], **options) for f in (replayed, plain)
        )
        assert torch.equal(found, wanted)
        assert (replayed.backwards - before[1]) == 7 * SIZE
    assert len(replayed.search.graphs) == 1
    none = fa.attacks.last_iterate(replayed, x[:0], y[:0], fa.Linf(0.1), steps=3, step_size=0.1)
    assert none.shape == (0, 2, 8, 8)
    assert replayed.search.graphs is not None


@pytest.mark.parametrize("change", ["weight", "statistics", "data"])
def test_the_last_iterate_sees_a_model_that_has_changed(change: str) -> None:
    model = net()
    replayed, (x, y) = graphed(model), batch(model)
    options: dict[str, Any] = {"steps": 4, "step_size": 0.03}
    for _ in range(3):
        before = fa.attacks.last_iterate(replayed, x, y, fa.Linf(0.1), **options)
    assert replayed.search.graphs is not None
    with torch.no_grad():
        if change == "weight":
            model[0].weight.neg_()
        elif change == "statistics":
            model[1].running_mean.add_(1)
        else:
            model[0].weight.data = -model[0].weight
    found = fa.attacks.last_iterate(replayed, x, y, fa.Linf(0.1), **options)
    assert torch.equal(found, fa.attacks.last_iterate(fa.freeze(model), x, y, fa.Linf(0.1), **options))
    assert not torch.equal(found, before)


@pytest.mark.parametrize("rows", [1, 5])
def test_labels_of_other_rows_are_refused_where_a_graph_is_there(rows: int) -> None:
    model = net()
    replayed, (x, y) = graphed(model), batch(model)
    for _ in range(3):
        fa.attacks.last_iterate(replayed, x, y, fa.Linf(0.1), steps=3, step_size=0.03)
    with pytest.raises(InputError, match=rf"labels: expected int64 of shape \({SIZE},\)"):
        fa.attacks.last_iterate(replayed, x, y[:rows], fa.Linf(0.1), steps=3, step_size=0.03)
    assert replayed.search.graphs is not None


class Mine(Rows):
    points: Tensor
    total: Tensor
    oldest: Tensor
    older: Tensor
    old: Tensor


def test_samples_that_are_to_leave_do_so_first() -> None:
    model = net()
    x, y = batch(model)
    seen = {}
    for name, frozen in (("plain", fa.freeze(model)), ("replayed", graphed(model))):

        def step(search: Search) -> None:
            look = search.gradient(search.rows.points)
            search.rows.points = (look.x_adv + 0.001 * look.gradient.sign()).clamp(0, 1)

        def rule(search: Search, name: str = name) -> None:
            search.rows.points = search.start()
            for _ in range(3):
                repeat(search, step, 3, "leaving")
                seen.setdefault(name, []).append(len(search.x))
                search.leave(torch.arange(len(search.x)) < 2)
            search.finish(search.rows.points)

        run(frozen, x, y, fa.Linf(0.5), rule, rows=Mine, loss="ce")
    assert seen["plain"] == seen["replayed"]


class Reads(nn.Module):
    """A model that reads a value of its input, which no capture allows."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.inner(x)
        return out if float(x.detach().sum()) < 1e9 else out * 2


def test_a_step_that_cannot_be_captured_goes_on_without(logged: Any) -> None:
    model = Reads(net())
    x, y = batch(model)
    plain, replayed = fa.freeze(model), graphed(model)
    for _ in range(2):
        same(*(fa.attacks.pgd(f, x, y, fa.Linf(0.03), steps=9) for f in (replayed, plain)))
    assert replayed.search.graphs is None
    assert logged.text.count("not captured as CUDA graphs: operation not permitted") == 1


def test_what_a_rule_remembers_is_carried_over() -> None:
    """A step with memory of its own: rows that appear on the way, and rows that change places."""
    model = net()
    x, y = batch(model)

    def step(search: Search) -> None:
        look = search.gradient(search.rows.points)
        rows = search.rows
        rows.total = look.gradient if "total" not in vars(rows) else rows.total + look.gradient
        # three steps of memory, each handed on as it is
        rows.oldest, rows.older, rows.old = rows.older, rows.old, look.x_adv
        rows.points = (look.x_adv + 0.001 * rows.total.sign() + 0.1 * (rows.old - rows.oldest)).clamp(0, 1)

    seen = {}
    for name, frozen in (("plain", fa.freeze(model)), ("replayed", graphed(model))):

        def rule(search: Search, name: str = name) -> None:
            rows = search.rows
            rows.points = rows.oldest = rows.older = rows.old = search.start()
            repeat(search, step, 9, "total")
            seen[name] = [value.clone() for _, value in sorted(vars(rows).items())]
            search.finish(search.rows.points)

        run(frozen, x, y, fa.Linf(0.5), rule, rows=Mine, loss="ce")
    assert all(torch.equal(a, b) for a, b in zip(seen["plain"], seen["replayed"], strict=True))


def test_calls_that_differ_in_one_thing_share_no_graph() -> None:
    model = net()
    x, y = batch(model)
    plain, replayed = fa.freeze(model), graphed(model)
    pgd = partial(fa.attacks.pgd, x=x, y=y, threat=fa.Linf(0.2), steps=3, step_size=0.07, stop_early=False)
    mim = partial(fa.attacks.mim, **pgd.keywords)
    last = partial(fa.attacks.last_iterate, x=x, y=y, threat=fa.Linf(0.2), steps=3, step_size=0.07)
    calls = [
        pgd,
        partial(pgd, threat=fa.L2(0.2)),
        partial(pgd, threat=fa.Linf(0.1)),
        partial(pgd, threat=fa.Linf(0.2, box=(-1.0, 2.0))),
        partial(pgd, x=x.double() * 0.999),
        mim,
        partial(mim, decay=0.3),
        last,
        partial(last, threat=fa.Linf(0.1)),
        partial(last, threat=fa.L2(0.2)),
        partial(last, threat=fa.Linf(0.2, box=(-1.0, 2.0))),
        partial(last, loss="margin"),
        partial(last, step_size=0.01),
        partial(last, y=None, targets=(y + 1) % 5),
    ]
    for call in calls:
        found, wanted = (call(frozen) for frozen in (replayed, plain))
        if call.func is fa.attacks.last_iterate:
            assert torch.equal(found, wanted)
        else:
            same(found, wanted)
    assert replayed.search.graphs is not None
    assert len(replayed.search.graphs) == len(calls)


def test_each_kind_of_call_has_a_graph_and_each_bucket(monkeypatch: pytest.MonkeyPatch) -> None:
    captured: list[int] = []
    monkeypatch.setattr(_graphs, "capture", lambda run: captured.append(1) or recorded.capture(run))
    model = net()
    frozen = graphed(model)
    run = partial(fa.attacks.pgd, frozen, stop_early=False)
    for size, radius, steps in ((13, 0.03, 9), (14, 0.03, 5), (12, 0.02, 5), (9, 0.02, 5), (13, 0.03, 9)):
        run(*batch(model, size=size), fa.Linf(radius), steps=steps, step_size=0.01)
    # 13 and 14 share a bucket, as do 12 and 13 but for the radius; 9 has its own
    assert len(captured) == 3
    frozen.search.use(frozen.search.form.without_functions())
    assert len(frozen.search.graphs) == 0


@pytest.mark.parametrize("shape", [(2, 8, 8), (SIZE, 2, 8, 8)])
def test_a_graph_takes_the_mask_that_it_is_given(shape: tuple[int, ...]) -> None:
    model = net()
    x, y = batch(model)
    plain, replayed = fa.freeze(model), graphed(model)
    for seed in range(3):
        mask = torch.rand(shape, generator=torch.Generator().manual_seed(seed)) > 0.5
        attack = partial(fa.attacks.pgd, x=x, y=y, threat=fa.Linf(0.1), steps=5, stop_early=False, mask=mask)
        same(attack(replayed), attack(plain))
    assert kinds(replayed) == {"ascent"}


def test_a_loss_of_ones_own_is_not_captured() -> None:
    """It may hold a value for each sample."""
    model = net()
    x, y = batch(model)
    weight, frozen = torch.linspace(-1, 1, SIZE), graphed(model)

    def loss(logits: Tensor, y: Tensor, targets: Tensor | None) -> Tensor:
        return weight[: len(y)] * logits.gather(1, y[:, None]).squeeze(1)

    fa.attacks.last_iterate(frozen, x, y, fa.Linf(0.1), steps=3, step_size=0.01, loss=loss)
    fa.attacks.pgd(frozen, x, y, fa.Linf(0.1), steps=3, loss=loss)
    assert frozen.search.graphs is not None
    assert len(frozen.search.graphs) == 0


def test_a_criterion_that_waits_for_the_device_is_not_captured() -> None:
    model = net()
    x, y = batch(model)
    frozen = graphed(model)
    fa.attacks.pgd(frozen, x, y, fa.Linf(0.03), steps=5, criterion=ConfidentlyWrong(0.4))
    assert kinds(frozen) == {"gradient"}


class Sharp(nn.Module):
    """A model with logits that are not finite for some samples, and no gradient at others."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.inner(x)
        out = torch.where((x[:, 0, 0, 0] > 0.8)[:, None], torch.nan, out)
        return torch.where((x[:, 0, 0, 0] < 0.2)[:, None], x.flatten(1)[:, :1] * 0 + out.detach(), out)


def test_nothing_is_captured_before_the_check() -> None:
    model = Sharp(net())
    x, y = batch(model.inner)
    x[:, 0, 0, 0] = 0.9  # no logit is finite
    frozen = graphed(model)
    for _ in range(2):
        fa.attacks.last_iterate(frozen, x, y, fa.Linf(0.02), steps=4, step_size=0.004)
    assert frozen.search.graphs is not None
    assert len(frozen.search.graphs) == 0


@pytest.mark.parametrize("stop_early", [True, False])
def test_what_went_wrong_on_the_way_is_carried_over(stop_early: bool) -> None:
    model = Sharp(net())
    x, y = batch(model.inner)
    x[::3, 0, 0, 0], x[1::3, 0, 0, 0], x[2::3, 0, 0, 0] = 0.79, 0.1, 0.5
    plain, replayed = fa.freeze(model), graphed(model)
    for _ in range(2):
        found, wanted = (
            fa.attacks.pgd(f, x, y, fa.Linf(0.02), steps=9, step_size=0.004, stop_early=stop_early)
            for f in (replayed, plain)
        )
        same(found, wanted)
    assert len(wanted.status.unique()) > 2
    assert replayed.search.graphs is not None


@pytest.mark.usefixtures("uncollected")
@pytest.mark.parametrize("steps", [2, 9])  # met once, and captured
def test_graphs_go_with_their_model(steps: int) -> None:
    model = net()
    recorded.capture(lambda: None)  # what is imported for the first one keeps frames
    frozen, (x, y) = graphed(model), batch(model)
    fa.attacks.pgd(frozen, x, y, fa.Linf(0.03), steps=steps, stop_early=False)
    fa.attacks.apgd(frozen, x, y, fa.L2(0.3), steps=4 * steps, stop_early=False)
    frozen.input_gradient(x, y)
    assert frozen.search.graphs is not None
    gone = ref(frozen.search)
    del frozen
    assert gone() is None


def test_what_another_thread_counts_meanwhile_stays() -> None:
    frozen = graphed(net())

    def meanwhile(graphs: Graphs) -> list[Tensor]:
        frozen.forwards += 3
        frozen.backwards += 2
        return []

    counted(frozen, meanwhile, 10)
    assert (frozen.forwards, frozen.backwards) == (13, 12)

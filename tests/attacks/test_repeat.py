"""Steps replayed as one graph a bucket find what single steps find, to the bit."""

import gc
from collections.abc import Iterator
from functools import partial
from importlib import import_module
from threading import Thread
from typing import Any
from weakref import ref

import pytest
import torch
from torch import Tensor, nn

import fastadv as fa
from fastadv import _graphs
from fastadv.attacks import _apgd, _ranking, _waiting
from fastadv.attacks._core import run
from fastadv.attacks._repeat import counted, repeat
from fastadv.attacks._search import Search
from fastadv.attacks.criterion import ConfidentlyWrong, OutsideTopK, WrongBy
from fastadv.engine.graph import Graphs
from tests import recorded

SIZE = 13
THREATS = {
    "linf": fa.Linf(0.03),
    "l2": fa.L2(0.4),
    "l1": fa.L1(3.0),
    "l0": fa.L0(6),
    "own radii": fa.Linf(torch.linspace(0.0, 0.06, SIZE)),
}


@pytest.fixture(autouse=True)
def _as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Values are not read where that would wait for a GPU, and graphs are recorded calls."""
    for module in (_waiting, _ranking, _apgd, import_module("fastadv.attacks.last_iterate")):
        monkeypatch.setattr(module, "waits", lambda device: True)
    monkeypatch.setattr(_graphs, "capture", recorded.capture)


def net(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5)
    ).eval()


def batch(model: nn.Module, seed: int = 1, size: int = SIZE) -> tuple[Tensor, Tensor]:
    x = torch.rand(size, 2, 8, 8, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        return x, model(x).argmax(1)


def graphed(model: nn.Module, precision: Any = "fp32") -> fa.Frozen:
    frozen = fa.freeze(model, precision)
    frozen.search.graphs = Graphs()
    return frozen


def kinds(frozen: fa.Frozen) -> set[str]:
    """What there are graphs of."""
    names = [key[0][0] for key in frozen.search.graphs._kept._made]  # type: ignore[union-attr,index]
    return {name if isinstance(name, str) else getattr(name[0], "__name__", name[0]) for name in names}


def same(found: Any, wanted: Any) -> None:
    assert torch.equal(found.x_adv, wanted.x_adv)
    assert torch.equal(found.status, wanted.status)
    assert (found.forwards, found.backwards) == (wanted.forwards, wanted.backwards)


@pytest.mark.parametrize("threat", THREATS)
@pytest.mark.parametrize("stop_early", [True, False])
@pytest.mark.parametrize("name", ["pgd", "bim", "mim"])
def test_replays_find_what_steps_find(name: str, stop_early: bool, threat: str) -> None:
    model = net()
    plain, replayed = fa.freeze(model), graphed(model)
    run = partial(getattr(fa.attacks, name), threat=THREATS[threat], steps=20, stop_early=stop_early)
    more = {} if name == "bim" else {"restarts": 2}
    for seed in range(3):  # the second batch meets graphs of the first
        x, y = batch(model, seed)
        same(run(replayed, x, y, **more), wanted := run(plain, x, y, **more))
        assert (wanted.x_adv != x).any()
    assert kinds(replayed) == {"ascent"}
    assert replayed.notes == plain.notes


@pytest.mark.parametrize("threat", ["linf", "l2", "l1", "own radii"])
@pytest.mark.parametrize("stop_early", [True, False])
def test_the_stages_of_apgd(stop_early: bool, threat: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_apgd, "INTERVAL_L1", 0.3)  # several moves between two checkpoints
    model = net()
    plain, replayed = fa.freeze(model), graphed(model)
    run = partial(fa.attacks.apgd, threat=THREATS[threat], steps=33, stop_early=stop_early, loss="dlr")
    for seed in range(2):
        x, y = batch(model, seed)
        same(run(replayed, x, y, seed=seed), wanted := run(plain, x, y, seed=seed))
        assert (wanted.x_adv != x).any()
    assert kinds(replayed) == {"Sparse" if threat == "l1" else "Dense", "gradient"}
    assert replayed.notes == plain.notes


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


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_in_half_precision(precision: str) -> None:
    model = net()
    x, y = batch(model)
    plain, replayed = fa.freeze(model, precision), graphed(model, precision)  # type: ignore[arg-type]
    for _ in range(2):
        pair = [fa.attacks.pgd(f, x, y, fa.Linf(0.05), steps=9, stop_early=False) for f in (plain, replayed)]
        same(*pair)
    assert len(replayed.search.graphs) == 1


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
    frozen.search.use(frozen.search.model, torch.float32)
    assert len(frozen.search.graphs) == 0


def test_a_graph_takes_the_batch_that_it_is_given() -> None:
    """Other images, labels and radii, in a bucket that spare rows fill."""
    model = net()
    plain, replayed = fa.freeze(model), graphed(model)
    for seed, size in ((0, 16), (1, 15), (2, 15)):
        x, y = batch(model, seed, size)
        threat = fa.Linf(torch.rand(size, generator=torch.Generator().manual_seed(seed)) * 0.05)
        pair = [fa.attacks.pgd(f, x, y, threat, steps=8, stop_early=False) for f in (replayed, plain)]
        same(*pair)
    assert len(replayed.search.graphs) == 1


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
    assert fa.attacks.last_iterate(replayed, x[:0], y[:0], fa.Linf(0.1), steps=3, step_size=0.1).shape == (
        0,
        2,
        8,
        8,
    )
    assert replayed.search.graphs is not None


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
            search.last(search.rows.points)

        run(frozen, x, y, fa.Linf(0.5), rule, loss="ce")
    assert all(torch.equal(a, b) for a, b in zip(seen["plain"], seen["replayed"], strict=True))


def test_what_a_later_step_adds_is_not_lost(logged: Any) -> None:
    model = net()
    x, y = batch(model)
    frozen, sums = graphed(model), []

    def step(search: Search) -> None:
        look = search.gradient(search.rows.points)
        if "first" in vars(search.rows):
            search.rows.second = search.rows.first + 1
        search.rows.first = look.gradient
        search.rows.points = look.x_adv

    def rule(search: Search) -> None:
        search.rows.points = search.start()
        repeat(search, step, 4, "adds")
        sums.append(search.rows.second.sum())

    run(frozen, x, y, fa.Linf(0.1), rule, loss="ce")
    assert len(sums) == 1
    assert "a step remembers what its first did not set: second" in logged.text


@pytest.fixture
def uncollected() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


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


def test_threads_count_what_each_does() -> None:
    model = net()
    x, y = batch(model)
    frozen = graphed(model)
    frozen.input_gradient(x, y)  # the check
    before = frozen.forwards, frozen.backwards
    attack = partial(fa.attacks.last_iterate, frozen, x, y, fa.Linf(0.03), steps=9, step_size=0.01)
    threads = [Thread(target=attack) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (frozen.forwards - before[0], frozen.backwards - before[1]) == (36 * SIZE, 36 * SIZE)


def test_what_another_thread_counts_meanwhile_stays() -> None:
    frozen = graphed(net())

    def meanwhile(graphs: Graphs) -> list[Tensor]:
        frozen.forwards += 3
        frozen.backwards += 2
        return []

    counted(frozen, meanwhile, 10)
    assert (frozen.forwards, frozen.backwards) == (13, 12)

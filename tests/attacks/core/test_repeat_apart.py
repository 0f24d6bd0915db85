"""Which calls share a graph, what is never captured, and what goes with it."""

import gc
from collections.abc import Iterator
from functools import partial
from weakref import ref

import pytest
import torch
from torch import Tensor, nn

import fastadv as fa
from fastadv.attacks.core.criterion import ConfidentlyWrong
from fastadv.attacks.core.repeat import counted
from fastadv.engine.graph import Graphs
from fastadv.ops import _graphs
from tests import recorded
from tests.attacks.graphed import SIZE, as_on_a_gpu, batch, graphed, kinds, net, same

pytestmark = pytest.mark.usefixtures("asked_alone")


@pytest.fixture(autouse=True)
def _gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    as_on_a_gpu(monkeypatch)


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.fixture
def uncollected() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


@pytest.mark.slow
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

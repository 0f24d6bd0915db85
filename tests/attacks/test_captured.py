"""Steps replayed as CUDA graphs find what single steps find; what cannot be captured goes on as ever."""

import gc
import random
import sys
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from copy import deepcopy
from functools import partial
from itertools import cycle
from typing import Any
from unittest.mock import patch
from weakref import ref

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.distributed import HashStore, destroy_process_group, init_process_group

import fastadv as fa
from fastadv.attacks.methods import auto_pgd
from fastadv.engine import capture
from fastadv.rng import generators_kept
from tests import recorded

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("captured", "asked_alone", "search_copy")]
CPU, SIZE, LINF, L2 = torch.device("cpu"), 13, fa.Linf(0.03), fa.L2(0.4)
Make, Attack = Callable[[], Any], Callable[..., Any]


class Net(nn.Module):
    """In float64: the last bits of sums, which a padded batch may change, do not reach points in float32."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        parts = nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5)
        self.parts = nn.Sequential(*parts).double().eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.parts(x.to(self.parts[0].weight.dtype)).float()


def net_with(forward: Callable[..., Tensor], **attributes: Any) -> Make:
    """Return what makes a net with another forward, and attributes of its own."""

    def make() -> nn.Module:
        model = type("Made", (Net,), {"forward": forward})()
        for name, value in deepcopy(attributes).items():
            model.register_buffer(name, value) if isinstance(value, Tensor) else setattr(model, name, value)
        return model

    return make


def problem(seed: int = 0, size: int = SIZE) -> tuple[Tensor, Tensor]:
    x = torch.rand(size, 2, 8, 8, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        return x, Net()(x).argmax(1)


def attack(name: str, threat: fa.Threat = LINF, **options: Any) -> Attack:
    return partial(getattr(fa.attacks, name), threat=threat, **{"steps": 12, **options})


def queried(name: str, threat: fa.Threat, **options: Any) -> Attack:
    return partial(getattr(fa.attacks, name), threat=threat, **{"queries": 40, **options})


PGD, EARLY, MIM = attack("pgd", stop_early=False), attack("pgd", restarts=2), attack("mim", L2)
LAST, APGD = attack("last_iterate", step_size=0.002), attack("apgd", steps=24)
SQUARE = {norm: queried("square", ball) for norm, ball in {"linf": LINF, "l2": L2, "l1": fa.L1(3.0)}.items()}
SPARSE = queried("sparse_rs", fa.L0(6))
FAB = [
    attack("fab", threat, targeted=targeted, restarts=2) for threat, targeted in ((LINF, True), (L2, False))
]
RADII = {"threat": lambda y: fa.Linf(torch.linspace(0, 0.06, len(y)).roll(int(y[0])))}
SIZES = {"step_size": lambda y: torch.linspace(0.001, 0.01, len(y)).roll(int(y[0]))}
TARGETS = {"targets": lambda y: (y + 1) % 5}


def by_sample(attack: Attack, **options: Callable[[Tensor], Any]) -> Attack:
    def run(model: Any, x: Tensor, y: Tensor, **more: Any) -> Any:
        return attack(model, x, y, **{name: make(y) for name, make in options.items()}, **more)

    return run


@pytest.fixture
def captured(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    return recorded.as_on_a_gpu(monkeypatch)


def eagerly() -> AbstractContextManager[Any]:
    return patch.multiple(capture.Captures, take=lambda *problem: None)


def same(result: Any, wanted: Any, counts: bool = True) -> None:
    if isinstance(wanted, Tensor):
        assert torch.equal(result, wanted)
        return
    assert all(torch.equal(vars(result)[name], vars(wanted)[name]) for name in ("x_adv", "status", "loss"))
    assert result.flags == wanted.flags
    assert not counts or (result.forwards, result.backwards) == (wanted.forwards, wanted.backwards)


def both(make, run, around=lambda call: nullcontext(), calls=2, counts=1):
    """Compare calls with those of a model that is never captured, and counts from the call `counts` on."""
    eager, replayed, labels, outs = make(), make(), make(), list[Any]()
    for call in range(calls):
        x, states = problem(call, SIZE + call % 2)[0], list[Any]()  # two sizes share a graph
        says = labels.eval() if isinstance(labels, nn.Module) else getattr(labels, "source", labels)
        with torch.no_grad(), generators_kept(CPU, seed=call):
            y = says(x).argmax(1)
        for model, how in ((eager, eagerly()), (replayed, nullcontext())):
            with generators_kept(CPU, seed=call), how, around(call):
                outs.append(run(model, x, y))
                states.append(
                    repr((random.getstate(), np.random.get_state(), torch.get_rng_state().tolist()))
                )
        assert states[0] == states[1]
    for call in range(calls):  # the last calls have left the results of the first alone
        same(outs[2 * call + 1], outs[2 * call], call >= counts)


def labeled(run: Attack, outputs: Make, labels: Callable[[Tensor], Tensor | None]) -> Attack:
    return lambda model, x, y, **more: run(model, x, labels(outputs()(x).detach()), **more)


DENSE = net_with(lambda self, x: self.parts[0](x.double()).float())
SIGNS, SHARE, BEYOND = fa.attacks.Signs(), fa.attacks.Share(0.4), fa.attacks.Beyond(0.2)
# stopping early or not, in turn
REPLAYED: list[tuple[Make, Attack]] = [
    (Net, attack("pgd", restarts=2, seed=3)),
    (Net, attack("apgd", L2, steps=24, loss="dlr-targeted", classes=2)),
    (Net, attack("pgd", fa.L0(6), random_start=False)),
    (Net, attack("mim", fa.L1(3.0), decay=0.3)),
    (Net, by_sample(attack("pgd"), **RADII, **SIZES, ids=lambda y: torch.arange(len(y)).flip(0))),
    (Net, by_sample(attack("mim"), **RADII, **TARGETS)),
    (Net, attack("apgd", fa.L1(3.0), steps=30)),
    *((Net, partial(SQUARE[norm], restarts=2)) for norm in ("l2", "l1")),
    (Net, by_sample(SQUARE["linf"], **RADII, **TARGETS)),
    (Net, SPARSE),
    (lambda: fa.freeze(Net().float(), "bf16"), SQUARE["linf"]),
    (lambda: fa.freeze(Net().float(), "bf16"), attack("apgd", L2, steps=24)),
    (Net, labeled(attack("apgd", steps=24, criterion=SIGNS), Net, lambda z: (z > 0).long())),
    (DENSE, labeled(attack("pgd", criterion=SHARE), DENSE, lambda z: z.argmax(1))),
    (Net, labeled(attack("mim", L2, criterion=BEYOND), Net, lambda z: None)),
]
# of attacks that do not stop early; all calls of the last iterate share a graph
WHOLE: list[tuple[Make, Attack]] = [
    *((Net, fab) for fab in FAB),
    (lambda: fa.freeze(Net()), LAST),
    (lambda: fa.freeze(Net()), by_sample(attack("last_iterate"), **RADII, **SIZES, **TARGETS)),
    (Net, lambda model, x, y: LAST(model, x.half(), y, start=(x * 0.999).half())),
]


@pytest.mark.parametrize(
    ("case", "options"),
    [
        *zip(REPLAYED, cycle([{"stop_early": True}, {"stop_early": False}])),
        *zip(WHOLE, cycle([{}])),
    ],
)
def test_replays_find_what_steps_find(case, options, captured, monkeypatch):
    make, run = case
    monkeypatch.setattr(auto_pgd, "INTERVAL_L1", 0.5)  # several moves between two checkpoints
    both(make, partial(run, **options), calls=3, counts=9 if options else 1)
    assert captured
    assert options or case[1] in FAB or len(captured) == 1


def test_calls_that_differ_in_one_thing_share_no_graph(captured: list[int]) -> None:
    model, (x, y), more = Net(), problem(), {"steps": 10, "step_size": 0.006}
    pgd, mim = (attack(name, stop_early=False, **more) for name in ("pgd", "mim"))
    last = attack("last_iterate", **more)
    calls = [
        *(pgd, mim, last, by_sample(pgd, **TARGETS), partial(mim, decay=0.3), partial(pgd, stop_early=True)),
        *(partial(call, step_size=0.004) for call in (pgd, last)),
        *(partial(call, loss="margin") for call in (pgd, last)),
        *(partial(call, threat=fa.L2(0.03)) for call in (pgd, last)),
        *(partial(call, threat=fa.Linf(0.02)) for call in (pgd, last)),
        *(partial(call, threat=fa.Linf(0.03, box=(-1.0, 2.0))) for call in (pgd, last)),
        lambda model, x, y: last(model, x, None, targets=(y + 1) % 5),
        lambda model, x, y: last(model, x.contiguous(memory_format=torch.channels_last), y),
    ]
    for call in calls:
        with eagerly():
            wanted = call(model, x, y)
        same(call(model, x, y), wanted, counts=False)
    assert len(captured) == len(calls)


def writes(self: Any, x: Tensor) -> Tensor:
    self.seen.add_(1)
    self.last = x * 2
    return Net.forward(self, x)


def counts(self: Any, x: Tensor) -> Tensor:
    self.calls += 1
    return Net.forward(self, x) * (2 if self.calls % 5 == 0 else 1)


DRAWS = np.random.default_rng(0)
COIN = net_with(lambda self, x: Net.forward(self, x) * (1 + round(random.random())))
NEVER: dict[str, Make] = {
    "random": COIN,
    "own": net_with(lambda self, x: Net.forward(self, x) * self.own.random(), own=DRAWS),
    "held": net_with(lambda self, x: Net.forward(self, x) * self.own[0].random(), own=[DRAWS]),
    "counts": net_with(counts, calls=0),
    "dropout": net_with(lambda self, x: Net.forward(self, nn.functional.dropout(x, 0.1, training=True))),
    "writes": net_with(writes, seen=torch.zeros(()), last=None),
    "mixes": net_with(lambda self, x: Net.forward(self, x - x.mean(0, keepdim=True) + 0.5)),
    "sparse": net_with(lambda self, x: (self.eye @ Net.forward(self, x).T).T, eye=torch.eye(5).to_sparse()),
    "two devices": net_with(Net.forward, other=nn.Linear(2, 2, device="meta")),
    "inference tensors": torch.inference_mode()(lambda: Net()),
    "frozen": lambda: fa.freeze(COIN()),
    "asked not to": lambda: fa.freeze(Net(), cuda_graph=False),
    "several GPUs": lambda: nn.DataParallel(Net()),
    "processes": lambda: nn.parallel.DistributedDataParallel(Net()),
    "compiled": lambda: torch.compile(Net(), backend="eager"),
    "compiled in place": lambda: (model := Net(), model.compile(backend="eager"))[0],
    "scripted": lambda: torch.jit.trace(Net(), problem()[0]),
    "function": lambda: partial(Net()),
}
COMPILED = "compiled", "compiled in place", "scripted"  # where another size is compiled anew


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of scripts
@pytest.mark.parametrize("turn", range(3))
def test_what_is_never_captured(turn: int, captured: list[int]) -> None:
    """Each model by one of three searches."""
    init_process_group("gloo", store=HashStore(), rank=0, world_size=1)  # for one of them
    try:
        for name in list(NEVER)[turn::3]:
            run = (EARLY, APGD, LAST)[turn]
            if name in ("own", "held", "counts"):  # passes that tell so move what the answers depend on
                run(NEVER[name](), *problem())
            else:
                both(NEVER[name], run, calls=1 if name in COMPILED else 2, counts=2)
            assert not captured, name
    finally:
        destroy_process_group()


@pytest.mark.parametrize("kind", ["forward", "forward_pre", "full_backward"])
def test_hooks_see_every_row(kind: str, captured: list[int]) -> None:
    model, (x, y), rows = Net(), problem(), list[int]()
    places = {"model": model, "part": model.parts[4], "every module": nn.modules.module}
    for where, place in places.items():
        add = getattr(place, f"register_{'module_' * (where == 'every module')}{kind}_hook")
        with add(lambda module, problem, *net_with: rows.append(len(problem[0]))):
            for run in (EARLY, PGD):
                rows.clear()
                out = run(model, x, y)
                passed = out.backwards if kind == "full_backward" else out.forwards
                assert sum(rows) == passed * (len([*model.modules()]) if where == "every module" else 1)
        assert not captured, where


@pytest.mark.parametrize("operation", [0, 20])
def test_a_capture_that_fails(operation: int, captured: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """At any operation: steps go on from where they were, and the model is not captured again."""

    class Fails(recorded.Recording):
        def __torch_dispatch__(self, *problem: Any) -> Any:
            if len(self.calls) == operation:
                raise ValueError("cannot be captured")
            return super().__torch_dispatch__(*problem)

    monkeypatch.setattr(recorded, "Recording", Fails)
    for run in (EARLY, PGD, MIM, APGD, LAST):
        captured.clear()
        both(Net, run, calls=3)
        assert len(captured) == 1


def inside(self: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        y = self.other(x).argmax(1)
    return Net.forward(self, x + PGD(self.other, x.detach(), y).x_adv - x.detach())


def keeps(self: Any, x: Tensor) -> Tensor:
    self.x = x
    return x.flatten(1)[:, :5]


SHOWN = net_with(lambda self, x: x.flatten(1)[:, :5])
INSIDE = net_with(inside, other=Net())


@pytest.mark.parametrize(
    ("make", "run"),
    [
        *((make, run) for make in (SHOWN, net_with(keeps, x=None)) for run in (PGD, LAST)),
        (INSIDE, LAST),
        (SHOWN, partial(fa.attacks.minimum_radius, threat=fa.L2(0.1), attack=PGD)),
    ],
)
def test_logits_in_the_memory_of_x_and_attacks_in_others(make: Make, run: Attack) -> None:
    both(make, run, calls=3, counts=3)  # one that keeps x is looked at again


def test_two_threads() -> None:
    meeting = threading.Barrier(2)

    def meet() -> None:
        with suppress(threading.BrokenBarrierError):
            meeting.wait(0.02)

    model = net_with(lambda self, x: (self.meet(), Net.forward(self, x))[1], meet=meet)()
    runs, outs = (EARLY, MIM, LAST, PGD), dict[int, Any]()
    data = [problem(call) for call in range(4)]  # which sets a seed of all threads
    meeting.abort()
    with eagerly():
        wanted = [run(model, *batch) for run, batch in zip(runs, data, strict=True)]
    for pair in ((0, 1), (2, 3), (1, 3)) * 3:
        meeting.reset()
        calls = [partial(lambda at: outs.update({at: runs[at](model, *data[at])}), at) for at in pair]
        threads = [threading.Thread(target=call) for call in calls]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        for at in pair:
            same(outs.pop(at), wanted[at], counts=False)


SCALE = 1.0


class Changes(Net):
    shift = 0.0

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.held, self.config = 1.0, torch.ones(()), type("Config", (), {})()
        self.config.scale, self.layers = 1.0, [nn.Linear(5, 5).double()]
        self.options = {"scale": 1.0}
        self.register_buffer("mean", torch.zeros(2, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = x * self.scale * self.options["scale"] * self.held * self.config.scale * SCALE
        x = x - self.mean + self.shift
        return self.layers[0](super().forward(x).to(self.layers[0].weight.dtype)).float()


def trained(model: nn.Module) -> None:
    optimizer = torch.optim.SGD(model.train().parameters(), lr=0.01)
    for step in range(5):
        optimizer.zero_grad()
        x, y = problem(step)
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()


def replaced(layer: nn.Module) -> None:
    layer.weight = nn.Parameter(-layer.weight.detach())


CHANGES: dict[str, tuple[int, Callable[[Any], object]]] = {  # and how many graphs the next call takes
    "trained": (0, trained),
    "averaged": (0, lambda model: [weight.data.mul_(0.9) for weight in model.parameters()]),
    "statistics": (0, lambda model: model.parts[1].running_mean.add_(0.1)),
    "buffer": (0, lambda model: model.mean.add_(0.05)),
    "buffer, by data": (0, lambda model: model.mean.data.add_(0.05)),
    "assigned": (1, lambda model: model.load_state_dict(deepcopy(model.state_dict()), assign=True)),
    "replaced": (1, lambda model: replaced(model.parts[0])),
    "replaced in a list": (1, lambda model: replaced(model.layers[0])),
    "dtype": (1, lambda model: model.parts.float()),
    "attribute": (1, lambda model: setattr(model, "scale", 0.9)),
    "tensor": (1, lambda model: model.held.mul_(0.9)),
    "object": (1, lambda model: setattr(model.config, "scale", 0.9)),
    "dictionary": (1, lambda model: model.options.update(scale=0.9)),
}  # fmt: skip


def test_changes_are_followed_or_captured_anew(captured: list[int]) -> None:
    """One after the other, by the last iterate, against which no verdict is held."""
    eager, replayed, x = Changes(), Changes(), problem()[0]
    LAST(replayed, x, problem()[1])
    for name, (graphs, change) in CHANGES.items():
        before, outs, y = len(captured), [], None
        for model, how in ((eager, eagerly()), (replayed, nullcontext())):
            change(model)
            with torch.no_grad():
                y = model.eval()(x).argmax(1) if y is None else y
            with how:
                outs.append(LAST(model, x, y))
        assert torch.equal(*outs), name
        assert len(captured) - before == graphs, name


@pytest.mark.parametrize(
    ("run", "where", "name"),
    [
        (run, *place)
        for run, place in zip(
            [PGD, *(partial(PGD, loss=loss) for loss in ("margin", "cw", "dlr")), APGD],
            cycle([(Changes, "shift"), (sys.modules[__name__], "SCALE")]),
        )
    ],
)
def test_a_change_that_is_not_seen_is_told_by_the_verdict(where, name, run, captured, monkeypatch):
    model, (x, y) = Changes(), problem()
    assert run(model, x, y).flags == ()
    assert captured
    monkeypatch.setattr(where, name, getattr(where, name) - 0.2)
    assert any(flag.startswith("replayed: ") for flag in run(model, x, y).flags)
    with eagerly():
        wanted = run(model, x, y)
    same(run(model, x, y), wanted)  # no graph is left


@pytest.mark.parametrize("run", [PGD, LAST])
def test_modes_around_a_call(run: Attack, captured: list[int]) -> None:
    """Around the second and the fourth, beside calls without any."""
    modes = {1: partial(torch.autocast, "cpu", torch.bfloat16), 3: torch.inference_mode}
    both(lambda: Net().float(), run, around=lambda call: modes.get(call, nullcontext)(), calls=5)
    assert captured


@pytest.mark.usefixtures("uncollected")
@pytest.mark.parametrize(("run", "collect"), [(EARLY, bool), (APGD, gc.collect), (LAST, bool)])
def test_graphs_go_with_their_model(run: Attack, collect: Make) -> None:
    model = Net()
    run(model, *problem())
    graphs = capture.graphs_of(model)
    gone = ref(model), ref(graphs), ref([*graphs._entries.values()][-1][0])
    del graphs
    del model
    collect()
    assert [by_sample() for by_sample in gone] == [None] * 3

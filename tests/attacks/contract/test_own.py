"""An attack of one's own: named, registered, and under contract."""

import inspect
import itertools
import json
import math
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial, wraps
from pathlib import Path
from typing import Any

import pytest
import torch

import fastadv as fa
from fastadv.attacks import Status
from fastadv.attacks.contract import PROMISES, RADIUS, Tried, checks, contract, images, net, said
from fastadv.attacks.core.card import ATTACKS, REGISTRY, card_of
from fastadv.cli import main
from tests.refusals import refuses

MIDI = '''
from fastadv.attacks import core


@core.takes_common(norms=("linf",), finite=True)
def midi(model, x, y, threat, *, steps=3, **common):
    """Take so many steps along the sign of the gradient."""

    def rule(search):
        points, size = search.start(), search.threat.default_step_size(steps, 2.5)
        for _ in range(steps):
            look = search.gradient(points)
            points = search.threat.step(look.x_adv, look.gradient, search.x, size)
        search.finish(points)

    return core.run(model, x, y, threat, rule, stop_early=True, **common)


def shifted(model, x, y):
    return (x + 0.05).clamp(0, 1)
'''


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    (tmp_path / "mine.py").write_text(MIDI)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    import mine

    before = dict(REGISTRY), dict(ATTACKS)
    yield mine
    for known, kept in zip((REGISTRY, ATTACKS), before, strict=True):
        known.clear()
        known.update(kept)


def test_an_attack_is_named_by_its_module(mine) -> None:
    digits, threat = fa.data.load("digits", "test", limit=40), fa.Linf(0.1)
    model = fa.models.create("softmax", shape=digits.shape, seed=0)
    evaluate = partial(fa.evaluate, model, digits, threat=threat)
    named = evaluate("mine:midi")
    assert named["midi"].robust_accuracy == evaluate(mine.midi).worst_case
    for name in ("midi", ":midi", "./mine.py:midi"):
        refuses(f"attacks: expected one of .*package.module:function, got '{name}'", evaluate, name)
    refuses("got 'mine.py:midi'; write mine:midi", evaluate, "mine.py:midi")
    for name in ("mini", "core"):
        refuses(f"'mine:{name}': module mine has no function '{name}'", evaluate, f"mine:{name}")
    refuses("No module named 'yours'", evaluate, "yours:midi")
    fa.attacks.core.registered(norms=("linf",))(mine.midi)
    assert evaluate("midi").worst_case == named.worst_case
    assert card_of("attack", "mine:midi", {}) is REGISTRY["midi"]
    fa.attacks.core.registered(norms=("linf",))(mine.midi)  # a cell of a notebook runs again
    pgd = lambda model, x, y: x  # noqa: E731
    pgd.__name__ = "pgd"
    refuses("registered: expected a new name", fa.attacks.core.registered(), pgd)


def test_commands_take_it(mine, capsys: pytest.CaptureFixture[str]) -> None:
    common = ["evaluate", "-m", "softmax", "-d", "digits", "-n", "30", "--batch-size", "30"]
    both = [*common, "-a", "mine:midi:steps=2", "-a", "mine:shifted", "--radius", "25.5/255"]
    assert main(both) == main([*both, "--json"]) == 0
    out, brace, card = capsys.readouterr().out.partition("{")
    assert all(f"\n{title}  " in out for title in ("midi-2, L∞ 0.1", "shifted, L∞ 0.1"))
    named = json.loads(brace + card)["config"]["attacks"]
    ball = {"norm": "linf", "radius": 0.1}
    midi, shifted = ({"attack": f"mine:{name}", **ball} for name in ("midi", "shifted"))
    assert named == [{"label": "midi:steps=2", "steps": 2} | midi, {"label": "shifted L∞ 0.1"} | shifted]
    assert main([*common, "-a", "mine:shifted:radius=0.01"]) == 0
    assert "outside of the threat" in " ".join(capsys.readouterr().out.split())
    assert main([*common, "-a", "mine:midi:stepz=2", "--radius", "0.1"]) == 2
    assert "did you mean 'steps'" in capsys.readouterr().err
    assert main([*common, "-a", "mine:midi"]) == 2
    assert "has no radius" in capsys.readouterr().err


def test_the_contract_passes(mine) -> None:
    contract("mine:midi")
    mine.cards = {"midi": fa.attacks.core.Attack(mine.midi, knowledge="score", norms=("l2",))}
    assert [tried.card for _, tried, _ in checks("mine:midi")] == [mine.cards["midi"]] * len(PROMISES)
    told = r"promises that do not hold:\n(.*\n)*seeds_decide-l2: its card says random, and it takes no seed"
    with pytest.raises(AssertionError, match=told):
        contract(replace(mine.cards["midi"], random=True))
    assert len([*checks("pgd")]) == 4 * len(PROMISES)
    for run, says in (
        (lambda *_, **__: torch.zeros(1), "returns a Tensor"),
        (lambda *_, **__: 1 / 0, "ZeroDiv"),
    ):
        with pytest.raises(AssertionError, match=says):
            contract(replace(ATTACKS["fgsm"], run=run))


def ascends(model, x, y, size):
    points = x.clone().requires_grad_()
    torch.nn.functional.cross_entropy(model(points), y, reduction="sum").backward()
    return (x + size * points.grad.sign()).clamp(0, 1)


class Ascends:
    def __call__(self, model, x, y, size: float = 0.2):
        return ascends(model, x, y, size)


def averages(model, x, y):
    points = x.clone().requires_grad_()
    torch.nn.functional.cross_entropy(model(points), y).backward()
    return (x + points.grad).clamp(0, 1)


def stepping(model, x, y, threat):
    points = x.clone().requires_grad_()
    torch.nn.functional.cross_entropy(model(points), y, reduction="sum").backward()
    return threat.step(x, points.grad, x, threat.default_step_size(1, 1.0))


def test_the_contract_takes_functions_objects_and_text() -> None:
    contract(stepping)
    contract(Ascends())
    contract(Ascends(), size=0.1)
    contract("pgd:steps=3")
    assert {tried.norm for _, tried, _ in checks(stepping)} == {*RADIUS}
    (tried, *_) = [tried for _, tried, _ in checks(fa.attacks.Attack(Ascends(), norms=("l2",)))]
    assert (tried.norm, tried.card.knowledge, tried.card.targeted) == ("l2", "gradient", False)
    for attack, says in (
        (averages, "mates_change_nothing-linf: a sample depends on its batch"),
        (lambda model, x, y, threat: x + 2 * threat.radius, "outside of ball or box"),
        (lambda model, x, y: None, "it returns a NoneType, and no x_adv"),
        (lambda model, x, y: x + 0.1 * torch.rand_like(x), "it draws from the generator of torch"),
    ):
        with pytest.raises(AssertionError, match=says):
            contract(attack)
    refuses("card: expected an attack, its card or its name, got int", contract, 3)
    refuses("takes no 'stesp'; .* did you mean 'steps'", contract, "pgd:stesp=3")


def test_a_loop_in_plain_torch_is_searched_for_its_smallest_radius() -> None:
    model, x, away = net(), images(6), fa.Linf(math.inf)
    attack = lambda model, x, y, threat, targets, ids: stepping(model, x, y, threat)  # noqa: E731
    assert fa.attacks.minimum_radius(model, x, said(model, x), away, attack=attack).success.all()


STEPS = {
    "distances_are_near": ("points[..., ::2] = search.x[..., ::2]", "a linear model holds in a ball"),
    "nothing_is_found_where_nothing_is": ("points = (255 * points).round() / 255", "a point that"),
}


@pytest.mark.parametrize("promise", STEPS)
def test_a_promise_finds_steps_that_miss_values_or_leave_the_ball(promise: str) -> None:
    (end, says), scope = STEPS[promise], dict[str, Any]()
    step = "search.threat.step(look.x_adv, look.gradient, search.x, size)"
    exec(MIDI.replace(step, f"{step}\n            {end}"), scope)
    with pytest.raises(AssertionError, match=says):
        PROMISES[promise](Tried(fa.attacks.core.Attack(scope["midi"], norms=("linf",)), "linf"))


def idle(out, call, kept=None):
    broken = (out.status == Status.BROKEN) & (torch.ones_like(out.success) if kept is None else ~kept)
    status, distance = out.status.masked_fill(broken, Status.HELD), out.distance.masked_fill(broken, math.inf)
    x_adv = torch.where(broken.view(-1, 1, 1, 1), call["x"], out.x_adv)
    return {"x_adv": x_adv, "success": out.success & ~broken, "status": status, "distance": distance}


def one_target(out, call):
    return idle(out, call, (call["targets"] - call["y"]) % 3 == 1) if "targets" in call else {}


def moved(x, where):
    return {"x_adv": x + 1e-3 * (0.5 - x).sign() * torch.as_tensor(where).view(-1, 1, 1, 1)}


# what is said of a fault, and what the result has then
FAULTS: dict[str, Callable[[Any, dict[str, Any]], dict[str, Any]]] = {
    "a success is none": lambda out, call: {"success": ~out.success},
    "distances are others": lambda out, call: {"distance": 2 * out.distance},
    "an unbroken sample has a distance": lambda out, call: idle(out, call) | {"distance": out.distance},
    "a sample that was wrong is changed": lambda out, call: moved(out.x_adv, out.status == 0),
    "an unbroken sample is changed": lambda out, call: idle(out, call) | moved(call["x"], out.status == 1),
    "its card names another knowledge": lambda out, call: {"backwards": 0},
    "it breaks nothing of a net that is easily broken": idle,
    "it changes tensors of the caller": lambda out, call: {"forwards": call["x"].add_(1e-9) is None},
    "changes tensors of the caller": lambda out, call: {"forwards": call["y"].sub_(1) is None},
    "it draws from the generator of torch": lambda out, call: {"forwards": torch.rand(1) is None},
    "it asked for last lies outside": lambda out, call: {"flags": ("outside: 3 of 12 points",)},
    "a sample depends on its batch": lambda out, call: {"x_adv": out.x_adv.roll(int(len(out.x_adv) == 9), 0)},
    "a verdict depends on the batch": lambda out, call: {"success": out.success ^ (len(out.success) == 9)},
    "images of another shape or type return": lambda out, call: {"x_adv": out.x_adv.double()},
    "it breaks nothing in the box": idle,
    "small logits hold": lambda out, call: idle(out, call) if abs(out.loss).max() < 1e-3 else {},
    "times the distance of its boundary": lambda out, call: {"distance": 2 * out.distance},
    "one seed gives two results": lambda out, call: moved(out.x_adv, [next(COUNT) % 2]),
    "of two targets it reaches one": one_target,
    "a success is not the target": lambda out, call: {"success": out.success & ("targets" not in call)},
    "no target is reached": idle,
    "a target that is reached at x is looked for": lambda out, call: {"status": out.status * 0 + 2},
    "values outside of the mask move": lambda out, call: moved(out.x_adv, "mask" in call),
    "a point lies outside of ball or box": lambda out, call: {"x_adv": out.x_adv + 1.0},
    "a sample that holds is called something else": lambda out, call: {"status": out.status * 0 + 1},
    "a sample that holds is changed": lambda out, call: moved(out.x_adv, out.status == 2),
    "a sample that holds has a distance": lambda out, call: {"distance": out.distance.clamp(max=1.0)},
    "a sample that was wrong is called something else": lambda out, call: {"status": out.status * 0 + 2},
    "no samples give some": lambda out, call: {"forwards": out.forwards + 1},
    "samples that were wrong are attacked": lambda out, call: {"forwards": out.forwards + len(out.x_adv)},
    "a radius of 0 lets samples move": lambda out, call: moved(out.x_adv, call["threat"].radius == 0),
    "samples are not held at a radius of 0": lambda out, call: {"status": out.status.clamp(max=1)},
    "a sample whose logits are NaN is called some": lambda out, call: {"status": out.status.clamp(max=2)},
    "a sample whose logits are NaN is changed": lambda out, call: moved(out.x_adv, out.status == 3),
    "a success is NaN, or one is missed": lambda out, call: {"success": ~out.success},
}
# the promise, what is said, and what the attack is called with instead
OTHER = [
    ("seeds_decide", "another seed, or other ids", {"ids": None}),
    ("wrong_calls_are_refused", "it takes eot=0", {"eot": 1}),
]
COUNT = itertools.count()
MINIMAL = "distances_are_near", "an unbroken sample is changed", "a sample that holds is changed"


def breaking(says: str) -> str:
    """The last promise that says so itself; what all promises look for is shown to one of them."""
    saying = (name for name, check in PROMISES.items() if says in inspect.getsource(check))
    return ["nothing_is_found_where_nothing_is", *saying][-1]


KNOWN: list[tuple[str, str, dict[str, Any]]] = [*((breaking(says), says, {}) for says in FAULTS), *OTHER]


@pytest.mark.parametrize("promise", PROMISES)
def test_a_promise_finds_what_is_wrong(promise: str) -> None:
    faults = [(says, other) for of, says, other in KNOWN if of == promise]
    assert faults
    for says, other in faults:
        finds(promise, says, other)


def finds(promise: str, says: str, other: dict[str, Any]) -> None:
    real = ATTACKS["fmn" if {promise, says} & {*MINIMAL} else "pgd"]

    @wraps(real.run)
    def faulty(model, x, y, threat, **options):
        assert options["steps"] == 4
        call = {"x": x, "y": y, "threat": threat, **options} | other
        out = real.run(model, **call)
        return out if other else replace(out, **FAULTS[says](out, call))

    card = replace(real, run=faulty, norms=("linf",), quick={"steps": 4}, oracle={})
    with pytest.raises(AssertionError, match=re.escape(says)):
        PROMISES[promise](Tried(card, "linf"))


@pytest.mark.slow
def test_pytest_runs_the_promises(mine, tmp_path: Path) -> None:
    options = "-P -m pytest -p fastadv_pytest -q --attack mine:midi --attack"
    command = [sys.executable, *options.split()]
    (tmp_path / "yours.py").write_text(MIDI.replace("look.gradient,", "-look.gradient,"))
    ran = subprocess.run([*command, "yours:midi"], cwd=tmp_path, capture_output=True, text=True)
    told = " yours:midi-results_are_facts-linf ", "distances are measured.\nit breaks nothing of a net"
    assert (ran.returncode, *(text in ran.stdout for text in told)) == (1, True, True), (
        ran.stdout + ran.stderr
    )
    assert "yours:midi" in ran.stdout
    assert "mine:midi" not in ran.stdout  # all of whose promises hold
    assert int(re.search(r"(\d+) passed", ran.stdout)[1]) > len(PROMISES)
    ran = subprocess.run([*command, "mine:mini"], cwd=tmp_path, capture_output=True, text=True)
    assert "module mine has no function 'mini'" in ran.stderr

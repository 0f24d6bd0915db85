"""An attack of one's own: named, registered, and under contract."""

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import fastadv as fa
from fastadv.attacks.core.card import ATTACKS, REGISTRY
from fastadv.attacks.core.contract import PROMISES, Tried
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
    named = fa.evaluate(model, digits, "mine:midi", threat=threat)
    assert named["midi"].robust_accuracy == fa.evaluate(model, digits, mine.midi, threat=threat).worst_case
    refuses(
        "attacks: expected one of .*package.module:function",
        fa.evaluate,
        model,
        digits,
        "midi",
        threat=threat,
    )
    refuses(
        "'mine:mini': module mine has no function 'mini'",
        fa.evaluate,
        model,
        digits,
        "mine:mini",
        threat=threat,
    )
    refuses("No module named 'yours'", fa.evaluate, model, digits, "yours:midi", threat=threat)
    fa.attacks.core.registered(norms=("linf",))(mine.midi)
    assert fa.evaluate(model, digits, "midi", threat=threat).worst_case == named.worst_case
    fa.attacks.core.registered(norms=("linf",))(mine.midi)  # a cell of a notebook runs again
    pgd = lambda model, x, y: x  # noqa: E731
    pgd.__name__ = "pgd"
    refuses("registered: expected a new name", fa.attacks.core.registered(), pgd)


def test_commands_take_it(mine, capsys: pytest.CaptureFixture[str]) -> None:
    common = ["evaluate", "-m", "softmax", "-d", "digits", "-n", "30", "--batch-size", "30"]
    assert main([*common, "-a", "mine:midi:steps=2", "-a", "mine:shifted", "--radius", "25.5/255"]) == 0
    out = capsys.readouterr().out
    assert "midi:steps=2" in out or "MIDI-2, L∞ 0.1" in out
    assert "shifted" in out
    assert main([*common, "-a", "mine:midi:stepz=2", "--radius", "0.1"]) == 2
    assert "did you mean 'steps'" in capsys.readouterr().err
    assert main([*common, "-a", "mine:midi"]) == 2
    assert "has no radius" in capsys.readouterr().err


def test_the_contract_passes(mine) -> None:
    fa.attacks.core.contract("mine:midi")
    with pytest.raises(AssertionError, match="returns a Tensor"):
        fa.attacks.core.contract(replace(ATTACKS["fgsm"], run=lambda *_, **__: torch.zeros(1)))


def outside(out, call):
    return replace(out, x_adv=out.x_adv + 1.0)


def lying(out, call):
    return replace(out, success=~out.success)


def far(out, call):
    return replace(out, distance=2 * out.distance)


def in_step(out, call):
    return replace(out, x_adv=out.x_adv.roll(1, 0)) if len(out.x_adv) == 9 else out


def writing(out, call):
    call["x"].add_(1e-9)
    return out


def drawing(out, call):
    torch.rand(1)
    return out


def masking(out, call):
    return out if call.get("mask") is None else replace(out, x_adv=(out.x_adv + 1e-3).clamp(0, 1))


def lazy(out, call):
    return replace(out, x_adv=call["x"], success=out.success & False)


def eager(out, call):
    return replace(out, status=out.status * 0 + 2)


def growing(out, call):
    return replace(out, x_adv=torch.zeros(1, *out.x_adv.shape[1:])) if not len(out.x_adv) else out


@pytest.mark.parametrize(
    "fault",
    [outside, lying, far, in_step, writing, drawing, masking, lazy, eager, growing],
    ids=lambda f: f.__name__,
)
def test_the_contract_finds_what_is_wrong(fault) -> None:
    real = ATTACKS["bim"]

    def bim(model, x, y, threat, **options):
        return fault(real.run(model, x, y, threat, **options), {"x": x, **options})

    with pytest.raises(AssertionError, match="promises that do not hold"):
        fa.attacks.core.contract(replace(real, run=bim, norms=("linf",)), steps=4)


@pytest.mark.parametrize("promise", PROMISES)
def test_each_promise_can_fail(promise: str) -> None:
    """A function that refuses nothing and returns x keeps only what it need not do anything for."""

    def nothing(model, x, y, threat, *, seed=0, **options):
        return fa.attacks.AttackResult(**{**vars(done), "x_adv": x[:1].repeat(len(x) + 1, 1, 1, 1) * 0.5})

    x = torch.rand(2, 1, 4, 4, dtype=torch.float64)
    done = fa.attacks.bim(lambda x: x.flatten(1), x, torch.zeros(2, dtype=torch.long), fa.Linf(0.1), steps=1)
    card = replace(ATTACKS["bim"], run=nothing, random=True)
    with pytest.raises((AssertionError, RuntimeError, IndexError)):
        PROMISES[promise](Tried(card, "linf"))


@pytest.mark.slow
def test_pytest_runs_the_promises(mine, tmp_path: Path) -> None:
    command = [sys.executable, "-P", "-m", "pytest", "-p", "fastadv_pytest", "-q", "--attack", "mine:midi"]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert f"{len(PROMISES)} passed" in ran.stdout
    (tmp_path / "mine.py").write_text(MIDI.replace("return core.run(", "x = x + 1\n    return core.run("))
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (ran.returncode, "failed" in ran.stdout) == (1, True)
    ran = subprocess.run([*command[:-1], "mine:mini"], cwd=tmp_path, capture_output=True, text=True)
    assert "module mine has no function 'mini'" in ran.stderr

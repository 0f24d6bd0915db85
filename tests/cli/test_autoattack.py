"""AutoAttack in commands: its components are shown, printed, written, and resumed."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import fastadv as fa
from fastadv.cli import _attack, _evaluate
from fastadv.data import load
from fastadv.evaluation import measure
from fastadv.evaluation._outcome import outcome
from fastadv.models import SmallCNN
from fastadv.runs.files import load_tensors

COUNT = 40
RADIUS = 0.06
LINE = f"-n {COUNT} -a autoattack:version=quick --radius {RADIUS} --batch-size 15"


@pytest.fixture(scope="module")
def direct(trained: SmallCNN) -> fa.attacks.AutoAttackResult:
    """What the library says of the same samples, in one batch."""
    digits = load("digits", "test", limit=COUNT)
    out = fa.attacks.autoattack(trained, digits.x, digits.y, fa.Linf(RADIUS), version="quick")
    assert len(out.costs) == 4
    assert sum(cost.broken > 0 for cost in out.costs.values()) > 1
    return out


def names(tensors: dict[str, torch.Tensor], told: dict) -> list[str]:
    """The component that broke each sample, by name."""
    (row,) = told["measured"]["attacks"].values()
    return [[*row["components"], ""][place] for place in tensors["component"]]


@pytest.mark.slow
def test_the_component_that_broke_each_sample_is_told_and_written(
    fastadv: Callable, net: str, direct: fa.attacks.AutoAttackResult
) -> None:
    for command in ("attack", "evaluate"):
        done = fastadv(f"{command} {net} {LINE} --out {command}.safetensors --json")
        assert done.code == 0, done
        told = json.loads(done.out)
        written, metadata = load_tensors(f"{command}.safetensors")
        assert json.loads(metadata["card"]) == told
        assert names(written, told) == list(direct.by)
        torch.testing.assert_close(written["x_adv"][direct.success], direct.x_adv[direct.success])
        row = told["measured"]["attacks"]["autoattack:version=quick"]
        for name, cost in direct.costs.items():
            assert row["components"][name]["samples"] == cost.samples
            assert row["components"][name]["broken"] == cost.broken
            assert row["components"][name]["backwards"] == cost.backwards
        assert row["remarks"] == list(direct.notes)


@pytest.mark.slow
def test_components_and_remarks_are_printed(
    fastadv: Callable, net: str, direct: fa.attacks.AutoAttackResult
) -> None:
    done = fastadv(f"attack {net} {LINE}")
    lines = [line.replace("│", " ").replace("┃", " ").split() for line in done.out.splitlines()]
    assert ["component", "samples", "broken", "forwards", "backwards", "seconds"] in lines
    for name, cost in direct.costs.items():
        told = [*name.split(), str(cost.samples), str(cost.broken)]
        assert [line[: len(told)] for line in lines if line[: len(told) - 2] == name.split()] == [told]
    assert "autoattack:version=quick: quick: no reason to go on with standard" in done.out
    assert "component" not in fastadv(f"attack {net} -n 5 --radius 0.1").out


@pytest.mark.slow
def test_flags_are_printed(fastadv: Callable, folder: Path) -> None:
    (folder / "soft.py").write_text(
        "import torch\n"
        "def soft(shape, classes):\n"
        "    torch.manual_seed(0)\n"
        "    linear = torch.nn.Linear(64, 10)\n"
        "    return torch.nn.Sequential(torch.nn.Flatten(), linear, torch.nn.Softmax(1))\n"
    )
    line = "attack -m soft:soft --data digits -n 12 -a autoattack:version=rand,eot=1 --radius 0.01"
    done = fastadv(line)
    assert "autoattack:version=rand,eot=1: probabilities: the output looks like probabilities" in " ".join(
        done.out.split()
    )


class Recorded:
    """In place of the progress bar: what it would have shown."""

    def __init__(self) -> None:
        self.shown: list[tuple[str, int, int]] = []

    def __enter__(self) -> "Recorded":
        return self

    def __exit__(self, *error: object) -> None: ...

    def named(self, text: str, done: int, total: int) -> None:
        self.shown.append((text, done, total))


@pytest.mark.slow
@pytest.mark.parametrize("module", [_attack, _evaluate], ids=["attack", "evaluate"])
def test_the_bar_names_the_component(
    fastadv: Callable, net: str, monkeypatch: pytest.MonkeyPatch, module: object,
    direct: fa.attacks.AutoAttackResult,
) -> None:  # fmt: skip
    bar = Recorded()
    monkeypatch.setattr(module, "progress", lambda text: bar)
    line = f"{module.__name__.rsplit('_', 1)[1]} {net} {LINE}"
    assert fastadv(line.replace("--batch-size 15", "--batch-size 40")).code == 0
    label = "autoattack:version=quick"
    stages = [
        (f"{label}: {name} on {cost.samples} of {COUNT}", COUNT - cost.samples, COUNT)
        for name, cost in direct.costs.items()
    ]
    assert bar.shown == [*stages, (label, COUNT, COUNT)]


@pytest.mark.slow
def test_a_stopped_evaluation_keeps_its_adversarial_examples_and_goes_on(
    fastadv: Callable, net: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = fastadv(f"evaluate {net} {LINE} --out whole.safetensors --json")
    calls = []

    def stopping(*arguments: object) -> object:
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return outcome(*arguments)

    monkeypatch.setattr(measure, "outcome", stopping)
    stopped = fastadv(f"evaluate {net} {LINE} --run-dir run")
    assert stopped.code == 130
    assert stopped.err == "fastadv: interrupted; kept in run: go on with --resume\n"
    bar = Recorded()
    monkeypatch.setattr(_evaluate, "progress", lambda text: bar)
    done = fastadv(f"evaluate {net} {LINE} --run-dir run --resume --out resumed.safetensors --json")
    assert done.code == 0, done
    assert len(calls) == 4
    assert {total for _, _, total in bar.shown} == {COUNT}
    assert min(done for _, done, _ in bar.shown) >= 30
    first, second = (load_tensors(f"{name}.safetensors")[0] for name in ("whole", "resumed"))
    assert first.keys() == second.keys() >= {"x_adv", "component", "by", "status", "distances"}
    for name, value in first.items():
        assert torch.equal(value, second[name]), name
    rows = [json.loads(each.out)["measured"]["attacks"]["autoattack:version=quick"] for each in (whole, done)]
    for name, cost in rows[0]["components"].items():
        assert rows[1]["components"][name] | {"seconds": 0, "forwards": 0} == cost | {
            "seconds": 0,
            "forwards": 0,
        }
    assert fastadv(f"evaluate {net} {LINE} --run-dir run --resume").code == 0
    assert len(calls) == 4

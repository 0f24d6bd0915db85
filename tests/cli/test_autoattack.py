"""AutoAttack in commands: its components are shown, printed, written, and resumed."""

import json

import pytest
import torch

import fastadv as fa
from fastadv.data import load
from fastadv.files import load_tensors
from fastadv.measure import outcome
from fastadv.measure.outcome import attempted

COUNT = 32
RADIUS = 0.06
LABEL = "autoattack:version=quick"
LINE = f"-n {COUNT} -a {LABEL} --radius {RADIUS} --batch-size {COUNT // 2}"
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def direct(trained):
    digits = load("digits", "test", limit=COUNT)
    out = fa.attacks.autoattack(trained, digits.x, digits.y, fa.Linf(RADIUS), version="quick")
    assert len(out.costs) == 7
    assert sum(cost.broken > 0 for cost in out.costs.values()) > 1
    return out


def test_a_stopped_evaluation_keeps_its_adversarial_examples_and_goes_on(
    fastadv, refused, net, direct, monkeypatch
):
    calls = []

    def stopping(*arguments):
        calls.append(arguments)
        if len(calls) in (1, 3):
            raise KeyboardInterrupt
        return attempted(*arguments)

    monkeypatch.setattr(outcome, "attempted", stopping)
    stopped = fastadv(f"evaluate {net} {LINE} --run-dir run", code=130)
    assert stopped.err.endswith("nothing was finished yet: add --resume to begin again in run\n")
    stopped = fastadv(f"evaluate {net} {LINE} --run-dir run --resume", code=130)
    assert stopped.err == "fastadv: interrupted; kept in run: add --resume to continue\n"
    done = fastadv(f"evaluate {net} {LINE} --run-dir run --resume --out resumed.safetensors --json")
    assert len(calls) == 4
    written, metadata = load_tensors("resumed.safetensors")
    assert json.loads(metadata["card"]) == done.json
    (row,) = done.json["measured"]["attacks"]
    assert [[*row["components"], ""][place] for place in written["component"]] == list(direct.by)
    torch.testing.assert_close(written["x_adv"][direct.success], direct.x_adv[direct.success])
    for name, cost in direct.costs.items():
        fields = ("samples", "broken", "backwards")
        assert [row["components"][name][key] for key in fields] == [getattr(cost, key) for key in fields]
    assert row["remarks"] == list(direct.notes)
    assert written.keys() >= {"x_adv", "component", "by", "status", "distances"}
    assert torch.equal(written["status"], direct.status)
    fastadv(f"evaluate {net} {LINE} --run-dir run --resume")
    assert len(calls) == 4
    refused(f"evaluate {net} {LINE} --run-dir run", "pass --resume or choose another")
    refused(f"evaluate {net} {LINE} --run-dir run --resume --radius 0.1", "another attacks.autoattack")

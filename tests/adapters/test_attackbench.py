"""Our attacks under AttackBench: examples/11_attackbench.py."""

import json
import runpy
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastadv as fa
from tests.attacks.nets import convnet, images, labeled

EXAMPLE = runpy.run_path(str(Path(__file__).parents[2] / "examples" / "11_attackbench.py"))
# enough samples and passes that attacks left alone search on a frozen copy
CASES = [(norm, *each) for norm, attacks in EXAMPLE["chosen"](160).items() for each in attacks.items()]
OURS = [(norm, name, options) for norm, name, options in CASES if name.startswith("fastadv")]
Options = dict[str, Any]


class Counting(nn.Module):
    """Count as AttackBench does: the rows that come, and those that pass back through the net inside."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.forwards, self.backwards = net, 0, 0
        net.register_full_backward_hook(self.count)

    def forward(self, x: Tensor) -> Tensor:
        self.forwards += len(x)
        logits: Tensor = self.net(x)
        return logits

    def count(self, module: nn.Module, inputs: Any, outputs: tuple[Tensor]) -> None:
        self.backwards += len(outputs[0])


@pytest.fixture
def results(monkeypatch: pytest.MonkeyPatch) -> list[fa.attacks.AttackResult]:
    """What attacks returned to the adapter, which passes on the points alone."""
    kept: list[fa.attacks.AttackResult] = []

    def recorded(run: Any, /, *args: Any, **options: Any) -> fa.attacks.AttackResult:
        kept.append(run(*args, **options))
        return kept[-1]

    for name, entry in fa.attacks.ATTACKS.items():
        monkeypatch.setitem(fa.attacks.ATTACKS, name, replace(entry, run=partial(recorded, entry.run)))
    return kept


@pytest.mark.parametrize(("norm", "name", "options"), OURS)
def test_every_pass_is_counted(
    norm: str, name: str, options: Options, results: list[fa.attacks.AttackResult]
) -> None:
    model, x, y = labeled(convnet().eval(), images(64, (2, 8, 8), dtype=torch.float32))
    counting = Counting(model)
    x_adv = EXAMPLE["adapt"](*name.split(), norm, **options)(counting, x, y)
    (out,) = results
    assert torch.equal(out.x_adv, x_adv)
    assert (counting.forwards, counting.backwards) == (out.forwards, out.backwards)


@pytest.mark.parametrize(("norm", "name", "options"), OURS)
def test_attackbench_counts_them_within_its_budget(
    norm: str, name: str, options: Options, results: list[fa.attacks.AttackResult], tmp_path: Path
) -> None:
    bench = pytest.importorskip("attackbench", reason="pip install attackbenchlib==2.0.2")
    model, x, y = labeled(convnet().eval(), images(64, (2, 8, 8), dtype=torch.float32))
    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=64)
    attack = EXAMPLE["adapt"](*name.split(), norm, **options)
    named = {"dataset_name": "noise", "model_name": "convnet", "debug": True}
    run = bench.run_attack(model, data, attack, norm, query_budget=None, **named)
    (out,) = results
    assert (sum(run["num_forwards"]), sum(run["num_backwards"])) == (out.forwards, out.backwards)
    assert (torch.tensor(run["distances"][norm]) <= out.distance * (1 + 1e-5)).all()
    short = bench.run_attack(model, data, attack, norm, query_budget=100, **named)
    assert max(map(sum, zip(short["num_forwards"], short["num_backwards"], strict=True))) <= 100
    path, _ = pytest.importorskip("attackbench.metrics").save_precompiled_distances(run, str(tmp_path))
    assert json.loads(Path(path).read_text())["distances"] == run["distances"]

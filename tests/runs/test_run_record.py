"""What is kept of a training run: nothing is lost, and no run goes on with the checkpoint of another."""

import pytest
import torch
from torch import nn
from torch.optim import SGD
from torch.optim.lr_scheduler import LambdaLR

from fastadv.errors import CorruptFileError, InputError
from fastadv.runs import checkpoint, folder
from fastadv.runs.checkpoint import RunRecord, read_report
from fastadv.runs.folder import RunFolder
from tests.refusals import refuses


def parts(value=1.0):
    model = nn.Linear(1, 1)
    nn.init.constant_(model.weight, value)
    optimizer = SGD(model.parameters(), lr=0.5, momentum=0.9)
    return model, optimizer, LambdaLR(optimizer, lambda step: 1 / (1 + step))


CONFIG = {"seed": 1, "threat": {"name": "L2", "radius": 0.5}, "shape": (1, 2)}


def test_a_checkpoint_brings_everything_back(tmp_path):
    model, optimizer, scheduler = parts(1.0)
    model(torch.ones(1, 1)).sum().backward()
    optimizer.step()
    scheduler.step()
    with RunRecord(tmp_path, CONFIG, resume=False) as record:
        assert record.stopped is None
        record.reports.append({"epoch": 1})
        kept = {"losses": torch.tensor([2.0]), "recipe/sum": torch.ones(2), "recipe/count": torch.ones(())}
        record.save(model, optimizer, scheduler, kept, step=3)
    with RunRecord(tmp_path, CONFIG, resume=True) as record:
        state = record.stopped
    assert record.reports == [{"epoch": 1}]
    assert state.progress["step"] == 3
    assert state.tensors["losses"].tolist() == [2.0]
    held = checkpoint.kept(state, "recipe", torch.device("cpu"))
    assert {name: value.tolist() for name, value in held.items()} == {"sum": [1.0, 1.0], "count": 1.0}
    others = parts(5.0)
    checkpoint.restore(state, *others)
    assert torch.equal(others[0].weight, model.weight)
    assert others[1].param_groups[0]["lr"] == optimizer.param_groups[0]["lr"]
    for old, new in zip(optimizer.state.values(), others[1].state.values(), strict=True):
        assert torch.equal(old["momentum_buffer"], new["momentum_buffer"])
    assert others[2].last_epoch == 1


def test_a_checkpoint_is_resumed_by_its_own_run_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(folder, "PATIENCE", 0.1)
    with RunRecord(tmp_path, CONFIG, resume=True) as record:
        assert record.stopped is None
        record.save(*parts(), {})
        refuses("no other run is writing", RunRecord, tmp_path, CONFIG, resume=True)
    refuses("resume=True", RunRecord, tmp_path, CONFIG, resume=False)
    for other, named in (
        (CONFIG | {"seed": 2}, r"another seed \(1 there, 2 here\)"),
        (CONFIG | {"threat": {"name": "L2", "radius": 0.6}}, "another threat"),
        (CONFIG | {"threat": {"name": "L2"}}, "another threat"),
        (CONFIG | {"more": 1}, r"another more \(None there, 1 here\)"),
        ({"seed": 1, "shape": (1, 2)}, "another threat"),
    ):
        with pytest.raises(InputError, match=named) as caught:
            RunRecord(tmp_path, other, resume=True)
        assert "another folder" in str(caught.value)
        assert "another shape" not in str(caught.value)
    RunFolder(tmp_path).close()  # each refusal freed it


def test_reports_are_whole_lines(tmp_path):
    with RunRecord(tmp_path, CONFIG, resume=False) as record:
        for epoch in (1, 2):
            record.reports.append({"epoch": epoch})
            record.report()
            assert read_report(tmp_path) == record.reports
    (tmp_path / "report.jsonl").write_text('{"epoch": 1}\n{"epo')
    with pytest.raises(CorruptFileError, match="one report per line"):
        read_report(tmp_path)
    refuses("no such file", read_report, tmp_path / "absent")

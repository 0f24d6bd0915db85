"""The record of a training run: one that is refused frees the folder, and reports are whole lines."""

import pytest
import torch
from torch import nn
from torch.optim import SGD
from torch.optim.lr_scheduler import LambdaLR

from fastadv.errors import CorruptFileError, InputError
from fastadv.runs import folder
from fastadv.runs.checkpoint import RunRecord, put, read_report
from fastadv.runs.folder import RunFolder
from tests.refusals import refuses


def test_a_run_that_is_refused_frees_the_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(folder, "PATIENCE", 0.1)
    net = nn.Linear(1, 1)
    optimizer = SGD(net.parameters(), lr=0.5)
    with RunRecord(tmp_path, {"seed": 1}, resume=True) as record:
        record.save(net, optimizer, LambdaLR(optimizer, lambda step: 1.0), {})
    with pytest.raises(InputError, match=r"another seed \(1 there, 2 here\)") as caught:
        RunRecord(tmp_path, {"seed": 2}, resume=True)
    RunFolder(tmp_path).close()
    assert caught


def test_a_buffer_of_another_size_is_put_back_outside_of_the_state_dict():
    net = nn.Linear(1, 1)
    net.register_buffer("seen", torch.zeros(2), persistent=False)
    put(net, net.state_dict(), {"seen": torch.ones(3)})
    assert net.seen.tolist() == [1, 1, 1]
    put(net, net.state_dict(), {"seen": torch.ones(3, dtype=torch.float64) / 3})  # or of another type
    assert torch.equal(net.seen, torch.ones(3, dtype=torch.float64) / 3)
    assert "seen" not in net.state_dict()


def test_reports_are_whole_lines(tmp_path):
    with RunRecord(tmp_path, {}, resume=False) as record:
        for epoch in (1, 2):
            record.reports.append({"epoch": epoch})
            record.report()
            assert read_report(tmp_path) == record.reports
    (tmp_path / "report.jsonl").write_text('{"epoch": 1}\n{"epo')
    with pytest.raises(CorruptFileError, match="one report per line"):
        read_report(tmp_path)
    refuses("no such file", read_report, tmp_path / "absent")

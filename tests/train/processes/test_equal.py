"""Several processes train what one process trains."""

import re
import shutil

import pytest
import torch

from fastadv.files import load_tensors
from fastadv.train import reports
from tests.processes import Refused, go, kill
from tests.train.processes.worker import CASES, resumed, train

WORKER = "tests.train.processes.worker"
pytestmark = pytest.mark.slow


def test_the_weights_of_several_processes_are_those_of_one(tmp_path):
    go(WORKER, "every_case", tmp_path, 3)
    trained = [torch.load(tmp_path / f"cases-{rank}.pt", weights_only=True) for rank in range(3)]
    for name in CASES:
        first, alone = trained[0][name], train(name)
        for other in (ran[name] for ran in trained):
            torch.testing.assert_close(other["weights"], alone["weights"], rtol=1e-9, atol=1e-9)
            torch.testing.assert_close(other["weights"], first["weights"], rtol=0, atol=0)
            assert other["losses"] == first["losses"], name
            assert other["accuracies"] == alone["accuracies"], name
            assert other["losses"] == pytest.approx(alone["losses"], abs=1e-9), name


def test_a_run_goes_on_with_another_number_of_processes(tmp_path):
    go(WORKER, "stopped", tmp_path, 2)
    resumed(tmp_path / "from-one", stop=6)
    shutil.copytree(tmp_path / "from-two", tmp_path / "two-to-one")
    whole, back = resumed(None), resumed(tmp_path / "two-to-one", resume=True)
    go(WORKER, "go_on", tmp_path, 2)
    from_one, from_two, never = (
        torch.load(tmp_path / f"{name}-1.pt", weights_only=True) for name in ("from-one", "from-two", "never")
    )
    for result in (back, from_one, from_two, never):
        torch.testing.assert_close(result["weights"], whole["weights"], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(from_two["weights"], never["weights"], rtol=0, atol=0)
    # the first process wrote what all have
    weights, _ = load_tensors(tmp_path / "from-two" / "model.safetensors")
    torch.testing.assert_close(weights, dict(from_two["weights"]), rtol=0, atol=0)
    assert [report.epoch for report in reports(tmp_path / "from-two")] == [1, 2, 3]


def test_a_killed_process_ends_the_run_and_leaves_a_checkpoint(tmp_path):
    kill(WORKER, tmp_path)
    kept = f"{tmp_path / 'run' / 'checkpoint.safetensors'} is kept"
    assert kept in (tmp_path / "error.txt").read_text()
    again = resumed(tmp_path / "run", resume=True)
    torch.testing.assert_close(again["weights"], resumed(None)["weights"], rtol=1e-9, atol=1e-9)


def test_what_is_wrong_in_one_process_is_said_in_all(tmp_path):
    go(WORKER, "faults", tmp_path, 2)
    refused = Refused(tmp_path)
    for name, named in {"data": "data", "weights": "initial weights", "test": "test_attacks"}.items():
        refused.alike(name, named)
    refused.by(1, argument="learning_rate: expected")
    refused.by(0, folder="run_dir: expected a folder")
    for rank, said in enumerate(refused.said):
        assert "batch_size: expected at least one image for each of 2 processes, got 1" in said["batch"]
        assert re.search("in 2 processes, .* got BatchNorm1d; take torch.nn.SyncBatchNorm", said["norm"])
        infinite = (tmp_path / f"infinite-{rank}.txt").read_text()
        assert "training: expected a finite loss, got inf in epoch 1" in infinite
        assert re.search(r"\(samples .*\b5\b", infinite)


def test_a_wrapped_model_is_trained_as_what_is_inside_or_refused(tmp_path):
    go(WORKER, "wrapped", tmp_path, 2)
    for rank in range(2):
        results = torch.load(tmp_path / f"wrapped-{rank}.pt", weights_only=True)
        torch.testing.assert_close(results["ddp"], results["plain"], rtol=0, atol=0)
    for said in Refused(tmp_path).said:
        assert "expected all weights in each process" in said["part"]
        assert "in inner.5; pass the module as it was" in said["part"]
        assert "got a FullyShardedDataParallel; pass the module as it was" in said["whole"]
        assert "got a DistributedDataParallel in 0; pass the module as it was" in said["inside"]

"""A run that stops, at any moment and for any reason, goes on as if nothing had happened."""

import errno
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import fastadv as fa
from fastadv import _checkpoint as checkpoint
from fastadv import _files
from fastadv.errors import CorruptFileError, InputError
from fastadv.train import fit, reports

from .nets import images, net, run


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def assert_same(model: nn.Module, other: nn.Module) -> None:
    for (name, value), wanted in zip(model.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.equal(value, wanted), name


def timeless(past):
    return [replace(report, seconds=0.0) for report in past]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("whole")
    model, past = run(folder)
    torch.set_num_threads(threads)
    return model, past, folder


def test_checkpoints_do_not_change_the_run(whole):
    model, past, folder = whole
    plain, expected = run(None)
    assert_same(model, plain)
    assert timeless(past) == timeless(expected) == timeless(reports(folder))
    assert [report.epoch for report in past] == [1, 2, 3, 4]


@pytest.mark.parametrize("stop", [1, 2, 3, 7, 8, 14, 20])
def test_resume_after_a_stop_at_any_step_is_bit_equal(whole, tmp_path, monkeypatch, stop):
    steps = 0

    def dying(optimizer, *args, **kwargs):
        nonlocal steps
        steps += 1
        if steps == stop:
            raise KeyboardInterrupt
        return step(optimizer, *args, **kwargs)

    step = torch.optim.SGD.step
    monkeypatch.setattr(torch.optim.SGD, "step", dying)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path)
    monkeypatch.undo()
    model, rest = run(tmp_path, resume=True)
    assert_same(model, whole[0])
    assert timeless(reports(tmp_path)) == timeless(whole[1])
    assert timeless(rest) == timeless(whole[1])[(stop - 1) // 7 :]


def test_resume_after_sigkill_at_a_random_moment_is_bit_equal(tmp_path):
    epochs = 15
    expected, past = run(None, epochs=epochs)
    folder = tmp_path / "killed"
    root = Path(__file__).parents[2]
    environment = dict(os.environ, OMP_NUM_THREADS="1", PYTHONPATH=str(root))
    child = subprocess.Popen(
        [sys.executable, "-m", "tests.train.nets", str(folder), str(epochs)], cwd=root, env=environment
    )
    deadline = time.monotonic() + 120
    while not (folder / "checkpoint.safetensors").exists():
        assert child.poll() is None, "the child ended without a checkpoint"
        assert time.monotonic() < deadline, "the child never wrote a checkpoint"
        time.sleep(0.002)
    delay = random.Random().uniform(0, 0.25)
    time.sleep(delay)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert not (folder / "model.safetensors").exists(), "the child ended before it was killed: make it longer"
    model, _ = run(folder, resume=True, epochs=epochs)
    assert_same(model, expected)
    assert timeless(reports(folder)) == timeless(past), f"killed {delay:.3f} s after its first checkpoint"
    assert not list(folder.glob(".*.part"))
    stored, _ = _files.load_tensors(folder / "model.safetensors")
    assert all(torch.equal(stored[name], value) for name, value in model.state_dict().items())


def test_adam_resumes_bit_equal(tmp_path):
    options = {"optimizer": "adam", "schedule": "cyclic", "precision": "bf16"}
    expected, _ = run(None, **options)
    training = fit_of(tmp_path, **options)
    next(training)
    training.close()
    model, _ = run(tmp_path, resume=True, **options)
    assert_same(model, expected)


def fit_of(folder, **options):
    settings = {"batch_size": 8, "augment": "shift", "checkpoint_every": 2} | options
    return fit(
        net(), images(), fa.train.PGDTraining(fa.Linf(0.1), steps=2), epochs=4, run_dir=folder, **settings
    )


def test_a_finished_run_gives_its_weights_and_no_report(whole, tmp_path):
    model, rest = run(whole[2], resume=True)
    assert rest == []
    assert_same(model, whole[0])


def test_the_constant_schedule_may_be_made_longer(tmp_path):
    expected, _ = run(None, schedule="constant", epochs=3)
    run(tmp_path, schedule="constant", epochs=2)
    model, rest = run(tmp_path, schedule="constant", epochs=3, resume=True)
    assert_same(model, expected)
    assert [report.epoch for report in rest] == [3]
    with pytest.raises(InputError, match=r"schedule \(constant there, cosine here\)"):
        run(tmp_path, epochs=3, resume=True)


def test_a_folder_with_a_checkpoint_is_not_overwritten(whole):
    with pytest.raises(InputError, match="resume=True"):
        run(whole[2])


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"batch_size": 10}, "batch_size"),
        ({"seed": 1}, "seed"),
        ({"recipe": fa.train.PGDTraining(fa.Linf(0.2), steps=2)}, "recipe"),
        ({"epochs": 5}, "epochs"),
        ({"augment": None}, "augment"),
    ],
)
def test_another_configuration_is_refused_and_named(whole, options, named):
    with pytest.raises(InputError, match=rf"another {named}"):
        run(whole[2], resume=True, **options)


def test_another_data_set_or_model_is_refused(whole):
    settings = {
        "epochs": 4,
        "batch_size": 8,
        "augment": "shift",
        "schedule": "cosine",
        "run_dir": whole[2],
        "resume": True,
    }
    recipe = fa.train.PGDTraining(fa.Linf(0.1), steps=2)
    with pytest.raises(InputError, match="another data"):
        fit(net(), images(seed=1), recipe, **settings)
    with pytest.raises(InputError, match="another model"):
        fit(nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), images(), recipe, **settings)


@pytest.mark.parametrize("damage", ["truncated", "flipped", "foreign", "empty"])
def test_a_damaged_checkpoint_is_named_and_nothing_is_touched(whole, tmp_path, damage):
    path = tmp_path / "checkpoint.safetensors"
    data = bytearray((whole[2] / "checkpoint.safetensors").read_bytes())
    if damage == "truncated":
        data = data[: len(data) // 2]
    elif damage == "flipped":
        data[-100] ^= 4
    elif damage == "empty":
        data = bytearray()
    path.write_bytes(data)
    if damage == "foreign":
        _files.save_tensors(path, {"w": torch.zeros(3)})
    model = net()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(CorruptFileError, match=r"checkpoint\.safetensors"):
        fit(model, images(), fa.train.Standard(), epochs=4, batch_size=8, run_dir=tmp_path, resume=True)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_a_full_disk_keeps_the_previous_checkpoint(whole, tmp_path, monkeypatch):
    writes = 0

    def full(*args):
        nonlocal writes
        writes += 1
        if writes > 5:
            raise OSError(errno.ENOSPC, "No space left on device")
        save(*args)

    save = checkpoint.save_tensors
    monkeypatch.setattr(checkpoint, "save_tensors", full)
    with pytest.raises(OSError, match="previous one is kept") as caught:
        run(tmp_path)
    assert caught.value.errno == errno.ENOSPC
    monkeypatch.undo()
    model, _ = run(tmp_path, resume=True)
    assert_same(model, whole[0])


def test_a_real_write_error_is_reported_and_keeps_the_previous_checkpoint(whole, tmp_path):
    """No monkeypatch: the system refuses to let files grow beyond 1 kB."""
    resource = pytest.importorskip("resource")
    training = fit_of(tmp_path, schedule="cosine")
    next(training)
    before = (tmp_path / "checkpoint.safetensors").read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, limits[1]))
    try:
        with pytest.raises(OSError, match="previous one is kept"):
            next(training)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (tmp_path / "checkpoint.safetensors").read_bytes() == before
    assert not list(tmp_path.glob(".*.part"))
    model, _ = run(tmp_path, resume=True)
    assert_same(model, whole[0])


def test_reports_of_a_folder_without_a_run(tmp_path):
    with pytest.raises(InputError, match=r"report\.jsonl"):
        reports(tmp_path)
    (tmp_path / "report.jsonl").write_text('{"epoch": 1}\n')
    with pytest.raises(CorruptFileError):
        reports(tmp_path)

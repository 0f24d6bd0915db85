"""A run that stops, at any moment and for any reason, goes on as if nothing had happened."""

import functools

import pytest
import torch

import fastadv as fa
from fastadv import files
from fastadv.data import ImageSet
from fastadv.errors import CorruptFileError
from fastadv.train import fit
from tests.refusals import refuses

from .nets import assert_same, grouped, images, net, run, stopped

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]


@pytest.fixture(scope="module")
def whole(one_thread, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    model, past = run(folder)
    return model, past, folder


def test_a_finished_run_gives_its_weights_and_no_report_and_is_not_overwritten(whole, logged):
    model, rest = run(whole[2], resume=True)
    assert rest == []
    read = f"fa.train.reports('{whole[2]}') reads its epochs"
    assert logged.text == f"the run in {whole[2]} is finished: nothing is trained; {read}"
    assert_same(model, whole[0])
    refuses("resume=True", run, whole[2])


def test_a_run_may_be_made_longer_and_no_shorter(tmp_path):
    """A kill may come between the last checkpoint and the weights, which are written again."""
    expected, _ = run(None, schedule="constant", epochs=2)
    run(tmp_path, schedule="constant", epochs=1)
    path = tmp_path / "model.safetensors"
    stale = path.read_bytes()
    stopped(12, run, tmp_path, schedule="constant", epochs=2, resume=True)
    shorter = functools.partial(run, tmp_path, schedule="constant", epochs=1, resume=True)
    refuses(r"epochs: expected at least the 2 .* got 1", shorter)
    model, rest = run(tmp_path, schedule="constant", epochs=2, resume=True)
    assert_same(model, expected)
    assert [report.epoch for report in rest] == [2]
    refuses(r"epochs: expected at least the 2 .* got 1", shorter)
    refuses(r"schedule \(constant there, cosine here\)", run, tmp_path, epochs=2, resume=True)
    flipped = bytearray(path.read_bytes())
    flipped[-3] ^= 1
    for data in (stale, flipped):
        path.write_bytes(data)
        run(tmp_path, schedule="constant", epochs=2, resume=True)
        stored, _ = files.load_tensors(path)
        assert all(torch.equal(stored[name], value) for name, value in expected.state_dict().items())


def test_a_longer_run_says_where_its_rate_goes_and_its_card_how_long_it_was(tmp_path, logged):
    run(tmp_path, epochs=1)
    run(tmp_path, epochs=1, resume=True)
    stopped(9, run, tmp_path, epochs=2, resume=True)
    run(tmp_path, epochs=2, resume=True)
    (told,) = [line for line in logged.text.splitlines() if line.startswith("epochs: ")]
    text = "epochs: the schedule is now that of 2: after 1 of them the learning rate is 0.025, where"
    assert told.startswith(text)
    refuses(r"epochs: expected at least the 2 .* got 1; ask for more", run, tmp_path, epochs=1, resume=True)
    _, about = fa.models.read_weights(tmp_path / "model.safetensors")
    assert (about["config"]["epochs"], about["config"]["earlier_epochs"]) == (2, [[1, 1]])


def pgd(radius=0.1):
    return fa.train.PGDTraining(fa.Linf(radius), steps=2)


REFUSED = {
    "batch_size": 10, "seed": 1, "optimizer": "adam", "learning_rate": 0.06, "momentum": 0.8,
    "weight_decay": 4e-4, "schedule": "step", "augment": None, "precision": "bf16", "warm_up": 1,
    "clip_norm": 1.0, "max_norm": 1.0, "ema": 0.9, "ramp": 1, "norm_decay": False,
    "schedule_by": "epoch", "drop_last": True, "batch_norm_momentum": 0.2,
    "recipe": pgd(0.2),
}  # fmt: skip


def test_another_configuration_is_refused_and_named(whole):
    before = {path: path.read_bytes() for path in whole[2].iterdir()}
    for name, value in REFUSED.items():
        refuses(rf"another {name}[ .].*another folder", run, whole[2], resume=True, **{name: value})
    refuses("another recipe", run, whole[2], resume=True, recipe=fa.train.AWP(pgd()))
    assert {path: path.read_bytes() for path in whole[2].iterdir()} == before


def test_what_is_measured_and_how_often_may_change(whole, tmp_path):
    """Test set, attacks, checkpoints and progress do not change what is trained: they are honored.

    What shows progress stops a run after a step, which a checkpoint then holds.
    """
    stopped(2, run, tmp_path, checkpoint_every=None)
    seen = []
    model, rest = run(
        tmp_path,
        resume=True,
        test_set=images(12, seed=9),
        test_attacks={"fgsm": functools.partial(fa.attacks.fgsm, threat=fa.Linf(0.02))},
        test_limit=9,
        checkpoint_every=3,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert_same(model, whole[0])
    assert [set(report.robust_accuracy) for report in rest] == [{"fgsm"}, {"fgsm"}]
    assert seen == [(step, 14) for step in range(3, 15)]


def test_another_data_set_or_model_is_refused(whole):
    settings = {"epochs": 2, "batch_size": 8, "augment": "shift", "run_dir": whole[2], "resume": True}
    settings |= grouped(schedule="cosine")
    data, hooked, momentum = images(), net(), net()
    relabeled = ImageSet(data.x, (data.y + 1) % 3, data.classes, data.name)
    refuses("another data", fit, net(), relabeled, pgd(), **settings)
    hooked.register_forward_hook(lambda module, args, output: 2 * output)
    momentum[1].momentum = 0.2
    for other in (hooked, momentum):
        refuses("another model", fit, other, images(), pgd(), **settings)


@pytest.mark.parametrize("damage", ["flipped", "foreign"])
def test_a_damaged_checkpoint_is_named_and_nothing_is_touched(whole, tmp_path, damage):
    path = tmp_path / "checkpoint.safetensors"
    data = bytearray((whole[2] / "checkpoint.safetensors").read_bytes())
    data[-100] ^= 4
    path.write_bytes(data)
    if damage == "foreign":
        files.save_tensors(path, {"w": torch.zeros(3)})
    model = net()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(CorruptFileError, match=r"checkpoint\.safetensors"):
        fit(model, images(), fa.train.Standard(), epochs=2, batch_size=8, run_dir=tmp_path, resume=True)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())

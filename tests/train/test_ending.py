"""When training ends: patience, alarms, and which weights remain."""

import dataclasses
import json
from functools import partial

import pytest
import torch

import fastadv as fa
from fastadv import files
from fastadv.errors import CorruptFileError, InputError
from fastadv.hashes import digest
from fastadv.train import EpochReport, FastTraining, FGSMTraining, PGDTraining, Standard, measuring, reports
from fastadv.train.measuring import Measure
from fastadv.train.recipes.several import CHOICES
from fastadv.train.report import best
from tests.processes import program, succeed

from . import nets

pytestmark = pytest.mark.slow

ATTACKS = {"fgsm": partial(fa.attacks.fgsm, threat=fa.Linf(0.05))}
RECIPE = FastTraining(fa.Linf(0.1))
COLLAPSE = [0.2, 0.6, 0.5, 0.0, 0.3, 0.1]


HELD_OUT = nets.images(30, seed=5)


@pytest.fixture
def scripted(monkeypatch):
    """The accuracies under attack that a run is told, epoch by epoch, on the test set and on `HELD_OUT`."""

    def script(test, held_out=()):
        robust = {False: iter(test), True: iter(held_out)}

        def told(self, steps):
            return 0.9, {"fgsm": next(robust[len(self.data) == len(HELD_OUT)])}

        monkeypatch.setattr(Measure, "_accuracies", told)
        monkeypatch.setattr(Measure, "own_accuracy", lambda self, steps: len(self.data) / 100)
        monkeypatch.setattr(Measure, "size", 1000)

    return script


def run(folder=None, epochs=6, recipe=RECIPE, make=nets.net, **options):
    """The model, its weights and buffers after each epoch of two steps, and the reports."""
    model, states, past = make(), [], []
    settings = {"batch_size": 6, "test_set": nets.images(20, seed=9), "test_attacks": ATTACKS} | options
    settings = nets.grouped(**settings)
    data = settings.pop("data", nets.images(12))
    for report in fa.train.epochs(model, data, recipe, epochs=epochs, run_dir=folder, **settings):
        states.append({name: value.clone() for name, value in held(model).items()})
        past.append(report)
    return model, states, past


def held(model):
    return {**model.state_dict(), **dict(model.named_buffers())}


def same(state, other):
    return all(torch.equal(state[name], other[name]) for name in state)


def test_every_second_epoch_is_tested_and_the_last(scripted):
    scripted([0.2, 0.6])
    _, _, past = run(epochs=3, test_every=2)
    assert [report.tested for report in past] == [False, True, True]
    assert [report.clean_accuracy for report in past] == [None, 0.9, 0.9]


def test_an_average_that_is_never_right_has_accuracies_of_0_and_recall_is_of_classes_that_are_there():
    data, net = nets.images(20), fa.models.create("softmax", shape=(1, 8, 8), classes=3)
    x, y = data.x[data.y != 1], data.y[data.y != 1]
    asked = {"epochs": 1, "learning_rate": 1e-9, "ema": 0.5, "test_attacks": ATTACKS}
    for test_set in ((data.x, (net(data.x).argmax(1) + 1) % 3), (x, y)):
        (report,) = fa.train.fit(net, data, Standard(), **nets.grouped(**asked, test_set=test_set))
        if test_set[0] is data.x:
            assert report.ema_clean_accuracy == report.ema_robust_accuracy["fgsm"] == 0
            assert report.ema_worst_recall == 0
    right = net(x).argmax(1) == y
    assert report.worst_recall == pytest.approx(min(float(right[y == k].double().mean()) for k in (0, 2)))


def test_the_screen_is_that_of_autoattack_and_chooses_the_best_weights(tmp_path):
    """In the threat of the recipe, under AWP, too, unless the run has one; FGSM leaves more."""
    ball, test_set = fa.Linf(0.1), nets.images(60, seed=9)
    recipe, asked = fa.train.AWP(PGDTraining(ball, steps=1)), {"test_set": test_set, "test_attacks": "screen"}
    model, states, past = run(tmp_path, epochs=3, recipe=recipe, learning_rate=0.02, **asked)
    for state, report in zip(states, past, strict=True):
        model.load_state_dict(state)
        attacks = {"screen": partial(fa.attacks.autoattack, version="screen"), "fgsm": fa.attacks.fgsm}
        table = fa.evaluate(model, test_set, attacks, threat=ball)
        assert report.robust_accuracy == {"screen": table["screen"].robust_accuracy}
        assert report.robust_accuracy["screen"] <= table["fgsm"].robust_accuracy
    shares = [report.robust_accuracy["screen"] for report in past]
    weights, _ = fa.models.read_weights(tmp_path / "best.safetensors")
    assert same(weights, states[shares.index(max(shares))])
    assert 0 < min(shares) < max(shares)
    *_, (whole,) = run(epochs=1, recipe=recipe, threat=fa.Linf(1.0), **asked)
    assert whole.robust_accuracy["screen"] == 0
    *_, (both,) = run(epochs=1, recipe=PGDTraining([ball, fa.L2(0.5)], steps=1), **asked)
    assert set(both.robust_accuracy) == {"screen Linf", "screen L2"}


@pytest.mark.parametrize(("patience", "ended", "folder"), [(2, 4, False), (9, 6, True)])
def test_patience_ends_training_with_the_best_weights(tmp_path, scripted, patience, ended, folder):
    scripted([0.2, 0.6, 0.6, 0.5, 0.4, 0.5])
    rgb = nets.images(12).x.repeat(1, 3, 1, 1), nets.images(12).y
    trained = partial(run, patience=patience, make=nets.viewed, data=rgb, test_set=rgb)
    model, states, past = trained(tmp_path if folder else None)
    assert len(past) == ended
    assert same(held(model), states[1])
    if folder:
        for name in ("best", "model"):
            weights, about = fa.models.read_weights(tmp_path / f"{name}.safetensors")
            assert same(weights, states[1])
            assert about["measured"]["epoch"] == 2
        again, _, rest = trained(tmp_path, resume=True)
        assert rest == []
        assert same(held(again), states[1])
        (tmp_path / "best.safetensors").unlink()
        with pytest.raises(CorruptFileError, match=r"best\.safetensors: expected the weights of epoch 2"):
            trained(tmp_path, resume=True)


def test_without_an_alarm_the_last_weights_remain_and_the_best_have_a_file(tmp_path, scripted):
    scripted([0.5, 0.65, 0.6])
    model, states, _ = run(tmp_path, epochs=3, on_alarm="rewind")
    assert same(model.state_dict(), states[2])
    assert same(fa.models.read_weights(tmp_path / "model.safetensors")[0], states[2])
    weights, about = fa.models.read_weights(tmp_path / "best.safetensors")
    assert same(weights, states[1])
    assert about["measured"]["robust_accuracy"] == {"fgsm": 0.65}
    assert about["measured"]["weights"] == "best"
    # Best weights of another run in the same folder are not taken for this one's
    (tmp_path / "checkpoint.safetensors").unlink()
    scripted([0.5])
    _, states, _ = run(tmp_path, epochs=1, seed=1)
    assert same(fa.models.read_weights(tmp_path / "best.safetensors")[0], states[0])


@pytest.mark.parametrize("folder", [False, True])
def test_a_validation_set_chooses_and_the_test_set_only_reports(tmp_path, scripted, folder):
    test = [0.2, 0.3, 0.9, 0.1, 0.9, 0.9]
    scripted(test, [0.2, 0.6, 0.6, 0.5, 0.4, 0.5])
    run_dir = tmp_path if folder else None
    model, states, past = run(run_dir, patience=2, validation_set=HELD_OUT)
    assert [report.robust_accuracy["fgsm"] for report in past] == test[:4]
    assert [report.validation_robust_accuracy["fgsm"] for report in past] == [0.2, 0.6, 0.6, 0.5]
    assert {report.own_accuracy for report in past} == {0.3}
    assert same(model.state_dict(), states[1])
    if folder:
        weights, about = fa.models.read_weights(tmp_path / "best.safetensors")
        assert same(weights, states[1])
        assert about["measured"]["validation_robust_accuracy"] == {"fgsm": 0.6}
        assert about["config"]["chosen_on"] == "validation_set"
        assert about["config"]["validation"]["samples"] == len(HELD_OUT)
        assert reports(tmp_path) == past
        for other in (None, nets.images(30, seed=6)):
            with pytest.raises(InputError, match=r"another validation_set .*another folder"):
                run(tmp_path, patience=2, validation_set=other, resume=True)


@pytest.mark.parametrize(
    ("falling", "recipe", "ended"),
    [("validation", RECIPE, 4), ("test", RECIPE, 6), ("validation", Standard(), 6)],
)
def test_alarms_are_raised_by_the_validation_set_but_for_standard_training(scripted, falling, recipe, ended):
    accuracies = [COLLAPSE, [0.6] * 6]
    scripted(*(accuracies if falling == "test" else reversed(accuracies)))
    _, _, past = run(recipe=recipe, on_alarm="stop", validation_set=HELD_OUT)
    assert len(past) == ended


def test_what_is_measured_on_a_validation_set():
    """All images held out judge the run, however few of the test set are looked at."""
    options = {"epochs": 1, "ema": 0.5}
    _, _, [mine] = run(**options, validation_set=HELD_OUT, test_limit=7)
    _, _, [there] = run(**options, test_set=HELD_OUT, test_limit=99)  # more than there are
    _, _, [tested] = run(**options, test_limit=7)
    _, _, [alone] = run(**options, validation_set=HELD_OUT, test_set=None)
    names = ("clean_accuracy", "robust_accuracy", "worst_recall")
    for name in (*names, *(f"ema_{name}" for name in names)):
        of_validation = [getattr(report, f"validation_{name}") for report in (mine, alone)]
        assert of_validation == [getattr(there, name)] * 2
        assert getattr(mine, name) == getattr(tested, name)
    assert (mine.loss, mine.lowest, mine.judged) == (there.loss, there.lowest, there.judged)
    assert mine.own_accuracy == there.own_accuracy
    assert (alone.clean_accuracy, alone.robust_accuracy) == (None, {})


def test_the_best_epoch_is_the_first_with_the_best_lowest_accuracy_of_the_averaged_weights():
    def reports(robust, averaged):
        rows = zip(range(1, 5), robust, averaged, strict=True)
        return [EpochReport(epoch, 1.0, 0.9, under, 0.1, 1.0, 0.9, ema) for epoch, under, ema in rows]

    robust = [{"a": 0.5, "b": 0.5}, {"a": 0.2, "b": 0.9}, {"a": 0.4, "b": 0.4}, {"a": 0.5, "b": 0.6}]
    averaged = [{"a": 0.3, "b": 0.4}, {"a": 0.5, "b": 0.4}, {"a": 0.3, "b": 0.9}, {"a": 0.4, "b": 0.7}]
    assert best(reports(robust, averaged)).epoch == 2
    assert best(reports(robust, [{}] * 4)).epoch == 1


@pytest.mark.parametrize(("action", "folder"), [("warn", True), ("stop", False), ("rewind", True)])
def test_an_alarm_is_told_once_and_acted_on(tmp_path, scripted, logged, action, folder):
    scripted(COLLAPSE)
    model, states, past = run(tmp_path if folder else None, on_alarm=action)
    messages = [record.getMessage() for record in logged.records]
    alarms = [text for text in messages if "chosen on the test set" not in text]
    assert len(messages) - 1 == (folder or action == "rewind")
    assert past[3].alarm.startswith("catastrophic overfitting: accuracy under attack fell from 60.0%")
    assert [report.epoch for report in past if report.alarm] == [4]
    assert alarms == [f"epoch 4: {past[3].alarm}"]
    assert len(past) == (6 if action == "warn" else 4)
    assert same(model.state_dict(), states[1 if action == "rewind" else -1])
    if folder:
        lines = [json.loads(line) for line in (tmp_path / "report.jsonl").read_text().splitlines()]
        assert [line["alarm"] for line in lines] == [report.alarm for report in past]
        weights, about = fa.models.read_weights(tmp_path / "model.safetensors")
        assert same(weights, model.state_dict())
        assert about["config"]["chosen_on"] == "test_set"


def test_the_accuracy_on_the_recipes_own_examples(monkeypatch):
    monkeypatch.setattr(measuring, "OWN_LIMIT", 18)
    first, seed = nets.images(20, seed=9), fa.rng.derive(0, "own examples")
    x, y, ids = first.x[:18], first.y[:18], torch.arange(18)
    threats, fewer = (fa.Linf(0.15), fa.L0(5)), False
    several = [PGDTraining(threats, 1, choose=choose) for choose in CHOICES]
    for recipe in (FastTraining(fa.Linf(0.3)), fa.train.AWP(FGSMTraining(fa.Linf(0.1))), *several):
        model, _, [report] = run(recipe=recipe, epochs=1)
        alone = [PGDTraining(one, 1) for one in threats] if recipe in several else [recipe]
        examples = [fa.train.craft(one, model, x, y, ids=ids, seed=seed) for one in alone]
        right = torch.stack([model.eval()(x_adv).argmax(1) == y for x_adv in examples])
        assert report.own_accuracy == right.all(0).double().mean().item()
        fewer |= report.own_accuracy < right.double().mean(1).min().item()
    assert fewer, "the data do not tell all threats of a sample from the worst threat"
    assert run(recipe=Standard(), epochs=1)[2][0].own_accuracy is None
    assert run(epochs=1, test_attacks=None)[2][0].own_accuracy is None


OPTIONS = {
    "recipe": fa.train.PGDTraining(fa.Linf(0.2), 2, 0.1), "ramp": 1, "ema": 0.8, "clip_norm": 1.0,
    "warm_up": 1, "schedule": "one_cycle", "learning_rate": 0.02, "patience": 5, "test_attacks": ATTACKS,
    "epochs": 2, "optimizer": "adam", "precision": "bf16", "batch_size": 16,
}  # fmt: skip


def everything(folder, **options):
    sets = {"test_set": nets.images(20, seed=9), "validation_set": HELD_OUT}
    return nets.run(folder, **OPTIONS | sets | {"checkpoint_every": 2} | options)


def contents(folder):
    held = {}
    for path in sorted(folder.iterdir()):
        if path.suffix == ".safetensors":
            held[path.name] = digest(files.load_tensors(path)[0])
        else:
            held[path.name] = [dataclasses.replace(report, seconds=0.0) for report in reports(folder)]
    return held


@pytest.mark.usefixtures("one_thread")
def test_a_kill_at_any_moment_with_all_options_is_resumed_bit_equal(tmp_path):
    everything(tmp_path / "whole")
    expected = contents(tmp_path / "whole")
    assert expected.keys() == {
        "best.safetensors", "checkpoint.safetensors", "ema.safetensors", "model.safetensors", "report.jsonl"
    }  # fmt: skip
    # each file is renamed into place: after one is as before the next, but for the half of that
    moments = ["0-before", "0-after", "3-before", "4-after", "9-before", "9-after"]
    succeed(program(tmp_path, "tests.train.test_ending", str(tmp_path), *moments))
    for moment in moments:
        everything(tmp_path / moment, resume=True)
        assert contents(tmp_path / moment) == expected, moment


if __name__ == "__main__":
    from tests.kills import kill_at_each_moment

    torch.set_num_threads(1)
    everything(None, checkpoint_every=None)  # what is slow the first time is done before it multiplies
    kill_at_each_moment(everything)

"""AttackBench: the run of an attack, the formula by hand, and the layout of a submission."""

import hashlib
import json
import math
from dataclasses import replace
from functools import partial
from math import inf
from pathlib import Path

import pytest
import torch

import fastadv as fa
from fastadv.data import load
from fastadv.errors import CorruptFileError, InputError
from fastadv.evaluation import Submission, attackbench, global_optimality, local_optimality, read_best
from fastadv.models import SmallCNN
from tests.evaluation.nets import DATA, Threshold, nearest

DIGITS = load("digits", "test")


def fmn(norm: str = "l2", **more):
    return partial(fa.attacks.fmn, threat=fa.threat.THREATS[norm](inf), **{"steps": 30, **more})


@pytest.fixture(scope="module")
def net():
    model = SmallCNN(width=4)
    fa.train.fit(model, load("digits", "train"), fa.train.Standard(), epochs=2, batch_size=64)
    return model.eval()


def asking(model, x, y, **more):
    """The nearest points, which the attack asks the model about before it returns them."""
    found = nearest(model, x, y, **more)
    model(found.x_adv)
    return found


def run(attack=asking, **more):
    return attackbench(Threshold(), DATA, attack, "linf", **more)


def submission(**more) -> Submission:
    return Submission(run(), "pixels", "standard", "fmn", {"steps": 3}, **more)


def test_the_formula_by_hand():
    # best 0 1 2 4: accuracy 3/4 1/2 1/4 0, area 5/8 + 3/8 + 1/4 = 5/4; clean 3/4, farthest 4
    # attack 0 2 4 5, clipped to 0 2 4 4: accuracy 3/4 1/2 0, area 5/4 + 1/2 = 7/4
    assert local_optimality([0, 2, 4, 5], [0, 1, 2, 4]) == pytest.approx(1 - (7 / 4 - 5 / 4) / (3 - 5 / 4))
    assert local_optimality([0, 1, 2, 4], [0, 1, 2, 4]) == 1
    assert local_optimality([0, inf, inf, inf], [0, 1, 2, 4]) == pytest.approx(1 - (3 / 2 - 5 / 4) * 4 / 7)
    # nearer than what is stored
    assert local_optimality([0, 0.5, 1, 4], [0, 1, 2, 4]) > 1
    # no sample is wrong already, and what lies below the smallest distance is left out: areas 3/4 and 1/2
    assert local_optimality([2, 4], [1, 4]) == pytest.approx(1 - (1 / 2 - 3 / 4) / (4 - 3 / 4))
    # a sample that nobody breaks counts as the farthest that is broken
    assert local_optimality([0, 2, 2, inf], [0, 1, 2, inf]) == local_optimality([0, 2, 2, 2], [0, 1, 2, 2])
    assert math.isnan(local_optimality([0, 0], [0, 0]))
    with pytest.raises(InputError, match="expected 2 distances, one for each sample, got 3"):
        local_optimality([0, 1], [0, 1, 2])


def test_what_is_kept_of_a_run():
    made = run(partial(asking, spare=[3]), passes=100, batch_size=4)
    assert made.correct.tolist() == [True] * 4 + [False] * 2
    assert made.success.tolist() == [True] * 3 + [False] + [True] * 2
    assert made.distances["linf"].tolist() == pytest.approx([0.11, 0.21, 0.31, inf, 0, 0], abs=1e-6)
    assert made.distances["l0"].tolist() == [1, 1, 1, inf, 0, 0]
    assert made.hashes[1] == hashlib.sha512(torch.tensor([0.7]).numpy().tobytes()).hexdigest()
    assert len(made.seconds) == 2
    assert made.best["linf"].tolist() == made.distances["linf"].tolist()
    assert made.forwards.tolist() == [2] * 6
    # a point that it returns without having asked is no query
    assert run(nearest).best["linf"].tolist() == [inf] * 4 + [0] * 2


def test_distances_are_those_of_what_the_attack_returned():
    """It asks about nearer points than it returns; where it returns none, those asked about count."""

    def farther(model, x, y, **more):
        asking(model, x, y, **more)
        return nearest(model, x, y, past=0.05, spare=[3], **more)

    made = run(farther)
    assert made.distances["linf"].tolist() == pytest.approx([0.15, 0.25, 0.35, 0.41, 0, 0], abs=1e-6)
    assert made.best["linf"].tolist() == pytest.approx([0.11, 0.21, 0.31, 0.41, 0, 0], abs=1e-6)
    assert made.success.all()


def test_an_image_that_is_wrong_already_is_at_zero_whatever_the_attack_did():
    """It asks about another image and returns that, or asks about none of them; it may claim it."""

    def moving(model, x, y, *, asks, claims, **more):
        out = nearest(Threshold(), x, y, **more)
        wrong = out.status == fa.attacks.Status.ALREADY_WRONG
        away = torch.where(wrong[:, None, None, None], x + 0.1 * (x - 0.5).sign(), out.x_adv)
        model(away if asks else out.x_adv[~wrong])
        return replace(out, x_adv=away, success=~wrong | claims)

    for asks, claims in ((True, False), (True, True), (False, False)):
        made = run(partial(moving, asks=asks, claims=claims))
        assert made.success.all()
        assert made.distances["linf"].tolist() == pytest.approx([0.11, 0.21, 0.31, 0.41, 0, 0], abs=1e-6)
        assert made.best["linf"][4:].tolist() == [0, 0]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fmn", "fab", "hopskipjump", "minimum_radius"])
def test_no_sample_passes_more_often_than_it_may(net, name):
    more = {
        "fmn": {"steps": 100}, "fab": {"steps": 100}, "hopskipjump": {"queries": 300},
        "minimum_radius": {"attack": partial(fa.attacks.apgd, steps=10)},
    }[name]  # fmt: skip
    attack = partial(getattr(fa.attacks, name), threat=fa.L2(inf), **more)
    made = attackbench(net, DIGITS, attack, "l2", passes=60, batch_size=8, limit=12)
    together = made.forwards + made.backwards
    assert together.max() <= 60
    assert (together[made.correct] >= 57).all()
    assert bool((made.best["l2"] <= made.distances["l2"]).all())
    assert bool((made.best["l2"][~made.correct] == 0).all())
    assert made.success.all()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ddn", "boundary", "minimum_radius"])
def test_batch_mates_change_nothing(net, name):
    more = {
        "ddn": {"steps": 100}, "boundary": {"queries": 300},
        "minimum_radius": {"attack": partial(fa.attacks.apgd, steps=10)},
    }[name]  # fmt: skip
    attack = partial(getattr(fa.attacks, name), threat=fa.L2(inf), **more)
    one, other = (attackbench(net, DIGITS, attack, "l2", passes=50, batch_size=n, limit=12) for n in (4, 12))
    assert torch.equal(one.forwards, other.forwards)
    assert torch.equal(one.backwards, other.backwards)
    assert torch.allclose(one.best["l2"], other.best["l2"], rtol=1e-4)


@pytest.mark.slow
def test_enough_passes_change_nothing(net):
    made = attackbench(net, DIGITS, fmn(), "l2", limit=24)
    plain = fmn()(fa.freeze(net, fold=False), DIGITS.x[:24], DIGITS.y[:24])
    assert torch.allclose(made.best["l2"], plain.distance.double(), rtol=1e-6)
    assert torch.allclose(made.distances["l2"], plain.distance.double(), rtol=1e-6)
    # 30 gradients, the clean verdict, and the last one
    assert set(made.backwards[made.correct].tolist()) == {30}
    assert made.forwards.max() <= 33


def test_bad_input():
    with pytest.raises(InputError, match="expected one of linf, l2, l1, l0, got 'L2'"):
        attackbench(Threshold(), DATA, asking, "L2")
    with pytest.raises(InputError, match="passes: expected an integer >= 3, got 2"):
        run(passes=2)
    with pytest.raises(
        InputError, match="got one that passes another, whose passes cannot be counted; leave out eot"
    ):
        run(fmn("linf", eot=2))


def test_a_submission_is_laid_out_as_theirs(tmp_path: Path):
    made = submission()
    first, second = made.write(tmp_path), made.write(tmp_path)
    scenario = tmp_path / "results/pixels/linf/standard/batch_size_128"
    assert (first, second) == (scenario / "fastadv fmn" / "1", scenario / "fastadv fmn" / "2")
    info = json.loads((first / "info.json").read_text())
    # the fields of attack_evaluation/utils.py, run_attack
    assert list(info) == [
        "hashes", "targeted", "accuracy", "ori_success", "adv_success", "ASR", "times", "num_forwards",
        "num_backwards", "distances", "best_optim_distances", "box_failures", "batch_failures",
    ]  # fmt: skip
    assert info["ori_success"] == [False] * 4 + [True] * 2
    assert (info["accuracy"], info["ASR"]) == (4 / 6, 1)
    assert info["best_optim_distances"].keys() == {"linf", "l0", "l1", "l2"}
    config = json.loads((first / "config.json").read_text())
    assert config["model"] == {"dataset": "pixels", "name": "Standard", "num_max_propagations": 2000}
    assert config["attack"] == {"name": "fmn", "threat_model": "linf", "steps": 3}
    assert config["dataset"]["batch_size"] == 128
    assert not (tmp_path / "compiled").exists()


def test_best_distances_go_round(tmp_path: Path):
    made = submission()
    made.write(tmp_path)
    path = tmp_path / "results" / "pixels-linf-standard-128.json"
    best = read_best(path)
    assert list(best) == list(made.measured.hashes)
    assert list(best.values()) == made.measured.best["linf"].tolist()
    assert made.optimality(best) == 1
    # of another run, nearer for one sample, farther for another, and of an image more
    names = list(best)
    other = {**best, names[0]: 0.05, names[1]: 0.9, "another": inf}
    made.write(tmp_path, other)
    assert read_best(path) == {**best, names[0]: 0.05, "another": inf}
    (record,) = json.loads((tmp_path / "compiled/pixels/standard_linf.json").read_text())
    expected = local_optimality(made.measured.best["linf"], [other[name] for name in names])
    assert record == {
        "dataset": "pixels", "attack": "FMN", "library": "fastadv", "model": "standard",
        "threat_model": "linf", "ASR": 1.0, "optimality": expected, "n_forwards": record["n_forwards"],
        "n_backwards": 0.0, "time": made.measured.seconds[0],
    }  # fmt: skip


def test_global_optimality_is_the_mean_over_models(tmp_path: Path):
    made = submission()
    best = dict(zip(made.measured.hashes, made.measured.best["linf"].tolist(), strict=True))
    nearer = {name: value / 2 for name, value in best.items()}
    made.write(tmp_path, best)
    made.write(tmp_path, best)
    Submission(made.measured, "pixels", "other", "fmn", {}).write(tmp_path, nearer)
    Submission(made.measured, "pixels", "other", "ddn", {}).write(tmp_path, best)
    mean, models = global_optimality(tmp_path, "linf", "fmn")
    assert (mean, models) == (pytest.approx((1 + made.optimality(nearer)) / 2), 2)
    assert global_optimality(tmp_path, "l2", "fmn")[1] == 0


def test_other_best_files_are_refused(tmp_path: Path):
    path = tmp_path / "best.json"
    with pytest.raises(InputError, match="expected a file of best distances, got none"):
        read_best(path)
    for text in ("[1, 2]", "{}", '{"a": "1"}', '{"a": -1}', '{"a": NaN}', "{"):
        path.write_text(text)
        with pytest.raises(CorruptFileError, match=r"best\.json: expected"):
            read_best(path)
    path.write_text('{"a": Infinity, "b": 1}')
    assert read_best(path) == {"a": inf, "b": 1}
    with pytest.raises(InputError, match="of these 6 images, got none for 6 of them; they are of other"):
        submission().write(tmp_path, read_best(path))
    assert not (tmp_path / "results").exists()

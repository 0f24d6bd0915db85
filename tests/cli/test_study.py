"""`fastadv demo` and `fastadv study`: what they print, write and refuse."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import fastadv as fa
from fastadv.cli import _study_goodfellow, _study_schott
from fastadv.data import construct
from fastadv.models import save_weights
from fastadv.studies.goodfellow2014 import figures as goodfellow_figures
from fastadv.studies.goodfellow2014.panda import panda
from fastadv.studies.ilyas2019 import figures as ilyas_figures
from fastadv.studies.ilyas2019 import plan as ilyas_plan
from fastadv.studies.ilyas2019 import theory
from fastadv.studies.schott2018 import plan
from tests.studies.ilyas import MINI
from tests.studies.schott import METHODS, FakeAttacks, FakeSubjects, image_set


def nets(folder):
    return json.loads((folder / "results.json").read_text())["measured"]["nets"]


@pytest.mark.slow
def test_it_shows_six_nets_is_redone_when_finished_and_goes_on_to_the_same_figures_when_stopped(
    fastadv, folder, monkeypatch
):
    def weights():
        return (folder / "d" / "nets" / "standard" / "model.safetensors").stat().st_mtime_ns

    def stopped(*args, **kwargs):
        raise KeyboardInterrupt

    done = fastadv("demo --tiny --out d")
    shown = "standard", "adversarial", "D_R", "D_NR", "D_rand", "D_det", "Ilyas et al. 2019", "CIFAR-10"
    for name in shown:
        assert name in done.out
    drawn = sorted((folder / "d" / "figures").iterdir())
    assert len(drawn) == 5
    for path in drawn:
        assert str(path.relative_to(folder)) in done.out
        assert path.read_bytes().startswith(b"\x89PNG")
    first, finished = nets(folder / "d"), weights()
    with monkeypatch.context() as patch:
        patch.setattr(construct, "non_robust", stopped)
        done = fastadv("demo --tiny --out d", code=130)
    assert done.err.count("\n") == 1
    assert "kept in d" in done.err
    kept = weights()
    assert kept != finished
    assert not (folder / "d" / "results.json").exists()
    done = fastadv("demo --tiny --out d --json")
    assert "resuming" in done.err
    assert weights() == kept
    assert done.json["measured"]["nets"] == nets(folder / "d") == first


def test_demo_leaves_what_it_did_not_make(fastadv, folder):
    (folder / "mine" / "nets").mkdir(parents=True)
    (folder / "mine" / "nets" / "precious").touch()
    assert "another folder" in fastadv("demo --tiny --out mine", code=2).err
    assert (folder / "mine" / "nets" / "precious").exists()


SCHOTT = "study schott --data-dir . --models cnn,abs --norms l2 --samples 4 --run-dir run"


@pytest.fixture
def tiny(monkeypatch):
    made = FakeAttacks()
    for name in ("push", "flip", "jolt"):
        monkeypatch.setattr(fa.attacks, name, getattr(made, name), raising=False)
    monkeypatch.setattr(plan, "METHODS", METHODS)
    monkeypatch.setattr(_study_schott, "Subjects", lambda *given, **options: FakeSubjects())
    monkeypatch.setattr(_study_schott, "load_data", lambda *given, **options: image_set())
    return made


@pytest.mark.slow
def test_it_prints_the_tables_names_the_files_and_goes_on_with_resume_alone(fastadv, refused, tiny, folder):
    done = fastadv(SCHOTT)
    for text in ("Schott et al. 2018 on 4 test images", "2.24", "80%", "Push", "Latent descent", "published"):
        assert text in done.out
    assert "Flip" not in done.out
    for name in ("published.png", "all.png", "smallest_l2.png", "results.json", "report.md"):
        assert str(Path("run") / name) in done.out
        assert (folder / "run" / name).stat().st_size > 0
    stored = json.loads((folder / "run" / "results.json").read_text())
    assert stored["kind"] == "study schott"
    assert stored["config"]["models"] == ["cnn", "abs"]
    calls = len(tiny.calls)
    refused(SCHOTT, "--resume")
    again = fastadv(f"{SCHOTT} --resume --json").json["measured"]
    assert again["least"] == stored["measured"]["least"]
    assert len(tiny.calls) == calls


def test_a_stop_says_how_to_go_on(fastadv, tiny, monkeypatch):
    def stopped(*given, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(fa.attacks, "jolt", stopped)
    done = fastadv(SCHOTT, code=130)
    assert "kept in run" in done.err
    assert "--resume" in done.err


@pytest.mark.slow
def test_a_failed_attack_is_an_exit_code(fastadv, tiny, monkeypatch):
    def broken(*given, **options):
        raise ValueError("no such luck")

    monkeypatch.setattr(fa.attacks, "jolt", broken)
    done = fastadv(SCHOTT, code=1)
    assert "cnn l2 Jolt failed: ValueError: no such luck" in done.err
    assert "Push" in done.out


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("--models cnn,vgg", "vgg"),
        ("--norms l2,l3", "l3"),
    ],
)
def test_wrong_usage(refused, options, says):
    refused(f"study schott {options}", says)


def test_missing_weights_are_named(refused, folder):
    (folder / "abs_official").mkdir()
    torch.save(fa.models.SchottCNN().state_dict(), folder / "abs_official" / "vanilla_cnn.net")
    line = "study schott --data-dir . --models cnn,binary_cnn,abs"
    told = refused(line, "github.com/bethgelab/AnalysisBySynthesis")
    for name in ("abs_official/binary_cnn.net", "abs_official/ABS_9.net", "vanilla_cnn"):
        assert (name in told) == name.startswith("abs_official")


NETS = "fastadv.studies.goodfellow2014.models"
TINY = "study goodfellow --scale tiny --run-dir run"


@pytest.fixture
def few(monkeypatch):
    """A few of the digits, which must be what tiny asks for."""

    def load(name, split, data_dir):
        assert (name, data_dir) == ("digits", None)
        return fa.data.load("digits", split, limit=150 if split == "train" else 100)

    monkeypatch.setattr(_study_goodfellow, "load_data", load)


@pytest.mark.slow
def test_two_parts_of_the_study(fastadv, refused, few, folder):
    done = fastadv(f"{TINY} --parts", "agreement, weights,agreement")
    for text in ("Agreement", "Weights", "Networks", "pixels that a unit looks at", "84.60%", "weights.png",
                 "100 test images", "report.md"):  # fmt: skip
        assert text in done.out
    assert done.out.count("rbf says softmax's class where both are wrong") == 1
    assert "Rubbish" not in done.out
    told = fastadv(f"{TINY} --parts agreement --json").json
    assert told == json.loads((folder / "run" / "results.json").read_text())
    assert told["config"]["parts"] == ["agreement"]
    assert set(told["measured"]["nets"]) == {"maxout", "softmax", "rbf"}
    refused(f"{TINY} --parts agreement --seed 1", "got one with another seed")


def test_bad_arguments_of_goodfellow(refused, folder):
    for options, text in {
        "--scale huge": "--scale is one of tiny, cpu, paper, got huge",
        "--scale tiny --parts fgsm,fgms": "parts: expected some of fgsm",
        "--model softmax": "--model goes with --image",
        "--radius 1/5": "--radius goes with --image",
        "--image a.png": "--image needs the --model",
        "--image a.png -m softmax --parts fgsm": "--parts has no effect with --image",
        "--image a.png -m softmax --shape 8,8": "--shape: expected channels, height and width",
        "--image a.png -m softmax --shape 1,8,²": "--shape: expected channels, height and width",
        "--image a.png -m softmax": "a.png: expected an image file, got none",
        "--image a.png -m softmax --names none.txt": "--names: expected a text file",
    }.items():
        refused(f"study goodfellow {options}", text)
    assert list(folder.iterdir()) == []


def net(name, seed=1):
    """Random weights, large enough for every class to be another at another image."""
    model = fa.models.create(name, shape=(1, 8, 8), classes=3, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator))
    return model.eval()


@pytest.fixture
def picture(folder):
    """Saved as digit.png; what a model gets of it."""
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "digit.png")
    return torch.from_numpy(pixels)[None].float() / 255


@pytest.mark.slow
@pytest.mark.parametrize("name", ["softmax", f"{NETS}:RBF"])
def test_a_picture_and_a_model(name, fastadv, folder, picture):
    model = net(name)
    save_weights(model, folder / "net.safetensors")
    (folder / "names.txt").write_text("cat\ndog\npanda\n")
    before = (folder / "digit.png").read_bytes()
    line = f"study goodfellow --image digit.png -m {name} -w net.safetensors --shape 1,8,8 --classes 3"
    told = fastadv(f"{line} --json --radius 1/5 --names names.txt --run-dir .").json
    loss = "bce" if "RBF" in name else "ce"
    wanted, _ = panda(model, picture, radius=0.2, names=["cat", "dog", "panda"])
    rest = {"image": "digit.png", "changed": "", "figure": "digit_fgsm.png"}
    assert told == {**wanted, **rest}
    assert told["loss"] == loss
    assert (folder / "digit_fgsm.png").stat().st_size > 5000
    assert (folder / "digit.png").read_bytes() == before
    done = fastadv(line)
    for text in ("digit.png", "adversarial", "L-infinity radius 0.25", "goodfellow2014/digit_fgsm.png"):
        assert text in done.out
    assert "untrained" not in done.err


def test_what_is_said_of_a_picture(fastadv, folder, picture, monkeypatch):
    monkeypatch.setattr(goodfellow_figures, "panda", lambda *given: None)
    line = "study goodfellow --image digit.png -m small_cnn -o width=2"
    done = fastadv(f"{line} --shape 3,4,6")
    for text in ("L-infinity radius 0.007", "the picture was resized from 8x8 to 4x6, its center of 5x8"):
        assert text in done.out
    assert "untrained" in done.err
    seeds = [fastadv(f"{line} --shape 1,8,8 --json --seed {seed}").json for seed in (0, 0, 1)]
    assert seeds[0] == seeds[1] != seeds[2]
    flat = fa.models.create("softmax", shape=(1, 8, 8))
    for weight in flat.parameters():
        weight.data.zero_()
    save_weights(flat, folder / "flat.safetensors")
    still = fastadv("study goodfellow --image digit.png -m softmax --shape 1,8,8 -w flat.safetensors")
    assert "the gradient is 0 everywhere, so nothing moved" in still.out


def test_what_does_not_fit(refused, folder, picture):
    (folder / "text.png").write_text("no picture")
    (folder / "names.txt").write_text("cat\ndog\n")
    shape = "--shape 1,8,8 --classes 3"
    for options, code, text in (
        (f"--image text.png -m softmax {shape}", 1, "text.png: expected a whole image file"),
        (f"--image digit.png -m softmax {shape} --names names.txt", 2, "--names: expected 3 lines"),
        (f"--image digit.png -m softmax {shape} --radius=-1", 2, "radius"),
        ("--image digit.png -m softmax --shape 2,8,8", 2, "gray or color"),
    ):
        refused(f"study goodfellow {options}", text, code)
    assert not (folder / "goodfellow2014").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("few_digits")
def test_features_prints_a_line_for_each_net(fastadv, folder):
    line = "study ilyas features --tiny --run-dir run"
    done = fastadv(line)
    for text in ("standard", "adversarial", "non-robust", "rho >= 0.1", "L2 0.2", "features.png"):
        assert text in done.out
    assert (folder / "run" / "features.png").stat().st_size > 0
    told = fastadv(f"{line} --radius 0.3 --json").json
    assert told["kind"] == "study ilyas features"
    assert told["config"]["radius"] == 0.3
    assert told["measured"]["nets"]["standard"]["thresholds"] == {"rho": 0.1, "gamma": 0.0}
    assert told == json.loads((folder / "run" / "results.json").read_text())


@pytest.mark.slow
def test_theory_fails_where_a_claim_does_not_hold(fastadv, folder, monkeypatch):
    few = partial(theory.Settings, radii=(1.0,), samples=40, epochs=1, steps=1)
    monkeypatch.setattr(theory, "Settings", few)
    done = fastadv("study ilyas theory --run-dir run", code=1)
    for text in ("theorem 1", "theorem 2", "theorem 3", "holds", "FAILS", "ellipses.png"):
        assert text in done.out
    assert (folder / "run" / "theorems.png").stat().st_size > 0


PIPELINE = "study ilyas pipeline"


@pytest.mark.slow
def test_the_pipeline_prints_its_tables_and_names_its_files(fastadv, refused, folder, monkeypatch):
    monkeypatch.setattr(ilyas_figures, "gallery", lambda name, base, made, path: path.touch())
    monkeypatch.setitem(ilyas_plan.SCALES, "tiny", replace(MINI, near=False, tested=6))
    done = fastadv(f"{PIPELINE} --stages nets,sets,train,evaluate,galleries --run-dir run")
    for text in ("images under PGD", "43.7%", "kept label", "the first 6", "D_det.png", "report.md"):
        assert text in done.out
    assert "Leakage" not in done.out
    told = fastadv(f"{PIPELINE} --stages sets --run-dir run --json").json
    assert list(told["measured"]) == ["nets", "sets", "train", "evaluate", "galleries"]
    assert told == json.loads((folder / "run" / "results.json").read_text())
    refused(f"{PIPELINE} --stages sets --seed 1 --run-dir run", "another seed (0 there, 1 here)")


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("features --radius a", "number"),
        ("features --radius inf", "radius: expected a finite number > 0"),
        ("pipeline --scale huge", "--scale is one of tiny, cpu, paper, got huge"),
        ("pipeline --stages nets,set", "got set"),
        ("pipeline --stages transfer", "ilyas2019: expected the finished stage nets"),
    ],
)
def test_bad_arguments_of_ilyas(refused, line, says):
    refused(f"study ilyas {line}", says)

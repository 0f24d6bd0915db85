"""`fastadv evaluate`: the verdict, radii, replaced gradients, the report, and what CI reads."""

import json
import re
import sys

import pytest

import fastadv as fa
from fastadv.cli._evaluate import OF_THE_DATA
from fastadv.data import load
from fastadv.models import SmallCNN, save_weights
from tests.attacks.contract.conftest import FEW, shorten
from tests.cli.conftest import timeless
from tests.evaluation.reports import Read

LINE = "-n 60 -a pgd:steps=300,stop_early=false --radius 0.05"


@pytest.mark.slow
def test_the_last_line_is_the_verdict(fastadv, net):
    done = fastadv(f"evaluate {net} {LINE} --strict")
    assert re.fullmatch(r"No sign of masking \(\d+ samples probed\)", done.out.splitlines()[-1])
    assert "masking" not in fastadv(f"evaluate {net} -n 5 -a fgsm --radius 0.05 --no-indicators").out


@pytest.mark.slow
def test_doubt_is_exit_code_3_where_asked(fastadv, net, refused):
    line = f"evaluate {net} -n 20 -a pgd:steps=20,step_size=0.0001 --radius 0.02"
    fastadv(line)
    done = fastadv(f"{line} --strict", code=3)
    verdict = done.out.splitlines()[-1]
    assert verdict.startswith(
        "The loss still rises at the end: more steps may break more. No sign of masking"
    )
    assert done.err == ""
    assert fastadv(f"{line} --strict --json", code=3).json["measured"]["indicators"]["verdict"] == verdict
    few = fastadv(f"evaluate {net} -n 4 -a pgd:steps=300,stop_early=false --radius 0.05 --strict", code=3)
    assert few.out.splitlines()[-1].startswith("Inconclusive, no flag so far")
    refused(f"{line} --strict --no-indicators", "--strict is about the indicators")


OWN = """import fastadv as fa, torch
class Rounds(fa.models.SmallCNN):
    forward = lambda self, x: super(Rounds, self).forward((8 * x).round() / 8)
class Noisy(fa.models.SmallCNN):
    forward = lambda self, x: super(Noisy, self).forward(x + 0.1 * torch.randn_like(x))
"""


def test_a_black_box_passes_strict_once_it_is_searched(fastadv, folder, net):
    (folder / "cut.py").write_text(OWN.replace("(8 * x).round() / 8", "x.detach()"))
    line = f"evaluate {net.replace('small_cnn', 'cut:Rounds')} -n 20 --radius 0.05 --strict"
    done = fastadv(f"{line} -a square:queries=500")
    assert done.out.endswith("Inconclusive: no gradient (a black box); searched by queries alone\n")
    for attacks in ("-a square:queries=20", "-a square:queries=500 -a pgd"):
        fastadv(f"{line} {attacks}", code=3)


@pytest.mark.slow
def test_masked_and_randomized_models(fastadv, folder, net):
    (folder / "own.py").write_text(OWN)
    masked, noisy = (f"evaluate {net.replace('small_cnn', own)} -n 20" for own in ("own:Rounds", "own:Noisy"))
    lead = "Not a robust accuracy: gradients are masked. At most "
    done = fastadv(f"{masked} -a pgd:steps=9,loss=ce --radius 8/255")
    assert done.out.startswith(lead)
    assert "\nPGD-9, L∞ 8/255, loss=ce  " in done.out
    assert "give fa.models.bpda(model, " in done.out.splitlines()[-1]
    once = fastadv(f"{noisy} --radius 0.05 -a pgd:steps=5 --strict", code=3)
    assert once.out.endswith("classify each sample several times (draws=20)\n")
    for attack in ("pgd:steps=40,stop_early=false,eot=3", "autoattack:version=rand"):
        done = fastadv(f"{noisy} --radius 0.05 -a {attack} --draws 5 --strict")
        measured = (
            r"Randomized: at most [\d.]+% of one draw, [\d.]+% worst of 5 draws \(eot=(3|20)\)\. "
            "No other sign of masking .*"
        )
        assert re.fullmatch(measured, done.out.splitlines()[-1])


@pytest.mark.slow
def test_results_say_what_was_replaced(fastadv, folder):
    (folder / "defended.py").write_text(
        "import fastadv as fa\n"
        "def net():\n"
        "    return fa.models.bpda(fa.models.SmallCNN(width=4), {'features.2': 'identity'})\n"
    )
    line = "evaluate -m defended:net --data digits --samples 16 -a fgsm --radius 0.1"
    assert fastadv(f"{line} --json").json["measured"]["bpda"] == {"features.2": "identity"}
    assert "BPDA: features.2 (identity)" in " ".join(fastadv(line).out.split())


@pytest.mark.slow
@pytest.mark.usefixtures("few_digits")
def test_the_page_is_that_of_the_evaluation(fastadv, folder, net, monkeypatch):
    line = f"evaluate {net} -n 40 --radius 0.1 --steps 3 -a pgd -a fmn --seed 3 --radii 0,0.05,0.1"
    line += " --report r.html"
    monkeypatch.setattr(sys, "argv", ["fastadv", *line.split()])
    assert fastadv(line).out.endswith("report in r.html\n")
    page = Read(folder / "r.html")
    assert "small_cnn on digits test" in page.text
    assert f"fastadv {line}" in page.text
    data = load("digits", "test", limit=40).describe()
    assert all(str(data[key]) in page.text for key in OF_THE_DATA if key not in ("shape", "note"))
    assert "attack=pgd, norm=linf, radius=0.1, seed=3, steps=3" in page.text
    measured = fastadv(line, "--json").json["measured"]
    kept = json.loads(page.data["measured"])
    assert timeless(kept["attacks"]) == timeless(measured["attacks"])
    assert (kept["worst_case"], kept["clean_accuracy"]) == (
        measured["worst_case"],
        measured["clean_accuracy"],
    )
    assert len(page.elements("polyline")) == 2  # the curves


def test_what_cannot_be_written_is_refused_before_the_work(folder, refused, monkeypatch):
    line = "evaluate -m softmax --data nowhere --radius 0.1 --report"
    refused(f"{line} r.pdf", "expected a name ending in .html, got 'r.pdf'")
    (folder / "file").touch()
    refused(f"{line} file/r.html", "cannot be written in")
    monkeypatch.setitem(sys.modules, "jinja2", None)
    measured = refused(f"{line} r.html", "reports need jinja2, which is not installed: pip install", code=1)
    assert measured.endswith("pip install jinja2")


@pytest.mark.slow
def test_corruptions_are_measured_without_an_attack_or_beside_some(fastadv, folder):
    save_weights(SmallCNN((1, 32, 32), width=4), folder / "wide.safetensors")
    line = "evaluate -m small_cnn -o width=4 -w wide.safetensors --data digits --size 32 -n 20"
    line += " --corruptions gaussian_noise,speckle_noise --severities 3,1"
    text = " ".join(fastadv(f"{line} --report r.html").out.split())
    assert "accuracy by corruption and severity, regenerated, seed 0, constants cifar" in text
    assert "2 of them, severity 3, 1, regenerated, seed 0" in Read(folder / "r.html").text
    measured = fastadv(f"{line} --seed 4 --json").json["measured"]
    told = [measured["corruption"][name] for name in ("names", "severities", "source", "samples")]
    assert told == [["gaussian_noise", "speckle_noise"], [3, 1], "regenerated, seed 4, constants cifar", 20]
    both = fastadv(f"{line} --radius 0.1 --steps 2 --json").json["measured"]
    assert [len(measured["attacks"]), len(both["attacks"]), len(both["corruption"]["right"])] == [0, 2, 2]


NOISE = "uniform_noise:levels=3,repetitions=1"
TWO = "-n 60 -a fgsm -a pgd:steps=5 --radius 0.05 --no-indicators"


@pytest.mark.slow
def test_a_share_that_is_not_reached_is_exit_code_4(fastadv, net):
    line = f"evaluate {net} {TWO}"
    measured = fastadv(f"{line} --json").json["measured"]
    clean, robust = measured["clean_accuracy"], measured["worst_case"]
    assert 0 < robust < clean < 1
    assert fastadv(f"{line} --fail-under robust={robust},clean={clean}").err == ""
    done = fastadv(f"{line} --fail-under robust={robust + 0.01},clean={clean}", code=4)
    assert done.err == f"fastadv: robust accuracy {robust:g} is below {robust + 0.01:g}\n"
    assert "worst of all" in done.out
    done = fastadv(f"{line} --fail-under robust=1,clean=1 --json", code=4)
    assert done.json["measured"]["worst_case"] == robust
    assert done.err.endswith(f"is below 1; clean accuracy {clean:g} is below 1\n")
    few = f"evaluate {net} -n 4 -a fgsm --radius 0.05 --strict"  # too few samples for a verdict
    fastadv(f"{few} --fail-under robust=0", code=3)
    fastadv(f"{few} --fail-under robust=1", code=4)  # a fact goes before doubt


@pytest.mark.slow
def test_an_audit_is_that_of_the_call_and_counts_for_the_exit_codes(
    fastadv, net, trained, folder, refused, monkeypatch
):
    shorten(monkeypatch, FEW)
    line = f"evaluate {net} -n 60 -a {NOISE} --radius 0.03 --seed 3"
    done = fastadv(f"{line} --audit 3 --json --audit-seconds 1000 --run-dir run").json
    digits = load("digits", "test", limit=60)
    table = fa.evaluate(trained, digits, NOISE, threat=fa.Linf(0.03), audit=3, seed=3)
    assert timeless(done["measured"]["audits"]) == timeless(json.loads(json.dumps(table.to_dict()["audits"])))
    assert done["config"]["audit"]["seconds"] == 1000
    (audit,) = done["measured"]["audits"]
    assert 0 < audit["broken"] <= 3 == audit["drawn"]  # which denies the figure of the screen
    line += " --run-dir run --resume"
    said = fastadv(f"{line} --audit 3 --strict", code=3).out
    assert said.startswith("Not a robust accuracy: the audit broke")
    assert "The screen is not enough for this model." in said
    quiet = fastadv(f"{line} --audit 3 --no-indicators").out
    assert quiet.endswith("The screen is not enough for this model.\n")
    worst, high = done["measured"]["worst_case"], audit["high"]
    fastadv(f"{line} --fail-under robust={worst}")
    assert (
        f"robust accuracy {high:g} is below"
        in fastadv(f"{line} --audit 3 --fail-under robust={worst}", code=4).err
    )
    refused(f"{line} --audit-seconds 9", "--audit-seconds is of an audit: give --audit, too")
    refused(f"{line} --audit 3 --audit-seconds -1", "seconds: expected a finite number >= 0, got -1")


@pytest.mark.slow
def test_several_budgets_have_a_line_each(fastadv, net, refused):
    line = f"evaluate {net} -n 20 --no-indicators"
    line += " -a pgd:steps=5,norm=linf,radius=8/255 -a pgd:steps=5,norm=l2,radius=0.5"
    assert re.findall(r"PGD-5, L(?:∞ 8/255|2 0.5)|union", fastadv(line).out)[-1] == "union"
    known = fastadv(f"{line} --json").json["measured"]["attacks"]
    assert [(one["norm"], one["radius"]) for one in known] == [("linf", 8 / 255), ("l2", 0.5)]
    refused(f"{line} --radius 0.1", "--radius has no effect on pgd:")


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("--radius 0.1 --fail-under robust=1.5", "robust: expected a finite number >= 0 and <= 1, got 1.5"),
        ("--radius 0.1 --fail-under robust=50%", "got '50%'"),
        ("--radius 0.1 --fail-under pgd=0.5", "share: expected one of robust, clean, got 'pgd'"),
        ("--radius 0.1 --fail-under robust", "KEY=VALUE"),
        ("-a fmn --fail-under robust=0.5", "no attack has a radius"),
        ("-a fmn -a fmn:norm=l2 --out a.safetensors", "one norm"),
        ("-a fmn --radius 0.1 --radii 0,0.2", "beyond the radius 0.1"),
        ("-a fmn --radii 0.1,inf", "radii: expected finite numbers of at least 0"),
        ("--corruptions impulse_nois", "got 'impulse_nois'; did you mean 'impulse_noise'?"),
        ("--corruptions impulse_noise --severities 1,6", "severity: expected 1, 2, 3, 4 or 5, got 6"),
        ("--corruptions impulse_noise --strict", "--strict needs an attack"),
        ("--corruptions impulse_noise --radii 0,1", "--radii needs an attack"),
    ],
)
def test_what_has_no_sense_is_refused_before_the_work(refused, line, says):
    refused(f"evaluate -m softmax --data digits -n 5 {line}", says)

"""The entry of RobustBench: its fields, what the run says of them, and what cannot be one."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import fastadv as fa
from fastadv.attacks import ATTACKS
from fastadv.data import load

# as in RobustBench's model_info/cifar10/Linf/Wang2023Better_WRN-70-16.json, in this order
FIELDS = [
    "link", "name", "authors", "additional_data", "number_forward_passes", "dataset", "venue",
    "architecture", "eps", "clean_acc", "reported", "autoattack_acc", "footnote", "unreliable",
]  # fmt: skip


@pytest.fixture(autouse=True)
def flags(monkeypatch):
    """In place of the standard version, which takes long, FGSM; the flags that it raises."""
    flags: list[str] = []

    def quick(
        model, x, y, threat, *, version: str = "standard", seed: int = 0, eot: int = 1, ids=None
    ) -> Any:
        assert (version, eot) == ("standard", 1)
        return replace(fa.attacks.fgsm(model, x, y, threat, ids=ids), flags=tuple(flags))

    monkeypatch.setitem(ATTACKS, "autoattack", replace(ATTACKS["autoattack"], run=quick))
    return flags


def entry(fastadv, net, *more, options="--radius 16/255"):
    done = fastadv(f"evaluate {net} -a autoattack {options} --robustbench entry.json", *more)
    assert "entry in entry.json" in done.out
    told = json.loads(Path("entry.json").read_text())
    assert list(told) == FIELDS
    return told


@pytest.mark.slow
def test_the_entry_says_what_the_run_measured(fastadv, net, trained, flags):
    told = entry(fastadv, net)
    digits = load("digits", "test")
    out = fa.attacks.fgsm(trained, digits.x, digits.y, fa.Linf(16 / 255))
    clean = (out.status != fa.attacks.Status.ALREADY_WRONG).double().mean()
    robust = (~out.success).double().mean()
    assert 0 < robust < clean < 1
    measured = {
        "dataset": "digits",
        "architecture": "small_cnn",
        "eps": "16/255",
        "clean_acc": f"{100 * clean:.2f}",
        "autoattack_acc": f"{100 * robust:.2f}",
        "unreliable": False,
    }
    assert told == dict.fromkeys(FIELDS) | measured
    flags.append("doubtful: it has a reason")
    assert entry(fastadv, net)["unreliable"] is True


@pytest.mark.slow
def test_the_rest_comes_from_options(fastadv, net):
    said = {
        "link": "https://arxiv.org/abs/1?a=b",
        "name": "A paper, with a comma",
        "architecture": "ResNet-18",
        "reported": "50.10",
        "footnote": "true",
        "additional_data": False,
        "number_forward_passes": 2,
    }
    words = {key: str(value).lower() if key == "additional_data" else value for key, value in said.items()}
    about = [part for key, value in words.items() for part in ("--about", f"{key}={value}")]
    assert said.items() <= entry(fastadv, net, *about, "-a", "fgsm", "--seed", "3").items()


@pytest.mark.slow
def test_the_footnote_says_which_gradients_were_replaced(fastadv, net):
    told = entry(fastadv, net, "--bpda", "features.2=identity")
    assert told["footnote"] == "BPDA: features.2 (identity)"
    more = ("--bpda", "features.5=torch:sin", "--about", "footnote=mine")
    assert entry(fastadv, net, *more)["footnote"] == "mine; BPDA: features.5 (sin)"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "eps"),
    [
        ("--radius 0.25", "0.25"),
        ("--radius 52/255", "52/255"),
        ("--norm l2 --radius 102/255", "0.4"),
    ],
)
def test_radii_as_the_leaderboards_write_them(fastadv, net, options, eps):
    assert entry(fastadv, net, options=options)["eps"] == eps


@pytest.mark.slow
def test_a_finished_evaluation_writes_its_entry_later(fastadv, net):
    line = f"evaluate {net} -a autoattack --radius 0.2 --run-dir run"
    fastadv(line)
    before = [path.stat().st_mtime_ns for path in Path("run").glob("part-*")]
    fastadv(f"{line} --resume --robustbench models/entry.json")
    assert [path.stat().st_mtime_ns for path in Path("run").glob("part-*")] == before
    assert json.loads(Path("models/entry.json").read_text())["eps"] == "0.2"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("-a pgd --radius 0.1", "takes the result of autoattack"),
        ("-a autoattack:radius=0.1 -a autoattack --radius 0.2", "name it once"),
        ("-a autoattack:version=quick --radius 0.1", "needs version=standard of autoattack, got quick"),
        ("-a autoattack:eot=3 --radius 0.1", "needs eot=1"),
        ("-a autoattack --norm l1 --radius 0.1", "lists linf and l2, not l1"),
        ("-a autoattack --radius 0.1 -n 100", "leave out --samples"),
        ("-a autoattack --radius 0.1 --split train", "leave out --split train"),
        ("-a autoattack --radius 0.1 --about autoattack_acc=99", "expected KEY=VALUE with one of link, name"),
        ("-a autoattack --radius 0.1 --about venue", "expected KEY=VALUE"),
        ("-a autoattack --radius 0.1 --about venue=A --about venue=B", "venue is given twice"),
        ("-a autoattack --radius 0.1 --about additional_data=no", "additional_data=false, got 'no'"),
        ("-a autoattack --radius 0.1 --about number_forward_passes=0", "a whole number from 1"),
        ("-a autoattack --radius 0.1 --about number_forward_passes=1.5", "a whole number from 1"),
    ],
)
def test_what_cannot_be_an_entry_is_refused_before_the_work(refused, net, options, says):
    refused(f"evaluate {net} {options} --robustbench entry.json", says)
    assert not Path("entry.json").exists()


def test_images_of_ones_own_list_are_no_test_set(refused):
    line = "evaluate -m resnet18 --data imagenet:ids=mine.txt -a autoattack --radius 4/255"
    refused(f"{line} --robustbench entry.json", "leave out ids")


@pytest.mark.slow
def test_a_constructed_set_is_no_test_set(fastadv, refused, net):
    fastadv(f"construct robust {net} -n 20 --steps 1 --out made")
    line = f"evaluate {net.replace('digits', 'made')} -a autoattack --radius 0.1"
    refused(f"{line} --robustbench entry.json", "no constructed ones")
    refused(f"{line} --about venue=A", "give --robustbench too")

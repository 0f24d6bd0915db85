"""`fastadv attackbench`: what it prints, writes and refuses."""

import json
from pathlib import Path

import pytest

from fastadv.cli._attackbench import _parse
from fastadv.cli._attacks import AttackOptions, parse_attack

LINE = "-n 20 --passes 40 --batch-size 10 --out ab --name standard"


@pytest.mark.slow
def test_a_submission_from_the_command_line(fastadv, net):
    done = fastadv(f"attackbench {net} -a ddn {LINE}")
    assert done.code == 0, done
    assert "ddn:steps=20" in done.out
    assert "no optimality without stored best distances: give --best" in done.out
    assert "run in ab/results/digits/l2/standard/batch_size_10/fastadv ddn/1" in done.out
    best = "ab/results/digits-l2-standard-10.json"
    Path("best.json").write_text(Path(best).read_text())
    told = json.loads(fastadv(f"attackbench {net} -a ddn {LINE} --best best.json --json").out)
    assert told["measured"]["optimality"] == told["measured"]["global_optimality"] == 1
    assert 0 < told["measured"]["forwards"] + told["measured"]["backwards"] <= 40
    assert "optimality" in fastadv(f"attackbench {net} -a fmn {LINE} --best best.json").out
    records = json.loads(Path("ab/compiled/digits/standard_l2.json").read_text())
    assert [one["attack"] for one in records] == ["DDN", "FMN"]
    config = json.loads(
        Path("ab/results/digits/l2/standard/batch_size_10/fastadv fmn/1/config.json").read_text()
    )
    assert config["attack"] == {"name": "fmn", "threat_model": "l2", "steps": 20, "seed": 0}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("-a pgd:radius=0.1", "takes attacks for the minimum norm"),
        (
            "-a pgd",
            "takes attacks for the minimum norm, without a radius, got pgd; minimum_radius:attack=apgd",
        ),
        ("-a fmn:radius=0.1", "without a radius"),
        ("-a ddn --norm linf", "ddn works in l2, not in 'linf'"),
        ("-a fmn:norm=linf", "takes one norm, no source and no eot"),
        ("-a fmn:eot=2", "no source and no eot"),
        ("-a fmm", "no attack 'fmm'"),
        ("-a cw:searches=many", "searches"),
        ("-a minimum_radius", "minimum_radius needs attack"),
        ("-a fmn --passes 2", "should be greater than or equal to 3"),
    ],
)
def test_what_the_protocol_does_not_have_is_refused(refused, net, options, says):
    refused(f"attackbench {net} --out ab {options}", says)
    assert not Path("ab").exists()


@pytest.mark.parametrize(
    ("text", "norm", "filled"),
    [
        ("ddn", "l2", "ddn:steps=1000"),
        ("pdgd:variant=published", "l2", "pdgd:variant=published,steps=1000"),
        ("ddn:steps=7", "l2", "ddn:steps=7"),
        ("cw", "l2", "cw:steps=111"),
        ("cw", "linf", "cw:steps=111"),
        ("cw:searches=4", "l2", "cw:searches=4,steps=250"),
        ("boundary", "l2", "boundary:queries=2000"),
        ("hopskipjump:steps=3", "l2", "hopskipjump:steps=3"),
        ("fab", "l2", "fab"),
        ("gaussian_noise", "l2", "gaussian_noise"),
    ],
)
def test_steps_or_queries_fill_the_passes(text, norm, filled):
    named, plain = _parse(text, norm, 2000, 0), parse_attack(filled, AttackOptions(norm=norm), 0)
    assert named.config == plain.config


def test_the_help_names_the_attacks_that_it_takes(fastadv):
    listed = fastadv("attackbench --help").out.split("--attack")[1].split("--norm")[0]
    assert "fmn" in listed
    assert not {"pgd", "square", "autoattack"} & {*listed.replace(",", " ").replace("│", " ").split()}


@pytest.mark.slow
def test_best_distances_of_other_images_are_refused_without_a_trace(refused, net):
    refused(f"attackbench {net} -a ddn {LINE} --best absent.json", "got none at absent.json")
    Path("best.json").write_text('{"00": 1}')
    refused(f"attackbench {net} -a ddn {LINE} --best best.json", "got none for 20 of them")
    assert not Path("ab").exists()

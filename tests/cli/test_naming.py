"""Every attack can be named in a command with its arguments; wrong names and values are one line."""

from collections.abc import Mapping
from copy import deepcopy
from functools import partial
from typing import Any

import pytest
import torch
import typer

import fastadv as fa
from fastadv.attacks import ATTACKS, SUBSTITUTE_ATTACKS
from fastadv.cli._attacks import AttackOptions, parse_attack, parse_attacks
from fastadv.cli._options import _types, nameable
from fastadv.data import load
from fastadv.models import SmallCNN, save_weights

ENTRIES = {**ATTACKS, **SUBSTITUTE_ATTACKS}
ARGUMENTS = [
    (name, key)
    for name, entry in ENTRIES.items()
    for key, parameter in entry.parameters.items()
    if nameable(parameter)
]
# those that run another attack, and what they need for it
NEEDED = {"minimum_radius": "attack=fgsm", "transfer": "attack=fgsm,source=net.safetensors"}
RADIUS = {"linf": 0.1, "l2": 0.5, "l1": 2.0, "l0": 3}


def written(name, **values):
    """The attack with these arguments, as text."""
    parts = [NEEDED[name]] if name in NEEDED else []
    words = {True: "true", False: "false", None: "none"}
    parts += [
        f"{key}={words[value] if value in (True, False, None) else value}" for key, value in values.items()
    ]
    return f"{name}:{','.join(parts)}"


def parsed(text, **options):
    return parse_attack(text, AttackOptions(radius=0.1, **options), seed=0)


def test_the_arguments_that_text_can_name():
    assert len(ARGUMENTS) > 100
    keys = {key for _, key in ARGUMENTS}
    assert {"steps", "loss", "version", "eot", "seed", "stop_early", "share"} <= keys
    assert not {"model", "x", "y", "threat", "targets", "criterion", "mask", "ids", "on_progress"} & keys


@pytest.mark.parametrize("name", ENTRIES)
def test_every_argument_reaches_its_attack_and_takes_its_types_alone(name):
    for key in [key for one, key in ARGUMENTS if one == name]:
        types = _types(ENTRIES[name].parameters[key].annotation)
        values = {bool: True, int: 3, float: 0.5, str: "word"}
        for kind in values.keys() & types:
            made = parsed(written(name, **{key: values[kind]}))
            assert made.arguments[key] == made.config[key] == values[kind]
        if type(None) in types:
            assert parsed(written(name, **{key: None})).arguments[key] is None
        wrong = [3 if str in types else "word"]
        wrong += [] if bool in types else [True]
        wrong += [0.5] if types.isdisjoint({float, str}) else []
        for value in wrong:
            with pytest.raises(typer.BadParameter, match=key):
                parsed(written(name, **{key: value}))


@pytest.mark.parametrize("name", ENTRIES)
def test_arguments_that_text_cannot_name_are_refused(name):
    others = set(ENTRIES[name].parameters) - {key for one, key in ARGUMENTS if one == name}
    for key in {*others, "speed"} - {"attack", "source"}:
        with pytest.raises(typer.BadParameter, match=f"takes no '{key}'"):
            parsed(written(name, **{key: 3}))


@pytest.mark.slow
@pytest.mark.parametrize("name", ENTRIES)
def test_every_attack_runs_from_the_command_line(fastadv, net, name):
    entry = ENTRIES[name]
    norm = "linf" if "linf" in entry.norms else entry.norms[0]
    quick: Mapping[str, Any] = {key: value for key, value in entry.quick.items() if not callable(value)}
    radius = {} if entry.minimal else {"radius": RADIUS[norm]}
    told = fastadv(f"evaluate {net} -n 3 --json -a", written(name, **quick, **radius)).json
    (row,) = told["measured"]["attacks"].values()
    assert row["minimum_norm"] == entry.minimal
    (config,) = told["config"]["attacks"].values()
    assert {"attack": name, "norm": norm, **quick}.items() <= config.items()


@pytest.mark.slow
def test_an_attack_that_runs_another(fastadv, net, trained):
    """What only the inner attack takes goes to it, the seed and the shared options too."""
    digits = load("digits", "test", limit=30)
    line = f"evaluate {net} -n 30 --seed 5 --steps 3 --norm l2 --json"
    done = fastadv(line, "-a", "minimum_radius:attack=pgd,searches=4,random_start=false,loss=margin")
    inner = {"steps": 3, "seed": 5, "random_start": False, "loss": "margin"}
    attack = partial(fa.attacks.minimum_radius, threat=fa.L2(torch.inf), searches=4,
                     attack=partial(fa.attacks.pgd, **inner))  # fmt: skip
    row = fa.evaluate(trained, digits, {"a": attack}).rows[0]
    told = done.json
    (told_row,) = told["measured"]["attacks"].values()
    assert told_row["median_distance"] == row.median_distance
    assert told_row["backwards"] == row.backwards
    (config,) = told["config"]["attacks"].values()
    assert config == {
        "attack": "minimum_radius", "norm": "l2", "radius": None, "searches": 4,
        "runs": {"attack": "pgd", **inner},
    }  # fmt: skip


@pytest.fixture
def substitute(folder, trained):
    """The trained net with noise on its weights."""
    model, draw = deepcopy(trained).eval(), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for part in model.parameters():
            part += 0.3 * part.std() * torch.randn(part.shape, generator=draw)
    save_weights(model, folder / "other.safetensors")
    (folder / "mine.py").write_text(
        "from fastadv.models import SmallCNN, load_weights\n"
        "def mine():\n"
        "    model = SmallCNN(width=4)\n"
        "    load_weights(model, 'other.safetensors')\n"
        "    return model\n"
        "def bare():\n"
        "    return SmallCNN(width=4)\n"
    )
    return model


@pytest.mark.slow
@pytest.mark.parametrize(
    "source",
    ["other.safetensors", "mine:mine", "mine:bare@other.safetensors", "other.safetensors+net.safetensors"],
)
def test_transfer_from_a_substitute(fastadv, net, trained, substitute, source):
    done = fastadv(f"attack {net} -n 20 --json -a", f"transfer:attack=fgsm,source={source}")
    assert done.err == ""
    told = done.json
    assert told["config"]["source"] == source.split("+")
    models = [substitute, trained] if "+" in source else [substitute]
    attack = partial(fa.attacks.transfer, threat=fa.Linf(torch.inf), attack=fa.attacks.fgsm, source=models)
    row = fa.evaluate(trained, load("digits", "test", limit=20), {"a": attack}).rows[0]
    (told_row,) = told["measured"]["attacks"].values()
    assert told_row["mean_distance"] == pytest.approx(row.mean_distance)
    assert row.success_rate > 0.3


@pytest.mark.slow
def test_a_resumed_evaluation_knows_the_substitute(fastadv, refused, folder, net, substitute):
    line = f"evaluate {net} -n 10 --run-dir run -a transfer:attack=fgsm,source=other.safetensors"
    fastadv(line)
    fastadv(f"{line} --resume")
    save_weights(SmallCNN(width=4, seed=9), folder / "other.safetensors")
    refused(f"{line} --resume", "another attacks")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("minimum_radius", "needs attack, as in minimum_radius:attack=bim,steps=10"),
        ("minimum_radius:attack=nosuch", "no attack 'nosuch'; there are apgd"),
        ("minimum_radius:attack=cw", "cannot run cw, which already looks for the minimum"),
        ("minimum_radius:attack=fgsm,steps=3", "minimum_radius with fgsm takes no 'steps'"),
        ("minimum_radius:attack=apgd,norm=l0", "apgd works in linf, l2, l1, not in 'l0'"),
        ("minimum_radius:attack=bim,steps=-1", "steps: expected an integer >= 0"),
        ("minimum_radius:attack=bim,norm=l7", "minimum_radius works in linf, l2, l1, l0, not in 'l7'"),
        ("transfer:attack=bim", "needs source, as in transfer:attack=bim,steps=10,source=FILE"),
        ("transfer:attack=minimum_radius,source=net.safetensors", "cannot run minimum_radius"),
        ("transfer:attack=fgsm,source=none.safetensors", "none.safetensors: expected a file of weights"),
        ("transfer:attack=fgsm,source=nosuch@net.safetensors", "nosuch"),
        ("transfer:attack=fgsm,source=net.safetensors+", "on both sides of each +, got 'net.safe"),
        ("transfer:attack=fgsm,source=softmax@net.safetensors", "expected the weights of SoftmaxRegression"),
        ("pgd:attack=bim,radius=0.1", "pgd takes no 'attack'"),
        ("pgd:radius=much", "expected radius to be a number, got 'much'"),
        ("autoattack:version=fast,radius=0.1", "version: expected one of standard, plus, rand, quick"),
        (":steps=3", "no attack ''"),
    ],
)  # fmt: skip
def test_wrong_text_is_one_line(refused, net, text, says):
    refused(f"attack {net} -n 5 -a {text}", says)


@pytest.mark.slow
def test_long_names_are_not_cut(fastadv, net):
    text = "minimum_radius:attack=bim,steps=2,searches=1"
    lines = fastadv(f"attack {net} -n 5 -a", text).out.splitlines()
    assert "".join(line.split("│")[1].strip() for line in lines if line.startswith("│")) == f"none{text}"


def test_an_option_that_every_attack_overrides_has_no_effect():
    options = AttackOptions(radius=0.1, steps=7)
    assert parse_attack("pgd:steps=9", options, 0).arguments["steps"] == 9
    with pytest.raises(typer.BadParameter, match="--steps has no effect on pgd:steps=9"):
        parse_attacks(["pgd:steps=9"], options, 0)
    assert len(parse_attacks(["pgd:steps=9", "bim"], options, 0)) == 2

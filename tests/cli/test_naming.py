"""Every attack can be named in a command with its arguments; wrong names and values are one line."""

import pytest
import typer

from fastadv.arguments import nameable, needed
from fastadv.attacks import ATTACKS
from fastadv.cli._attack import parse_attack, parse_attacks
from fastadv.cli._options import registry
from fastadv.cli._shared import Budget
from fastadv.errors import InputError
from fastadv.threat import THREATS

ENTRIES = registry()
TYPES = {name: nameable(entry.parameters) for name, entry in ENTRIES.items()}


def written(name, **values):
    words = {True: "true", False: "false", None: "none"}
    parts = [
        f"{key}={words[value] if value in (True, False, None) else value}" for key, value in values.items()
    ]
    return f"{name}:{','.join(parts)}"


def parsed(text, **options):
    return parse_attack(text, Budget(radius=0.1, **options), seed=0)


def test_the_arguments_that_text_can_name():
    assert ATTACKS.keys() - ENTRIES.keys() == {"minimum_radius"}  # it runs another
    for name, entry in ENTRIES.items():
        assert needed(entry.parameters) <= {"model", "x", "y", "threat"} | TYPES[name].keys()
    keys = {key for types in TYPES.values() for key in types}
    assert not {"model", "x", "y", "threat", "targets", "criterion", "mask", "ids", "on_progress"} & keys


@pytest.mark.parametrize("name", ENTRIES)
def test_every_argument_reaches_its_attack_and_takes_its_types_alone(name):
    for key, types in TYPES[name].items():
        values = {bool: True, int: 3, float: 0.5, str: "word"}
        for kind in values.keys() & types:
            attack = parsed(written(name, **{key: values[kind]}))
            assert attack.arguments[key] == attack.config[key] == values[kind]
        if type(None) in types:
            assert parsed(written(name, **{key: None})).arguments[key] is None
        wrong = [3 if str in types else "word"]
        wrong += [] if bool in types else [True]
        wrong += [0.5] if types.isdisjoint({float, str}) else []
        for value in wrong:
            with pytest.raises(InputError, match=key):
                parsed(written(name, **{key: value}))
    for key in {*ENTRIES[name].parameters, "speed"} - TYPES[name].keys():  # which text cannot name
        with pytest.raises(InputError, match=f"takes no '{key}'"):
            parsed(written(name, **{key: 3}))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("minimum_radius", "attack: expected one of apgd, "),
        ("bim:steps=-1,radius=0.1", "steps: expected an integer >= 0"),
        ("bim:norm=l7,radius=0.1", f"bim works in {', '.join(THREATS)}, not in 'l7'"),
        ("pgd:attack=bim,radius=0.1", "pgd takes no 'attack'"),
        ("pgd:radius=much", "expected radius to be a number, got 'much'"),
        ("autoattack:version=fast,radius=0.1", "version: expected one of standard, plus, rand, quick"),
        (":steps=3", "got ''"),
    ],
)  # fmt: skip
def test_wrong_text_is_one_line(refused, net, text, says):
    refused(f"evaluate {net} -n 5 -a {text}", says)


def test_an_option_that_every_attack_overrides_has_no_effect():
    options = Budget(radius=0.1, steps=7)
    assert parse_attack("pgd:steps=9", options, 0).arguments["steps"] == 9
    with pytest.raises(typer.BadParameter, match="--steps has no effect on pgd:steps=9"):
        parse_attacks(["pgd:steps=9"], options, 0)
    assert len(parse_attacks(["pgd:steps=9", "bim"], options, 0)) == 2


def test_titles_are_those_of_papers():
    for text, title in {
        "pgd:steps=7,norm=l2,radius=1,restarts=2": "PGD-7, L2 1, restarts=2", "fgsm": "FGSM, L∞ 8/255",
        "autoattack:version=quick": "AutoAttack quick, L∞ 8/255", "square": "square, L∞ 8/255",
    }.items():  # fmt: skip
        assert parse_attack(text, Budget(radius=8 / 255), 0).run.title == title

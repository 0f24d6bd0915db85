"""_checks: what passes comes back as it is, what does not is named."""

import re

import numpy as np
import pytest
import torch

import fastadv as fa
from fastadv._checks import check_choice, check_number, check_share, knowing
from fastadv.errors import InputError
from fastadv.models.abs import InferenceOptions
from tests.refusals import refuses


def test_an_argument_that_a_function_does_not_have():
    for name, says in (("epsilon", r"write threat=fa\.Linf\(0\.1\)$"), ("limits", "did you mean 'limit'"),
                       ("device", r"write model\.to\(0\.1\) before the call$")):  # fmt: skip
        with pytest.raises(TypeError, match=f"evaluate: no argument '{name}'; {says}"):
            fa.evaluate(None, None, **{name: 0.1})


MISSPELT = [
    "attacks.pgd stpes steps", "attacks.autoattack verison version", "attacks.square querys queries",
    "attacks.universal epohcs epochs", "attacks.last_iterate stpes steps", "attacks.indicators sede seed",
    "accuracy_against_radius minimum_nrom minimum_norm", "transferability batchsize batch_size",
    "freeze precison precision", "certify.smooth sigam sigma", "evaluation.report titel title",
    "evaluation.Audit sampels samples", "data.load splti split", "data.pairs imgae image",
    "data.construct.robust shardsize shard_size", "data.construct.fixed_shift progres progress",
    "models.adapt preprocesing preprocessing", "train.fit epohcs epochs",
    "train.epochs bacth_size batch_size",
    "train.craft sede seed", "train.PGDTraining stpes steps", "train.TRADES betta beta",
    "train.Optimization weight_decy weight_decay", "train.Execution precison precision",
]  # fmt: skip


@pytest.mark.parametrize("what", MISSPELT)
def test_a_misspelt_argument_is_answered(what):
    path, wrote, meant = what.split()
    call, name = fa, path.rpartition(".")[2]
    for part in path.split("."):
        call = getattr(call, part)
    with pytest.raises(TypeError, match=f"^{name}: no argument '{wrote}'; did you mean '{meant}'") as raised:
        call(*[None] * 3 * (name == "epochs"), **{wrote: 3})
    assert raised.value.__suppress_context__


def test_misspelt_options_of_models():
    refuses(r"takes .*unexpected keyword argument 'widht'; did you mean 'width'\?", fa.models.create,
            "small_cnn", widht=3)  # fmt: skip
    refuses("got stpes; did you mean 'steps'", InferenceOptions().changed, stpes=3)


def test_what_fails_inside_is_told_as_it_is():
    def fails(steps=3):
        raise TypeError("inside")

    with pytest.raises(TypeError, match=r"^inside$"):
        knowing(fails)(steps=4)


@pytest.mark.parametrize(
    ("module", "name", "says"),
    [
        (fa, "PGD", "; did you mean 'attacks.pgd'?"), (fa, "Lnif", "; did you mean 'Linf'?"),
        (fa.attacks, "PGD", "; did you mean 'pgd'?"), (fa.attacks, "LinfPGD", "; did you mean 'pgd'?"),
        (fa, "xyzzy", ""), (fa, "_pgd", ""), (fa.attacks, "__pgd__", ""),
    ],
)  # fmt: skip
def test_a_name_that_a_module_does_not_have(module, name, says):
    with pytest.raises(AttributeError, match=re.escape(f"has no attribute {name!r}{says}") + "$"):
        getattr(module, name)


def test_numbers():
    for value in (0, 1, 0.5, np.float32(0.5), torch.tensor(0.5), torch.tensor([0.5])):
        assert check_number("decay", value, 0, 1) == float(value)
    assert check_number("decay", -1e300) == -1e300
    for value in (-1e-9, 1 + 1e-9, torch.nan, torch.inf, None, "1", True, [], torch.ones(2), 10**400, 1j):
        refuses(r"decay: expected a finite number >= 0 and <= 1, got ", check_number, "decay", value, 0, 1)
    assert check_number("radius", torch.inf, 0, finite=False) == torch.inf
    for value in (torch.nan, -torch.inf, None, "1"):
        refuses("radius: expected a number >= 0, got ", check_number, "radius", value, 0, finite=False)
    for bounds, text in (((), "number"), ((0,), "number >= 0"), ((-torch.inf, 2), "number <= 2")):
        refuses(rf"decay: expected a finite {text}, got nan", check_number, "decay", torch.nan, *bounds)


def test_choices():
    known = {"pgd": 1, "pdgd": 2, "fgsm": 3}
    assert check_choice("attack", "pgd", known) == "pgd"
    for value, said in (
        ("PGD", "got 'PGD'; did you mean 'pgd'[?]$"),
        ("pdg", "got 'pdg'; did you mean 'pgd' or 'pdgd'[?]$"),
        ("square", "attack: expected one of pgd, pdgd, fgsm or your own, got 'square'$"),
        (["pgd"], r"got \['pgd'\]"),
        (None, "got None$"),
    ):
        refuses(said, check_choice, "attack", value, known, " or your own")


def test_shares_with_and_without_their_ends():
    for value, ends in ((0.5, {}), (0, {"zero": True}), (1, {"one": True})):
        assert check_share("gamma", value, **ends) == value
    for value, ends, interval in (
        (0, {}, "(0, 1)"),
        (1, {"zero": True}, "[0, 1)"),
        (0.0, {"one": True}, "(0, 1]"),
    ):
        with pytest.raises(InputError, match=rf"gamma: expected a number in {re.escape(interval)}, got "):
            check_share("gamma", value, **ends)
    for value in (-0.1, 1.1, "half", None, True, float("nan")):
        with pytest.raises(InputError, match="gamma: expected a finite number >= 0 and <= 1"):
            check_share("gamma", value, zero=True, one=True)

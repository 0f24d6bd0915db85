"""What parity.jsonl holds of other packages, and what our published variants find beside them.

`make parity` asks the same of every attack, by tests/parity/wall.py.
"""

from functools import cache
from math import inf
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from fastadv.attacks import ATTACKS
from fastadv.threat import THREATS
from tests.parity.cases import ALONE, cases_on
from tests.parity.models import problem
from tests.parity.store import STORES, key, stored

FIGURES = stored(STORES["quick"])
Problem = tuple[nn.Module, Tensor, Tensor]


@cache
def loaded(net: str, data_dir: Path, weights: Path) -> Problem:
    return problem(net, 25, data_dir, weights)


@pytest.mark.slow
def test_figures_have_a_case_and_a_source() -> None:
    for row in FIGURES:
        assert row["case"] in {case.name for case in cases_on(row["net"])}
        assert all(row[part] for part in ("package", "version", "settings", "date")), row["case"]
        assert len(row["distances"]) == row["images"]
    assert len({key(row) for row in FIGURES}) == len(FIGURES)


def test_every_attack_is_compared_in_every_norm_or_nobody_else_has_it() -> None:
    compared = {(case.attack, case.norm) for case in cases_on("linf")}
    served = {(name, norm) for name, entry in ATTACKS.items() for norm in entry.norms}
    alone = {(name, norm) for name, norm in served if {(name, norm), (name, None)} & set(ALONE)}
    assert compared | alone == served, "an attack without a Case and not in ALONE of tests/parity/cases.py"
    assert not compared & alone


# published variants that draw nothing: what they are given, and in the words of the peer's settings
PUBLISHED = {
    "fmn-linf": ({"step_size": 10.0}, "α_init=10.0"), "fmn-l1": ({"step_size": 1.0}, "α_init=1.0"),
    "fmn-l0": ({"step_size": 1.0}, "α_init=1.0"), "pdgd-l2": ({}, "pdgd"), "pdpgd-linf": ({}, "pdpgd"),
    "pdpgd-l2": ({}, "pdpgd"), "pdpgd-l1": ({}, "pdpgd"), "cw-l2": ({"searches": 5}, "carlini_wagner_l2"),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_variant_is_what_others_made_of_the_paper(name: str, shared_data) -> None:  # type: ignore[no-untyped-def]
    """Image by image, to a hundredth of the distance."""
    given, settings = PUBLISHED[name]
    row = next(
        row
        for row in FIGURES
        if (row["case"], row["radius"]) == (name, inf) and settings in row["settings"] and row["net"] != "cnn"
    )
    model, x, y = loaded(row["net"], shared_data.data_dir, shared_data.abs_official / "vanilla_cnn.net")
    theirs, (attack, norm) = torch.tensor(row["distances"][:10]), name.split("-")
    options = {"steps": 100, "variant": "published", **given}
    out = ATTACKS[attack].run(model, x[:10], y[:10], THREATS[norm](inf), **options)
    assert theirs.isfinite().sum() >= 2
    torch.testing.assert_close(out.distance, theirs, rtol=0.01, atol=0)

"""Every attack finds at least what the best other implementation found on the same images, in as many steps.

parity.json holds what other packages found, with version and settings; `python -m bench.suite.parity`
measures it again. The short variants are compared here, the long ones by `python -m bench.suite`.
"""

from math import inf
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bench.suite.cases import BOTH, CASES, Case
from bench.suite.models import problem
from bench.suite.outcome import Outcome, judge
from bench.suite.parity import STORE, stored
from fastadv.attacks import AttackResult, square
from fastadv.attacks.autoattack import ATTACKS as COMPONENTS

FIGURES = stored(STORE)
# the case, and the name of the model
STORED = [
    pytest.param(case, name, id=case.name if name == "cnn" else f"{case.name}-{name}")
    for case in CASES
    for name in case.stored
    if case.few
]
COMPARED = [param for param in STORED if param.values[0].exists]
# what takes seconds is compared on the first images alone; of distances the median is, for which few suffice
FIRST = {"minimum_radius-apgd-t": 5, "fab-t": 10, "pointwise": 5}
MEDIANS = 12
QUERIES = 500  # of Square in AutoAttack, a tenth of the peer's, which find no less on these images
Problem = tuple[nn.Module, Tensor, Tensor]


def figures(case: Case, name: str) -> list[dict[str, Any]]:
    this = (case.name, name, "quick")
    return [figure for figure in FIGURES if (figure["case"], figure["model"], figure["variant"]) == this]


def of_first(figure: dict[str, Any], count: int) -> dict[str, Any]:
    """What was found on the first images."""
    found = Outcome(figure["distances"][:count])
    return {**figure, **found.figures(figure["radius"]), "images": count}


@pytest.fixture(scope="module")
def problems(shared_data) -> dict[str, Problem]:  # type: ignore[no-untyped-def]
    weights = shared_data.abs_official / "vanilla_cnn.net"
    return {name: problem(name, 25, shared_data.data_dir, weights) for name in BOTH}


@pytest.fixture(autouse=True)
def _short_square(monkeypatch: pytest.MonkeyPatch) -> None:
    def short(*args: Any, queries: int, **options: Any) -> AttackResult:
        return square(*args, queries=QUERIES, **options)

    monkeypatch.setitem(COMPONENTS, "square", short)


def test_figures_have_a_case_and_a_source() -> None:
    names = {case.name for case in CASES}
    assert {figure["case"] for figure in FIGURES} <= names
    for figure in FIGURES:
        assert all(figure[key] for key in ("package", "version", "settings", "date")), figure["case"]
        assert len(figure["distances"]) == figure["images"]


@pytest.mark.parametrize(("case", "name"), STORED)
def test_figures_are_there(case: Case, name: str) -> None:
    assert figures(case, name), f"run `python -m bench.suite.parity --variant quick --only {case.name}`"


@pytest.mark.parametrize(("case", "name"), COMPARED)
def test_ours_is_no_worse(case: Case, name: str, problems: dict[str, Problem]) -> None:
    few = case.few if case.radius < inf else min(case.few, MEDIANS)
    count = next((first for dear, first in FIRST.items() if case.name.startswith(dear)), few)
    model, x, y = problems[name][0], *(part[:count] for part in problems[name][1:])
    out = case.run(model, x, y, "quick")
    ours = judge(model, x, y, out.x_adv, case.norm, case.radius)
    assert torch.tensor([d < inf for d in ours.distances]).equal(out.success)
    result = ours.figures(case.radius)
    theirs = [of_first(figure, count) for figure in figures(case, name)]
    assert result["robust_accuracy" if case.radius < inf else "median"] <= case.allowed(theirs)

"""Every attack finds at least what the best other implementation found on the same images, in as many steps.

parity.json holds what other packages found, with version and settings; `python -m bench.suite.parity`
measures it again. The short variants are compared here, the long ones by `python -m bench.suite`.
"""

from math import inf
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bench.suite.cases import CASES, Case
from bench.suite.models import images, published_cnn
from bench.suite.outcome import judge
from bench.suite.parity import STORE, stored

FIGURES = stored(STORE)
COMPARED = [case for case in CASES if case.exists and case.few]


def figures(case: Case) -> list[dict[str, Any]]:
    return [figure for figure in FIGURES if (figure["case"], figure["variant"]) == (case.name, "quick")]


@pytest.fixture(scope="module")
def published(shared_data) -> tuple[nn.Module, Tensor, Tensor]:  # type: ignore[no-untyped-def]
    x, y = images(25, data_dir=shared_data.data_dir)
    return published_cnn(shared_data.abs_official / "vanilla_cnn.net"), x, y


def test_figures_have_a_case_and_a_source() -> None:
    names = {case.name for case in CASES}
    assert {figure["case"] for figure in FIGURES} <= names
    for figure in FIGURES:
        assert all(figure[key] for key in ("package", "version", "settings", "date")), figure["case"]
        assert len(figure["distances"]) == figure["images"]


@pytest.mark.parametrize("case", [case for case in CASES if case.few], ids=lambda case: case.name)
def test_figures_are_there(case: Case) -> None:
    assert figures(case), f"run `python -m bench.suite.parity --variant quick --only {case.name}`"


@pytest.mark.parametrize("case", COMPARED, ids=lambda case: case.name)
def test_ours_is_no_worse(case: Case, published: tuple[nn.Module, Tensor, Tensor]) -> None:
    model, x, y = published[0], published[1][: case.few], published[2][: case.few]
    out = case.run(model, x, y, "quick")
    ours = judge(model, x, y, out.x_adv, case.norm, case.radius)
    assert torch.tensor([d < inf for d in ours.distances]).equal(out.success)
    result = ours.figures(case.radius)
    assert result["robust_accuracy" if case.radius < inf else "median"] <= case.allowed(figures(case))

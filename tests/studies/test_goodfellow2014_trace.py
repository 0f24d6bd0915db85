"""Logits along a direction: closed forms on a linear model, how straight lines are, and the figure."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from torch import nn

from fastadv.evaluation.figures.style import BLUE, VERMILION
from fastadv.studies.goodfellow2014 import trace as study
from tests.studies.goodfellow import digits, linear, reader, weights


@pytest.mark.parametrize("shape", [(1, 7, 5), (3, 6, 9)], ids=["gray", "color"])
def test_a_linear_model_in_closed_form(shape: tuple[int, ...]) -> None:
    model, x = linear(shape, classes=2, seed=3), torch.rand(shape).double()
    w, b = weights(model)
    clean = w @ x.flatten() + b
    y = int(clean.argmax())
    away = w[1 - y] - w[y]
    told = study.trace(model, x, y, radius=2.0, points=40)
    radii = torch.tensor(told["radii"]).double()
    assert radii[0] == -2
    assert radii[-1] == 2
    assert radii[40] == 0
    wanted = clean + radii[:, None] * (w @ away.sign())
    torch.testing.assert_close(torch.tensor(told["logits"]).double(), wanted)
    assert told["straight"] == pytest.approx(1)
    # the margin falls by |w|_1 for each unit of the radius
    broken = float((clean[y] - clean[1 - y]) / away.norm(1))
    assert told["right"][0] == -2
    assert told["right"][1] <= broken < told["right"][1] + 0.05 or broken > 2
    assert study.trace(model, x, 1 - y, radius=2.0, points=40)["right"] is None
    assert json.loads(json.dumps(told)) == told


def test_how_straight_lines_are() -> None:
    radii = torch.linspace(-3, 3, 20001, dtype=torch.float64)
    bent = torch.stack([radii.relu(), 2 - 5 * radii.abs()], 1)
    assert study.straight(radii, bent) == pytest.approx(1)
    assert study.straight(radii, radii[:, None] ** 2) == pytest.approx(15 / 16, abs=1e-3)
    # of sin over a period on each side, a line explains 6 / pi^2
    assert study.straight(radii, (2 * torch.pi / 3 * radii).sin()[:, None]) == pytest.approx(
        6 / torch.pi**2, abs=1e-3
    )
    assert study.straight(radii, torch.ones(20001, 2).double()) == 1


def test_right_is_the_stretch_around_zero() -> None:
    class Teeth(nn.Module):
        """Class 1 where x is in (-0.5, 0.7), and again beyond 2."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = x.flatten(1)[:, 0]
            height = (x + 0.5) * (0.7 - x) * (2 - x)
            return torch.stack([torch.zeros_like(height), height * (1 - 0.3 * x)], 1)

    told = study.trace(Teeth(), torch.zeros(1, 1, 1).double(), 1, radius=3.0, points=150)
    low, high = sorted(abs(end) for end in told["right"])
    assert low == pytest.approx(0.5, abs=0.021)
    assert high == pytest.approx(0.7, abs=0.021)


@pytest.mark.slow
def test_a_net_is_nearly_piecewise_linear_and_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x, y = reader(), digits().x[12], int(digits().y[12])
    told = study.trace(model, x, y)
    assert told["straight"] > 0.99
    assert told["right"][1] < 1
    assert model.training
    kept: list[Figure] = []
    monkeypatch.setattr(study, "save", lambda figure, path: kept.append(figure))
    study.draw(told, *study.shown(model, x, y), Path("trace.png"))
    curves, *images = kept[0].axes
    lines = {line.get_color(): line for line in curves.lines if len(line.get_xdata()) > 2}
    assert np.allclose(lines[BLUE].get_ydata(), np.asarray(told["logits"])[:, y])
    assert max(told["logits"][-1]) == lines[VERMILION].get_ydata()[-1]
    assert f"{y}, the label" in [text.get_text() for text in curves.texts]
    assert len(images) == study.SHOWN
    framed = [axes.spines["top"].get_linewidth() == 2 for axes in images]
    assert framed == [row.index(max(row)) == y for row in told["logits"][:: 600 // (study.SHOWN - 1)]]
    assert 0 < sum(framed) < study.SHOWN
    np.testing.assert_allclose(np.asarray(images[study.SHOWN // 2].images[0].get_array()), x[0], atol=1e-6)


@pytest.mark.slow
def test_it_becomes_a_file(tmp_path: Path) -> None:
    model, x = linear((3, 4, 6)).float(), torch.rand(3, 4, 6)
    study.draw(study.trace(model, x, 1, points=2), *study.shown(model, x, 1), tmp_path / "trace.png")
    assert (tmp_path / "trace.png").stat().st_size > 10_000

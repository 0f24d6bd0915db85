"""Logits along a direction: closed forms on a linear model, how straight lines are, and the figure."""

import json

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from torch import nn

from fastadv.evaluation.figures import style
from fastadv.evaluation.figures.style import BLUE, VERMILION
from fastadv.studies.goodfellow2014 import trace as study
from tests.studies.goodfellow import digits, linear, reader, weights


@pytest.mark.parametrize("shape", [(1, 7, 5), (3, 6, 9)], ids=["gray", "color"])
def test_a_linear_model_in_closed_form(shape):
    model, x = linear(shape, classes=2, seed=3), torch.rand(shape).double()
    w, b = weights(model)
    clean = w @ x.flatten() + b
    y = int(clean.argmax())
    away = w[1 - y] - w[y]
    told, images = study.trace(model, x, y)
    radii = torch.tensor(told["radii"]).double()
    assert [radii[0], radii[300], radii[-1], len(radii)] == [-15, 0, 15, 601]
    torch.testing.assert_close(
        images, x + radii[study._shown(radii)].view(-1, 1, 1, 1) * away.sign().view(shape)
    )
    wanted = clean + radii[:, None] * (w @ away.sign())
    # radii and logits are told in float32
    within = 4 * torch.finfo(torch.float32).eps * float(wanted.abs().amax())
    torch.testing.assert_close(torch.tensor(told["logits"]).double(), wanted, rtol=0, atol=within)
    assert told["straight"] == pytest.approx(1)
    # the margin falls by |w|_1 for each unit of the radius
    broken = float((clean[y] - clean[1 - y]) / away.norm(1))
    assert told["right"][0] == -15
    assert told["right"][1] <= broken < told["right"][1] + 0.05 or broken > 15
    assert study.trace(model, x, 1 - y)[0]["right"] is None
    assert json.loads(json.dumps(told)) == told


def test_how_straight_lines_are():
    radii = torch.linspace(-3, 3, 2001, dtype=torch.float64)
    bent = torch.stack([radii.relu(), 2 - 5 * radii.abs()], 1)
    assert study.straight(radii, bent) == pytest.approx(1)
    assert study.straight(radii, radii[:, None] ** 2) == pytest.approx(15 / 16, abs=3e-3)
    # of sin over a period on each side, a line explains 6 / pi^2
    assert study.straight(radii, (2 * torch.pi / 3 * radii).sin()[:, None]) == pytest.approx(
        6 / torch.pi**2, abs=3e-3
    )
    assert study.straight(radii, torch.ones(2001, 2).double()) == 1


def test_right_is_the_stretch_around_zero():
    class Teeth(nn.Module):
        """Class 1 where x is in (-0.5, 0.7), and again beyond 2."""

        def forward(self, x):
            x = x.flatten(1)[:, 0]
            height = (x + 0.5) * (0.7 - x) * (2 - x)
            return torch.stack([torch.zeros_like(height), height * (1 - 0.3 * x)], 1)

    told, _ = study.trace(Teeth(), torch.zeros(1, 1, 1).double(), 1)
    low, high = sorted(abs(end) for end in told["right"])
    assert low == pytest.approx(0.5, abs=0.051)
    assert high == pytest.approx(0.7, abs=0.051)


@pytest.mark.slow
def test_a_net_is_nearly_piecewise_linear_and_drawn(tmp_path, monkeypatch):
    model, x, y = reader(), digits().x[12], int(digits().y[12])
    told, images = study.trace(model, x, y)
    assert told["straight"] > 0.99
    assert told["right"][1] < 1
    assert model.training
    kept: list[Figure] = []

    def save(figure, path):
        kept.append(figure)
        written(figure, path)

    written = style.save
    monkeypatch.setattr(style, "save", save)
    study.draw(told, images, tmp_path / "trace.png")
    assert (tmp_path / "trace.png").stat().st_size > 10_000
    curves, *shown = kept[0].axes
    lines = {line.get_color(): line for line in curves.lines if len(line.get_xdata()) > 2}
    assert np.allclose(lines[BLUE].get_ydata(), np.asarray(told["logits"])[:, y])
    assert max(told["logits"][-1]) == lines[VERMILION].get_ydata()[-1]
    assert f"{y}, the label" in [text.get_text() for text in curves.texts]
    framed = [axes.spines["top"].get_linewidth() == 2 for axes in shown]
    assert framed == [
        row.index(max(row)) == y
        for row in (told["logits"][study.POINTS + round(radius * 20)] for radius in study.SHOWN)
    ]
    assert 0 < sum(framed) < len(shown) == 7
    np.testing.assert_allclose(np.asarray(shown[3].images[0].get_array()), x[0], atol=1e-6)

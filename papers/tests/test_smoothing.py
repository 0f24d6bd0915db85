"""The study of randomized smoothing: its settings, what it asks for, and how it counts."""

from dataclasses import replace

import pytest
import torch

import fastadv as fa
from fastadv.certify import Certificates
from papers import smoothing

DIGITS = fa.data.load("digits", "test", limit=20)
TINY = replace(smoothing.TINY, recipes=("gaussian",))


def certificates(radius, right, draws):
    count = len(radius)
    ids, radius = torch.arange(count), torch.tensor(radius, dtype=torch.float64)
    return Certificates(
        ids, ids, torch.where(torch.tensor(right), ids, -1), radius, radius <= 0, ids, ids * 0 + draws, ids,
        card={"measured": {"forwards": 1000}},
    )  # fmt: skip


def test_lines_and_bounds_count_only_what_is_right():
    line = smoothing._line(
        "gaussian", 0.5, certificates([0.5, 0.7, 1.5, 0.0], [True, False, True, True], 9), 2
    )
    assert line["accuracy"] == {"0": 0.5, "0.5": 0.5, "1": 0.25, "1.5": 0.25, "2": 0.0}
    assert line["average_radius"] == 0.5
    assert (line["published"], line["abstained"], line["draws"]) == (1.558, 1, 36)
    assert line["ms_a_pass"] == 2.0

    class Synthesis:
        def lower_bound(self, x, y):
            return torch.arange(len(x)) * 0.25  # the first is wrong

    bound = smoothing._bound(Synthesis(), DIGITS, 4, smoothing.unwatched)
    assert bound["accuracy"] == {"0": 0.75, "0.5": 0.5, "1": 0.0, "1.5": 0.0, "2": 0.0}
    assert bound["radius"].tolist() == [0, 0.25, 0.5, 0.75]


@pytest.mark.slow
def test_it_certifies_with_all_draws_and_compares_a_few_with_early_stops(tmp_path, monkeypatch):
    net, given, drawn, found = fa.models.create("softmax", shape=DIGITS.shape, classes=10), [], {}, []

    def certify(*args, progress, **options):
        given.append(options)
        found.append(smooth(*args, **options))
        return found[-1]

    smooth = smoothing.smooth
    monkeypatch.setattr(smoothing, "trained", lambda *args, **options: net)
    monkeypatch.setattr(smoothing, "smooth", certify)
    monkeypatch.setattr(fa.figures, "curves", lambda lines, path, **options: drawn.update(lines))
    result = smoothing.run(replace(TINY, seed=2, alpha=0.01), DIGITS, DIGITS, tmp_path)
    every = {"n": 200, "seed": 2, "alpha": 0.01, "sound": False, "batch_size": smoothing.COPIES}
    assert [{name: each[name] for name in every} for each in given] == [every, every]
    whole, quick = found
    assert given[0]["limit"] == len(whole.ids) == 6
    assert given[0]["sequential"] is False
    assert given[1]["limit"] == len(quick.ids) == 4
    assert given[1].get("sequential", True)
    assert quick.radii == smoothing.RADII
    line = drawn["gaussian"]
    assert line.accuracy == pytest.approx([whole.clean_accuracy, *map(whole.accuracy, line.radii[1:])])
    assert "200 draws each" in (tmp_path / "report.md").read_text()
    assert smoothing.table(result)[1][0] == "gaussian"

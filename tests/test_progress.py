"""What progress=True shows: lines where nothing can draw, a bar by rich where it can."""

import re
import sys
from functools import partial
from io import StringIO

import pytest

import fastadv as fa
from fastadv import progress
from fastadv.engine.prepared import Counts
from fastadv.evaluation._events import Events
from fastadv.text import percent
from tests.refusals import refuses

pytestmark = pytest.mark.slow
DIGITS = fa.data.load("digits", "test", limit=24)
MODEL = fa.models.create("small_cnn", shape=(1, 8, 8), classes=10, width=4, seed=0).eval()
DATA = DIGITS.x[:12], MODEL(DIGITS.x[:12]).argmax(1)
BALL = fa.Linf(0.3)


CALLS = {
    "building random_target: 24 of 24": lambda shown: fa.data.construct.random_target(
        MODEL, DIGITS, threat=fa.L2(1), steps=1, progress=shown
    ),
    "radius 0.3: [0-9]+ of 12 left: 24 of 24": lambda shown: fa.accuracy_against_radius(
        MODEL, DATA, lambda r: partial(fa.attacks.fgsm, threat=fa.Linf(r)), [0, 0.1, 0.3], progress=shown
    ),
    "fgsm: robust accuracy [0-9.]+%, then the probes of the verdict: 12 of 12": lambda shown: fa.evaluate(
        MODEL, DATA, "fgsm", threat=BALL, progress=shown
    ),
    "epoch 3 of 3, loss of epoch 2 [0-9.]+: 6 of 6": lambda shown: fa.train.fit(
        fa.models.create("softmax", shape=(1, 8, 8), classes=10), DIGITS, "standard", epochs=3,
        batch_size=12, progress=shown,
    ),
    "ABS, epoch 2 of 2, loss of epoch 1 [0-9.]+: 2 of 2": lambda shown: fa.models.ABS.fit(
        DIGITS, epochs=2, latents=2, width=4, prior_samples=10, calibration=0, progress=shown
    ),
}  # fmt: skip


@pytest.mark.parametrize("line", CALLS)
def test_a_line_is_written_where_no_bar_can_be_drawn(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    call, counts = CALLS[line], list[tuple[int, int]]()
    call(lambda done, total: counts.append((done, total)))
    call(False)
    assert capsys.readouterr() == ("", "")
    result = call(True)
    *_, last = capsys.readouterr().err.splitlines()
    assert re.fullmatch(line, last)
    assert "epoch 3" not in line or f" {result[1].loss:.4f}: " in last
    assert counts[-1] == (counts[-1][1],) * 2
    assert last.endswith(f": {counts[-1][0]} of {counts[-1][1]}")
    refuses(r"progress: expected True, False or a function .*, got 'yes'", call, "yes")


def test_autoattack_says_what_each_component_leaves(capsys: pytest.CaptureFixture[str]) -> None:
    x, y = DATA[0], DATA[1].clone()
    y[0] = (y[0] + 1) % 10  # wrong without an attack
    out = fa.attacks.autoattack(MODEL, x, y, BALL, version=["apgd-ce", "apgd-dlr"], progress=True)
    first, *lines = capsys.readouterr().err.splitlines()
    assert first == "clean: accuracy 91.7% (11 of 12 left)"
    left = 11
    for line, (name, cost) in zip(lines, out.costs.items(), strict=True):
        left -= cost.broken
        assert line == f"{name}: robust accuracy {percent(left / 12)} ({left} of 12 left)"
    assert left == int((~out.success).sum())


def test_a_bar_asks_how_many_of_the_planned_passes_are_done() -> None:
    bar, counts = progress.RichBar("work"), Counts(forwards=50)
    events = Events(tick=bar, total=36)
    events.went_on("fog", 12)
    for attack, each in (("autoattack", 7000), ("square", 5000)):
        events.begun(attack, getattr(fa.attacks, attack), counts, 12)
        for done, shown in ((6, 18), (100, 12 + 12 * 0.99)):
            counts.forwards += done * each
            next(iter(bar.bar.get_renderables()))
            assert bar.bar.tasks[0].completed == shown


class Terminal(StringIO):
    def isatty(self) -> bool:
        return True


def test_a_bar_of_rich_names_the_attack_and_its_component(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setattr(sys, "stderr", screen := Terminal())
    seen: list[str] = []
    draw = progress.RichBar.__call__
    redraw = lambda bar, *at: seen.append(bar.text + "+" * bool(bar.within)) or draw(bar, *at)  # noqa: E731
    monkeypatch.setattr(progress.RichBar, "__call__", redraw)
    auto = partial(fa.attacks.autoattack, version=["apgd-ce", "square"])
    square = partial(fa.attacks.square, queries=200)
    attacks = {"pgd": "fgsm", "square": square, "auto": auto}
    fa.evaluate(MODEL, DATA, attacks, threat=fa.Linf(0.0), progress=True)
    assert seen == ["pgd", "pgd: robust accuracy 100.0%", "square: 12 images, at most 200 queries each",
                    "square: robust accuracy 100.0%", "auto", "auto: apgd-ce, 12 left+",
                    "auto: square, 12 left, at most 5,000 queries each+", "auto: robust accuracy 100.0%",
                    "auto: robust accuracy 100.0%, then the probes of the verdict"]  # fmt: skip
    assert "auto: robust accuracy 100.0%" in screen.getvalue()
    assert re.search(r"100%[^l]*elapsed,[^l]*\d:\d\d[^l]*left", screen.getvalue())

"""What a recipe keeps of each sample is written when that takes little of the time, and resumes exactly."""

from pathlib import Path
from typing import Any

import pytest

from fastadv.runs.record import RunRecord, read_report
from fastadv.threat import Linf
from fastadv.train import PriorGuidedTraining, _run
from tests.train.nets import assert_same, run, timeless

EPOCHS, STEPS = 60, 7
RECIPE = PriorGuidedTraining(Linf(0.1), reset=40)


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A step takes a second, and to write a checkpoint three; the epochs after which one was written."""
    now, written = [0.0], list[int]()
    save = RunRecord.save

    def saved(self: RunRecord, *given: Any, **progress: Any) -> None:
        now[0] += 3
        written.append(len(self.reports))
        save(self, *given, **progress)

    class Clock:
        perf_counter = staticmethod(lambda: now[0])

    monkeypatch.setattr(_run, "time", Clock)
    monkeypatch.setattr(RunRecord, "save", saved)
    monkeypatch.setattr(_run, "HEAVY", 1000)
    monkeypatch.setattr(_run.Run, "_train", lambda self: (train(self), now.__setitem__(0, now[0] + STEPS))[0])
    return written


train = _run.Run._train


def test_a_heavy_state_is_written_at_two_percent_of_the_time(slow: list[int], tmp_path: Path) -> None:
    _, past = run(tmp_path, recipe=RECIPE, epochs=EPOCHS, checkpoint_every=None, augment=None)
    # 3 seconds are 2% of 150, in which 22 epochs of 7 seconds go
    assert slow == [1, 23, 45, 60]
    assert len(read_report(tmp_path)) == len(past) == EPOCHS


def test_a_run_goes_on_from_the_last_that_was_written(slow: list[int], tmp_path: Path) -> None:
    settings = {"recipe": RECIPE, "checkpoint_every": None, "epochs": 27, "augment": None}
    whole, past = run(None, **settings)

    def progress(done: int, total: int) -> None:
        if done == 25 * STEPS + 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, progress=progress, **settings)
    assert slow[-2:] == [1, 23]
    assert len(read_report(tmp_path)) == 25
    again, left = run(tmp_path, resume=True, **settings)
    assert_same(again, whole)
    assert timeless(left) == timeless(past)[23:]
    assert timeless(left)[-1].epoch == len(read_report(tmp_path)) == 27

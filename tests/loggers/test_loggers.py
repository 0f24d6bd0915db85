"""Events arrive where they should; with the real packages where they are installed."""

import csv
import sys
from types import SimpleNamespace

import pytest
import torch

import fastadv as fa
from fastadv import loggers
from fastadv.errors import MissingExtraError
from fastadv.loggers.event import place_of
from tests.evaluation.nets import run

EVENT = {"epoch": 3, "loss": 0.5, "robust": {"pgd": 0.25, "none": None}, "alarm": None}


def test_nested_names_are_joined_and_none_is_left_out():
    assert [place_of(event) for event in (EVENT, {"step": 7, **EVENT}, {})] == [3, 7, None]
    assert loggers.flat(EVENT) == {"epoch": 3, "loss": 0.5, "robust/pgd": 0.25}


def test_lines_of_a_file_that_goes_on(tmp_path):
    path = tmp_path / "log.csv"
    loggers.CSV(path).on_event(EVENT)
    again = loggers.CSV(path)
    again.on_event({"epoch": 4, "alarm": "a, b"})
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["3", "4"]
    assert [row["robust/pgd"] for row in rows] == ["0.25", ""]
    assert rows[1]["alarm"] == "a, b"


def test_the_reports_of_a_training_run(tmp_path):
    torch.manual_seed(0)
    data = fa.data.ImageSet(torch.rand(8, 1, 2, 2), torch.arange(8) % 2, 2, "random")
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2))
    log = loggers.CSV(tmp_path / "log.csv")
    measuring = fa.train.Measuring(on_event=log.on_event)
    reports = fa.train.fit(model, data, fa.train.Standard(), epochs=2, measuring=measuring)
    assert [(row["epoch"], row["loss"]) for row in log.rows] == [(one.epoch, one.loss) for one in reports]
    with pytest.raises(fa.InputError, match="on_event"):
        fa.train.Measuring(on_event=log)


@pytest.mark.slow
def test_what_an_evaluation_has_done_so_far(tmp_path):
    told = []
    table = run(tmp_path, on_event=told.append)
    # two of each batch of two samples; the last two samples are wrong already
    assert [(one["step"], one["attack"]) for one in told] == [
        (n, a) for n in (2, 4, 6) for a in ("near", "pgd")
    ]
    assert [one["clean_accuracy"] for one in told] == [1, 1, 1, 1, 4 / 6, 4 / 6]
    # PGD has 0.25: of the distances 0.1 to 0.4 it reaches the first two
    assert [one["robust_accuracy"] for one in told if one["attack"] == "pgd"] == [
        {"pgd": 0}, {"pgd": 2 / 4}, {"pgd": 2 / 6}
    ]  # fmt: skip
    for row, last in zip(table.rows, told[-2:], strict=True):
        assert last["robust_accuracy"] == {row.name: row.robust_accuracy}
        assert last["seconds"] == {row.name: pytest.approx(row.seconds)}
    again = []
    run(tmp_path, resume=True, on_event=again.append)
    assert again == told
    with pytest.raises(fa.InputError, match="on_event"):
        run(None, on_event=loggers.CSV(tmp_path / "log.csv"))


def test_weights_and_biases(monkeypatch):
    logged = []
    run = SimpleNamespace(log=lambda *given, **more: logged.append((given, more)))
    fake = SimpleNamespace(init=lambda **options: run, __spec__=SimpleNamespace())
    monkeypatch.setitem(sys.modules, "wandb", fake)
    log = loggers.WandB(project="a")
    log.on_event(EVENT)
    log.on_event({"loss": 1})
    assert logged == [(({"epoch": 3, "loss": 0.5, "robust/pgd": 0.25},), {"step": 3}),
                      (({"loss": 1},), {"step": None})]  # fmt: skip


@pytest.mark.parametrize(("kind", "name"), [("TensorBoard", "tensorboard"), ("WandB", "wandb")])
def test_a_missing_package_is_named(kind, name, monkeypatch, tmp_path):
    monkeypatch.setattr("importlib.util.find_spec", lambda package: None)
    with pytest.raises(MissingExtraError, match=f"pip install {name}"):
        getattr(loggers, kind)(*([tmp_path] if kind == "TensorBoard" else []))


@pytest.mark.slow
def test_tensorboard(tmp_path):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = fa.loggers.TensorBoard(tmp_path)
    log.on_event(EVENT)
    log.on_event({"loss": 0.25})
    read = EventAccumulator(str(tmp_path))
    read.Reload()
    assert [(one.step, one.value) for one in read.Scalars("loss")] == [(3, 0.5), (1, 0.25)]
    assert read.Scalars("robust/pgd")[0].value == 0.25

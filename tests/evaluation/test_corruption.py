"""Accuracy under common corruptions: the cells, what a folder keeps of them, and the figures."""

import json
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import fastadv as fa
from fastadv.data import ImageSet
from fastadv.evaluation import Table, corruption, evaluate, report
from fastadv.evaluation.corruption import ALEXNET, CorruptionTable
from tests.evaluation.reports import Read, table_of
from tests.processes import go
from tests.refusals import refuses

WHOLE = fa.data.load("digits", "test", size=32)
DIGITS = fa.data.load("digits", "test", size=32, limit=50)
NAMES, LEVELS = ("gaussian_noise", "impulse_noise"), (5, 1)
SOME = slice(5, None, 23)  # pixels
THREE = ("speckle_noise", *NAMES)
WIDE = {"attacks": "fgsm", "threat": fa.Linf(0.1, box=(0, 2))}

pytestmark = pytest.mark.slow


class Means(nn.Module):
    """The class whose mean is nearest in some pixels; NaN for an image with `mark` at its first pixel."""

    def __init__(self, mark: float = -1, noise: float = 0) -> None:
        super().__init__()
        x, y = WHOLE.take(torch.arange(len(WHOLE))).flatten(1)[:, SOME], WHOLE.labels
        self.weight = nn.Parameter(torch.stack([x[y == k].mean(0) for k in range(10)]))
        self.mark, self.noise, self.passed = mark, noise, 0

    def forward(self, x: Tensor) -> Tensor:
        self.passed += len(x)
        flat = x.flatten(1)[:, SOME]
        flat = flat + self.noise * torch.randn(flat.shape[1])
        logits = flat @ self.weight.T - self.weight.square().sum(1) / 2
        return logits.where(x.flatten(1)[:, :1] != self.mark, torch.nan)


def run(model: nn.Module, **options) -> Table:
    asked = {"corruptions": NAMES, "severities": LEVELS, "batch_size": 20}
    return evaluate(model, options.pop("dataset", DIGITS), **{**asked, **options})


def same(one: Table, other: Table) -> bool:
    return one.corruption.to_dict() == other.corruption.to_dict()


def whole(folder: Path, rank: int = 0) -> None:
    told, ticks = [], []
    options = {"on_event": told.append, "progress": lambda *at: ticks.append(at)}
    figures = run(Means(), draws=2, run_dir=folder / f"run-{rank > 1}", **options).corruption.to_dict()
    (folder / f"table-{rank}").write_text(json.dumps([figures, ticks[-1], told]))


@pytest.mark.parametrize("options", [{}, {"batch_size": 7, "freeze": True}])
def test_a_cell_is_the_accuracy_on_the_corrupted_set(options):
    told, ticks = [], []
    table = run(Means(mark=1), seed=3, on_event=told.append, progress=lambda *at: ticks.append(at), **options)
    sets = [[fa.data.corrupted(DIGITS, name, level, 3) for level in LEVELS] for name in NAMES]
    alone = [[evaluate(Means(mark=1), one, batch_size=50) for one in row] for row in sets]
    ours = table.corruption
    assert ours.right.tolist() == [[int(cell.correct.sum()) for cell in row] for row in alone]
    assert ours.failed.tolist() == [[int(cell.failed.sum()) for cell in row] for row in alone]
    assert ours.failed[1, 0] > 0  # impulses
    assert f"counted as wrong: {int(ours.failed.sum())} of 200 images\n" in str(table)
    assert len(set(ours.right.flatten().tolist())) > 2
    assert 0.2 < ours.mean_accuracy < table.clean_accuracy
    figures = dict(zip(product(NAMES, LEVELS), ours.accuracy.flatten().tolist(), strict=True))
    assert {(one["corruption"], one["severity"]): one["accuracy"] for one in told} == figures
    assert {one["step"] for one in told} == {50}
    assert ticks[-1] == (200, 200)
    assert ticks == sorted(set(ticks))


def test_attacks_and_corruptions_in_one_call_and_several_draws():
    model, told, options = Means(noise=0.5), [], {"draws": 4, "limit": 30, "batch_size": 20}
    table = run(model, attacks="fgsm", threat=fa.Linf(0.1), on_event=told.append, **options)
    ours = table.corruption
    assert (ours.samples, ours.draws, table.draws.count, table.rows[0].name) == (30, 4, 4, "fgsm")
    alone = evaluate(model, fa.data.corrupted(DIGITS, "impulse_noise", 1), **options)
    assert alone.clean_accuracy == ours.accuracy[1, 1] == told[-1]["accuracy"]
    assert ours.interval.low[1, 1] < ours.accuracy[1, 1] < ours.interval.high[1, 1]
    one = run(model, severities=1, corruptions="impulse_noise", **options).corruption
    assert one.accuracy.item() == ours.accuracy[1, 1]


def test_a_stopped_run_loses_one_batch_and_grows(tmp_path):
    def stop(done: int, total: int) -> None:
        if done == 100:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(Means(), run_dir=tmp_path, progress=stop)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("part-*")}
    assert len(before) == 5
    assert same(run(Means(), run_dir=tmp_path, resume=True), run(Means()))
    assert {path: path.stat().st_mtime_ns for path in before} == before
    model, again = Means(), Means()
    run(model, run_dir=tmp_path, resume=True)
    more = run(again, run_dir=tmp_path, resume=True, severities=(1, 2, 5), corruptions=THREE)
    assert same(more, run(Means(), severities=(1, 2, 5), corruptions=THREE))
    assert again.passed - model.passed == 50 * (9 - 4)
    assert more.corruption.names == (*NAMES, "speckle_noise")  # in the paper's order
    assert same(run(Means(), run_dir=tmp_path, resume=True, severities=3), run(Means(), severities=3))
    for options, says in (
        ({"seed": 1}, r"noise 1 \(regenerated, seed 0, .* there, regenerated, seed 1, .* here"),
        ({"dataset": fa.data.load("digits", "train", size=32, limit=50)}, "answer to the first samples"),
    ):
        refuses(says, run, Means(), run_dir=tmp_path, resume=True, **options)


def test_the_processes_of_a_group_share_the_batches(tmp_path):
    whole(tmp_path, 9)
    go("tests.evaluation.test_corruption", "whole", tmp_path, 2)
    *ours, (*alone, told) = (json.loads(path.read_text()) for path in sorted(tmp_path.glob("table-*")))
    assert ours == [[*alone, told], [*alone, []]]


def test_published_files_have_images_and_labels_of_their_own(tmp_path, monkeypatch):
    def published(folder: Path, name: str, severity: int) -> ImageSet:
        one = fa.data.corrupted(WHOLE, name, severity, seed=9)
        x = torch.stack([one[place][0] for place in range(49, -1, -1)])
        if name == "fog":
            return ImageSet(x[1:], one.labels[1:50], 10, "C")
        return ImageSet(x, one.labels[:50].flip(0) if name == folder.name else one.labels[:50], 10, "C")

    monkeypatch.setattr(corruption, "published_set", published)
    folder = tmp_path / "gaussian_noise"
    table = run(Means(), published=folder, run_dir=tmp_path / "run")
    ours, again = table.corruption, run(Means(), seed=9).corruption
    assert (ours.source, ours.samples) == (f"published files in {folder}", 50)
    assert ours.right[0].tolist() == again.right[0].tolist()
    assert ours.right[1].tolist() != again.right[1].tolist()
    kept = {"run_dir": tmp_path / "run", "resume": True}
    assert same(run(Means(), published=folder, **kept), table)
    refuses("another dataset=", run, Means(), published=tmp_path / "impulse_noise", **kept)
    refuses(r"noise 1 \(published files there, regenerated, seed 0", run, Means(), **kept)
    refuses("as many images as of the data, 355, got 50", run, Means(), dataset=WHOLE, published=folder)
    refuses("of the data, 50, got 49", run, Means(), published=folder, corruptions=(*NAMES, "fog"))
    x, y = DIGITS.take(torch.arange(50)), DIGITS.labels
    first = {"dataset": (x.flip(0), y.flip(0)), "published": folder, "limit": 30, "batch_size": 15}
    few = run(Means(), corruptions=NAMES[0], severities=5, **first).corruption
    alone = evaluate(Means(), published(folder, NAMES[0], 5), limit=30).correct
    assert (few.samples, int(few.right)) == (30, int(alone.sum()))
    for data, says in (
        ((x, y // 2), r"and other labels; pass"),
        ((x[..., 1:], y), r"images \[1, 32, 31\] with"),
    ):
        refuses(says, run, Means(), dataset=data, published=folder)


def full(errors: dict[str, float]) -> CorruptionTable:
    right = torch.tensor([[round(10**6 * (1 - error))] * 5 for error in errors.values()])
    return CorruptionTable(tuple(errors), (1, 2, 3, 4, 5), right, right * 0, 10**6, "published files in C")


def test_the_mean_corruption_error_is_relative_to_alexnet():
    assert full(ALEXNET).mce() == pytest.approx(100)
    halved = {name: error / (2 if name in ("fog", "snow", "frost") else 1) for name, error in ALEXNET.items()}
    assert full(halved).mce() == pytest.approx(90)
    assert full({**ALEXNET, "spatter": 1.0}).mce() == pytest.approx(100)  # no part of the fifteen
    few = CorruptionTable(tuple(ALEXNET)[1:], (1, 5), torch.ones(14, 2), torch.zeros(14, 2), 1, "")
    refuses("without gaussian_noise, severity 2, severity 3, severity 4; ", few.mce)


def test_draws_are_no_more_images_and_the_table_prints_itself():
    table = CorruptionTable(("fog",), (3,), torch.tensor([[40]]), torch.tensor([[0]]), 20, "files", draws=4)
    assert [float(end[0, 0]) for end in table.interval] == [*fa.evaluation.clopper_pearson(10, 20)]
    assert str(table).splitlines()[-2:] == ["fog            50.0%  50.0%", "mean accuracy  50.0%  50.0%"]
    two = CorruptionTable(
        ("fog", "snow"), (1, 2), torch.tensor([[20, 10], [16, 0]]), torch.zeros(2, 2), 20, ""
    )
    assert [line[-1] for line in two.cells(1.0)] == ["mean", "75.0%", "40.0%", "57.5%", "100.0%"]
    title, both = "% accuracy by corruption and severity, files\n\\begin", table_of(6, corruption=table)
    alone = replace(both, rows=(), indicators=None)
    assert alone.to_latex().startswith(title)
    assert both.to_latex().endswith(f"\n\n{alone.to_latex()}")
    assert r"\midrule" + "\nfog & 50.0\\% & 50.0\\% \\\\\n" in alone.to_latex()
    assert r"clean accuracy & -- & " in alone.to_latex()


def test_the_table_is_told_as_text_as_json_and_on_the_page(tmp_path):
    table = run(Means(), severities=(1, 3), attacks="fgsm", threat=fa.Linf(0.1))
    told = json.dumps(table.to_dict()["corruption"])
    assert json.dumps(CorruptionTable.of_dict(json.loads(told)).to_dict()) == told
    lines = [line.split() for line in str(table).splitlines()]
    place = lines.index(["corruption", "1", "3", "mean"])
    assert "severity, regenerated, seed 0, constants cifar\n" in str(table)
    assert [line[0] for line in lines[place + 2 : place + 6]] == [*NAMES, "mean", "clean"]
    means = [*table.corruption.accuracy.mean(0), table.corruption.mean_accuracy]
    assert lines[place + 4][2:] == [f"{100 * mean:.1f}%" for mean in means]
    assert lines[place + 5][-1] == f"{100 * table.clean_accuracy:.1f}%"
    three = full({"gaussian_noise": 0.125, "shot_noise": 0.25, "spatter": 0.5})
    report(harmed := table_of(6, corruption=three), tmp_path / "r.html")
    page = Read(tmp_path / "r.html")
    found = [float(one["width"]) for one in page.elements("rect") if one.get("class") == "mean"]
    assert found == [420 * share for share in (0.875, 0.75, 0.5)]
    assert len([one for one in page.elements("path") if one.get("class") == "severity"]) == 15
    (dashes,) = [one["d"] for one in page.elements("path") if one.get("class") == "unharmed"]
    assert dashes.startswith(f"M{160 + 420 * harmed.clean_accuracy:.1f} ")
    assert "or evasion; of common corruptions, which are faults, in paragraph 4. Poisoning" in page.text
    assert "Mean accuracy 70.8% under common corruptions: 3 of them, severity 1, 2, 3, 4, 5," in page.text
    report(table_of(6), tmp_path / "r.html")
    assert "corruption" not in Read(tmp_path / "r.html").text


def test_images_of_other_sizes_and_other_boxes():
    x, y = torch.rand(3, 1, 80, 80), torch.arange(3)
    for width, constants in ((80, "imagenet"), (40, "cifar")):
        model, data = fa.models.create("softmax", shape=(1, 80, width), classes=3), (x[..., :width], y)
        table = run(model, dataset=data, corruptions="saturate", severities=1)
        assert table.corruption.source == f"regenerated, seed 0, constants {constants}"
    x[2] += 1
    outside = {"dataset": (x[..., :40], y), "corruptions": "saturate", **WIDE}
    refuses(r"pixels in \[0, 1\]", run, model, severities=1, **outside)


def test_what_cannot_be_is_refused_before_the_first_batch():
    model, few = Means(), {"dataset": fa.data.load("digits", "test", limit=50)}
    for options, says in (
        ({"corruptions": "fogg"}, "corruption: expected one of .*, c15, all, got 'fogg'"),
        ({"corruptions": []}, "corruptions: expected names, each once"),
        ({"corruptions": ("fog", "c15")}, "corruptions: expected names, each once"),
        ({"corruptions": 3}, "corruption: expected one of .*, c15, all, got 3"),
        ({"severities": 2.5}, "severity: expected 1, 2, 3, 4 or 5, got 2.5"),
        ({"severities": (0, 1)}, "severity: expected 1, 2, 3, 4 or 5, got 0"),
        ({"severities": (1, 1)}, "severities: expected some of 1, 2, 3, 4, 5, each once"),
        ({"corruptions": None}, "severities, published: expected none"),
        ({"corruptions": None, "severities": (1, 2, 3, 4, 5), "published": "c"}, "published: expected none"),
        ({"criterion": fa.attacks.Signs()}, "corruptions: expected none with"),
        (few, "of 32 x 32 pixels or more"),
        ({"dataset": (1 + torch.rand(9, 1, 32, 32), torch.arange(9)), **WIDE}, r"pixels in \[0, 1\]"),
    ):
        model.passed = 0
        refuses(says, run, model, **options)
        assert model.passed <= 1

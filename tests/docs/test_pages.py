"""The blocks of the pages of the site run as they stand; `make docs` runs the cells of the others."""

import re
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import fastadv as fa
from fastadv.data.corruption.weather import PHOTOGRAPHS
from tests.attacks.contract.conftest import FEW, shorten

DOCS = Path(__file__).parents[2] / "docs"
GUIDES = (
    "evaluate", "audit", "honest", "moving", "processors", "corruptions", "attacks",
    "compare_models", "own_recipe",
)  # fmt: skip
FOLLOWING = "outputs", "threats", "radii", "several_norms", "blackbox", "speed", "gpu", "pictures"
# of the quickstart, whose names their blocks have
FOLLOWERS = [DOCS / "cheatsheet.md", *(DOCS / "guides" / f"{name}.md" for name in FOLLOWING)]
PAGES = [
    *FOLLOWERS,
    *(DOCS / "guides" / f"{name}.md" for name in GUIDES),
    DOCS / "processes.md",
    DOCS / "certify.md",
    DOCS / "training.md",
]
ALONE = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "0"}
BLOCK = re.compile(r"```python\n(.*?)```", re.DOTALL)


def test_the_tests_that_pin_a_pitfall_exist():
    named = re.findall(r"\[`(\w+)`\]\(\.\./(tests/[\w/]+\.py)\)", (DOCS / "pitfalls.md").read_text())
    assert named
    assert [name for name, file in named if f"def {name}(" not in (DOCS.parent / file).read_text()] == []


@pytest.mark.parametrize("page", ["engine", "core"])
def test_files_that_a_page_on_a_room_names_exist(page: str) -> None:
    package = DOCS.parent / "fastadv"
    roots = DOCS.parent, package, package / "attacks", package / "engine", package / "attacks" / "core"
    named = re.findall(r"`([\w/]+\.py)`", (DOCS / "project" / f"{page}.md").read_text())
    assert len(named) > 20
    assert [name for name in named if not any((root / name).exists() for root in roots)] == []


def run(path: Path, **names: Any) -> dict[str, Any]:
    blocks = BLOCK.findall(path.read_text())
    assert blocks
    for code in blocks:
        exec(compile(code, str(path), "exec"), names)
    return names


def test_a_norm_of_ones_own_runs_without_the_rest_of_its_page(capsys):
    *_, block = BLOCK.findall((DOCS / "guides" / "threats.md").read_text())
    exec(compile(block, "threats.md", "exec"), {})
    assert "PGD" in capsys.readouterr().out.upper()


@pytest.fixture(scope="module")
def reader():
    """What the pages say that the reader has."""
    train, test = fa.data.load("digits", "train", limit=600), fa.data.load("digits", "test", limit=20)
    model = fa.models.create("small_cnn", shape=train.shape, classes=10, width=4)
    constant = fa.train.Optimization(schedule="constant")
    fa.train.fit(model, train, fa.train.Standard(), epochs=2, batch_size=32, optimization=constant)
    return {
        "fa": fa, "torch": torch, "model": model.eval(), "train": train, "test": test,
        "x": test.x, "y": test.y, "session": Session(model),
    }  # fmt: skip


class Session:
    """What the page on black boxes asks of an inference session of onnxruntime."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.model = model

    def get_inputs(self) -> list[SimpleNamespace]:
        return [SimpleNamespace(name="input")]

    def run(self, names: None, feed: dict[str, Any]) -> list[Any]:
        with torch.no_grad():
            return [self.model(torch.from_numpy(feed["input"])).numpy()]


@pytest.mark.slow
@pytest.mark.docs
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_the_blocks_of_a_page_run(path, reader, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    shorten(monkeypatch, FEW)  # no page says what it finds
    for name, value in ALONE.items():  # as torchrun starts one process
        monkeypatch.setenv(name, value)
    if not torch.cuda.is_available():
        monkeypatch.setattr(torch.nn.Module, "cuda", lambda module: module)
    if path.stem == "corruptions":
        monkeypatch.setenv("FASTADV_DATA", str(tmp_path))
        (tmp_path / "frost").mkdir()
        for name in PHOTOGRAPHS:
            Image.new("RGB", (40, 40), "gray").save(tmp_path / "frost" / name)
    run(path, **reader | {"model": deepcopy(reader["model"])})


def test_a_page_says_what_its_blocks_follow():
    names = (DOCS / "start" / "quickstart.md").read_text()
    assert all(f"{name} = " in names for name in ("model", "train", "test", "x, y"))
    assert [path.stem for path in FOLLOWERS if "[Quickstart](" not in path.read_text()] == []


@pytest.mark.slow
@pytest.mark.docs
def test_the_page_on_robustbench(reader, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    model, x, y = reader["model"].eval(), reader["x"], reader["y"]
    out = fa.attacks.pgd(model, x, y, fa.Linf(8 / 255), steps=5)
    save_file({"x": x, "y": y, "x_adv": out.x_adv}, "adv.safetensors")
    monkeypatch.setattr(fa.models, "robustbench", lambda name, weights: model)
    run(DOCS / "robustbench.md")
    sentence = f"clean {out.clean_accuracy:.1%}, robust {out.robust_accuracy:.1%}, 0 outside"
    assert sentence in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.docs
@pytest.mark.filterwarnings("ignore")
def test_the_page_on_masked_gradients(capsys):
    """It prints about what it shows: training rounds otherwise on another machine."""
    names = run(DOCS / "masked.md")
    (masked,) = names["masked"]
    assert str(masked) in (DOCS / "masked.md").read_text()
    assert names["table"].replaced == {"rounding": "identity"}
    assert names["hidden"] > names["table"]["pgd"].robust_accuracy
    shown, printed = (
        [float(share) for row in re.findall(r"\n *(?:none|pgd) " + r" +([\d.]+)%" * 3, text) for share in row]
        for text in ((DOCS / "masked.md").read_text(), capsys.readouterr().out)
    )
    assert len(shown) == 6
    assert printed == pytest.approx(shown, abs=10)


@pytest.mark.slow
@pytest.mark.docs
def test_the_page_on_transfer(capsys, tmp_path, monkeypatch):
    """The ensemble fools the linear network more often than the CNN alone, and a rule does no harm."""
    monkeypatch.chdir(tmp_path)
    run(DOCS / "transfer.md")
    shares = [float(share) for share in re.findall(r"([\d.]+)% \[", capsys.readouterr().out)]
    (_, first, back, _, _, both), (_, tuned, tuned_back, *_) = shares[:6], shares[6:]
    assert both > first + 5
    assert min(tuned - first, tuned_back - back) >= -2
    assert (tmp_path / "transfer.png").stat().st_size > 10_000

"""The examples and the commands of docs/training.md run as they stand, in an empty folder, on few digits."""

import runpy
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


@pytest.mark.slow
@pytest.mark.usefixtures("few_digits")
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_runs(path, capsys):
    runpy.run_path(str(path), run_name="__main__")
    assert capsys.readouterr().out


def test_readme_shows_two_of_the_examples_and_links_all():
    assert len(EXAMPLES) == 6
    readme = (ROOT / "README.md").read_text()
    for path in EXAMPLES[1:3]:
        code = path.read_text().split('"""', 2)[2].strip()
        assert f"```python\n{code}\n```" in readme, path
    assert all(f"(examples/{path.name})" in readme for path in EXAMPLES)


@pytest.mark.slow
def test_the_first_lines_of_readme_attack_a_model_of_timm(capsys, monkeypatch):
    """With random weights, as the output on the page, and smaller images."""
    timm = pytest.importorskip("timm", reason="timm is not installed: the extra zoo brings it")
    net = timm.create_model("resnet18")
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained: net)
    readme = (ROOT / "README.md").read_text()
    code = readme.split("```python\n")[1].split("```")[0].replace("224, 224", "64, 64")
    torch.manual_seed(0)
    exec(code, {})
    assert capsys.readouterr().out.startswith("pgd, Linf 1/255: clean 100.0%, robust ")


@pytest.mark.slow
@pytest.mark.usefixtures("few_digits")
def test_the_commands_about_training_run(fastadv, folder):
    page = (ROOT / "docs" / "training.md").read_text()
    blocks = [part.partition("\n```")[0] for part in page.split("```sh\n")[1:]]
    lines = [line for block in blocks for line in block.replace("\\\n   ", "").splitlines()]
    name, _, value = next(line for line in lines if line.startswith("NETS=")).partition("=")
    lines = [line.replace(f"${name}", value) for line in lines if not line.startswith(name)]
    assert len(lines) == 5
    for line in lines:
        fastadv(line.removeprefix("fastadv "))
    names = sorted(path.name for path in (folder / "runs" / "robust").iterdir())
    assert names == [
        "best.safetensors", "checkpoint.safetensors", "ema.safetensors", "model.safetensors", "report.jsonl"
    ]  # fmt: skip
    assert all(f"`{name}`" in page for name in names)

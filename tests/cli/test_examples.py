"""The examples and the commands of docs/training.md run as they stand, in an empty folder, on few digits."""

import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


@pytest.mark.slow
@pytest.mark.usefixtures("few_digits")
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_runs(path, capsys):
    runpy.run_path(str(path), run_name="__main__")
    assert capsys.readouterr().out


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

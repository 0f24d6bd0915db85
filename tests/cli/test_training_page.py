"""The commands of docs/training.md run as they stand there."""

from collections.abc import Callable
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[2] / "docs" / "training.md").read_text()


@pytest.mark.slow
def test_the_commands_run(fastadv: Callable, folder: Path) -> None:
    blocks = [part.partition("\n```")[0] for part in PAGE.split("```sh\n")[1:]]
    lines = [line for block in blocks for line in block.splitlines()]
    assert len(lines) == 5
    for line in lines:
        done = fastadv(line.removeprefix("fastadv "))
        assert done.code == 0, done
    names = sorted(path.name for path in (folder / "runs" / "robust").iterdir())
    assert names == [
        "best.safetensors", "checkpoint.safetensors", "ema.safetensors", "model.safetensors", "report.jsonl"
    ]  # fmt: skip
    assert all(f"`{name}`" in PAGE for name in names)

"""What docs/data.md says can be run."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch

PAGE = (Path(__file__).parents[2] / "docs" / "data.md").read_text()


@pytest.mark.slow
def test_the_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for code in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
        exec(compile(code, "docs/data.md", "exec"), names)
    (report,) = names["reports"]
    assert report.loss > 0
    assert torch.equal(names["again"].x, names["made"].x)
    assert (tmp_path / "sets" / "d_det.png").stat().st_size > 1000

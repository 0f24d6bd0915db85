"""The report to torch about the gradient of a single image, whose nets are in the contract."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch


@pytest.mark.skipif(not torch.__version__.startswith("2.13."), reason="torch may have mended it")
def test_the_report_to_torch_shows_what_runs():
    report = Path(__file__).parents[2] / "examples" / "7_single_image_gradient.md"
    names: dict[str, Any] = {}
    exec(re.findall(r"```python\n(.*?)```", report.read_text(), re.DOTALL)[0], names)
    torch.testing.assert_close(names["right"], names["gradient"], rtol=1e-4, atol=1e-4)
    assert (names["wrong"] - names["gradient"]).abs().max() > 1

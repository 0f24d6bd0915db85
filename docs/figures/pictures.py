"""Draw the pictures of docs/guides/pictures.md by its own blocks, after the first one of the quickstart.

python docs/figures/pictures.py
"""

import os
import re
import tempfile
from pathlib import Path

import torch

from fastadv.card import telling

HERE = Path(__file__).resolve().parent
NAMES = ("strips", "training", "curves", "boundary")


def main() -> None:
    first = re.findall(
        r"```{code-cell}\n(.*?)```", (HERE.parent / "start/quickstart.md").read_text(), re.DOTALL
    )[0]
    blocks = re.findall(r"```python\n(.*?)```", (HERE.parent / "guides/pictures.md").read_text(), re.DOTALL)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder, telling(command="python docs/figures/pictures.py", seed=0):
        os.chdir(folder)
        names: dict[str, object] = {}
        for block in (first, *blocks):
            exec(compile(block, "pictures.md", "exec"), names)
        for name in NAMES:
            (HERE / f"pictures_{name}.png").write_bytes(Path(f"{name}.png").read_bytes())
        os.chdir(HERE)


if __name__ == "__main__":
    main()

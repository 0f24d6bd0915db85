"""Nets of RobustBench's zoo by its own code beside fastadv's, on state dicts made here, in float64.

    PYTHONPATH=DIR_OF_ROBUSTBENCH python -m bench.robustbench [--only wrn_28_10] [--seed 0]

One entry of each kind of file: the package's net gets drawn weights and BatchNorm statistics and is saved as
the zoo ships it; `fa.models.robustbench` loads the file. Logits and the gradient of the cross-entropy with
respect to two images are compared. Unless --only limits it, the table in bench/results/robustbench.md is
written anew.
"""

import os
import platform
import re
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import torch

import fastadv as fa
from bench import records
from fastadv.models.zoo import Entry
from fastadv.text import in_markdown
from tests.models.robustbench_zoo.peer import answer, layout_name, package, ship

PAGE = records.RESULTS / "robustbench.md"
MARKS = "<!-- python -m bench.robustbench -->\n", "<!-- end -->\n"
HEAD = ["entry", "net", "parameters", "largest logit", "logits differ by", "gradients differ by"]


def compared(entry: Entry, folder: Path, seed: int) -> list[str]:
    """The cells of an entry. Gradients differ by the largest difference over the largest gradient."""
    path = folder / "weights.pt"
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(seed))
    y = torch.arange(2)
    logits, gradient = answer(ship(entry, path, seed), x, y)
    model = fa.models.robustbench(entry.path, path)
    parameters = sum(weight.numel() for weight in model.parameters())
    own_logits, own_gradient = answer(model, x, y)
    apart = (own_gradient - gradient).abs().max() / gradient.abs().max()
    return [
        f"`{entry.path}`",
        entry.net.name,
        f"{parameters:,}",
        f"{logits.abs().max():.3g}",
        f"{(own_logits - logits).abs().max():.1e}",
        f"{apart:.1e}",
    ]


def main() -> None:
    options = records.parser(__doc__, prog="python -m bench.robustbench")
    options.add_argument("--only", help="nets of this name alone")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--folder", help="for one file of weights at a time, up to 2 GB")
    given = options.parse_args()
    if package() is None:
        options.error("the package robustbench does not import: put its folder on PYTHONPATH")
    kinds: dict[str, Entry] = {}
    for entry in fa.models.robustbench_entries():
        kinds.setdefault(layout_name(entry), entry)
    rows = []
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        os.environ["FASTADV_WEIGHTS"] = folder
        for entry in kinds.values():
            if given.only in (None, entry.net.name):
                rows.append(compared(entry, Path(folder), given.seed))
                print(*rows[-1], flush=True)
    told = (
        f"Measured {datetime.now(UTC):%Y-%m-%d} by `python -m bench.robustbench --seed {given.seed}`, torch "
        f"{torch.__version__}, {platform.machine()} CPU, against the package `robustbench`."
    )
    if given.only is None:
        inside = f"{MARKS[0]}{in_markdown([HEAD, *rows], names=2)}\n\n{told}\n{MARKS[1]}"
        pattern = f"{re.escape(MARKS[0])}.*{re.escape(MARKS[1])}"
        PAGE.write_text(re.sub(pattern, lambda _: inside, PAGE.read_text(), flags=re.DOTALL))


if __name__ == "__main__":
    main()

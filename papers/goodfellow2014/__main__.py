"""Goodfellow et al. 2014 on MNIST: FGSM, adversarial training, controls, agreement, rubbish.

Prints every table next to the paper's, and writes results.json, report.md and figures to --run-dir. An
interrupted command resumes.
"""

import sys
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from papers import command as c
from papers.goodfellow2014 import paper
from papers.goodfellow2014.plan import SCALES
from papers.study import REPORT, Watch, load_images


def work(asked: Namespace, watch: Watch) -> Iterator[Any]:
    settings = replace(SCALES[asked.scale], seed=asked.seed)
    name = "digits" if asked.scale == "tiny" else "mnist"
    train_set, test_set = (load_images(name, part, data_dir=asked.data_dir) for part in ("train", "test"))
    result = paper.run(
        settings, train_set, test_set, asked.run_dir, watch, parts=asked.parts, device=c.device_of(asked)
    )
    yield result
    for part in result["config"]["parts"]:
        c.print_table(part.capitalize(), paper.table(result, part))
    c.print_table("Networks", paper.networks(result), paper.notes(result))
    c.say_where({**result["measured"]["figures"], "the report": asked.run_dir / REPORT})


def parser() -> c.Parser:
    made = c.Parser("goodfellow2014", description=__doc__)
    c.scales(made, SCALES, "cpu", "tiny takes the embedded digits")
    told = f"some of {', '.join(paper.PARTS)}; by default all"
    made.add_argument("--parts", type=c.names, default=paper.PARTS, help=told)
    c.on_data(made)
    c.command(made, work, "goodfellow2014")
    return made


if __name__ == "__main__":
    sys.exit(c.main(parser()))

"""Adversarial training on CIFAR-10 by PGD-10, N-FGSM and TRADES, judged by AutoAttack.

Prints accuracy and seconds of each recipe beside published rows. Where the package autoattack of its authors
is installed, it attacks the same images. An interrupted command resumes.
"""

import sys
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from papers import command as c
from papers.study import REPORT, RESULTS, Watch
from papers.training import paper


def work(asked: Namespace, watch: Watch) -> Iterator[Any]:
    settings = replace(paper.SCALES[asked.scale], seed=asked.seed)
    train_set = c.load_data(settings.data, "train", asked.data_dir, settings.images)
    test_set = c.load_data(settings.data, "test", asked.data_dir)
    result = paper.run(
        settings, train_set, test_set, asked.run_dir, watch, device=c.device_of(asked), budget=asked.budget
    )
    yield result
    c.print_table("Adversarial training", paper.table(result), paper.notes(result))
    c.say_where({"all figures as JSON": asked.run_dir / RESULTS, "the report": asked.run_dir / REPORT})


def parser() -> c.Parser:
    made = c.parser("training", __doc__)
    told = "the embedded digits; part of CIFAR-10 and a narrow network; ResNet-18"
    c.scales(made, paper.SCALES, "tiny", told)
    made.add_argument("--budget", type=c.count, help=c.BUDGET)
    c.on_data(made)
    c.command(made, work, "training")
    return made


if __name__ == "__main__":
    sys.exit(c.main(parser()))

"""Certify networks on MNIST, trained by three recipes for randomized smoothing, beside published radii.

Where the folder of the data sets holds abs_official/, the bounds of ABS stand beside them.
"""

import sys
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import fastadv as fa
from papers import command as c
from papers.smoothing import paper
from papers.study import REPORT, Watch, some_of

GIVEN = ("recipes", "sigmas", "epochs", "samples", "draws", "precision", "seed")


def work(asked: Namespace, watch: Watch) -> Iterator[Any]:
    given = {name: value for name in GIVEN if (value := getattr(asked, name)) is not None}
    settings = replace(paper.TINY if asked.tiny else paper.Settings(), **given)
    some_of("recipes", settings.recipes, paper.PUBLISHED)
    name, weights = "digits" if asked.tiny else "mnist", c.official(asked.data_dir)
    train_set, test_set = (c.load_data(name, part, asked.data_dir) for part in ("train", "test"))
    synthesis = fa.models.ABS.from_official(weights) if not asked.tiny and weights.is_dir() else None
    result = paper.run(
        settings, train_set, test_set, asked.run_dir, watch, synthesis=synthesis, device=c.device_of(asked)
    )
    yield result
    c.print_table("Average certified radius, and certified accuracy", paper.table(result))
    c.say_where({**result["measured"]["figures"], "the report": asked.run_dir / REPORT})


def parser() -> c.Parser:
    made = c.parser("smoothing", __doc__)
    made.add_argument("--recipes", type=c.names, help=f"some of {', '.join(paper.PUBLISHED)}")
    made.add_argument("--sigmas", type=c.numbers, help="deviations of the noise: 0.25,0.5,1")
    made.add_argument("--epochs", type=c.count, help="epochs of each training (90)")
    made.add_argument("--samples", "-n", type=c.count, help="test images to certify (1,000)")
    made.add_argument("--draws", type=c.count, help="draws for each of them (100,000)")
    told = "of the networks that are certified (fp32)"
    made.add_argument("--precision", choices=["fp32", "bf16"], default="fp32", help=told)
    made.add_argument("--tiny", action="store_true", help="every part in seconds, on the embedded digits")
    c.on_data(made)
    c.command(made, work, "smoothing")
    return made


if __name__ == "__main__":
    sys.exit(c.main(parser()))

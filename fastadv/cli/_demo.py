"""`fastadv demo`: the library's main job on scikit-learn's digits."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from fastadv.cli import _options as o
from fastadv.cli._interrupt import interruptible
from fastadv.cli._output import print_table, progress, say, say_where
from fastadv.demo import run as study
from fastadv.demo.nets import SOURCE, TINY, Settings, findings

OUT = "Folder for figures, networks, constructed sets and results.json."


def demo(
    out: Annotated[o.Folder, OUT] = Path("demo"),
    seed: Annotated[o.Seed, "Random seed."] = 0,
    tiny: Annotated[bool, typer.Option(hidden=True)] = False,
) -> Iterator[Any]:
    """Run two papers on the embedded digits: robust and non-robust features, and ABS.

    Trains a standard and a robust network, attacks both, builds D_R, D_NR, D_rand and D_det, and trains a
    network on each; then trains an ABS, attacks it and bounds it.

    Prints a table of six networks and the findings, and draws five figures. An interrupted run resumes.
    """
    settings = replace(TINY if tiny else Settings(), seed=seed)
    kept = f"finished parts are kept in {out}; run the same command to resume"
    with interruptible(kept), progress("digits") as bar:
        result = study.run(settings, out, bar.named)
    yield result
    side, count = result["config"]["settings"]["size"], result["config"]["test"]["samples"]
    title = f"Six nets on {count} held-out digits of {side}x{side}: accuracy clean and under attack"
    other = f"* {SOURCE}: other images and another net; compare the order."
    print_table(title, study.cells(result), [other])
    say("")
    measured, attack = result["measured"], settings.main_attack
    for line in findings(measured["nets"], attack) + study.synthesis_found(measured["abs"], attack):
        say(line)
    say("")
    say_where({**measured["figures"], "all numbers": out / study.RESULTS})
    say(f"done in {measured['seconds']:.0f} s", style="dim")

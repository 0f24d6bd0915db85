"""`fastadv conformance`: our attacks beside those of other packages."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fastadv.cli import _options as o
from fastadv.cli._interrupt import interruptible
from fastadv.cli._measure import NOTHING_KEPT, ending
from fastadv.cli._output import finite, print_table, progress, say, say_where
from fastadv.evaluation._conformance_cases import PACKAGES, installed
from fastadv.runs.card import card
from fastadv.runs.files import write_json
from fastadv.studies import conformance as study

WEAKER = 1


def conformance(
    samples: int = o.count(study.SAMPLES, "Test digits to attack."),
    only: str | None = o.option(None, "Attacks whose names begin with one of these, separated by commas."),
    peers: str | None = o.option(None, f"Of {', '.join(PACKAGES)}; by default those installed."),
    out: Path | None = o.folder(None, "Folder for conformance.json and conformance.png."),
    seed: o.Seed = 0,
) -> Iterator[Any]:
    """Compare our attacks with the same ones of other packages; the exit code is 1 if ours is weaker.

    The exit code is also 1 if no attack of another package ran, so that nothing could be compared.

    The command trains five small networks on the embedded digits: an undefended one, a robust one, and the
    robust one with rounded activations, with saturated logits, and with a gradient of zero at each digit. The
    table shows the digits broken by both sides, and on how many digits one side is ahead: it alone broke
    them, or came farther on the way to the boundary by more than 1% or, for a minimum-norm attack, nearer by
    more than 1%. conformance.json also has median distance, passes, time and memory. Ours is weaker if an
    exact sign test over these digits says so; the risk that any attack is named by chance is 5%.
    """
    chosen = installed() if peers is None else o.split_names(peers) or ()
    for name in chosen:
        o.check_choice("--peers", name, PACKAGES)
    missing = [name for name in chosen if name not in installed()]
    if missing or not chosen:
        lacking = " and ".join(missing) or "other package"
        o.refuse(f"There is no {lacking} to compare with: pip install 'fastadv[bench]'.")
    with interruptible(NOTHING_KEPT), progress("conformance") as bar:
        result = study.run(samples, seed, chosen, o.split_names(only), bar)
    weaker = result.weaker
    files: dict[str, Path | None] = {}
    config = {"samples": samples, "seed": seed, "packages": list(chosen)}
    told = card("conformance", config, **result.to_dict())
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        kept, figure = out / "conformance.json", out / "conformance.png"
        files = {"result": kept, "figure": figure}
        write_json(kept, finite(told))
        study.draw(result, figure)
    with ending(WEAKER if weaker or not result.comparisons else 0):
        yield told
        title = f"ours / theirs on {samples} digits, of each attack and net the rival that is worst for ours"
        print_table(title, study.cells(result))
        for name, why in result.failed.items():
            say(f"failed: {name}: {why}")
        for one in result.comparisons:
            for flag in one.theirs.flags:
                say(f"{one.theirs.attack} in {one.norm} on {one.net}: {flag}")
        for one in weaker:
            say(f"weaker: {one.case} in {one.norm} on {one.net} than {one.theirs.attack}, p = {one.p:.2g}")
        say(f"{len(result.comparisons)} comparisons, {len(weaker)} weaker beyond chance")
        say_where(files)

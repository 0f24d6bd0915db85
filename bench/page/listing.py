"""All rows of one run: each attack beside other packages, and an epoch of training by each way."""

from bench.page.table import Rows, duration, factor, milliseconds, number, origin
from bench.records import RESULTS, Row
from fastadv.text import in_markdown

ATTACKS, TRAINING = (RESULTS / f"{name}.md" for name in ("attacks", "training"))
OURS = "fastadv fp32"


def found(row: Row) -> str:
    """Return the robust accuracy that is left, or the median distance."""
    if "robust_accuracy" in row:
        return f"{100 * row['found']:.0f}% robust"
    return "none" if row["found"] is None else f"{row['found']:.3g}"


def attacks(rows: Rows) -> str:
    """Return a line for each case that a peer serves: the fastest peer beside ours, in float32."""
    lines = [["case", "images", "fastest peer", "there", "here", "times faster", "found there", "found here",
              "over the passes"]]  # fmt: skip
    cases: dict[tuple[str, str], list[Row]] = {}
    for row in rows.newest.values():
        if "case" in row:
            cases.setdefault((row["case"], row["variant"]), []).append(row)
    for (case, _), both in sorted(cases.items()):
        ours = [row for row in both if row["provider"] == OURS]
        peers = [row for row in both if not row["provider"].startswith("fastadv")]
        if ours and peers:
            here, peer = ours[0], min(peers, key=lambda row: float(row["seconds"]))
            figures = (factor(here["times_peer"]), found(peer), found(here), number(here["over_ideal"]))
            times = (duration(1000 * row["seconds"]) for row in (peer, here))
            lines.append([f"`{case}`", str(here["images"]), peer["provider"], *times, *figures])
    return f"{in_markdown(lines, names=3)}\n\n{origin([row for both in cases.values() for row in both])}\n"


def training(rows: Rows) -> str:
    """Return an epoch of PGD-7 beside the loop by hand, and of each recipe as multiples of a standard one."""
    loops = [["an epoch", "by", "time", "times faster"]]
    recipes = [["recipe", "time", "times a standard epoch"]]
    last = max(row["date"] for row in rows.newest.values() if "times_standard" in row)
    run = [row for row in rows.newest.values() if row["date"] == last]
    for row in run:
        way, time = row["provider"], duration(milliseconds(row) or 0)
        if "times_standard" in row:
            recipes.append([way, time, number(1 / row["times_standard"])])
        elif row["what"].startswith("PGD-7 training, "):
            loops.append([row["what"], way, time, factor(row["times_eager"])])
    return f"{in_markdown(loops, names=2)}\n\n{in_markdown(recipes)}\n\n{origin(run)}\n"

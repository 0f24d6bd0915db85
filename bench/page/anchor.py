"""PGD against the best of all peers: the tables of bench/results/pgd.md."""

from collections.abc import Iterable, Sequence
from statistics import median

from bench.anchor import FROZEN, PEERS, UNFROZEN, WAYS, Way
from bench.page.table import PGD, Row, duration, number
from bench.pgd import COMPILED
from bench.records import RESULTS, ROOT, recorded
from fastadv.text import in_markdown

Machine = dict[str, dict[Way, Row]]  # by net
OVER_RUNS = {"p20": min, "p80": max}  # by the percentile that a figure's name holds; else the median


def stored() -> list[Machine]:
    """The machines of bench/results/anchor_cpu.jsonl that have all rows, the one measured last at the end.

    Several runs of one commit count as one. A machine, by its processor and its threads, has the rows of its
    newest commit that has all processes of all nets.
    """
    labels = {what: label for label, what in PGD.items()}
    found: dict[tuple[str, int, str], dict[str, dict[Way, list[Row]]]] = {}
    for row in sorted(recorded(RESULTS / "anchor_cpu.jsonl"), key=lambda row: row["date"]):
        if label := labels.get(row["what"]):
            key = row["cpu"], row["threads"], row["commit"]
            found[key] = found.pop(key, {})  # to the end, as the newest
            way = Way(row["provider"], row["pages_kept"])
            found[key].setdefault(label, {}).setdefault(way, []).append(row)
    newest: dict[tuple[str, int], Machine] = {}
    for (*machine, _), nets in found.items():
        if all(set(WAYS) <= set(nets.get(label, ())) for label in PGD):
            cpu, threads = machine
            newest.pop((cpu, threads), None)
            newest[cpu, threads] = {label: {way: merged(nets[label][way]) for way in WAYS} for label in PGD}
    return list(newest.values())


def merged(runs: Sequence[Row]) -> Row:
    """One row for several runs: medians, the least 20th and the greatest 80th percentile, and all days."""
    row = dict(runs[-1], days=sorted({run["date"][:10] for run in runs}))
    for key, value in row.items():
        if isinstance(value, float) or key == "faults":
            over = next((take for name, take in OVER_RUNS.items() if name in key), median)
            row[key] = over([run[key] for run in runs])
    return row


def best(known: dict[Way, Row]) -> Way:
    return min((way for way in known if way.provider in PEERS), key=lambda way: float(known[way]["p50_ms"]))


def rows(machine: Machine) -> list[Row]:
    return [row for known in machine.values() for row in known.values()]


PAGE = ROOT / "bench" / "results" / "pgd.md"
GOALS = dict(zip(FROZEN, (1.15, 2.0), strict=True))  # times the best of all peers
FP32, BF16 = "fastadv, frozen once", "fastadv, frozen once, bf16"
TITLES = dict(zip(FROZEN, (FP32, BF16), strict=True))
TITLES |= {UNFROZEN: "fastadv, not frozen", COMPILED: "plain loop, compiled"}
ABOUT = """`python -m bench.anchor` starts each process anew for its network, and lets all take turns, one
call each. glibc returns large blocks to the system when they are freed, except where "pages kept" stands
(`MALLOC_MMAP_THRESHOLD_` and `MALLOC_TRIM_THRESHOLD_` at 4 GiB). fastadv by itself keeps blocks of up to
256 MiB.

The first table of a machine compares with the best of all peers: how many times as fast fastadv is, with the
20th and 80th percentiles over turns. The limit is the factor of the forward and backward passes alone, which
no attack by this engine can exceed. A product's rate is that of large matrices; the operations are those of
plain convolutions, and Winograd's method takes fewer. The second table has the times of all processes and,
after the semicolon, thousands of page faults a call."""


def called(way: Way) -> str:
    return TITLES.get(way.provider, way.provider) + ", pages kept" * way.kept


def time(row: Row) -> str:
    """The median of the turns, with their 20th and 80th percentiles."""
    low, middle, high = (duration(row[key]) for key in ("p20_ms", "p50_ms", "p80_ms"))
    return f"{middle} ({low.removesuffix(' ' + high.rpartition(' ')[2])} to {high})"


def verdict(row: Row, goal: float) -> str:
    """The factor with its range, whether it reaches the goal, and the limit where it does not."""
    low, middle, high = (row[f"times_best{end}"] for end in ("_p20", "", "_p80"))
    met = "met" if middle >= goal else f"**not met**; limit {row['limit']:.2f}"
    return f"{middle:.2f} ({low:.2f} to {high:.2f}), {met}"


def between(values: Iterable[float]) -> str:
    known = sorted(values)
    return " to ".join(dict.fromkeys(map(number, (known[0], known[-1]))))


def origin(machine: Machine) -> str:
    known = rows(machine)
    days = sorted({day for row in known for day in row["days"]})
    left = sorted({f"{100 * row['accuracy']:.1f}%" for row in known if "accuracy" in row})
    return (
        f"{known[0]['cpu']}, {known[0]['threads']} threads, PyTorch {known[0]['torch']}, "
        f"{' to '.join(dict.fromkeys((days[0], days[-1])))}, commit {known[0]['commit']}. "
        f"Robust accuracy at the end: {', '.join(left)}."
    )


def rates(machine: Machine) -> str:
    fp32, bf16 = (
        between(1000 * row[f"{name}_product_tflop_per_s"] for row in rows(machine))
        for name in ("fp32", "bf16")
    )
    copy = between(row["copy_gb_per_s"] for row in rows(machine))
    return f"Matrix products reached {fp32} GFLOP/s in float32 and {bf16} in bfloat16, a copy {copy} GB/s."


def goals(machine: Machine) -> list[str]:
    """A line for each net: the best of all peers, the factors, and the shares of what is possible."""
    goals = [f"{TITLES[name]}: goal {goal:g}" for name, goal in GOALS.items()]
    shares = [f"share of the {what}, fp32 / bf16" for what in ("passes alone", "product's rate")]
    lines = [head := ["network", "best of all peers", *goals, *shares]]
    for label, known in machine.items():
        way, fp32, bf16 = best(known), *(known[Way(name)] for name in FROZEN)
        lines.append([
            label,
            f"{called(way)}: {time(known[way])}",
            *(verdict(known[Way(name)], goal) for name, goal in GOALS.items()),
            f"{number(fp32['share_of_ceiling'])} / {number(bf16['share_of_ceiling'])}",
            f"{number(fp32['share_of_fp32_product'])} / {number(bf16['share_of_bf16_product'])}",
        ])  # fmt: skip
    return in_markdown(lines, names=len(head)).splitlines()


def processes(machine: Machine) -> list[str]:
    lines = [["process", *machine]]
    for way in WAYS:
        rows = [known[way] for known in machine.values()]
        lines.append([called(way), *(f"{time(row)}; {number(row['faults'] / 1000)}" for row in rows)])
    return in_markdown(lines, names=len(lines[0])).splitlines()


def section(machines: Sequence[Machine]) -> str:
    parts = ["", "## Against the best of all peers", "", ABOUT, ""]
    for machine in machines:
        parts += [f"{origin(machine)} {rates(machine)}", "", *goals(machine), "", *processes(machine), ""]
    return "".join(f"{part}\n" for part in parts)

"""The rows of `make gpu` as a short table for a terminal."""

from bench.records import Row

RESULTS = (
    "error", "outside_ms", "first_ms", "rows_apart", "status_apart", "accuracy", "success", "loss",
    "fooling_rate", "same_class", "mean_bound", "relative_error", "samples", "width", "gb_per_s",
    "tflop_per_s", "result",
)  # fmt: skip
WHOLE = 100  # more rows of one stage than this: only those of fastadv are shown


def table(rows: list[Row]) -> str:
    """Write a line for each row, by stage, and then what failed and what was skipped, and why."""
    lines: list[str] = []
    for stage in dict.fromkeys(row["stage"] for row in rows):
        part = [row for row in rows if row["stage"] == stage]
        shown = [row for row in part if "status" not in row]
        if len(shown) > WHOLE:
            shown = [row for row in shown if row["provider"].startswith(("fastadv", "winner", "torch"))]
        lines += ["", f"== {stage}"]
        if shown:
            lines.append(
                f"{'case':<44} {'provider':<22} {'p50 ms':>9} {'p20':>9} {'p80':>9} {'share':>6} "
                f"{'faster':>7} {'MiB':>8}  result"
            )
        lines += [line(row) for row in shown]
        ends = [row for row in part if "status" in row]
        counts = [f"{sum(r['status'] == s for r in ends)} {s}" for s in ("done", "failed", "skipped")]
        lines.append(f"{stage}: {', '.join(counts)}")
        lines += [f"  {r['status']}: {r['case']}: {r.get('why', '')}" for r in ends if r["status"] != "done"]
    return "\n".join(lines)


def line(row: Row) -> str:
    faster, share = (first(row, start) for start in ("times_", "share_of_"))
    case = row["what"] if row["case"] == "ceilings" else row["case"]
    figures = [f"{key} {row[key]}" for key in RESULTS if row.get(key) is not None][:2]
    return (
        f"{case[:44]:<44} {str(row['provider'])[:22]:<22} {number(row.get('p50_ms'), 9)} "
        f"{number(row.get('p20_ms'), 9)} {number(row.get('p80_ms'), 9)} {number(share, 6)} "
        f"{number(faster, 7)} {number(row.get('peak_mib'), 8)}  {', '.join(figures)[:60]}"
    ).rstrip()


def first(row: Row, start: str) -> float | None:
    """Return the first figure whose name starts so."""
    return next((row[key] for key in row if key.startswith(start)), None)


def number(value: float | None, width: int) -> str:
    """Write four digits, or nothing."""
    return " " * width if value is None else f"{value:>{width}.4g}"

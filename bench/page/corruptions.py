"""Common corruptions beside another package: bench/results/corruptions.md, and a sentence of the guide."""

from statistics import median

from bench.page.table import Rows, factor, number
from bench.records import RESULTS, ROOT
from bench.subjects.corruptions import BATCHES, LEVELS, ORACLE, OURS
from fastadv.text import in_markdown

PAGES = (RESULTS / "corruptions.md", ROOT / "docs" / "guides" / "corruptions.md")
NONE = "Not measured yet.\n"


def sections(rows: Rows) -> tuple[str, str]:
    """Return the table, and a sentence with the medians, which also stands below the table."""
    by = {(row.get("corruption"), row.get("side"), row.get("level")): row for row in rows.fitting("*", OURS)}
    names = [*dict.fromkeys(name for name, *_ in by if name)]
    if not names:
        return NONE, NONE
    lines, told = [["corruption"], *([name] for name in names)], []
    for side in BATCHES:
        lines[0] += [f"{side}×{side}: images/s", "times faster"]
        times = []
        for line in lines[1:]:
            found = [by[line[0], side, level] for level in LEVELS if (line[0], side, level) in by]
            faster = [row["times_oracle"] for row in found if "times_oracle" in row]
            line += [" / ".join(f"{row['images_per_s']:,.0f}" for row in found)]
            line += [" / ".join(map(factor, faster)) or "-"]
            times += faster
        if times:
            told.append(f"{number(median(times))} times at {side}×{side} (at least {number(min(times))})")
    row = [row for (name, *_), row in by.items() if name][-1]
    text = f"{row['cpu']}, {row['threads']} threads, {row['date'][:10]}. "
    text += f"Faster than {ORACLE}, in the median: {' and '.join(told)}. " if told else ""
    for row in rows.fitting("75 sets of 1,000 *", OURS)[-1:]:
        text += f"{row['what']}: {number(row['seconds'])} s."
    return f"{in_markdown(lines)}\n\n{text.strip()}\n", f"{text.strip()}\n"

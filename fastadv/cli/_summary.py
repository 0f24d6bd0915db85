"""What CI reads of an evaluation: whether it passes, and a summary in Markdown or as JUnit's XML."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from xml.etree import ElementTree

from fastadv._checks import check_share
from fastadv.cli import _options as o
from fastadv.cli._measure import DOUBTFUL, spoken
from fastadv.evaluation import Table
from fastadv.runs.files import write_text
from fastadv.text import in_markdown, percent

Check = tuple[str, str, int]
BELOW = 4  # the exit code of --fail-under; it goes before that of --strict, which doubt alone makes
SHARES = {"robust": "worst_case", "clean": "clean_accuracy"}  # of a table


def parse_limits(text: str) -> dict[str, float]:
    """Parse the least shares, such as robust=0.5,clean=0.9."""
    limits = o.pairs(text.split(","), "a share such as robust=0.5")
    for name, limit in limits.items():
        o.look_up("share", name, SHARES)
        with o.usage():
            check_share(name, limit, zero=True, one=True)
    return limits


def checks(table: Table, limits: Mapping[str, float], strict: bool) -> list[Check]:
    """Return what an evaluation must pass: name, what was found, the exit code if it failed, else 0."""
    made: list[Check] = []
    for name, limit in limits.items():
        share = getattr(table, SHARES[name])
        good = share >= limit
        found = f"{name} accuracy {share:g} is {'at least' if good else 'below'} {limit:g}"
        made.append((f"{name} accuracy >= {limit:g}", found, 0 if good else BELOW))
    if (signs := table.indicators) is not None:
        name = "no sign of masking" if signs.clean or strict else "verdict on masking, not required"
        made.append((name, spoken(table.verdict), DOUBTFUL if strict and not signs.clean else 0))
    return made


def write_summary(path: Path, table: Table, title: str, passed: Sequence[Check]) -> None:
    if path.suffix.lower() != ".xml":
        lines = ["**Failed:** " * bool(code) + found.replace("\n", "  \n") for _, found, code in passed]
        head = " ".join(filter(None, ["###", table.headline, title]))
        write_text(path, "\n\n".join([head, in_markdown(table.cells()), *lines]) + "\n")
        return
    cases = [(*each, 0.0) for each in passed]
    for row in table.rows:
        share = f"{'at most ' * bool(table.headline)}{percent(row.figures()['robust_accuracy'])}"
        cases.append((row.name, f"accuracy {share}", 0, row.seconds))
    suite = ElementTree.Element("testsuite", name=title, tests=str(len(cases)))
    suite.set("failures", str(sum(bool(code) for _, _, code, _ in cases)))
    for name, found, code, seconds in cases:
        case = ElementTree.SubElement(suite, "testcase", classname=title, name=name, time=f"{seconds:.3f}")
        ElementTree.SubElement(case, "failure" if code else "system-out").text = found
    write_text(path, ElementTree.tostring(suite, "utf-8", xml_declaration=True).decode() + "\n")

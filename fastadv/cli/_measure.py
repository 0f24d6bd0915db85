"""What the commands that measure share: the table, and what CI reads of an evaluation."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any
from xml.etree import ElementTree

from fastadv._checks import check_choice, check_share
from fastadv.cli import _options as o
from fastadv.cli._output import print_table, say
from fastadv.evaluation import Table
from fastadv.runs.files import write_text
from fastadv.text import in_markdown, percent, several

DOUBTFUL = 3  # the exit code of --strict where an accuracy is in doubt
NOTHING_KEPT = "nothing was kept: run it again, with fewer --samples for a first impression"


def kept_in(run_dir: Path | None) -> str:
    if run_dir is None:
        return "nothing was kept; with --run-dir a run can be resumed"
    if not any(run_dir.rglob("*.safetensors")):
        return f"nothing was finished yet: add --resume to begin again in {run_dir}"
    return f"kept in {run_dir}: add --resume to continue"


def print_results(table: Table, model: str, dataset: Any) -> None:
    notes = [*map(o.spoken, table.notes()), dataset.note]
    title = f"{model} on {several(table.n, 'image')} of {dataset.name}"
    print_table(f"{table.headline} {title}".lstrip(), table.cells(), notes)
    for name, cells in table.details().items():
        print_table(name, cells)
    if table.indicators is not None:
        say(o.spoken(table.verdict))


Check = tuple[str, str, int]
BELOW = 4  # the exit code of --fail-under; it goes before that of --strict, which doubt alone makes
SHARES = {"robust": "worst_case", "clean": "clean_accuracy"}  # of a table


def _parse_limits(text: str) -> dict[str, float]:
    """Parse the least shares, such as robust=0.5,clean=0.9."""
    limits = o.pairs(text.split(","), "a share such as robust=0.5")
    for name, limit in limits.items():
        check_choice("share", name, SHARES)
        check_share(name, limit, zero=True, one=True)
    return limits


Limits = Annotated[Mapping[str, float], o.text(_parse_limits, "robust=SHARE,clean=SHARE")]


def checks(table: Table, limits: Mapping[str, float], strict: bool) -> list[Check]:
    """Return what an evaluation must pass: name, what it has, the exit code if it failed, else 0."""
    passed: list[Check] = []
    for name, limit in limits.items():
        share = getattr(table, SHARES[name])
        good = share >= limit
        text = f"{name} accuracy {share:g} is {'at least' if good else 'below'} {limit:g}"
        passed.append((f"{name} accuracy >= {limit:g}", text, 0 if good else BELOW))
    if (signs := table.indicators) is not None:
        name = "no sign of masking" if signs.clean or strict else "verdict on masking, not required"
        passed.append((name, o.spoken(table.verdict), DOUBTFUL if strict and not signs.clean else 0))
    return passed


def write_summary(path: Path, table: Table, title: str, passed: Sequence[Check]) -> None:
    if path.suffix.lower() != ".xml":
        lines = ["**Failed:** " * bool(code) + text.replace("\n", "  \n") for _, text, code in passed]
        head = " ".join(filter(None, ["###", table.headline, title]))
        write_text(path, "\n\n".join([head, in_markdown(table.cells()), *lines]) + "\n")
        return
    cases = [(*check, 0.0) for check in passed]
    for row in table.rows:
        share = f"{'at most ' * bool(table.headline)}{percent(row.figures()['robust_accuracy'])}"
        cases.append((row.name, f"accuracy {share}", 0, row.seconds))
    suite = ElementTree.Element("testsuite", name=title, tests=str(len(cases)))
    suite.set("failures", str(sum(bool(code) for _, _, code, _ in cases)))
    for name, text, code, seconds in cases:
        case = ElementTree.SubElement(suite, "testcase", classname=title, name=name, time=f"{seconds:.3f}")
        ElementTree.SubElement(case, "failure" if code else "system-out").text = text
    write_text(path, ElementTree.tostring(suite, "utf-8", xml_declaration=True).decode() + "\n")

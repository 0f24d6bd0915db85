"""Say what a release still lacks: `python .ci/releasable.py v0.1.0`. Exit code 1 where it lacks anything."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def lacks(tag: str, root: Path) -> Iterator[str]:
    """What keeps the sources in `root` from being released under that tag, a line each."""
    (version,) = re.findall(r'^__version__ = "(.+)"', (root / "fastadv" / "_version.py").read_text(), re.M)
    if tag != f"v{version}":
        yield f"the tag: expected v{version}, the version in fastadv/_version.py, got {tag!r}"
    if f"\nversion: {version}\n" not in (root / "CITATION.cff").read_text():
        yield f"CITATION.cff: expected version: {version}"
    if "/OWNER/" in (root / "pyproject.toml").read_text():
        yield "pyproject.toml: expected the addresses of the project, got the placeholder OWNER"
    changes = (root / "CHANGELOG.md").read_text()
    if not re.search(rf"^## {re.escape(version)} \(\d{{4}}-\d\d-\d\d\)$", changes, re.M):
        yield f"CHANGELOG.md: expected a heading '## {version} (YYYY-MM-DD)' with the day of the release"
    if re.search(r"^- ", changes.partition("## Unreleased")[2].partition("\n## ")[0], re.M):
        yield f"CHANGELOG.md: expected nothing under Unreleased; its lines belong under {version}"


if __name__ == "__main__":
    found = list(lacks(sys.argv[1], ROOT))
    sys.exit("\n".join(found) if found else 0)

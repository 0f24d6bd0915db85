"""The suite under the oldest, a middle and the newest PyTorch.

Each has an environment of its own, some GB, which is kept in build/matrix. --page writes the table to
bench/results/builds.md.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from fastadv._version import OLDEST_TORCH
from fastadv.card import cpu_name
from page import put, table

ROOT = Path(__file__).resolve().parents[1]
HEADER = ("PyTorch", "Triton", "NumPy", "Python", "passed", "skipped", "failed", "minutes", "done without")
ASK = """
import json, platform
from importlib.metadata import PackageNotFoundError, version
from fastadv._torch import FEATURES
def of(name):
    try: return version(name)
    except PackageNotFoundError: return "-"
print(json.dumps([*map(of, ("torch", "triton", "numpy")), platform.python_version(),
                  [each.name for each in FEATURES if not each.here]]))
"""


def prepare(python: Path, torch: str) -> None:
    """Install that torch and all that tests need into the environment of that Python, which may be new."""
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", python.parents[1]], check=True)
    install = [python, "-m", "pip", "install", "--quiet", f"torch=={torch}", "--editable", f"{ROOT}[test]"]
    subprocess.run(install, check=True)


def tried(python: Path, whole: bool) -> dict[str, str]:
    """Run the suite with that Python; its row of the table."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    asked = subprocess.run([python, "-c", ASK], env=environment, check=True, capture_output=True, text=True)
    *versions, without = json.loads(asked.stdout)
    # without the project's -q, the last line has the counts
    command = [python, "-m", "pytest", "-o", "addopts=-p no:logging -p no:cacheprovider", "-n", "auto"]
    began = time.monotonic()
    done = subprocess.run(
        [*command, *([] if whole else ["-m", "not slow"]), ROOT / "tests"],
        env=environment, cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    log = ROOT / "build" / "matrix" / f"{versions[0]}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text(done.stdout + done.stderr)
    found = re.findall(r"(\d+) (passed|skipped|failed|errors?)", done.stdout[-2000:])
    counts = {kind: int(count) for count, kind in found}
    failed = sum(counts.get(kind, 0) for kind in ("failed", "error", "errors")) or done.returncode
    told = (counts.get("passed", 0), counts.get("skipped", 0), failed, round((time.monotonic() - began) / 60))
    return dict(zip(HEADER, (*versions, *map(str, told), ", ".join(without) or "nothing"), strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("versions", nargs="*", help="of torch; by default the oldest, 2.8 and the newest")
    parser.add_argument("--environments", type=Path, default=ROOT / "build" / "matrix")
    parser.add_argument("--as-they-are", action="store_true", help="install nothing into the environments")
    parser.add_argument("--whole", action="store_true", help="the whole suite, not the quick part")
    parser.add_argument("--page", action="store_true", help="write the table to bench/results/builds.md")
    asked = parser.parse_args()
    rows = []
    for version in asked.versions or [f"{OLDEST_TORCH}.0", "2.8.0", newest()]:
        python = asked.environments / version / "bin" / "python"
        if not asked.as_they_are:
            prepare(python, version)
        rows.append(tried(python, asked.whole))
        print(table(HEADER, [list(rows[-1].values())]).splitlines()[-1], flush=True)
    part = "The whole suite" if asked.whole else "The quick part of the suite"
    shown = table(HEADER, [list(row.values()) for row in rows])
    text = f"{part} on {cpu_name()}, {datetime.now(UTC):%Y-%m-%d}:\n\n{shown}"
    print(f"\n{text}")
    if asked.page:
        put("matrix", text)
    if any(row["failed"] != "0" for row in rows):
        raise SystemExit("a version of torch does not pass; build/matrix/*.log tells")


def newest() -> str:
    """Return the newest version of torch that pip finds."""
    found = subprocess.run(
        [sys.executable, "-m", "pip", "index", "versions", "torch"],
        check=True,
        capture_output=True,
        text=True,
    )
    return found.stdout.split("(")[1].split(")")[0]


if __name__ == "__main__":
    main()

"""Processor time of `import fastadv` beside `import torch`: processes of their own, in turns."""

import os
import resource
import subprocess
import sys
from collections.abc import Iterator

from bench.clock import quantiles, ratio
from bench.records import ROOT
from bench.session import Case, Row, Session

TURNS = 9
BASE, OURS = "import torch", "import fastadv"


def milliseconds(code: str) -> float:
    """Measure the processor time, of the user and the system, of a process that runs `code`."""
    # bytecode is stored, as pip does at an installation
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=True, env={**environment, "OMP_NUM_THREADS": "1"}
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return 1000 * (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def cases(session: Session) -> Iterator[Case]:
    yield Case("import", imports)


def imports() -> Iterator[Row]:
    """Yield a row for each import, the second with how many times as long as the first it takes."""
    milliseconds(OURS)
    turns = [(milliseconds(BASE), milliseconds(OURS)) for _ in range(TURNS)]
    torch, ours = zip(*turns, strict=True)
    what = {"what": "import, processor time", "turns": TURNS}
    yield {**what, "provider": BASE, **quantiles(torch)}
    yield {**what, "provider": OURS, **quantiles(ours), "times_torch": round(ratio(ours, torch), 3)}

"""Two processes that time the same cases in turns, and whether one is slower beyond the noise of turns."""

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.records import ROOT, Row

ALLOWED = 0.05  # slower by more than this is a loss
TURNS, SECONDS = 15, 0.2


class Answering:
    """A process that reads lines and answers each by one line of JSON."""

    def __init__(self, command: Sequence[str], env: Mapping[str, str], cwd: Path = ROOT) -> None:
        self._process = subprocess.Popen(
            command, cwd=cwd, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ask(self, line: str) -> Row:
        """Send a line, and wait for its answer."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(f"{line}\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # it has stopped, which its missing answer tells
        return self.answer()

    def answer(self) -> Row:
        """Wait for an answer, the first one unasked where the process begins by one."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("bench: a process that times stopped; its error stands above")
        found: Row = json.loads(line)
        return found

    def close(self) -> None:
        """Let the process end, which it does where no more lines come."""
        self._process.communicate()


class Process:
    """A process that times cases with the fastadv in `root`; bench/turns.py says how it is talked to."""

    def __init__(self, root: Path, command: Sequence[str] = (sys.executable, "-m", "bench.turns")) -> None:
        path = os.pathsep.join(map(str, (root, ROOT)))
        self._lines = Answering(command, {**os.environ, "PYTHONPATH": path}, root)
        found = Path(self._lines.answer()["fastadv"])
        if root.resolve() not in found.resolve().parents:
            raise SystemExit(f"bench: expected fastadv of {root} to be timed, got {found}")

    def turn(self, case: str, seconds: float) -> float:
        """Median milliseconds of the case."""
        return float(self._lines.ask(json.dumps({"case": case, "seconds": seconds}))["ms"])

    def close(self) -> None:
        self._lines.close()


@dataclass(frozen=True)
class Comparison:
    """Milliseconds of a case in each turn, here and at the base."""

    case: str
    here: list[float]
    base: list[float]

    @property
    def ratios(self) -> list[float]:
        return [here / base for here, base in zip(self.here, self.base, strict=True)]

    @property
    def ratio(self) -> float:
        """How long it takes here, over the base: the median over turns."""
        return statistics.median(self.ratios)

    @property
    def noise(self) -> float:
        """Two standard errors of the median, as normal errors with this median deviation would have them."""
        away = statistics.median(abs(r - self.ratio) for r in self.ratios)
        return 2 * 1.2533 * 1.4826 * away / len(self.ratios) ** 0.5

    @property
    def lost(self) -> bool:
        return self.ratio - self.noise > 1 + ALLOWED

    def __str__(self) -> str:
        here, base = statistics.median(self.here), statistics.median(self.base)
        verdict = "  SLOWER" if self.lost else ""
        return (
            f"{self.case:<24} here {here:10.3f} ms  base {base:10.3f} ms  "
            f"ratio {self.ratio:.3f} ± {self.noise:.3f}{verdict}"
        )


def compared(here: Process, base: Process, cases: Iterable[str]) -> Iterator[Comparison]:
    """Each case in turns, of which every second begins with the other process."""
    for case in cases:
        taken: dict[Process, list[float]] = {here: [], base: []}
        for number in range(TURNS):
            for process in (here, base) if number % 2 else (base, here):
                taken[process].append(process.turn(case, SECONDS))
        yield Comparison(case, taken[here], taken[base])

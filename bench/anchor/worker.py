"""The process that times one provider of PGD on one net, for `python -m bench.anchor`.

    python -m bench.anchor.worker NET PROVIDER [--data-dir DIR --weights FILE] [--images N --steps N]

It answers each line that it reads by one of JSON: "warm" by {} after the first calls, or by an error where
the provider cannot run here, "turn" by the milliseconds and the page faults of one call, "found" by what was
run and, of an attack, what it has found, and "flops" by the operations of the passes of one call.
"""

import argparse
import json
import resource
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import redirect_stdout
from dataclasses import replace
from typing import Any

import torch

from bench import problems
from bench.peers import PEERS, version_of
from bench.providers import by_device
from bench.records import Row, add_places
from bench.session import Session, said
from bench.subjects.attacks import found
from bench.timing import gradient_flops


def given(parser: argparse.ArgumentParser) -> None:
    """Add the options that say what is attacked."""
    add_places(parser, "data_dir", "weights")
    parser.add_argument("--images", type=int, help="at most so many, to try it out")
    parser.add_argument("--steps", type=int, help="instead of the net's own, to try it out")


class Worker:
    """One provider on one net, made and warmed when it is asked for."""

    def __init__(self, session: Session, net: str, provider: str, images: int | None, steps: int | None):
        self.session, self.net, self.provider = session, net, provider
        self.images, self.steps = images, steps
        self.call: Callable[[], Any] = lambda: None
        self.result: Any = None

    def warm(self) -> Row:
        """Call it once, and again where that took less than a second."""
        try:
            problem = problems.problem(self.session, self.net)
            self.problem = replace(
                problem, x=problem.x[: self.images], y=problem.y[: self.images],
                steps=self.steps or problem.steps,
            )  # fmt: skip
            self.call = by_device(self.session)[self.provider](self.problem)
            self.session.warmed(self.call)
        except Exception as error:
            return {"error": said(error)}
        return {}

    def turn(self) -> Row:
        before = faults()
        taken = self.session.timed(self._run)
        return {"ms": taken, "faults": faults() - before}

    def _run(self) -> None:
        self.result = self.call()

    def found(self) -> Row:
        """Judge the last result; after all turns, since it takes memory, too."""
        judged = {} if self.result is None else found(self.problem, self.result)
        if self.provider in PEERS:
            judged["version"] = version_of(self.provider)
        return {"what": problems.what(self.problem), **judged}

    def flops(self) -> Row:
        """Count once for all providers, as counting takes seconds."""
        problem = self.problem
        of_one = gradient_flops(problem.model, problem.x[:1])
        return {"flops": of_one * len(problem.x) * problem.steps}

    def answers(self, lines: Iterable[str]) -> Iterator[Row]:
        """Answer each line."""
        known = {"warm": self.warm, "turn": self.turn, "found": self.found, "flops": self.flops}
        return (known[line.strip()]() for line in lines)


def faults() -> int:
    """Return the page faults of this process so far that needed no disk."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("net", choices=problems.NETS)
    parser.add_argument("provider")
    given(parser)
    options = parser.parse_args()
    session = Session(torch.device("cpu"), data_dir=options.data_dir, weights=options.weights)
    worker = Worker(session, options.net, options.provider, options.images, options.steps)
    answers = sys.stdout
    with redirect_stdout(sys.stderr):  # libraries print, too
        for answer in worker.answers(sys.stdin):
            print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()

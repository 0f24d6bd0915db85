"""Peak memory, each measurement in a process of its own: PGD of a provider, or one forward and backward.

    python -m bench.subjects.memory PROBLEM PROVIDER [--data-dir DIR --weights FILE]

prints by how many bytes the resident set grew at most. The case compares PGD with one forward and backward.
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import torch

import fastadv as fa
from bench import pgd, records
from bench.pgd import PROVIDERS
from bench.session import Case, Row, Session

MIB = 2**20
BATCH, STEPS = 1000, 3
PASS = "forward and backward"


def _status(name: str) -> int:
    """Return a line of /proc/self/status, in bytes."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) * 1024


def peak() -> Callable[[], int]:
    """Return a function that tells by how many bytes the resident set has grown at most since now, on Linux.

    Another call begins anew for both. OSError where a container forbids to set the peak back.
    """
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # what sets VmHWM back
    return lambda: max(_status("VmHWM") - before, 0)


def grown(call: Callable[[], object]) -> int:
    """Return the most bytes by which the resident set grows during the call."""
    taken = peak()
    call()
    return taken()


def one_pass(given: pgd.Problem) -> None:
    """Do a forward and a backward pass as in training, with the gradients of the weights."""
    leaf = given.x.clone().requires_grad_()
    torch.nn.functional.cross_entropy(given.model(leaf), given.y).backward()


def measure(given: pgd.Problem, provider: str) -> int:
    """Measure after a call with two images, which lets the libraries allocate their buffers."""

    def way(given: pgd.Problem) -> Callable[[], object]:
        return (lambda: one_pass(given)) if provider == PASS else PROVIDERS[provider](given)

    way(replace(given, x=given.x[:2], y=given.y[:2]))()
    given.model.zero_grad()
    return grown(way(given))


def growth(*arguments: str) -> float:
    """Measure in a process with these arguments; in MiB."""
    return float(records.apart("bench.subjects.memory", *arguments)) / MIB


def of_provider(session: Session, name: str, provider: str) -> dict[str, float]:
    """Measure the peak of a provider of PGD; empty if the system has no /proc."""
    if not sys.platform.startswith("linux"):
        return {}
    places = records.arguments(session, "data_dir", "weights")
    return {"peak_mib": round(growth(name, provider, *places), 1)}


def cases(session: Session) -> Iterator[Case]:
    if sys.platform.startswith("linux"):
        yield Case("peak memory", against_one_pass)


def against_one_pass() -> Iterator[Row]:
    """Yield two rows, each the median of three processes."""
    base, attack = (
        sorted(growth("large", provider, "--threads", "1") for _ in range(3))[1]
        for provider in (PASS, "fastadv fp32")
    )
    what = f"peak memory, {BATCH} images, CNN"
    yield {"what": what, "provider": PASS, "mib": round(base, 1)}
    times = {"times_forward_backward": round(attack / base, 3)}
    yield {"what": what, "provider": "fastadv pgd", "mib": round(attack, 1), **times}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("problem", choices=[*pgd.NETS, "large"])
    parser.add_argument("provider")
    records.add_places(parser, "data_dir", "weights")
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.problem == "large":
        model, x = fa.models.create("cnn").eval(), torch.rand(BATCH, 1, 28, 28)
        given = pgd.Problem("CNN", model, x, torch.randint(10, (BATCH,)), 0.3, 0.1, 5)
    else:
        places = {"data_dir": options.data_dir, "weights": options.weights}
        session = Session(torch.device("cpu"), **places)
        given = replace(pgd.problem(session, options.problem), steps=STEPS)
    print(measure(given, options.provider))


if __name__ == "__main__":
    main()

"""Peak memory of PGD beside one forward and backward, each in a process of its own.

    python -m bench.subjects.memory PROVIDER

prints by how many bytes the resident set grew at most.
"""

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

import fastadv as fa
from bench import pgd
from bench.records import apart
from bench.session import Case, Row, Session

MIB = 2**20
BATCH = 1000
PASS, OURS = "forward and backward", "fastadv"


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


def cases(session: Session) -> Iterator[Case]:
    if sys.platform.startswith("linux"):
        yield Case("peak memory", against_one_pass)


def against_one_pass() -> Iterator[Row]:
    """Yield two rows, each the median of three processes."""
    base, attack = (
        sorted(apart("bench.subjects.memory", provider) / MIB for _ in range(3))[1]
        for provider in (PASS, OURS)
    )
    what = f"peak memory, {BATCH} images, CNN"
    yield {"what": what, "provider": PASS, "mib": round(base, 1)}
    times = {"times_forward_backward": round(attack / base, 3)}
    yield {"what": what, "provider": "fastadv pgd", "mib": round(attack, 1), **times}


def measure(provider: str, batch: int = BATCH) -> int:
    """Measure after a call with two images, which lets the libraries allocate their buffers."""
    torch.set_num_threads(1)
    model, x = fa.models.create("cnn").eval(), torch.rand(batch, 1, 28, 28)
    given = pgd.Problem("CNN", model, x, torch.randint(10, (batch,)), 0.3, 0.1, 5)
    way = one_pass if provider == PASS else partial(pgd.ours, target=model)
    way(replace(given, x=x[:2], y=given.y[:2]))
    model.zero_grad()
    return grown(partial(way, given))


if __name__ == "__main__":
    print(measure(sys.argv[1]))

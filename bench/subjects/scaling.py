"""How time grows with batch, image size, steps, classes and threads: PGD on the small CNN, and two steps.

Each row holds the times of one provider along one axis and the exponent e of time ~ work^e, fitted on
logarithms. What grows faster than its work, by an exponent above `FASTER`, is named in its row. The ceiling
beside it, the passes alone or a copy of the same bytes, shows whether it is the machine that does. With more
threads the work stays the same.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch

import fastadv as fa
from bench import pgd
from bench.eager.steps import STEPS
from bench.session import Case, Row, Session
from bench.timing import quantiles

FASTER = 1.1
OPS = ("linf_step", "l2_step")
CORES = os.cpu_count() or 1
Ways = dict[str, Callable[[], object]]


@dataclass(frozen=True)
class Size:
    """A square image of `side` pixels and three channels; `steps` and `classes` are of PGD."""

    batch: int = 64
    side: int = 32
    steps: int = 5
    classes: int = 10
    threads: int = 1


# along each axis: the sizes, and the power of them by which the work grows
AXES: dict[str, tuple[tuple[int, ...], int]] = {
    "batch": ((16, 32, 64, 128, 256, 512), 1),
    "side": ((16, 24, 32, 48, 64, 96), 2),
    "steps": ((5, 10, 20, 40, 80), 1),
    "classes": ((10, 100, 1000, 10_000), 1),
    "threads": (tuple(2**i for i in range(CORES.bit_length()) if 2**i <= CORES), 0),
}
AXES_OF_OPS = {
    "batch": ((64, 128, 256, 512, 1024, 2048, 4096), 1),
    "side": ((16, 32, 64, 128, 256), 2),
    "threads": AXES["threads"],
}


def attack(size: Size) -> Ways:
    """Return PGD and the passes alone, with the model frozen beforehand."""
    shape = (size.batch, 3, size.side, size.side)
    x = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    model = fa.models.create("small_cnn", shape=(3, 32, 32), classes=size.classes, width=32).eval()
    frozen = fa.freeze(model)
    given = pgd.Problem("small CNN", model, x, pgd.classes(model, x), 8 / 255, 2 / 255, size.steps)
    return {
        "fastadv fp32": partial(pgd.ours, given, frozen),
        "passes alone, fp32": partial(pgd.passes, given, frozen),
    }


def step(op: str, size: Size) -> Ways:
    """Return the step, and a copy of as many bytes as it must read and write."""
    draw = torch.Generator().manual_seed(0)
    shape = (size.batch, 3, size.side, size.side)
    x, grad = torch.rand(shape, generator=draw), torch.randn(shape, generator=draw)
    _, fused, radius, step_size = STEPS[op]
    source, target = torch.cat([x, grad]), torch.cat([grad, x])
    return {
        "fastadv": partial(fused, x.clone(), grad, x, radius, step_size),
        "copy of the same bytes": partial(target.copy_, source),
    }


def exponent(work: list[float], taken: list[float]) -> float:
    """Fit e in time ~ work^e, by least squares on logarithms."""
    return float(np.polyfit(np.log(work), np.log(taken), 1)[0])


def measured(
    session: Session, what: str, axis: str, ways: Callable[[Size], Ways], sizes: tuple[int, ...], power: int
) -> Iterator[Row]:
    """Measure each provider at each size, and yield a row for each."""
    medians: dict[str, list[float]] = {}
    threads = torch.get_num_threads()
    try:
        for value in sizes:
            size = replace(Size(threads=threads), **{axis: value})
            torch.set_num_threads(size.threads)
            for row, values in session.compare(ways(size), "", least=3):
                medians.setdefault(row["provider"], []).append(quantiles(values)["p50_ms"])
    finally:
        torch.set_num_threads(threads)
    yield from fitted(what, axis, sizes, power, medians)


def fitted(
    what: str, axis: str, sizes: tuple[int, ...], power: int, medians: dict[str, list[float]]
) -> Iterator[dict[str, Any]]:
    """Yield the rows of one axis. The exponent is in the work, or in the threads if these grow."""
    for provider, taken in medians.items():
        row = {"what": what, "provider": provider, "axis": axis, "sizes": list(sizes), "p50_ms_at": taken}
        if len(sizes) > 1:
            power_found = exponent([float(size) ** (power or 1) for size in sizes], taken)
            row |= {
                "exponent": round(power_found, 3),
                "grows_faster_than_work": power_found > (FASTER if power else FASTER - 1),
            }
        yield row


def cases(session: Session) -> Iterator[Case]:
    """Yield a case for each axis of PGD and of two steps, with a quarter of the time for each size."""
    short = replace(session, seconds=session.seconds / 4)
    kinds: list[tuple[str, Callable[[Size], Ways], dict[str, tuple[tuple[int, ...], int]]]] = [
        ("PGD, small CNN", attack, AXES),
        *((f"{op}_", partial(step, op), AXES_OF_OPS) for op in OPS),
    ]
    for name, ways, axes in kinds:
        for axis in axes:
            what = f"scaling of {name} with {axis}"
            yield Case(what, partial(measured, short, what, axis, ways, *axes[axis]))

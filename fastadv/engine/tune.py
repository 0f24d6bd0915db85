"""The fastest way to search with a model, by measurement."""

import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from fastadv import rng
from fastadv.engine.frozen import Frozen
from fastadv.engine.options import Options
from fastadv.engine.precision import AUTO, Precision
from fastadv.errors import InputError, NoGradientError
from fastadv.runs import processes

ROUNDS = 3
# the model's own precision first; on a CPU, on a GPU
AUTOMATIC: tuple[tuple[Precision, ...], ...] = ("fp32", "bf16"), ("fp32", "tf32", "bf16", "fp16")


def tuned(make: Callable[[Options], Frozen], options: Options, x: Tensor) -> tuple[Frozen, str] | None:
    """Find the way that takes least time for losses and input gradients at x [B, ...], and a note about it.

    First come the search twins of the precision asked for and of the model's own, and the model as given;
    then the fastest of these compiled, and on a GPU captured. For the precision "auto" they are those of each
    precision of the device, and with `tune=True` the fastest also compiled and captured. None where no logits
    are finite. The best one counts the passes of all. The global random state stays as it was. Raises
    InputError in a group of processes, which might choose differently.

    make: freezes the model with such options.
    """
    if processes.world() > 1:
        raise InputError(
            f"tune: expected one process, got a group of {processes.world()}, each of which might choose "
            "another way; tune in one, and freeze with the options that its notes tell"
        )
    seconds: dict[str, float] = {}
    with rng.torch_seeded(0, x.device):
        ways = list(_made(make, _twins(options, x)))
        if not bool(ways[0].verdict(x).isfinite().all(1).any()):
            return None
        try:
            best = _fastest(ways, x, seconds)
            if options.tune:
                more = [make(each) for each in _passes(best.options, x)]
                ways += more
                best = _fastest([best, *more], x, seconds)
        except NoGradientError:
            return ways[0], "not tuned: the model has no gradient"
    forwards, backwards = sum(way.forwards for way in ways), sum(way.backwards for way in ways)
    best.forwards, best.backwards = forwards, backwards
    times = ", ".join(f"{name} {1000 * taken:.3g}" for name, taken in seconds.items())
    return best, f"tuned: {_name(best.options)} (ms for {len(x)} samples: {times})"


def _made(make: Callable[[Options], Frozen], several: Iterable[Options]) -> Iterator[Frozen]:
    """Freeze the model by each of the options that it can be frozen by; the first ones it can."""
    for place, options in enumerate(several):
        try:
            yield make(options)
        except InputError:
            if not place:
                raise


def _twins(options: Options, x: Tensor) -> Iterator[Options]:
    asked = replace(options, tune=False, compile=False, cuda_graph=False)
    if asked.precision == AUTO:
        for precision in AUTOMATIC[x.device.type == "cuda"]:
            yield replace(asked, precision=precision)
        return
    yield asked
    if asked.precision != "fp32":
        yield replace(asked, precision="fp32")
    yield replace(asked, precision="fp32", as_given=True)


def _passes(options: Options, x: Tensor) -> Iterator[Options]:
    yield replace(options, compile=True)
    if x.is_cuda and options.eot == 1:
        yield replace(options, cuda_graph=True)


def _name(options: Options) -> str:
    words = {"as given": options.as_given, "compiled": options.compile, "captured": options.cuda_graph}
    return " ".join([options.precision, *(word for word, holds in words.items() if holds)])


def _fastest(ways: Sequence[Frozen], x: Tensor, seconds: dict[str, float]) -> Frozen:
    """Return the way with the least median time, and write the medians into `seconds`."""
    y = ways[0].verdict(x).argmax(1)

    def run(way: Frozen) -> None:
        way.input_gradient(x, y, direction=True)
        if x.is_cuda:
            torch.cuda.synchronize()

    # the first turn checks and compiles; the second captures, which the median leaves out
    taken: list[list[float]] = [[] for _ in ways]
    for _ in range(1 + ROUNDS):
        for way, times in zip(ways, taken, strict=True):
            started = time.perf_counter()
            run(way)
            times.append(time.perf_counter() - started)
    medians = [statistics.median(times[1:]) for times in taken]
    seconds |= {_name(way.options): median for way, median in zip(ways, medians, strict=True)}
    return ways[medians.index(min(medians))]

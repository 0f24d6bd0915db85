"""Time and memory of what is large: ABS with up to 1,000 classes, images of 224 x 224, and 50,000 images.

    python -m bench.subjects.large CASE SIZE

measures one size in a process of its own, and prints milliseconds and MiB as JSON.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

import fastadv as fa
from bench import nets, pgd
from bench.clock import quantiles
from bench.records import apart
from bench.session import Case, Row, Session
from bench.subjects.memory import MIB, one_pass, peak
from fastadv.ops._samples import MNIST, random_decoder

TURNS = 3
IMAGES, PRIOR, STEPS = 4, 1000, 10  # of ABS, whose prior samples are as many as classes at least
CLASSES, STREAMED = (10, 100, 1000), (5000, 50_000)
SIDE, BATCH = 224, 16
PROVIDERS = ("fastadv fp32", "plain loop", "passes alone", "forward and backward")


class Images(Dataset[tuple[Tensor, int]]):
    """Images that are made when they are asked for."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if index >= self.count:
            raise IndexError(index)
        draw = torch.Generator().manual_seed(index)
        return torch.randint(256, (3, 32, 32), generator=draw, dtype=torch.uint8), index % 10


def infer(classes: int) -> Callable[[], object]:
    """Return the inference of a few images by ABS with so many classes."""
    draw = torch.Generator().manual_seed(0)
    weights, biases = random_decoder(draw, classes, MNIST, torch.device("cpu"), torch.float32)
    strides = [layer[3] for layer in MNIST]
    model = fa.models.ABS(weights, biases, strides, prior_samples=PRIOR, steps=STEPS)
    x = torch.rand(IMAGES, 1, 28, 28, generator=draw)
    model.bank()
    return lambda: model(x)


def attack(provider: str) -> Callable[[], object]:
    """Return PGD of three steps, or what it is compared with, on a ResNet-50."""
    model = nets.resnet50()
    x = torch.rand(BATCH, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    given = pgd.Problem("ResNet-50", model, x, pgd.classes(model, x), 4 / 255, 1 / 255, 3)
    if provider == "plain loop":
        return partial(pgd.plain, given)
    if provider == "forward and backward":
        return partial(one_pass, given)
    frozen = fa.freeze(model)  # in bfloat16 random weights round too much, so that it would fall back
    return partial(pgd.passes if provider == "passes alone" else pgd.ours, given, frozen)


def stream(count: int) -> Callable[[], object]:
    """Return the evaluation of a small network on so many images under FGSM."""
    model: nn.Module = fa.models.create("small_cnn", shape=(3, 32, 32), width=8).eval()
    attacks = {"FGSM": partial(fa.attacks.fgsm, threat=fa.Linf(8 / 255))}
    return lambda: fa.evaluate(model, Images(count), attacks, batch_size=256, indicators=False)


MAKE: dict[str, Callable[[str], Callable[[], object]]] = {
    "classes": lambda size: infer(int(size)),
    "side": attack,
    "images": lambda size: stream(int(size)),
}


def measure(case: str, size: str) -> dict[str, list[float]]:
    """Return the milliseconds of each turn, and the MiB by which the process grew at most with the model."""
    # with the weights, and what is made of them; nothing but Linux tells it
    grown = peak() if sys.platform.startswith("linux") else int
    call = MAKE[case](size)
    if case != "images":  # a long stream warms up by itself
        call()
    taken = []
    for _ in range(1 if case == "images" else TURNS):
        started = time.perf_counter()
        call()
        taken.append(1000 * (time.perf_counter() - started))
    return {"ms": taken, "mib": [grown() / MIB]}


def measured(case: str, size: object) -> dict[str, list[float]]:
    """Measure in a process of its own."""
    found: dict[str, list[float]] = apart("bench.subjects.large", case, str(size))
    return found


def by_size(what: str, case: str, sizes: tuple[int, ...]) -> Iterator[Row]:
    """Yield a row of the time and one of the memory, each with its exponent in the work."""
    found = [measured(case, size) for size in sizes]
    for provider, column, taken in (
        ("fastadv", "p50_ms_at", [quantiles(each["ms"])["p50_ms"] for each in found]),
        ("fastadv, memory", "mib_at", [round(each["mib"][0], 1) for each in found]),
    ):
        power = float(np.polyfit(np.log(sizes), np.log(taken), 1)[0])  # e in taken ~ size^e
        row = {"what": what, "provider": provider, "axis": case, "sizes": list(sizes), column: taken}
        yield row | {"exponent": round(power, 3), "grows_faster_than_work": power > 1.1}


def by_provider() -> Iterator[Row]:
    """Yield a row of each way."""
    for provider in PROVIDERS:
        found = measured("side", provider)
        what = f"PGD-3, ResNet-50, {BATCH} images of {SIDE}x{SIDE}"
        yield {"what": what, "provider": provider, **quantiles(found["ms"]), "mib": round(found["mib"][0], 1)}


def cases(session: Session) -> Iterator[Case]:
    abs_of = f"ABS with classes, {IMAGES} images, {PRIOR} prior samples, {STEPS} steps"
    yield Case("ABS with classes", partial(by_size, abs_of, "classes", CLASSES))
    yield Case("ResNet-50", by_provider)
    yield Case("streamed images", partial(by_size, "streamed evaluation, FGSM", "images", STREAMED))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("case", choices=MAKE)
    parser.add_argument("size")
    options = parser.parse_args()
    print(json.dumps(measure(options.case, options.size)))


if __name__ == "__main__":
    main()

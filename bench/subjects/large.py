"""What a process of its own is needed for: time and memory of what is large, and how long an import takes.

    python -m bench.subjects.large CASE SIZE

measures one size, and prints milliseconds and MiB as JSON: ABS with up to 1,000 classes, images of 224 x 224,
50,000 images, and the peak memory of PGD beside that of one forward and backward.
"""

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

import fastadv as fa
from bench import nets, pgd
from bench.clock import quantiles, ratio
from bench.records import ROOT, apart
from bench.session import Case, Row, Session
from fastadv.ops._samples import MNIST, random_decoder

MIB = 2**20
TURNS = 3
IMAGES, PRIOR, STEPS = 4, 1000, 10  # of ABS, whose prior samples are as many as classes at least
CLASSES, STREAMED = (10, 100, 1000), (5000, 50_000)
SIDE, BATCH, MANY = 224, 16, 1000
PASS = "forward and backward"
PROVIDERS = ("fastadv fp32", "plain loop", "passes alone", PASS)
IMPORTS = ("import torch", "import fastadv")


def peak() -> Callable[[], int]:
    """Return a function that tells by how many bytes the resident set has grown at most since now, on Linux.

    Another call begins anew for both. OSError where a container forbids to set the peak back.
    """

    def status(name: str) -> int:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) * 1024

    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # what sets VmHWM back
    return lambda: max(status("VmHWM") - before, 0)


def grown(call: Callable[[], object]) -> int:
    taken = peak()
    call()
    return taken()


class Images(Dataset[tuple[Tensor, int]]):
    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if index >= self.count:
            raise IndexError(index)
        draw = torch.Generator().manual_seed(index)
        return torch.randint(256, (3, 32, 32), generator=draw, dtype=torch.uint8), index % 10


def infer(classes: str) -> Callable[[], object]:
    draw = torch.Generator().manual_seed(0)
    weights, biases = random_decoder(draw, int(classes), MNIST, torch.device("cpu"), torch.float32)
    strides = [layer[3] for layer in MNIST]
    model = fa.models.ABS(weights, biases, strides, prior_samples=PRIOR, steps=STEPS)
    x = torch.rand(IMAGES, 1, 28, 28, generator=draw)
    model.bank()
    return lambda: model(x)


def one_pass(given: pgd.Problem) -> None:
    """Do a forward and a backward pass as in training, with the gradients of the weights."""
    leaf = given.x.clone().requires_grad_()
    torch.nn.functional.cross_entropy(given.model(leaf), given.y).backward()


def attack(provider: str) -> Callable[[], object]:
    model = nets.resnet50()
    x = torch.rand(BATCH, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    given = pgd.Problem("ResNet-50", model, x, pgd.classes(model, x), 4 / 255, 1 / 255, 3)
    if provider in ("plain loop", PASS):
        return partial(one_pass if provider == PASS else pgd.plain, given)
    frozen = fa.freeze(model)  # in bfloat16 random weights round too much, so that it would fall back
    return partial(pgd.passes if provider == "passes alone" else pgd.ours, given, frozen)


def stream(count: str) -> Callable[[], object]:
    model: nn.Module = fa.models.create("small_cnn", shape=(3, 32, 32), width=8).eval()
    attacks = {"FGSM": partial(fa.attacks.fgsm, threat=fa.Linf(8 / 255))}
    return lambda: fa.evaluate(model, Images(int(count)), attacks, batch_size=256, indicators=False)


def of_many(provider: str) -> Callable[[], object]:
    """Return PGD, or one pass, on many images of a CNN; a call with two has let buffers be allocated."""
    torch.set_num_threads(1)
    model, x = fa.models.create("cnn").eval(), torch.rand(MANY, 1, 28, 28)
    y = torch.randint(10, (MANY,))
    way = one_pass if provider == PASS else partial(pgd.ours, target=model)
    few, all_of_them = (pgd.Problem("CNN", model, x[:n], y[:n], 0.3, 0.1, 5) for n in (2, MANY))
    way(few)
    model.zero_grad()
    return partial(way, all_of_them)


MAKE = {"classes": infer, "side": attack, "images": stream, "memory": of_many}


def measure(case: str, size: str) -> dict[str, list[float]]:
    """Return the milliseconds of each turn, and the MiB by which the process grew at most.

    That is with the model and what is made of it, but of the case "memory" alone. Nothing but Linux tells it.
    """
    linux = sys.platform.startswith("linux")
    whole = peak() if linux else int
    call, taken = MAKE[case](size), list[float]()
    if case == "memory":
        return {"ms": taken, "mib": [(grown(call) if linux else 0) / MIB]}
    if case != "images":  # a long stream warms up by itself
        call()
    for _ in range(1 if case == "images" else TURNS):
        started = time.perf_counter()
        call()
        taken.append(1000 * (time.perf_counter() - started))
    return {"ms": taken, "mib": [whole() / MIB]}


def measured(case: str, size: object) -> Any:
    return apart("bench.subjects.large", case, str(size))


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
    for provider in PROVIDERS:
        found = measured("side", provider)
        what = f"PGD-3, ResNet-50, {BATCH} images of {SIDE}x{SIDE}"
        yield {"what": what, "provider": provider, **quantiles(found["ms"]), "mib": round(found["mib"][0], 1)}


def against_one_pass() -> Iterator[Row]:
    """Yield two rows of memory, each the median of three processes."""
    peaks = {
        way: sorted(measured("memory", way)["mib"][0] for _ in range(3))[1] for way in (PASS, "fastadv pgd")
    }
    for provider, mib in peaks.items():
        row = {"what": f"peak memory, {MANY} images, CNN", "provider": provider, "mib": round(mib, 1)}
        yield row | ({} if provider == PASS else {"times_forward_backward": round(mib / peaks[PASS], 3)})


def milliseconds(code: str) -> float:
    # bytecode is stored, as pip does at an installation
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=True, env={**environment, "OMP_NUM_THREADS": "1"}
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return 1000 * (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def imports(turns: int = 9) -> Iterator[Row]:
    """Yield a row for each import, in turns, the second with how many times as long as the first it takes."""
    milliseconds(IMPORTS[1])
    taken = list(zip(*(map(milliseconds, IMPORTS) for _ in range(turns)), strict=True))
    for provider, values in zip(IMPORTS, taken, strict=True):
        row = {"what": "import, processor time", "turns": turns, "provider": provider, **quantiles(values)}
        yield row | ({} if provider == IMPORTS[0] else {"times_torch": round(ratio(values, taken[0]), 3)})


def cases(session: Session) -> Iterator[Case]:
    abs_of = f"ABS with classes, {IMAGES} images, {PRIOR} prior samples, {STEPS} steps"
    yield Case("import", imports)
    if sys.platform.startswith("linux"):
        yield Case("peak memory", against_one_pass)
    yield Case("ABS with classes", partial(by_size, abs_of, "classes", CLASSES))
    yield Case("ResNet-50", by_provider)
    yield Case("streamed images", partial(by_size, "streamed evaluation, FGSM", "images", STREAMED))


if __name__ == "__main__":
    print(json.dumps(measure(*sys.argv[1:])))

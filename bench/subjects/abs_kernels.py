"""The latent descent and the prior search of ABS on a CPU, each against what the processor can do.

The descent is compared with the multiply-add rate and with the authors' code, the search with a matrix
product, which neither finds the minimum nor is exact.
"""

from collections.abc import Iterator
from statistics import median

import torch

from bench.eager import abs as eager
from bench.session import Row, Session
from bench.timing import ratio
from fastadv import ops
from fastadv.ops._samples import MNIST, random_decoder
from fastadv.ops.registration.library import CARDS, extension

CLASSES, BATCHES, STEPS, PRIOR = 10, (100, 1), 50, 8000
ROUNDS = 300_000  # multiply-adds for each image: one turn takes about as long as the other ways' turns
EAGER, PEAK = "eager, as the authors' code", "multiply-adds in registers"
FEW = 3  # steps of the eager descent; its rate stands for that of all steps


def rows(session: Session) -> Iterator[Row]:
    """Measure both kernels at random weights, on which speed does not depend."""
    for batch in BATCHES:
        yield from descent(session, batch)
    for batch in BATCHES:
        yield from search(session, batch)


def descent(session: Session, batch: int) -> Iterator[Row]:
    decoder = random_decoder(torch.Generator().manual_seed(0), CLASSES, MNIST, session.device, torch.float32)
    x, z = session.rand(batch, 1, 28, 28), session.randn(batch, CLASSES, 8)
    args = x, z, *decoder, [layer[3] for layer in MNIST]
    ways = {
        "fastadv fp32": lambda: ops.latent_fit(*args, steps=STEPS),
        "fastadv bf16": lambda: ops.latent_fit(*args, steps=STEPS, bf16=True),
        EAGER: lambda: eager.descent(*args, steps=FEW),
        PEAK: lambda: extension.fma_rounds(ROUNDS * (batch + 9)),
    }
    flops = CARDS["latent_fit"].flops(*args, 1.0, STEPS)
    work = dict.fromkeys(ways, flops) | {
        EAGER: CARDS["latent_fit"].flops(*args, 1.0, FEW),
        PEAK: extension.fma_rounds(1) * ROUNDS * (batch + 9),
    }
    what = f"latent_fit, {batch} x {CLASSES} x {STEPS}, MNIST decoder"
    found = {row["provider"]: (row, values) for row, values in session.compare(ways, "", least=7)}
    speeds = {name: [work[name] / t for t in values] for name, (_, values) in found.items()}
    for name, (row, values) in found.items():
        if work[name] != flops:  # not the whole descent, so its time says nothing
            row = {"provider": name}
        else:
            row["ms_per_image"] = round(median(values) / batch, 3)
        row |= {"what": what, "gflops": round(median(speeds[name]) / 1e6, 1)}
        for other, key in (
            (PEAK, "share_of_fma_rate"),
            ("fastadv fp32", "times_fp32"),
            (EAGER, "times_eager"),
        ):
            if name.startswith("fastadv") and other != name:
                row[key] = round(ratio(speeds[name], speeds[other]), 3)
        yield row


def search(session: Session, batch: int) -> Iterator[Row]:
    bank, bias = session.rand(CLASSES, PRIOR, 784), session.rand(CLASSES, PRIOR, seed=1)
    x = session.rand(batch, 784, seed=2)
    ways = {
        "fastadv": lambda: ops.nearest_prototype(x, bank, bias),
        "torch.matmul": lambda: x @ bank.view(-1, 784).T,
    }
    flops = CARDS["nearest_prototype"].flops(x, bank, bias)
    what = f"nearest_prototype, {batch} x {CLASSES} x {PRIOR} x 784"
    for row, values in session.compare(ways, "torch.matmul", "times_matmul", least=7):
        yield {"what": what, **row, "gflops": round(flops / median(values) / 1e6, 1)}

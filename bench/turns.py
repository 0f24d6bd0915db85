"""The process that times cases for `bench/run.py --base REF`, with the fastadv that its path leads to.

    python -m bench.turns

It says where its fastadv is. Then each line it reads, {"case": name, "seconds": s}, is answered by
{"ms": median} after so many seconds of that case. Cases use public calls alone, so that they run on older
trees too.
"""

import json
import statistics
import sys
from collections.abc import Callable
from functools import cache, partial

import torch
from torch import nn

import fastadv as fa
from bench import nets, pgd
from bench.eager.steps import STEPS
from bench.timing import wall

SHAPE = (500, 3, 32, 32)
# net, images, radius, step size, steps
PGD: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], float, float, int]] = {
    "CNN": (nets.cnn, (64, 1, 28, 28), 0.3, 0.01, 10),
    "MLP": (nets.mlp, (512, 1, 28, 28), 0.3, 0.01, 20),
    "small CNN": (partial(nets.small_net, width=32), (64, 3, 32, 32), 8 / 255, 2 / 255, 5),
    "ResNet-18": (nets.resnet18, (8, 3, 32, 32), 8 / 255, 2 / 255, 3),
}
PRECISIONS = ("fp32", "bf16")
# names by part, as `--only` has them
CASES = {
    "ops": tuple(f"{op}_" for op in STEPS),
    "attacks": tuple(f"PGD, {net}, {precision}" for net in PGD for precision in PRECISIONS),
}


def step(op: str) -> Callable[[], object]:
    draw = torch.Generator().manual_seed(0)
    x, grad = torch.rand(SHAPE, generator=draw), torch.randn(SHAPE, generator=draw)
    _, fused, radius, step_size = STEPS[op]
    return partial(fused, x.clone(), grad, x, radius, step_size)


@cache
def problem(net: str) -> pgd.Problem:
    create, shape, radius, step_size, steps = PGD[net]
    x, model = torch.rand(shape, generator=torch.Generator().manual_seed(0)), create()
    return pgd.Problem(net, model, x, pgd.classes(model, x), radius, step_size, steps)


def attack(net: str, precision: str) -> Callable[[], object]:
    """With the twin made anew, as a user's call makes it."""
    given = problem(net)
    return lambda: pgd.ours(given, fa.freeze(given.model, precision))  # type: ignore[arg-type]


@cache
def prepared(case: str) -> Callable[[], object]:
    """What is timed, warmed up."""
    kind, *rest = case.split(", ")
    way = attack(*rest) if rest else step(kind.removesuffix("_"))
    way()
    way()
    return way


def turn(case: str, seconds: float) -> float:
    """The median milliseconds of a call, in so many seconds and one call at least."""
    way, taken = prepared(case), []
    while not taken or sum(taken) < seconds:
        taken.append(wall(way)[0])
    return 1000 * statistics.median(taken)


def main() -> None:
    print(json.dumps({"fastadv": str(fa.__file__)}), flush=True)
    for line in sys.stdin:
        print(json.dumps({"ms": turn(**json.loads(line))}), flush=True)


if __name__ == "__main__":
    main()

"""Certificates beside the bare forward pass and the loop that papers publish, in turns.

    python -m bench.certify [--images 32] [--draws 2000] [--weights FILE] [--out FILE]

The loop draws by torch.randn_like and counts on the host (Cohen et al. 2019). A row has a way's milliseconds,
and how many times faster than the loop it is; `bare` passes as many images of the same size, without noise.
"""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch

import fastadv as fa
from bench.records import RESULTS, parser
from bench.timing import quantiles, ratio, wall
from fastadv.runs.card import machine

SIGMA, BATCH, TURNS = 0.5, 1000, 5
RADII = (0.25, 0.5, 0.75, 1.0)


def loop(net: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor, draws: int) -> None:
    """Count the votes of each image's draws, image by image, on the host."""
    for image in x:
        counts = np.zeros(10, dtype=int)
        for _ in range(draws // BATCH):
            with torch.no_grad():
                batch = image.repeat((BATCH, 1, 1, 1))
                counts += np.bincount(
                    net(batch + torch.randn_like(batch) * SIGMA).argmax(1).cpu(), minlength=10
                )


def bare(net: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor, draws: int) -> None:
    batch = x[:1].repeat((BATCH, 1, 1, 1))
    for _ in range(len(x) * draws // BATCH):
        net(batch)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--images", type=int, default=32)
    options.add_argument("--draws", type=int, default=2000)
    options.add_argument("--weights", type=Path)
    options.add_argument("--out", type=Path, default=RESULTS / "certify.jsonl")
    given = options.parse_args()
    test = fa.data.load("mnist", "test", limit=given.images)
    for dtype in (torch.float32, torch.bfloat16):
        net = fa.models.create("lenet", shape=test.shape, classes=10)
        if given.weights:
            fa.models.load_weights(net, given.weights)
        net = net.eval().to(dtype)
        frozen, x = fa.freeze(net), test.x.to(dtype)
        smooth = partial(fa.certify.smooth, frozen, test, SIGMA, n=given.draws, n0=1, batch_size=BATCH)
        ways: dict[str, Callable[[], object]] = {
            "loop": partial(loop, net, x, given.draws), "bare": partial(bare, frozen, x, given.draws),
            "fastadv": partial(smooth, sequential=False), "fastadv, sequential": partial(smooth, radii=RADII),
        }  # fmt: skip
        turns = [{name: 1000 * wall(way)[0] for name, way in ways.items()} for _ in range(TURNS)]
        for name in ways:
            own, theirs = [turn[name] for turn in turns], [turn["loop"] for turn in turns]
            row = {
                "way": name,
                "dtype": str(dtype),
                "images": given.images,
                "draws": given.draws,
                "turns": TURNS,
            }
            row |= {**quantiles(own), "times_loop": round(ratio(theirs, own), 3), "machine": machine()}
            with given.out.open("a") as file:
                file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()

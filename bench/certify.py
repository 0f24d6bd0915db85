"""Certificates beside the bare forward pass and the loop that papers publish, in turns.

    python -m bench.certify [WEIGHTS]

The loop draws by torch.randn_like and counts on the host; `bare` passes as many images without noise.
"""

import json
import sys
from functools import partial
from typing import Any

import numpy as np
import torch

import fastadv as fa
from bench.records import RESULTS
from bench.timing import quantiles, ratio, wall
from fastadv.runs.card import machine

SIGMA, BATCH, TURNS, IMAGES, DRAWS = 0.5, 1000, 5, 32, 2000


def loop(net: Any, x: torch.Tensor) -> None:
    for image in x:
        for _ in range(DRAWS // BATCH):
            batch = image.repeat((BATCH, 1, 1, 1))
            with torch.no_grad():
                votes = net(batch + torch.randn_like(batch) * SIGMA).argmax(1).cpu()
            np.bincount(votes, minlength=10)


def main() -> None:
    test = fa.data.load("mnist", "test", limit=IMAGES)
    for dtype in (torch.float32, torch.bfloat16):
        net = fa.models.create("lenet", shape=test.shape, classes=10)
        if sys.argv[1:]:
            fa.models.load_weights(net, sys.argv[1])
        frozen, x = fa.freeze(net.eval().to(dtype)), test.x.to(dtype)
        smooth = partial(fa.certify.smooth, frozen, test, SIGMA, n=DRAWS, n0=1, batch_size=BATCH)
        batches = [x[:1].repeat((BATCH, 1, 1, 1))] * (IMAGES * DRAWS // BATCH)
        ways = {"loop": partial(loop, net, x), "bare": lambda net=frozen, all=batches: [net(x) for x in all]}
        ways["fastadv"] = partial(smooth, sequential=False)
        ways["fastadv, sequential"] = partial(smooth, radii=(0.25, 0.5, 0.75, 1.0))
        turns = [{name: 1000 * wall(way)[0] for name, way in ways.items()} for _ in range(TURNS)]
        for name in ways:
            own, theirs = [turn[name] for turn in turns], [turn["loop"] for turn in turns]
            row = {"way": name, "dtype": str(dtype), "images": IMAGES, "draws": DRAWS, **quantiles(own)}
            row |= {"times_loop": round(ratio(theirs, own), 3), "turns": TURNS, "machine": machine()}
            with (RESULTS / "certify.jsonl").open("a") as file:
                file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()

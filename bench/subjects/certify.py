"""Certificates beside as many passes without noise, and papers' loop: torch.randn_like, host counts."""

from collections.abc import Iterator
from functools import partial
from statistics import median

import numpy as np
import torch
from torch import Tensor, nn

import fastadv as fa
from bench.session import Case, Row, Session
from bench.subjects.training import random_images

SIGMA, RADII = 0.5, (0.25, 0.5, 0.75, 1.0)


def cases(session: Session) -> Iterator[Case]:
    for dtype in (torch.float32, torch.bfloat16):
        yield Case(f"certify, {dtype}", partial(compared, session, dtype), needs=120)


def images(session: Session, split: str, count: int) -> "fa.data.ImageSet":
    if session.data_dir is None or session.tiny:
        return random_images(count, (1, 28, 28))
    return fa.data.load("mnist", split, data_dir=session.data_dir, limit=count)


def loop(net: nn.Module, x: Tensor, draws: int, batch: int) -> None:
    for copies in (image.repeat((batch, 1, 1, 1)) for image in x.repeat_interleave(draws // batch, 0)):
        with torch.no_grad():
            votes = net(copies + torch.randn_like(copies) * SIGMA).argmax(1).cpu()
        np.bincount(votes, minlength=10)


def compared(session: Session, dtype: torch.dtype) -> Iterator[Row]:
    count, draws, batch = session.size((64, 16_384, 8192), (2, 40, 20), (32, 2000, 1000))
    most = session.size(100_000, 40)
    train, test = images(session, "train", session.size(60_000, 40)), images(session, "test", count)
    net = fa.models.create("lenet").to(session.device)
    fa.train.fit(net, train, fa.train.GaussianTraining(SIGMA), epochs=1, batch_size=256, learning_rate=0.01)
    frozen = fa.freeze(net.eval().to(dtype))
    x, taken = next(iter(fa.data.batches(test, count)))[0].to(session.device, dtype), list[Tensor]()
    smooth = partial(fa.certify.smooth, frozen, test, SIGMA, n0=1, batch_size=batch)
    full = x[:1].repeat((batch, 1, 1, 1))
    ways = {
        "eager": partial(loop, net, x, draws, batch),
        "passes alone": lambda: [frozen(full) for _ in range(count * draws // batch)],
        "fastadv": partial(smooth, n=draws, sequential=False),
        "fastadv, sequential": lambda: taken.append(smooth(n=most, radii=RADII).draws.double().mean()),
    }
    rows = [*session.compare(ways, "eager")]
    times = {row["provider"]: median(values) for row, values in rows if values}
    more = {"fastadv": {"share_of_passes": round(times["passes alone"] / times["fastadv"], 3)}}
    gain = round(times["eager"] * 100_000 / draws / times["fastadv, sequential"], 1)
    more["fastadv, sequential"] = {"draws": round(float(taken[0])), "times_all_draws": gain}
    what = f"certify, LeNet, {count} images, {draws} draws, {str(dtype).removeprefix('torch.')}"
    yield from ({"what": what, **row, **more.get(row["provider"], {})} for row, _ in rows)

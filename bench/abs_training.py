"""An epoch of ABS training beside the same networks in eager torch, trained one class after the other."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch

import fastadv as fa
from bench.timing import quantiles, ratio, times
from fastadv.models.abs.decoder import DecoderShape
from fastadv.models.abs.vae import VAEs, losses

CLASSES, BATCH, BATCHES, WIDTH, RATE = 10, 160, 4, 16, 3e-3
EAGER = "eager, one class after the other"


def random_images(shape: DecoderShape) -> "fa.data.ImageSet":
    """As many of each class; the time does not depend on them."""
    count = BATCH * BATCHES
    x = torch.rand(count, *shape.image, generator=torch.Generator().manual_seed(0))
    return fa.data.ImageSet(x, torch.arange(count) % CLASSES, CLASSES, "random images")


def by_hand(data: "fa.data.ImageSet", shape: DecoderShape, width: int) -> float:
    """The mean loss of the epoch."""
    total = 0.0
    for k in range(CLASSES):
        net = VAEs(shape, 1, width, seed=k).train()
        optimizer = torch.optim.Adam(net.parameters(), lr=RATE)
        for x in data.x[data.y == k].split(BATCH // CLASSES):
            x = x[:, None]
            image, mean, log_variance = net(x, torch.randn(len(x), 1, shape.channels[0]))
            loss = losses(x, image, mean, log_variance, shape.values / 784).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item() / CLASSES / BATCHES
    return total


def by_fastadv(data: "fa.data.ImageSet", shape: DecoderShape, width: int, precision: Any) -> float:
    model = fa.models.ABS.fit(
        data, epochs=1, shape=shape, width=width, batch_size=BATCH, learning_rate=RATE, augment=False,
        calibration=0, prior_samples=CLASSES, training_precision=precision,
    )  # fmt: skip
    loss: float = model.card["measured"]["loss"]
    return loss


def rows(seconds: float, shape: DecoderShape | None = None, width: int = WIDTH) -> Iterator[dict[str, Any]]:
    """One row for each provider, with the mean loss of its epoch."""
    shape = shape or DecoderShape()
    data = random_images(shape)
    ways: dict[str, Callable[[], float]] = {EAGER: partial(by_hand, data, shape, width)}
    ways |= {f"fastadv {p}": partial(by_fastadv, data, shape, width, p) for p in ("fp32", "bf16")}
    taken = times(ways, seconds, least=5)

    for provider, values in taken.items():
        yield {
            "what": f"ABS training, an epoch, {len(data)} images, batch {BATCH}",
            "provider": provider,
            **quantiles(values),
            "ms_per_image": round(quantiles(values)["p50_ms"] / len(data), 3),
            "loss": round(ways[provider](), 2),
            "times_eager": round(ratio(taken[EAGER], values), 2),
        }

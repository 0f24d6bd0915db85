"""How often a randomized model is asked about a sample, and the random numbers that it then draws."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fastadv import rng
from fastadv._checks import check_count, check_seed
from fastadv.engine import Prepared

SHARED = 4  # samples of a pass: a model may draw once for all of them, such as a shift or a size
RANDOMIZED = (
    "randomized: the model gives two answers for one x, and one of them decided; draws=20 of evaluate "
    "reports the accuracy of one draw, of the majority and of the worst draw"
)


@dataclass(frozen=True)
class Drawing:
    """How often each sample is drawn, and the seed that several draws follow from."""

    count: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        check_count("draws", self.count, 1)
        check_seed(self.seed)

    def kept(self, device: torch.device | None, *counters: int) -> AbstractContextManager[None]:
        """Leave the caller's generators as they were; with counters, such as a batch's, seed them inside."""
        if self.count == 1:
            return nullcontext()
        seed = rng.derive(self.seed, "draws", *counters) if counters else None
        return rng.generators_kept(device or rng.CPU, seed)

    @contextmanager
    def patient(self, frozen: Prepared) -> Iterator[None]:
        """Let no luck of one of several draws end a search of the model inside, or keep it from a sample."""
        before, frozen.patient = frozen.patient, self.count > 1
        try:
            yield
        finally:
            frozen.patient = before

    def draw(self, frozen: Prepared, x: Tensor, y: Tensor, number: int) -> dict[str, Tensor]:
        """Classify batch `number`, x [B, ...], `count` times as given; right, voted and early [B]."""
        # passes of a few samples, since a model may draw once for a whole batch; and the same random numbers
        # for x and for each x_adv, so that these draws of an attack that changes nothing are those of x
        votes = torch.zeros(len(y), 1, device=y.device)
        early = right = votes[:, 0]
        with self.kept(x.device, number, 0, 0):
            for draw in range(self.count):
                logits = torch.cat([frozen.verdict(part) for part in torch.split(x, SHARED)])
                finite = logits.isfinite().all(1, keepdim=True)
                votes = votes + nn.functional.one_hot(logits.argmax(1), logits.shape[1]) * finite
                right = votes.gather(1, y[:, None]).squeeze(1)
                early = right if draw < self.count // 2 else early
        voted = right > votes.scatter(1, y[:, None], 0.0).amax(1)
        return {"right": right.to(torch.int64), "voted": voted, "early": early.to(torch.int64)}


ONE_DRAW = Drawing()

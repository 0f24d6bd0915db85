"""Log probabilities are logits: they raise no flag, and attacks take them for what they are."""

import pytest
import torch
from torch import Tensor, nn

import fastadv as fa
from fastadv.attacks.special.bounded_outputs import bounded, falls_off
from fastadv.engine import prepare

from .nets import honest

X = fa.data.load("digits", "test", limit=40).x


class Ends(nn.Module):
    """The standard net with scaled logits of some classes, and a head."""

    def __init__(self, head, scale: float = 1.0, classes: int = 10) -> None:
        super().__init__()
        self.net, self.head, self.scale, self.classes = honest("standard"), head, scale, classes

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.scale * self.net(x)[:, : self.classes])


def autocast(z: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return nn.functional.linear(z, torch.eye(z.shape[1])).log_softmax(1)


LOGS = nn.LogSoftmax(1)
QUIET = {
    "of probabilities": lambda: Ends(lambda z: (z.softmax(1) + 1e-12).log()),
    "in half precision": lambda: Ends(lambda z: z.log_softmax(1).half()),
    "under autocast": lambda: Ends(autocast),
    **{f"{scale} {k}": lambda s=scale, k=k: Ends(LOGS, s, k) for scale in (0.1, 1.0, 100.0) for k in (2, 10)},
    "a function": lambda: lambda x: honest("vit")(x).log_softmax(1),
    "float64": lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 10), LOGS).double(),
    "bfloat16": lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 10), LOGS).bfloat16(),
    "frozen": lambda: fa.freeze(Ends(LOGS, 3.0).eval(), precision="bf16"),
}
TOLD = {
    "a log-sigmoid for each class": nn.LogSigmoid(),
    "a floor that many meet": lambda z: z.log_softmax(1).clamp(min=-6.0),
    "smoothed": lambda z: (0.9 * z.softmax(1) + 0.01).log(),
    "tanh": torch.tanh,
}


@pytest.mark.parametrize("name", [*QUIET, *TOLD])
def test_what_is_squashed(name: str) -> None:
    for scale in (1.0, 30.0):
        model = QUIET[name]() if name in QUIET else Ends(TOLD[name], scale).eval()
        assert (falls_off(prepare(model), X[:8]) > 0.6) == (name in TOLD)


@pytest.mark.parametrize("scale", [0.1, 1.0, 30.0])
def test_attacks_find_what_they_find_on_logits(scale: float) -> None:
    logits, logs = (Ends(head, scale).eval() for head in (nn.Identity(), LOGS))
    y = logits(X).argmax(1)
    assert bounded(logs(X)) is None
    found = [fa.attacks.pgd(model, X, y, fa.Linf(0.08), steps=10) for model in (logits, logs)]
    assert found[0].robust_accuracy == found[1].robust_accuracy

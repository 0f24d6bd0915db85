"""The confidence of a model: softmax, or what the model itself says of its logits."""

import pytest
import torch
from torch import Tensor, nn

import fastadv as fa
from fastadv.losses import log_confidence

X = torch.rand(40, 3, 5, 4, generator=torch.Generator().manual_seed(2))
CIFAR10 = fa.models.STATISTICS["cifar10"]


def softmax() -> nn.Module:
    torch.manual_seed(1)
    net = nn.Sequential(nn.Flatten(), nn.Linear(60, 4))
    nn.init.normal_(net[1].weight, 0, 0.3)
    return net


class Sigmoids(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.model = softmax()

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)

    def log_confidence(self, logits: Tensor) -> Tensor:
        return nn.functional.logsigmoid(logits)


MODELS = {
    "softmax": softmax,
    "sigmoids": Sigmoids,
    "normalized sigmoids": lambda: fa.models.Normalized(Sigmoids(), *CIFAR10),
    "normalized softmax": lambda: fa.models.Normalized(softmax(), *CIFAR10),
    "binarized sigmoids": lambda: fa.models.Binarized(Sigmoids()),
}


@pytest.mark.parametrize("name", MODELS)
def test_probabilities_of_each_kind_of_model(name: str) -> None:
    frozen = fa.freeze(MODELS[name]())
    logits = frozen.verdict(X)
    wanted = logits.softmax(1) if "softmax" in name else logits.sigmoid()
    torch.testing.assert_close(log_confidence(frozen.model, logits).exp(), wanted)


@pytest.mark.parametrize("targeted", [False, True])
def test_confidently_wrong_goes_by_the_confidence_of_the_model(targeted: bool) -> None:
    """Logits (2, 1, 1, ...) below 0: a softmax is sure where sigmoids deny every class."""
    model = Sigmoids()
    with torch.no_grad():
        model.model[1].bias.sub_(3.0)
    verdict = fa.freeze(model).verdict(X)
    y, targets = verdict.argmin(1), verdict.argmax(1) if targeted else None
    counts, criterion = [], fa.attacks.ConfidentlyWrong(0.5)
    for net in (model, model.model):
        out = fa.attacks.pgd(net, X, y, fa.Linf(0.05), steps=3, targets=targets, criterion=criterion)
        wrong = log_confidence(net, net(out.x_adv)).exp().scatter(1, y[:, None], 0).amax(1)
        assert torch.equal(out.success, wrong >= 0.5)
        counts.append(int(out.success.sum()))
    assert counts[0] < counts[1]

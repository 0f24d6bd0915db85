"""The confidence of a model: softmax, or what the model itself says of its logits."""

import pytest
import torch
from torch import Tensor, nn

import fastadv as fa
from fastadv.losses import log_confidence

SHAPE = (3, 5, 4)


def softmax() -> nn.Module:
    model, draw = fa.models.create("softmax", shape=SHAPE, classes=4), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn(weight.shape, generator=draw) * 0.3)
    return model


def batch(n: int = 7) -> Tensor:
    return torch.rand(n, *SHAPE, generator=torch.Generator().manual_seed(2))


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
    "normalized sigmoids": lambda: fa.models.Normalized(Sigmoids(), *fa.models.STATISTICS["cifar10"]),
    "normalized softmax": lambda: fa.models.Normalized(softmax(), *fa.models.STATISTICS["cifar10"]),
    "binarized sigmoids": lambda: fa.models.Binarized(Sigmoids()),
}


@pytest.mark.parametrize("name", MODELS)
def test_probabilities_of_each_kind_of_model(name: str) -> None:
    model, x = MODELS[name]().train(), batch()
    frozen = fa.freeze(model)
    logits = model.eval()(x).double()
    wanted = logits.softmax(1) if "softmax" in name else logits.sigmoid()
    confidence = log_confidence(frozen.model, frozen.verdict(x)).exp()
    torch.testing.assert_close(confidence.double(), wanted, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(log_confidence(model, logits).exp(), wanted)


@pytest.mark.parametrize("targeted", [False, True])
def test_confidently_wrong_goes_by_the_confidence_of_the_model(targeted: bool) -> None:
    """Logits (2, 1, 1, ...) below 0: a softmax is sure where sigmoids deny every class."""
    model, x = Sigmoids(), batch(40)
    with torch.no_grad():
        model.model.linear.bias.sub_(3.0)
    verdict = fa.freeze(model).verdict(x)
    y, targets = verdict.argmin(1), verdict.argmax(1) if targeted else None
    counts, criterion = [], fa.attacks.ConfidentlyWrong(0.5)
    for net in (model, model.model):
        out = fa.attacks.pgd(net, x, y, fa.Linf(0.05), steps=3, targets=targets, criterion=criterion)
        wrong = log_confidence(net, net(out.x_adv)).exp().scatter(1, y[:, None], 0).amax(1)
        assert torch.equal(out.success, wrong >= 0.5)
        counts.append(int(out.success.sum()))
    assert counts[0] < counts[1]

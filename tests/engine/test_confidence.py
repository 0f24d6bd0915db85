"""The confidence of a model: softmax, or what the model itself says of its logits."""

from functools import partial

import pytest
import torch
from torch import Tensor, nn

import fastadv as fa
from fastadv.engine import log_confidence

SHAPE = (3, 5, 4)


def create(name: str, **options: object) -> nn.Module:
    model = fa.models.create(name, shape=SHAPE, classes=4, **options)
    return drawn(model)


def drawn(model: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator) * 0.3)
    return model


def batch(n: int = 7) -> Tensor:
    return torch.rand(n, *SHAPE, generator=torch.Generator().manual_seed(2))


class Sigmoids(nn.Module):
    """A model whose logits are log-odds, of each class on its own."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)

    def confidence(self, x: Tensor) -> Tensor:
        return self(x).sigmoid()

    def log_confidence(self, logits: Tensor) -> Tensor:
        return nn.functional.logsigmoid(logits)


def sigmoids() -> nn.Module:
    return Sigmoids(create("softmax"))


def normalized() -> nn.Module:
    return fa.models.Normalized(sigmoids(), *fa.models.STATISTICS["cifar10"])


MODELS = {
    "softmax": (partial(create, "softmax"), "softmax"),
    "sigmoids": (sigmoids, "sigmoid"),
    "normalized sigmoids": (normalized, "sigmoid"),
    "normalized softmax": (partial(create, "softmax", normalize="cifar10"), "softmax"),
    "binarized sigmoids": (lambda: fa.models.Binarized(sigmoids()), "sigmoid"),
}


@pytest.mark.parametrize("name", MODELS)
def test_probabilities_of_each_kind_of_model(name: str) -> None:
    make, kind = MODELS[name]
    model, x = make().train(), batch()
    frozen = fa.freeze(model)
    logits = model.eval()(x).double()
    wanted = logits.softmax(1) if kind == "softmax" else logits.sigmoid()
    torch.testing.assert_close(frozen.confidence(x).double(), wanted, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(log_confidence(model, logits).exp(), wanted)
    assert frozen.forwards == len(x)


def test_the_calibrated_confidence_of_abs() -> None:
    from tests.models.abs.nets import tiny

    model = tiny()
    x = torch.rand(3, *model.shape.image)
    model.options = model.options.changed(scale=2.0, floor=0.01)
    frozen = fa.freeze(model)
    logits = frozen.verdict(x)
    raised = (2.0 * logits).exp() + 0.01
    wanted = raised / raised.sum(1, keepdim=True)
    torch.testing.assert_close(log_confidence(frozen.model, logits).exp(), wanted)
    torch.testing.assert_close(frozen.confidence(x), wanted)


class Unsure(nn.Module):
    """A model of a user's, with a confidence of its own and dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.dropout = nn.Linear(60, 4).double(), nn.Dropout(0.9)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.dropout(x.flatten(1)))

    def confidence(self, x: Tensor) -> Tensor:
        return self(x).softmax(1) / 2


def test_a_method_confidence_has_the_word_in_eval_mode_and_the_precision_of_the_model() -> None:
    model, x = Unsure().train(), batch()
    told = fa.freeze(model).confidence(x)
    torch.testing.assert_close(told, model.eval()(x.double()).softmax(1) / 2)
    assert not told.requires_grad


def test_a_part_of_that_name_has_no_word() -> None:
    model, x = create("softmax"), batch()
    model.confidence = nn.Linear(60, 1)
    torch.testing.assert_close(fa.freeze(model).confidence(x), model(x).softmax(1))


@pytest.mark.parametrize("targeted", [False, True])
def test_confidently_wrong_goes_by_the_confidence_of_the_model(targeted: bool) -> None:
    """Logits (2, 1, 1, ...) below 0: a softmax is sure where sigmoids deny every class."""
    model = sigmoids()
    with torch.no_grad():
        model.model.linear.bias.sub_(3.0)
    x = batch(40)
    frozen = fa.freeze(model)
    y = frozen.verdict(x).argmin(1)
    targets = frozen.verdict(x).argmax(1) if targeted else None
    found = {}
    for name, each in {"sigmoids": model, "softmax": model.model}.items():
        out = fa.attacks.pgd(
            each, x, y, fa.Linf(0.05), steps=3, targets=targets, criterion=fa.attacks.ConfidentlyWrong(0.5)
        )
        chances = fa.freeze(each).confidence(out.x_adv)
        wrong = chances.scatter(1, y[:, None], 0).amax(1)
        assert torch.equal(out.success, wrong >= 0.5)
        found[name] = int(out.success.sum())
    assert found["sigmoids"] < found["softmax"]

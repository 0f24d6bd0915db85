"""The panda of figure 1: its arithmetic on linear models, what is drawn."""

import json

import pytest
import torch

from papers.goodfellow2014.panda import panda
from papers.tests.goodfellow import linear, weights


@pytest.mark.parametrize("shape", [(1, 7, 5), (3, 6, 9)], ids=["gray", "color"])
def test_the_arithmetic_on_a_linear_model(shape):
    model = linear(shape, seed=3)
    x = torch.rand(shape, generator=torch.Generator().manual_seed(1))
    w, b = weights(model)
    logits = w @ x.flatten().double() + b
    y = int(logits.argmax())
    gradient = (logits.softmax(0) @ w - w[y]).view(shape)  # of the cross-entropy
    sign = gradient.sign().float()
    images = (x, (sign + 1) / 2, (x + 0.3 * sign).clamp(0, 1))
    names = ["cat", "dog", "panda", "gibbon"]
    told, made = panda(model, x, radius=0.3, names=names)
    for part, image in zip(("clean", "sign", "adversarial"), images, strict=True):
        chances = (w @ image.flatten().double() + b).softmax(0)
        assert told[part]["class"] == int(chances.argmax())
        assert told[part]["name"] == names[int(chances.argmax())]
        assert told[part]["confidence"] == pytest.approx(float(chances.max()), rel=1e-5)
    assert (told["radius"], told["label"], told["zero_gradient"]) == (0.3, y, False)
    assert told["fooled"] == (told["clean"]["class"] != told["adversarial"]["class"])
    torch.testing.assert_close(made, torch.stack(images))
    assert json.loads(json.dumps(told)) == told

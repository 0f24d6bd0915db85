"""Every built-in network: shapes, reproducible first weights, input checks, torch.fx and TorchScript."""

import pytest
import torch
from torch import fx

from fastadv import models
from tests.models.test_published_networks import SMALL
from tests.refusals import refuses

SHAPES = {
    **dict.fromkeys(("softmax", "logistic", "cnn", "wong_cnn", "lenet"), (1, 28, 28)),
    "small_cnn": (1, 8, 8),
    **dict.fromkeys(("resnet18", "resnet50", "preact_resnet18", "wide_resnet"), (3, 32, 32)),
}
# torchvision's are made whole before they are narrowed
NAMES = [pytest.param(name, marks=[pytest.mark.slow] * ("resnet" in name)) for name in SHAPES]


def create(name, **arguments):
    return models.create(name, **(SMALL.get(name, {}) | arguments))


def test_every_name_is_tested():
    fixed_sizes_of_wide_resnet = {"wrn_28_10", "wrn_34_10"}
    assert set(SHAPES) | fixed_sizes_of_wide_resnet == set(models.names())


@pytest.mark.parametrize("name", NAMES)
def test_any_shape_and_number_of_classes_and_no_batch_of_another(name):
    classes = 2 if name == "logistic" else 7
    for shape in ((1, 28, 28), (2, 16, 18)):
        model = create(name, shape=shape, classes=classes).eval()
        for count in (2, 0):
            assert model(torch.rand(count, *shape)).shape == (count, classes)
        refuses(r"expected a batch of shape \[B, ", model, torch.rand(shape))
        refuses(r"got \[2, 5, ", model, torch.rand(2, 5, *shape[1:]))
        refuses("255", model, torch.zeros(2, *shape, dtype=torch.uint8))
        if name in ("softmax", "logistic", "cnn"):  # whose size is fixed
            refuses(r"got \[2, ", model, torch.rand(2, *shape[:2], shape[2] + 1))


@pytest.mark.parametrize("name", NAMES)
def test_defaults_give_finite_logits_they_are_compiled_and_the_seed_alone_decides_the_weights(name):
    before, first, x = torch.get_rng_state(), create(name, seed=3).eval(), torch.rand(2, *SHAPES[name])
    torch.set_rng_state(before)
    logits = first(x)
    assert logits.shape == (2, 2 if name == "logistic" else 10)
    assert logits.isfinite().all()
    assert torch.equal(fx.symbolic_trace(first)(x), logits)
    torch.testing.assert_close(torch.jit.script(first)(x), logits)
    again, other = (create(name, seed=seed).state_dict() for seed in (3, 4))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(tensor, again[key]) for key, tensor in first.state_dict().items())
    assert any(not torch.equal(tensor, other[key]) for key, tensor in first.state_dict().items())


@pytest.mark.parametrize("name", SHAPES)
def test_sizes_that_make_no_model_are_refused(name):
    refuses("classes >= 2", create, name, classes=1)
    for shape in ((1, 0, 28), ()):
        refuses("shape", create, name, shape=shape)
    if name in ("small_cnn", "wong_cnn", "cnn") or "resnet18" in name:
        refuses("width: expected an integer >= 1", create, name, width=(20, 0, 256) if name == "cnn" else 0)


def test_logistic_logits_are_the_sigmoid_of_one_score():
    model, x = models.create("logistic", shape=(5,)), torch.rand(4, 5)
    score = model.linear(x)[:, 0]
    torch.testing.assert_close(model(x).softmax(1)[:, 1], score.sigmoid())
    torch.testing.assert_close(model(x)[:, 1] - model(x)[:, 0], score)
    refuses("2 classes", models.create, "logistic", classes=3)

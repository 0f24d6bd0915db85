"""Models by name, and a user's own factory."""

import sys

import pytest
import torch

from fastadv import models
from fastadv.errors import InputError

SOURCE = """
from torch import nn
weights = 3
def build(width=2, classes=10):
    return nn.Sequential(nn.Flatten(), nn.Linear(width, classes))
def scaled(normalize):
    return nn.Linear(normalize, 3)
"""


@pytest.fixture
def factories(tmp_path, monkeypatch):
    (tmp_path / "users_own_models.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "users_own_models"
    sys.modules.pop("users_own_models", None)


def test_a_users_own_factory_gets_the_arguments(factories):
    assert models.create(f"{factories}:build", width=6, classes=3)(torch.rand(4, 2, 3)).shape == (4, 3)
    assert isinstance(models.create("torch.nn:Identity"), torch.nn.Identity)


@pytest.mark.parametrize("name", ["resnet19", "", "Softmax", ":build", "module:", ".relative:build"])
def test_an_unknown_name_lists_the_known_ones(name):
    with pytest.raises(
        InputError,
        match=", ".join(models.names()) + r", timm:NAME, torchvision:NAME, in commands rb:NAME, or your own",
    ):
        models.create(name)


def test_a_missing_module_or_function_is_named(factories):
    with pytest.raises(InputError, match="No module named 'no_such_module'"):
        models.create("no_such_module:build")
    with pytest.raises(InputError, match="no function 'missing'"):
        models.create(f"{factories}:missing")
    with pytest.raises(InputError, match="no function 'weights'"):
        models.create(f"{factories}:weights")


def test_arguments_that_the_factory_does_not_take_are_refused(factories):
    with pytest.raises(InputError, match=r"takes .*classes.*'depth'"):
        models.create("small_cnn", depth=3)
    with pytest.raises(InputError, match=r"takes \(width=2, classes=10\)"):
        models.create(f"{factories}:build", shape=(1, 8, 8))
    for key in ("depth", "widen_factor"):
        with pytest.raises(
            InputError, match=f"expected no {key}, which its name says, got 10; use wide_resnet"
        ):
            models.create("wrn_28_10", **{key: 10})


def test_normalize_puts_the_constants_of_a_data_set_into_the_model():
    x = torch.rand(2, 3, 16, 16)
    for name, (mean, std) in models.STATISTICS.items():
        model = models.create("small_cnn", shape=(3, 16, 16), width=4, normalize=name).eval()
        plain = models.create("small_cnn", shape=(3, 16, 16), width=4).eval()
        normalized = (x - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
        torch.testing.assert_close(model(x), plain(normalized))
        assert torch.equal(torch.fx.symbolic_trace(model)(x), model(x))
        assert model.state_dict().keys() == {"mean", "std"} | {f"model.{key}" for key in plain.state_dict()}
    assert type(models.create("small_cnn", normalize=None)) is models.SmallCNN


def test_normalize_is_refused_where_it_has_no_meaning(factories):
    with pytest.raises(
        InputError, match=r"normalize: expected one of cifar10, cifar100, imagenet, or .*, got 'mnist'"
    ):
        models.create("resnet18", normalize="mnist")
    with pytest.raises(InputError, match=r"normalize: expected one of .*, got \['cifar10'\]"):
        models.create("resnet18", normalize=["cifar10"])
    for name in ("small_cnn", "softmax"):  # gray images by default
        with pytest.raises(InputError, match=r"shape \(3, height, width\) for cifar10, got \(1, "):
            models.create(name, normalize="cifar10")
    with pytest.raises(InputError, match=r"images in \[0, 1\], fastadv\.models\.Normalized"):
        models.create(f"{factories}:build", normalize="cifar10")
    # an argument of that name of a user's own factory is the user's
    assert models.create(f"{factories}:scaled", normalize=2).in_features == 2

"""Models by name, and a user's own factory."""

import sys

import pytest
import torch

from fastadv import models
from tests.refusals import refuses

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
    known = ", ".join(models.names())
    refuses(f"{known}, timm:NAME, .*, in commands rb:NAME, .*or your own", models.create, name)


@pytest.mark.parametrize(
    ("name", "arguments", "match"),
    [
        ("no_such_module:build", {}, "No module named 'no_such_module'"),
        ("OWN:missing", {}, "no function 'missing'"),
        ("OWN:weights", {}, "no function 'weights'"),
        ("small_cnn", {"depth": 3}, r"takes .*classes.*'depth'"),
        ("OWN:build", {"shape": (1, 8, 8)}, r"takes \(width=2, classes=10\)"),
        ("wrn_28_10", {"depth": 10}, "expected no depth, which its name says, got 10; use wide_resnet"),
        ("wrn_28_10", {"widen_factor": 10}, "expected no widen_factor, which its name says, got 10; use"),
        ("resnet18", {"normalize": "mnist"}, "normalize: expected one of cifar10, .*, or .*, got 'mnist'"),
        ("resnet18", {"normalize": ["cifar10"]}, r"normalize: expected one of .*, got \['cifar10'\]"),
        *(("wide_resnet", {"depth": depth}, "depth: expected") for depth in (4, 27, 29)),
        ("wide_resnet", {"widen_factor": 0}, "widen_factor: expected an integer >= 1"),
        ("wide_resnet", {"activation": "swish"}, "activation: expected one of relu, .*, got 'swish'"),
        ("preact_resnet18", {"shortcut": "none"}, "shortcut: expected one of active, raw, .*, got 'none'"),
        ("preact_resnet18", {"padding": 1}, "padding: expected one of both, same, got 1"),
        ("preact_resnet18", {"final_norm": 1}, "final_norm: expected True or False"),
        ("wide_resnet", {"padding": "valid"}, "padding: expected one of both, same, got 'valid'"),
        # gray images by default
        ("small_cnn", {"normalize": "cifar10"}, r"shape \(3, height, width\) for cifar10, got \(1, "),
        ("softmax", {"normalize": "cifar10"}, r"shape \(3, height, width\) for cifar10, got \(1, "),
        ("OWN:build", {"normalize": "cifar10"}, r"images in \[0, 1\], fastadv\.models\.Normalized"),
    ],
)
def test_what_makes_no_model_is_named(factories, name, arguments, match):
    refuses(match, models.create, name.replace("OWN", factories), **arguments)


def test_an_argument_of_that_name_of_a_users_own_factory_is_the_users(factories):
    assert models.create(f"{factories}:scaled", normalize=2).in_features == 2


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

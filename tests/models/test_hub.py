"""Networks of other packages by name: their normalization, their classes, their errors."""

import sys
from types import ModuleType

import pytest
import torch
from torch import nn

import fastadv as fa
from fastadv.errors import InputError, MissingExtraError
from fastadv.models import STATISTICS

X = torch.rand(2, 3, 32, 32)


@pytest.mark.slow
def test_torchvision_without_weights_has_the_classes_asked_for_and_the_constants_of_imagenet():
    net = fa.models.create("torchvision:resnet18", shape=(3, 32, 32), classes=7, seed=3).eval()
    again = fa.models.create("torchvision:resnet18", classes=7, seed=3).eval()
    assert net(X).shape == (2, 7)
    assert torch.equal(net(X), again(X))
    for values, expected in zip((net.mean, net.std), STATISTICS["imagenet"], strict=True):
        assert values.flatten().tolist() == pytest.approx(expected)
    assert fa.models.create("torchvision:resnet18", classes=7, num_classes=5)(X).shape == (2, 5)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"pretrained": True}, {"weights": "IMAGENET1K_V1"}])
def test_weights_of_torchvision_bring_classes_and_constants(monkeypatch, options):
    from tests.vision import models

    kind = models.get_model_weights("inception_v3")
    state, read = models.inception_v3(init_weights=False).state_dict(), []
    monkeypatch.setattr(kind, "get_state_dict", lambda self, **asked: read.append(asked) or state)
    net = fa.models.create("torchvision:inception_v3", classes=10, **options).eval()
    # read as one that holds nothing harmful, before torchvision unpickles it
    assert [asked.get("weights_only", False) for asked in read] == [True, False]
    assert net.model.model.transform_input
    assert net(torch.rand(1, 3, 96, 96)).shape == (1, 1000)
    assert net.mean.flatten().tolist() == pytest.approx(kind.DEFAULT.transforms().mean)


@pytest.fixture
def timm(monkeypatch):

    class Net(nn.Linear):
        def forward(self, x):
            return super().forward(x.mean((2, 3)))

    def create_model(name, pretrained=False, num_classes=1000):
        if name != "tiny":
            raise RuntimeError(f"Unknown model ({name})")
        net = Net(3, num_classes)
        net.pretrained_cfg = {"mean": (0.5, 0.5, 0.5), "std": (0.2, 0.2, 0.2), "num_classes": 1000}
        net.num_classes = num_classes
        return net

    package = ModuleType("timm")
    package.create_model, package.list_models = create_model, lambda: ["tiny"]
    package.__spec__ = sys.__spec__
    monkeypatch.setitem(sys.modules, "timm", package)


def test_timm_normalizes_as_its_configuration_says(timm, tmp_path):
    net = fa.models.create("timm:tiny", classes=4)
    assert (net(X).shape, net.std.flatten().tolist()) == ((2, 4), pytest.approx([0.2] * 3))
    assert fa.models.create("timm:tiny", classes=4, pretrained=True)(X).shape == (2, 1000)
    other = fa.models.create("timm:tiny", classes=4)
    for saved in (net, net.model.model):  # what fastadv wrote, and what the package did
        fa.models.save_weights(saved, tmp_path / "a.safetensors")
        fa.models.load_weights(other, tmp_path / "a.safetensors")
        assert torch.equal(net(X), other(X))
    with pytest.raises(InputError, match=r"timm:tinny': Unknown model \(tinny\); did you mean 'tiny'\?"):
        fa.models.create("timm:tinny")


def test_what_is_missing_or_not_taken_is_named(monkeypatch):
    with pytest.raises(InputError, match=r"torchvision:resnet18': .*unexpected keyword argument 'depth'"):
        fa.models.create("torchvision:resnet18", depth=3)
    with pytest.raises(InputError, match="weights: expected one of IMAGENET1K_V1, DEFAULT, got 'V9'"):
        fa.models.create("torchvision:resnet18", weights="V9")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "timm" else sys.__spec__)
    with pytest.raises(MissingExtraError, match="needs timm, which is not installed: pip install timm"):
        fa.models.create("timm:tiny")

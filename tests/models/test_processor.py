"""Processors as modules: what they do to images of 8 bits, by torchvision's own, and what is refused."""

import importlib

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import fastadv as fa
from fastadv.engine import Plain
from fastadv.errors import InputError
from fastadv.models import SmallCNN, adapt
from fastadv.models.processor import Processing, Processor, processing_of
from tests.zoo.net import module

importlib.import_module("fastadv._torchvision")
v1, v2 = (importlib.import_module(f"torchvision.transforms{name}") for name in ("", ".v2"))
ENDS = [v1.ToTensor(), v1.Normalize((0.5, 0.4, 0.3), (0.2, 0.3, 0.4))]
BICUBIC, NEAREST = v1.InterpolationMode.BICUBIC, v1.InterpolationMode.NEAREST
SIDES = st.integers(4, 60)


def image(height, width, seed=0):
    """Noise that does not overshoot [0, 255]: which of its two passes PIL does first is no matter."""
    return np.random.default_rng(seed).integers(90, 165, size=(height, width, 3), dtype=np.uint8)


def tensor(pixels):
    return torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255


def processor(*steps):
    return Processor(processing_of(v1.Compose(steps)))


@given(height=SIDES, width=SIDES, side=st.integers(8, 30), crop=st.tuples(SIDES, SIDES), seed=SIDES)
def test_images_of_8_bits_come_out_as_by_pil_whatever_their_size(height, width, side, crop, seed):
    pixels = image(height, width, seed)
    for interpolation in (v1.InterpolationMode.BILINEAR, BICUBIC):
        resize = v1.Resize(side, interpolation, max_size=2 * side)
        by_pil = v1.Compose([resize, v1.CenterCrop(crop), *ENDS])(Image.fromarray(pixels))[None]
        inside = processor(resize, v1.CenterCrop(crop), *ENDS)
        ours = inside(tensor(pixels))
        assert ours.shape == by_pil.shape
        assert ((ours - by_pil) * inside.std).abs().max() < 2 / 255


@pytest.mark.parametrize(
    "resize",
    [
        v2.Resize((9, 14), BICUBIC),
        v2.Resize(11, antialias=False),
        v2.Resize(11, NEAREST),
        v2.Resize(40, BICUBIC),
    ],
)
def test_transforms_of_floats_are_done_as_they_are(resize):
    steps = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), resize, v2.CenterCrop(10), ENDS[1]]
    pixels = image(31, 23)
    theirs = v2.Compose(steps)(Image.fromarray(pixels))[None].as_subclass(torch.Tensor)
    torch.testing.assert_close(processor(*steps)(tensor(pixels)), theirs)
    assert resize.size == [40] or theirs.shape[-2:] == (10, 10)


def test_antialias_is_pils_where_the_image_is_still_pils():
    resize = v1.Resize(11, antialias=False)
    assert processing_of(v1.Compose([resize, v1.ToTensor()])).antialias
    assert processing_of(v2.Compose([resize, v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])).antialias
    assert not processing_of(v1.Compose([resize, v1.ConvertImageDtype(torch.float32)])).antialias
    assert not processing_of(
        v2.Compose([v2.ToImage(), resize, v2.ToDtype(torch.float32, scale=True)])
    ).antialias


def test_overshoot_is_clamped_where_the_images_have_8_bits():
    edge = torch.zeros(1, 1, 8, 8)
    edge[..., 4:] = 1
    one = {"mean": (0.0,), "std": (1.0,), "size": (32,), "interpolation": "bicubic"}
    assert Processor(Processing(**one))(edge).max() > 1.01
    clamped = Processor(Processing(**one, clamp=True))(edge)
    assert clamped.min() == 0
    torch.testing.assert_close(clamped.max(), torch.tensor(1.0))


def test_white_images_keep_their_gradient():
    x = torch.ones(1, 3, 57, 41, requires_grad=True)
    processor(v1.Resize(32, BICUBIC), *ENDS)(x).sum().backward()
    assert (x.grad > 0).all()


@pytest.mark.parametrize("size", [(7,), (6, 9), (14,)])
def test_the_gradient_is_that_of_the_function(size):
    processing = Processing((0.5, 0.4, 0.3), (0.2, 0.3, 0.4), size, None, (6, 8), "bicubic", True, True)
    x = torch.rand(2, 3, 9, 11, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.autograd.gradcheck(Processor(processing).double(), (x / 4 + 0.4).requires_grad_())


def native(**options):
    net = SmallCNN((3, 8, 8), width=4).eval()
    return adapt(net, v1.Compose([v1.Resize(10, BICUBIC), v1.CenterCrop(8), *ENDS]), size="native"), net


def test_attacks_live_at_the_size_of_the_images():
    model, net = native()
    x = torch.rand(8, 3, 21, 33, generator=torch.Generator().manual_seed(0))
    y = net(processor(v1.Resize(10, BICUBIC), v1.CenterCrop(8), *ENDS)(x)).argmax(1)
    assert (model(x).argmax(1) == y).all()
    plain, frozen = Plain(model).input_gradient(x, y), fa.freeze(model).input_gradient(x, y)
    torch.testing.assert_close(plain, frozen)
    seen = plain[2].abs().sum((0, 1, 2)) > 0
    assert seen[8:25].all()
    assert not seen[[*range(5), *range(-3, 0)]].any()
    threat = fa.Linf(16 / 255)
    out = fa.attacks.pgd(model, x, y, threat, steps=10)
    assert threat.contains(x, out.x_adv).all()
    assert out.success.any()
    torch.testing.assert_close(model(out.x_adv).argmax(1) != y, out.success)
    table = fa.evaluate(
        model, (x, y), {"pgd": lambda m, x, y, ids: fa.attacks.pgd(m, x, y, threat, steps=10)}
    )
    assert table["pgd"].robust_accuracy == 1 - out.success.float().mean()


def test_images_of_several_sizes_are_told_what_to_do():
    images = [torch.rand(3, 21, 33), torch.rand(3, 33, 21)]
    with pytest.raises(InputError, match=r"of one shape, got .*or take those of each shape by themselves"):
        fa.evaluate(native()[0], [(image, 0) for image in images])


@pytest.mark.parametrize(
    ("x", "match"),
    [
        (torch.zeros(1, 3, 20, 20, dtype=torch.uint8), r"x\.float\(\) / 255"),
        (torch.zeros(1, 1, 20, 20), r"got gray ones .*x\.expand\(-1, 3, -1, -1\)"),
        (torch.zeros(3, 20, 20), r"x\[None\]"),
    ],
)
def test_images_of_another_kind_are_refused(x, match):
    with pytest.raises(InputError, match=match):
        native()[0](x)


@pytest.mark.parametrize(
    ("source", "match"),
    [
        (
            v1.Compose([v1.RandomResizedCrop(8), v1.RandomHorizontalFlip(), *ENDS]),
            "got RandomResizedCrop, Random",
        ),
        (v1.Compose([v1.Grayscale(3), *ENDS]), "got Grayscale"),
        (
            v1.Compose([v1.CenterCrop(20), v1.Resize(8), *ENDS]),
            "in this order, each once, got CenterCrop, Resize",
        ),
        (
            v1.Compose([v1.Resize(8, v1.InterpolationMode.LANCZOS), *ENDS]),
            "bicubic or bilinear, .*got lanczos",
        ),
        (v1.Compose([v1.Resize(8, NEAREST), *ENDS]), "of tensors also nearest, got nearest"),
        (v1.Compose([v1.PILToTensor(), v1.Resize(8)]), "PILToTensor without"),
        (v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32)]), r"got ToDtype\(torch.float32\)"),
        (v2.Resize(None, max_size=20), r"got Resize\(None\)"),
        (v1.Compose, "got the class Compose; pass Compose"),
        ({"mean": 0.5, "std": 0.5}, "expected the size of images, got dict without"),
        (
            {"image_mean": 0.5, "image_std": 0.5, "size": 8},
            "height and width, or with shortest_edge alone, got 8",
        ),
        ({"image_mean": 0.5, "image_std": 0.5, "size": {"longest_edge": 8}}, "got {'longest_edge': 8}"),
        ({"image_mean": 0.5, "image_std": 0.5, "do_pad": True}, "got one with do_pad"),
    ],
)
def test_what_a_resize_and_a_crop_cannot_express_is_refused_by_name(source, match):
    with pytest.raises(InputError, match=match):
        adapt(SmallCNN((3, 8, 8), width=4), source, size="native")


def test_the_size_is_native_or_that_of_the_model():
    net = SmallCNN((3, 8, 8), width=4).eval()
    with pytest.raises(InputError, match=r'None, or "native" .* got 224'):
        adapt(net, v1.Compose(ENDS), size=224)
    with pytest.raises(InputError, match="got 'native' with mean and std"):
        adapt(net, mean=0.5, std=0.5, size="native")
    x = torch.rand(2, 3, 8, 8)
    torch.testing.assert_close(adapt(net, v1.Compose([v1.Resize(10), *ENDS]))(x), net(processor(*ENDS)(x)))


def test_models_of_images_and_texts_are_answered_with_zero_shot():
    towers = module(lambda self, x: x)
    towers.encode_image = towers.encode_text = lambda x: x
    with pytest.raises(InputError, match=r"fa\.models\.zero_shot\(model, tokenizer, classes\)"):
        adapt(towers, mean=0, std=1)
    output = type("Output", (), {"image_embeds": torch.zeros(1, 2)})()
    with pytest.raises(InputError, match=r"got Output; .*zero_shot"):
        adapt(module(lambda self, x: output), mean=0, std=1)(torch.zeros(1, 3, 8, 8))

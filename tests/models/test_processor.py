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
from tests.refusals import refuses
from tests.zoo.net import module

importlib.import_module("tests.vision")
v1, v2, presets = (importlib.import_module(f"torchvision.transforms{at}") for at in ("", ".v2", "._presets"))

ENDS = [v1.ToTensor(), v1.Normalize((0.5, 0.4, 0.3), (0.2, 0.3, 0.4))]
BICUBIC, NEAREST, LANCZOS = (v1.InterpolationMode(name) for name in ("bicubic", "nearest", "lanczos"))
FLOATS = v2.ToDtype(torch.float32, scale=True)
SMALL = (v1.Resize(10, BICUBIC), v1.CenterCrop(8), *ENDS)
SIDES = st.integers(4, 60)
X = torch.rand(8, 3, 21, 33, generator=torch.Generator().manual_seed(0))
NET = SmallCNN((3, 8, 8), width=4).eval()


def image(height, width, seed=0):
    """Noise that does not overshoot [0, 255]: which of its two passes PIL does first is no matter."""
    return np.random.default_rng(seed).integers(90, 165, size=(height, width, 3), dtype=np.uint8)


def tensor(pixels):
    return torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255


def processor(*steps):
    return Processor(processing_of(v1.Compose(steps)))


@pytest.mark.slow
@given(height=SIDES, width=SIDES, side=st.integers(8, 30), crop=st.tuples(SIDES, SIDES), seed=SIDES)
def test_images_of_8_bits_come_out_as_by_pil_whatever_their_size(height, width, side, crop, seed):
    pixels = image(height, width, seed)
    for interpolation in (v1.InterpolationMode.BILINEAR, BICUBIC):
        steps = (v1.Resize(side, interpolation, max_size=2 * side), v1.CenterCrop(crop), *ENDS)
        by_pil, inside = v1.Compose(steps)(Image.fromarray(pixels))[None], processor(*steps)
        ours = inside(tensor(pixels))
        assert ours.shape == by_pil.shape
        assert ((ours - by_pil) * inside.std).abs().max() < 2 / 255


def test_the_width_is_resized_first_as_by_pil_and_rounded_to_what_8_bits_hold():
    pixels = np.random.default_rng(0).integers(0, 2, size=(23, 17, 3), dtype=np.uint8) * 255  # overshoots
    resize = v1.Resize((11, 9), BICUBIC)
    by_pil = v1.Compose([resize, *ENDS])(Image.fromarray(pixels))[None]
    inside = processor(resize, *ENDS)
    assert ((inside(tensor(pixels)) - by_pil) * inside.std).abs().max() < 3 / 255


def test_of_an_odd_number_of_pixels_around_an_image_each_has_its_side():
    ends = {"mean": (0.0,), "std": (1.0,), "crop": (7, 7)}
    for offset, before in (("torchvision", 1), ("hugging face", 1), ("hugging face, slow", 2)):
        padded = Processor(Processing(**ends, offset=offset))(torch.ones(1, 1, 4, 4))
        assert padded[0, 0].any(0).int().argmax() == padded[0, 0].any(1).int().argmax() == before


def test_transforms_of_floats_are_done_as_they_are():
    for resize in (v2.Resize((9, 14), BICUBIC), v2.Resize(11, antialias=False), v2.Resize(11, NEAREST)):
        steps = [v2.ToImage(), FLOATS, resize, v2.CenterCrop(10), ENDS[1]]
        theirs = v2.Compose(steps)(Image.fromarray(image(31, 23)))[None].as_subclass(torch.Tensor)
        torch.testing.assert_close(processor(*steps)(tensor(image(31, 23))), theirs)
    # antialias is PIL's where the image is still PIL's
    resize, of_tensors = v1.Resize(11, antialias=False), v1.ConvertImageDtype(torch.float32)
    for pil, steps in ((True, (resize, ENDS[0])), (False, (resize, of_tensors)), (False, (resize,))):
        assert processing_of(v1.Compose(steps)).antialias is pil


def test_what_a_processor_states_is_what_it_does():
    resize, floats = v1.Resize(8, BICUBIC), v1.ConvertImageDtype(torch.float32)
    for steps, eight_bits in (
        ((resize,), False),
        ((ENDS[0], resize, floats), False),
        ((resize, floats), True),
    ):
        assert processing_of(v1.Compose(steps)).clamp is eight_bits
    assert not processing_of(presets.ImageClassification(crop_size=8, antialias=False)).antialias
    stated = {"image_mean": 0.5, "image_std": 0.5, "size": {"shortest_edge": 9}}
    assert processing_of(stated | {"crop_size": {"height": 4, "width": 5}}).crop is None


def test_overshoot_is_clamped_where_the_images_have_8_bits_and_white_keeps_its_gradient():
    resize, edge = v1.Resize(32, BICUBIC), torch.ones(1, 3, 57, 41)
    edge[..., :20] = 0
    assert processor(ENDS[0], resize)(edge).max() > 1.01
    clamped = processor(resize, ENDS[0])(edge)
    torch.testing.assert_close(torch.stack([clamped.min(), clamped.max()]), torch.tensor([0.0, 1.0]))
    white = torch.ones(1, 3, 57, 41, requires_grad=True)
    processor(resize, *ENDS)(white).sum().backward()
    assert (white.grad > 0).all()


@pytest.mark.slow
def test_the_gradient_is_that_of_the_function():
    x = (X[:1, :, :9, :11] / 4 + 0.4).double().requires_grad_()
    for size in ((7,), (6, 9), (14,)):
        processing = Processing((0.5, 0.4, 0.3), (0.2, 0.3, 0.4), size, None, (6, 8), "bicubic", True, True)
        torch.autograd.gradcheck(Processor(processing).double(), x)


@pytest.mark.slow
def test_attacks_live_at_the_size_of_the_images():
    model, threat = adapt(NET, v1.Compose(SMALL), size="native"), fa.Linf(16 / 255)
    y = NET(processor(*SMALL)(X)).argmax(1)
    torch.testing.assert_close(torch.fx.symbolic_trace(model)(X[:3, :, 2:]), model(X[:3, :, 2:]))
    plain, frozen = Plain(model).input_gradient(X, y), fa.freeze(model).input_gradient(X, y)
    torch.testing.assert_close(plain, frozen)
    moves = plain[2].abs().sum((0, 1, 2)) > 0
    assert moves[8:25].all()
    assert not moves[[*range(5), *range(-3, 0)]].any()
    out = fa.attacks.pgd(model, X, y, threat, steps=10)
    assert threat.contains(X, out.x_adv).all()
    assert out.success.any()
    assert out.success.equal(model(out.x_adv).argmax(1) != y)
    with pytest.raises(InputError, match=r"of one shape, got .*or take those of each shape by themselves"):
        fa.evaluate(model, [(X[0], 0), (X[0].mT, 0)])
    for x, match in (
        (X.byte(), "x.float.*/ 255"),
        (X[:, :1], "got gray .*expand"),
        (X[:, [0, 0, 1, 2]], r"\[B, 3, any"),
        (X[0], r"x\[None"),
    ):
        refuses(match, model, x)


@pytest.mark.parametrize(
    ("source", "match"),
    [
        (v1.Compose([v1.RandomCrop(8), v1.Grayscale(3), *ENDS]), "got RandomCrop, Grayscale"),
        (v1.Compose([v1.RandomApply([v1.Resize(8)]), *ENDS]), "got RandomApply"),
        (
            v1.Compose([type("Resize", (), {"__module__": "albumentations"})(), *ENDS]),
            "got albumentations.Re",
        ),
        (v2.RandomChoice([v2.Resize(8), v2.CenterCrop(8)]), "got RandomChoice"),
        (v1.Compose([v1.Compose([v1.RandomOrder([v1.Resize(8)])]), *ENDS]), "got RandomOrder"),
        (presets.VideoClassification(crop_size=(8, 8), resize_size=(9, 9)), "got VideoClassification"),
        (v1.Compose([v1.CenterCrop(20), v1.Resize(8), *ENDS]), "each once, got CenterCrop, Resize"),
        (v1.Compose([v1.Resize(9), v1.Resize(8), *ENDS]), "each once, got Resize, Resize"),
        (v1.Compose([v1.Resize(8, LANCZOS), *ENDS]), "bicubic or bilinear, .*got lanczos"),
        (v1.Compose([v1.Resize(8, NEAREST), *ENDS]), "of tensors also nearest, got nearest"),
        (v1.Compose([v1.PILToTensor(), v1.Resize(8)]), "PILToTensor without"),
        (v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32)]), r"got ToDtype\(torch.float32\)"),
        (v2.Resize(None, max_size=20), r"got Resize\(None\)"),
        (v1.Compose, "got the class Compose; pass Compose"),
        (v1.Compose([*ENDS[:1], v1.Normalize([0.5], [0.0])]), r"std > 0, got mean \[0.5\] and std \[0.0\]"),
        (v1.Compose([*ENDS[:1], v1.Normalize([0.5] * 3, [0.2] * 2)]), "as many means .*got 3 and 2"),
        ({"mean": 0.5, "std": 0.5}, "expected the size of images, got dict without"),
        ({"do_normalize": False, "size": 8}, "shortest_edge alone, got 8"),
        ({"image_mean": 0.5, "image_std": 0.5, "do_pad": True}, "got one with do_pad"),
    ],
)
def test_what_a_resize_and_a_crop_cannot_express_is_refused_by_name(source, match):
    refuses(match, adapt, NET, source, size="native")


def test_what_is_no_classifier_or_no_size_is_refused():
    refuses(r'None, or "native" .* got 224', adapt, NET, v1.Compose(ENDS), size=224)
    refuses("got 'native' with mean and std", adapt, NET, mean=0.5, std=0.5, size="native")
    x = X[..., :8, :8]
    torch.testing.assert_close(adapt(NET, v1.Compose(SMALL))(x), NET(processor(*ENDS)(x)))
    # models of images and texts
    towers = module(lambda self, x: type("Output", (), {"image_embeds": x})())
    refuses(r"got Output; .*zero_shot", adapt(towers, mean=0, std=1), X)
    towers.encode_image = towers.encode_text = lambda x: x
    refuses(r"fa\.models\.zero_shot\(model, tokenizer, classes\)", adapt, towers, mean=0, std=1)


def test_a_mapping_without_a_filter_is_bilinear_and_not_clamped():
    settings = {"do_resize": True, "size": {"height": 8, "width": 8}, "image_mean": [0.5], "image_std": [0.5]}
    processing = processing_of(settings)
    assert (processing.interpolation, processing.clamp) == ("bilinear", False)
    assert processing_of({**settings, "resample": 3}).clamp

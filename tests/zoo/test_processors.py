"""Processors of Hugging Face, timm and open_clip inside the model, by themselves on photographs."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.nn.functional import cross_entropy

import fastadv as fa
from fastadv.engine import Plain
from fastadv.models import adapt
from fastadv.models.processor import Processor, processing_of
from tests.refusals import refuses
from tests.vision import models as torchvision

open_clip, timm, hf, photographs = (
    pytest.importorskip(name, reason="pip install 'fastadv[zoo]'")
    for name in ("open_clip", "timm", "transformers", "skimage.data")
)
configure, transform = open_clip.transform.PreprocessCfg, open_clip.transform.image_transform_v2
SMALL = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
SLOW = hf.CLIPImageProcessorPil
SIDES = st.integers(5, 60)
CARRIED = timm.get_pretrained_cfg("resnet50.a1_in1k").to_dict()
TIMM = timm.data.resolve_data_config(pretrained_cfg=CARRIED)
OPEN_CLIP = configure(size=(200, 224), resize_mode="squash")
EFFICIENT = torchvision.EfficientNet_B3_Weights.DEFAULT
# What adapt takes, and where that cannot be called, the processor that it describes
PROCESSORS = {
    "clip": (hf.CLIPImageProcessor(),),
    "clip, slow": (SLOW().to_dict(), SLOW()),
    "beside a tokenizer": (SimpleNamespace(image_processor=SLOW()), SLOW()),
    "timm, by hugging face": (hf.TimmWrapperImageProcessor(CARRIED), timm.data.create_transform(**TIMM)),
    "small deviation": (hf.CLIPImageProcessor(image_std=[0.05] * 3),),
    "vit, slow": (hf.ViTImageProcessorPil(),),
    "nearest": (hf.CLIPImageProcessor(resample=0),),
    "open_clip": (transform(configure(), is_train=False),),
    "open_clip, configuration": (OPEN_CLIP, transform(OPEN_CLIP, is_train=False)),
    "open_clip, its size": ({"size": 96}, transform(configure(size=96), is_train=False)),
    "timm": (TIMM, timm.data.create_transform(**TIMM)),
    "torchvision": (EFFICIENT, EFFICIENT.transforms()),
}


def check_alike(source, processor, pixels):
    """The processor inside the model and by itself make the same of an image of 8 bits, but for rounding."""
    picture = Image.fromarray(pixels)
    of_hf = hasattr(processor, "image_mean")
    wanted = processor(picture, return_tensors="pt")["pixel_values"] if of_hf else processor(picture)[None]
    inside = Processor(processing_of(source))
    ours = inside(torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None] / 255)
    assert ours.shape == wanted.shape
    assert ((ours - wanted) * inside.std).abs().max() < 2 / 255


@pytest.mark.slow
@pytest.mark.parametrize("name", PROCESSORS)
def test_photographs_come_out_as_by_the_processor_itself(name):
    source, processor = PROCESSORS[name][0], PROCESSORS[name][-1]
    for pixels in (photographs.astronaut()[:401, 20:], photographs.coffee()[3:332, 5:466], photographs.cat()):
        check_alike(source, processor, pixels)


@pytest.mark.slow
@settings(max_examples=15)
@given(height=SIDES, width=SIDES, side=st.integers(9, 40), crop=st.tuples(SIDES, SIDES))
def test_crops_and_their_padding_are_those_of_hugging_face(height, width, side, crop):
    pixels = np.random.default_rng(0).integers(90, 165, size=(height, width, 3), dtype=np.uint8)
    sizes = {"size": {"shortest_edge": side}, "crop_size": {"height": crop[0], "width": crop[1]}}
    for processor in (hf.CLIPImageProcessor(**sizes), SLOW(**sizes)):
        check_alike(processor, processor, pixels)


@pytest.mark.parametrize(
    ("source", "match"),
    [
        (hf.ConvNextImageProcessor(), "crop_pct"),
        (hf.EfficientNetImageProcessor(), "include_top"),
        (hf.LevitImageProcessor().to_dict(), "got LevitImageProcessor, which differs on an image"),
        (SLOW().to_dict() | {"image_processor_type": "Own"}, "expected one of transformers, got Own"),
        (hf.LevitImageProcessor(), "got LevitImageProcessor, which differs on an image"),
        (hf.ViTImageProcessorPil(image_mean=[0.5], image_std=[0.5]), r"an image of 3 channels \(mean must"),
        (hf.Siglip2ImageProcessor(do_resize=False), "Siglip2ImageProcessor, which fails on an image .*shape"),
        (hf.MobileViTImageProcessor(), "do_flip_channel_order"),
        (hf.Qwen2VLImageProcessor(), "shortest_edge alone, got"),
        (TIMM | {"crop_mode": "border"}, "got ResizeKeepRatio, CenterCropOrPad"),
        (transform(configure(), is_train=True), "got RandomResizedCrop"),
    ],
)
def test_processors_that_do_other_things_are_refused_by_name(source, match):
    refuses(match, processing_of, source)


SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 8,
}
NETS = {
    "hf": lambda: (hf.ViTForImageClassification(hf.ViTConfig(**SIZES)), SLOW(**SMALL)),
    "timm": lambda: (timm.create_model("test_vit", img_size=32), TIMM | {"input_size": (3, 32, 32)}),
    "torchvision": lambda: (torchvision.squeezenet1_1(), EFFICIENT.transforms(crop_size=32, resize_size=36)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", NETS)
def test_nets_run_behind_their_processor_as_by_hand(name):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net, processor = NETS[name]()
    model, threat = adapt(net.eval(), processor, size="native").eval(), fa.Linf(8 / 255)
    x = torch.rand(8, 3, 41, 57, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        output = net(Processor(processing_of(processor))(x))
    logits = getattr(output, "logits", output)
    torch.testing.assert_close(model(x), logits)
    y = logits.argmax(1)
    found, frozen = Plain(model).input_gradient(x, y), fa.freeze(model).input_gradient(x, y)
    torch.testing.assert_close(tuple(found), tuple(frozen), rtol=1e-3, atol=1e-5)
    attacks = {"pgd": lambda m, x, y, ids: fa.attacks.pgd(m, x, y, threat, steps=5, ids=ids)}
    out = attacks["pgd"](model, x, y, None)
    assert threat.contains(x, out.x_adv).all()
    assert cross_entropy(model(out.x_adv), y) > cross_entropy(logits, y)
    assert fa.evaluate(model, (x, y), attacks)["pgd"].robust_accuracy == 1 - out.success.float().mean()
    strong = fa.attacks.autoattack(fa.freeze(model), x[:2], y[:2], threat, version="quick")
    assert strong.success.equal(model(strong.x_adv).argmax(1) != y[:2])

"""What `fastadv train` is fed: augmentations by name, generated images, image folders."""

from functools import partial

import numpy as np
import pytest
import torch
import typer
from PIL import Image

import fastadv as fa
from fastadv.cli._recipes import parse_augment
from fastadv.cli._shared import load_data
from fastadv.data import Mixture, NpzSet, load
from fastadv.models import SmallCNN
from fastadv.train.augment import crop, cutout, flip

TRAIN = "train -m small_cnn -o width=2 --data digits -n 60 --epochs 1 --test-samples 20 --batch-size 20"


def bound(part):
    return (part.func, part.keywords) if isinstance(part, partial) else (part, {})


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("none", None),
        ("crop_flip", [(crop, {}), (flip, {})]),
        ("crop_flip+cutout", [(crop, {}), (flip, {}), (cutout, {})]),
        (
            "crop:padding=2+flip+cutout:size=8,fill=1/2",
            [(crop, {"padding": 2}), (flip, {}), (cutout, {"size": 8, "fill": 0.5})],
        ),
        ("cutout:size=none,fill=1", [(cutout, {"size": None, "fill": 1})]),
    ],
)
def test_names_and_arguments(text, parts):
    parsed = parse_augment(text)
    assert (parsed and [bound(part) for part in parsed]) == parts


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("mixer", "no augmentation 'mixer'; there are none, crop, flip"),
        ("crop+", "no augmentation ''"),
        ("crop_flip:padding=2", "name its parts"),
        ("cutout:side=3", "cutout takes no 'side'; it takes size, fill"),
        ("flip:epoch=3", "takes no 'epoch'; it takes none"),
        ("crop:padding=big", "expected padding to be a whole number, got 'big'"),
    ],
)
def test_text_that_names_no_augmentation_is_refused(text, match):
    with pytest.raises(typer.BadParameter, match=match):
        parse_augment(text)


def test_samples_of_a_sorted_folder_are_of_all_classes(tmp_path):
    """A set in a folder, whose classes come one after another; a published set keeps its first images."""
    x, y = torch.zeros(60, 1, 4, 4), torch.arange(60) // 6
    fa.data.construct.fixed_shift(
        SmallCNN((1, 4, 4), 10, width=2),
        fa.data.ImageSet(x, y, 10, "sorted"),
        threat=fa.L2(0.1),
        steps=1,
        out_dir=tmp_path,
    )
    assert len(load_data(str(tmp_path), limit=20).y.unique()) == 10
    assert load_data("digits", limit=20).data_hash == load("digits", "test", limit=20).data_hash


@pytest.fixture
def generated(folder):
    """Fifty images of noise, as generated images are published."""
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (50, 8, 8, 1), dtype=np.uint8)
    np.savez(folder / "made.npz", image=pixels, label=generator.integers(0, 10, 50))
    return folder / "made.npz"


@pytest.mark.slow
def test_a_run_with_generated_images_is_that_of_the_library(fastadv, folder, generated):
    line = (
        f"{TRAIN} --augment crop+cutout:size=2 --generated {generated} --fraction 7/10 --seed 4 --run-dir run"
    )
    told = fastadv(line, "--json").json
    assert told["config"]["data"]["fraction"] == 0.7
    assert told["config"]["data"]["generated"]["samples"] == 50
    mine, augment = SmallCNN(width=2, seed=4), ["crop", partial(cutout, size=2)]
    mixture = Mixture(load("digits", "train", limit=60), NpzSet(generated), 0.7)
    (own,) = fa.train.fit(
        mine, mixture, fa.train.Standard(), epochs=1, batch_size=20, augment=augment, seed=4,
        optimization=fa.train.Optimization(schedule="cosine"),
    )  # fmt: skip
    assert told["measured"]["epochs"][0]["loss"] == own.loss
    written = SmallCNN(width=2)
    fa.models.load_weights(written, folder / "run" / "model.safetensors")
    assert all(torch.equal(written.state_dict()[name], value) for name, value in mine.state_dict().items())


@pytest.mark.slow
def test_an_image_folder_mixes_and_workers_change_nothing(fastadv, folder):
    generator = np.random.default_rng(0)
    for i in range(12):
        path = folder / "own" / f"{i % 2}" / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(path)
    np.savez(folder / "made.npz", image=np.zeros((3, 8, 8, 3), np.uint8), label=[0, 1, 1])
    line = (
        "train -m small_cnn -o width=2 --data imagefolder --data-dir own --epochs 1 --test-samples 4 --json"
    )
    assert fastadv(f"{line} --generated made.npz --fraction .5").json["config"]["data"]["samples"] == 15
    losses = []
    for workers in (0, 2):
        done = fastadv(f"{line} --augment crop_flip --workers {workers}")
        losses.append(done.json["measured"]["epochs"][0]["loss"])
    assert losses[0] == losses[1]


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ("--generated made.npz", "--generated and --fraction belong together"),
        ("--generated none.npz --fraction .7", "'none.npz' does not exist"),
        ("--generated other.npz --fraction .7", "expected the arrays image and label, got x"),
        ("--generated wide.npz --fraction .7", "expected images of shape [1, 8, 8]"),
        ("--workers 2", "workers: expected None for images that are in memory"),
    ],
)
def test_wrong_usage_is_told_in_one_line(refused, folder, generated, options, match):
    np.savez(folder / "other.npz", x=np.zeros(3))
    np.savez(folder / "wide.npz", image=np.zeros((3, 8, 9, 1), np.uint8), label=[0, 1, 1])
    refused(f"{TRAIN} {options}", match)

"""Sets as image folders and as torch tensors: what is written, who reads it, and the same set read back."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import fastadv as fa
from fastadv._torchvision import datasets
from fastadv.data import ConstructedSet, FolderSet, ImageSet, export, load_folder
from fastadv.data.imageset import to_unit
from fastadv.errors import CorruptFileError, InputError

from .sets import fixed_shift, random_target, toy_base, toy_model


def noise(count: int = 13, channels: int = 3, classes: tuple[str, ...] = ("cat", "dog", "owl")) -> ImageSet:
    x = torch.randint(256, (count, channels, 5, 7), dtype=torch.uint8)
    return ImageSet(x, torch.arange(count) % len(classes), classes, "noise", note="of no use")


def same(found: ImageSet, wanted: ImageSet) -> bool:
    return (
        found.x.dtype == wanted.x.dtype
        and torch.equal(found.x, wanted.x)
        and torch.equal(found.y, wanted.y)
        and (found.classes, found.name, found.note) == (wanted.classes, wanted.name, wanted.note)
    )


@pytest.mark.parametrize("kind", ["png", "torch"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("classes", [("cat", "dog", "owl"), ("Zoë", "a/b", "a/b")])
def test_the_same_set_is_read_back(tmp_path, kind, channels, classes):
    wanted = noise(channels=channels, classes=classes)
    export(wanted, tmp_path / "out", kind)
    assert same(load_folder(tmp_path / "out"), wanted)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    for path in tmp_path.glob("out/*/*.png"):
        assert Image.open(path).mode == ("L" if channels == 1 else "RGB")


@pytest.mark.parametrize("kind", ["png", "torch"])
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_a_constructed_set_is_read_back_with_its_card(tmp_path, kind, dtype):
    made = fixed_shift(toy_model(), toy_base(20), steps=3, dtype="uint8", out_dir=tmp_path / "set")
    if dtype == "float32":  # with values that 8 bits hold
        made = ConstructedSet({**made.tensors(), "images": to_unit(made.x)}, made.card)
    export(load_folder(tmp_path / "set") if dtype == "uint8" else made, tmp_path / "out", kind)
    assert same(load_folder(tmp_path / "out"), made)
    assert json.loads((tmp_path / "out" / "card.json").read_text())["set"]["card"] == made.card


@pytest.mark.parametrize(
    ("classes", "folders"),
    [
        (("cat", "dog", "ship of 2 sails"), ["cat", "dog", "ship of 2 sails"]),
        (("dog", "cat"), ["0_dog", "1_cat"]),
        (tuple(map(str, range(11))), [f"{k:02}_{k}" for k in range(11)]),
        (("a", "a"), ["0_a", "1_a"]),
        (("..", "a/b"), ["0_..", "1_a_b"]),
    ],
)
def test_an_image_folder_as_others_read_it(tmp_path, classes, folders):
    wanted = noise(25, classes=classes)
    export(wanted, tmp_path / "out")
    theirs = datasets.ImageFolder(tmp_path / "out")
    assert theirs.classes == folders
    for path, label in theirs.samples:
        number = int(Path(path).stem)
        assert np.array_equal(np.asarray(Image.open(path)), wanted.x[number].permute(1, 2, 0).numpy())
        assert label == wanted.y[number]
    ours = fa.data.load("imagefolder", data_dir=tmp_path / "out")
    assert isinstance(ours, FolderSet)
    assert len(theirs) == len(ours) == 25
    numbers = [int(path.stem) for path in ours.paths]
    assert torch.equal(ours.in_memory().x, wanted.x[numbers])
    assert torch.equal(ours.labels, wanted.y[numbers])


def test_torch_files_as_the_authors_loader_reads_them(tmp_path):
    """Their README joins the list that each file holds."""
    made = random_target(toy_model(), toy_base(20), steps=2)
    export(made, tmp_path / "drand_CIFAR", "torch")
    images, labels = (
        torch.cat(torch.load(tmp_path / "drand_CIFAR" / name, weights_only=True))
        for name in ("CIFAR_ims", "CIFAR_lab")
    )
    assert (images.dtype, labels.dtype) == (torch.float32, torch.int64)
    assert torch.equal(images, made.x.float() / 255)
    assert torch.equal(labels, made.y)


@pytest.mark.parametrize("parts", [1, 3])
def test_the_published_sets_are_read(tmp_path, parts):
    x, y = torch.rand(30, 3, 32, 32), torch.arange(30) % 10
    folder = tmp_path / "d_robust_CIFAR"
    folder.mkdir()
    torch.save(list(x.chunk(parts)) if parts > 1 else x, folder / "CIFAR_ims")
    torch.save(tuple(y.chunk(parts)) if parts > 1 else y, folder / "CIFAR_lab")
    found = load_folder(folder)
    assert torch.equal(found.x, x)
    assert torch.equal(found.y, y)
    assert (found.name, found.classes[:2]) == ("d_robust_CIFAR", ("airplane", "automobile"))


def test_float32_that_8_bits_do_not_hold_is_refused(tmp_path):
    made = fixed_shift(toy_model(), toy_base(20), steps=2, dtype="float32")
    with pytest.raises(InputError, match=r"would change by up to 0\.00\d+; export them with kind 'torch'"):
        export(made, tmp_path / "out")
    assert not list(tmp_path.iterdir())
    export(made, tmp_path / "out", "torch")
    assert same(load_folder(tmp_path / "out"), made)
    x = to_unit(noise().x)
    x[3, 0, 0, 0] = 0.5 + 0.5 / 255 + 1e-4  # as little as that
    near = ImageSet(x, noise().y, noise().classes, "near")
    with pytest.raises(InputError, match="would change"):
        export(near, tmp_path / "near")


def test_what_cannot_be_exported(tmp_path):
    with pytest.raises(InputError, match="kind: expected one of png, torch, got 'jpg'"):
        export(noise(), tmp_path / "out", "jpg")
    with pytest.raises(InputError, match="got 2 channels"):
        export(noise(channels=2), tmp_path / "out")
    with pytest.raises(InputError, match="got none of owl"):
        export(noise().subset([0, 1]), tmp_path / "out")
    with pytest.raises(InputError, match=r"got list.*in_memory"):
        export([(torch.zeros(1, 2, 2), 0)], tmp_path / "out")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("kept")
    for folder in (tmp_path / "full", tmp_path / "full" / "file", tmp_path / "full" / "file" / "below"):
        with pytest.raises(InputError, match="folder: expected"):
            export(noise(), folder)
    assert (tmp_path / "full" / "file").read_text() == "kept"
    assert [path.name for path in tmp_path.iterdir()] == ["full"]


@pytest.mark.parametrize("kind", ["png", "torch"])
def test_an_export_that_stops_leaves_nothing(tmp_path, kind):
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export(noise(), tmp_path / "out", kind, progress=stop)
    assert not list(tmp_path.iterdir())
    (tmp_path / ".out.part").mkdir()  # as a kill leaves it
    (tmp_path / ".out.part" / "rest").write_text("")
    (tmp_path / "out").mkdir()
    calls: list[tuple[int, int]] = []
    export(noise(), tmp_path / "out", kind, progress=lambda done, total: calls.append((done, total)))
    assert calls[-1] == (13, 13)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert not (tmp_path / "out" / "rest").exists()


def _paint(width: int) -> Callable[[Path], None]:
    return lambda path: Image.new("RGB", (width, 5)).save(path)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (Path.unlink, r"expected 13 images, got 12.*05\.png"),
        (_paint(7), "whose hash card.json names"),
        (_paint(5), r"05\.png: expected an image of shape \[3, 5, 7\], got \[3, 5, 5\]"),
        (lambda path: path.rename(path.parents[1] / "cat" / path.name), "whose hash card.json names"),
        (lambda path: _paint(7)(path.with_name("new.png")), r"new\.png: expected the number of one of 13"),
        (lambda path: path.write_bytes(path.read_bytes()[:60]), r"05\.png: expected a whole image file"),
    ],
)
def test_a_damaged_image_folder(tmp_path, damage, says):
    export(noise(), tmp_path / "out")
    damage(tmp_path / "out" / "owl" / "05.png")
    with pytest.raises(CorruptFileError, match=says):
        load_folder(tmp_path / "out")


def test_damaged_tensors_cards_and_other_folders(tmp_path):
    export(noise(), tmp_path / "out", "torch")
    ims = tmp_path / "out" / "CIFAR_ims"
    whole = ims.read_bytes()
    ims.write_bytes(whole[:200])
    with pytest.raises(CorruptFileError, match="CIFAR_ims: expected a torch file"):
        load_folder(tmp_path / "out")
    torch.save([torch.rand(13, 3, 5, 7)], ims)
    with pytest.raises(CorruptFileError, match="hash"):
        load_folder(tmp_path / "out")
    ims.unlink()
    with pytest.raises(CorruptFileError, match="CIFAR_ims"):
        load_folder(tmp_path / "out")
    (tmp_path / "out" / "card.json").write_text("{}")
    with pytest.raises(CorruptFileError, match="expected the card of an exported set"):
        load_folder(tmp_path / "out")
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(InputError, match=r"expected a folder with index\.json, card\.json or CIFAR_ims"):
            load_folder(folder)

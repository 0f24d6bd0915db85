"""Sets as torch files: what is written, and the same set read back."""

import json

import pytest
import torch

from fastadv.data import ImageSet, export, load_folder
from fastadv.data.imageset import to_unit
from fastadv.errors import CorruptFileError, InputError

from .sets import fixed_shift, toy_base, toy_model


def noise() -> ImageSet:
    x = torch.randint(256, (13, 3, 5, 7), dtype=torch.uint8)
    return ImageSet(x, torch.arange(13) % 3, ("cat", "dog", "owl"), "noise", note="of no use")


def same(found: ImageSet, wanted: ImageSet) -> bool:
    return (
        found.x.dtype == wanted.x.dtype
        and torch.equal(found.x, wanted.x)
        and torch.equal(found.y, wanted.y)
        and (found.classes, found.name, found.note) == (wanted.classes, wanted.name, wanted.note)
    )


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_a_constructed_set_is_read_back_with_its_card(tmp_path, dtype):
    made = fixed_shift(toy_model(), toy_base(20), steps=3, dtype=dtype, out_dir=tmp_path / "set")
    export(load_folder(tmp_path / "set"), tmp_path / "out")
    assert same(load_folder(tmp_path / "out"), made)
    assert json.loads((tmp_path / "out" / "card.json").read_text())["set"]["card"] == made.card
    # their README joins the list that each file holds
    images, labels = (
        torch.cat(torch.load(tmp_path / "out" / name, weights_only=True))
        for name in ("CIFAR_ims", "CIFAR_lab")
    )
    assert (images.dtype, labels.dtype) == (torch.float32, torch.int64)
    assert torch.equal(images, to_unit(made.x))
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


def test_what_cannot_be_exported(tmp_path):
    with pytest.raises(InputError, match=r"got list.*in_memory"):
        export([(torch.zeros(1, 2, 2), 0)], tmp_path / "out")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("kept")
    for folder in (tmp_path / "full", tmp_path / "full" / "file", tmp_path / "full" / "file" / "below"):
        with pytest.raises(InputError, match="folder: expected"):
            export(noise(), folder)
    assert (tmp_path / "full" / "file").read_text() == "kept"
    assert [path.name for path in tmp_path.iterdir()] == ["full"]


def test_an_export_that_stops_leaves_nothing(tmp_path, monkeypatch):
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("fastadv.data._export.write_json", stop)
        with pytest.raises(KeyboardInterrupt):
            export(noise(), tmp_path / "out")
    assert not list(tmp_path.iterdir())
    (tmp_path / ".out.part").mkdir()  # as a kill leaves it
    (tmp_path / ".out.part" / "rest").write_text("")
    (tmp_path / "out").mkdir()
    export(noise(), tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert not (tmp_path / "out" / "rest").exists()


def test_damaged_tensors_cards_and_other_folders(tmp_path):
    export(noise(), tmp_path / "out")
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

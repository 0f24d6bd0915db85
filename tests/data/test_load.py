"""Data sets by name, and the folders that are searched for them."""

import sys

import pytest
import torch

from fastadv.data import ImageSet, load, load_folder
from fastadv.errors import CorruptFileError, InputError
from tests.refusals import refuses


@pytest.fixture(autouse=True)
def _no_folder(monkeypatch):
    monkeypatch.delenv("FASTADV_DATA", raising=False)


@pytest.mark.parametrize(
    ("name", "arguments", "match"),
    [
        ("digits", {"split": "validation"}, "split: expected one of train, test, got 'validation'"),
        ("digits", {"size": 0}, "size >= 1, got 0"),
        ("digits", {"limit": 0}, "limit >= 1, got 0"),
        ("digits", {"limit": -3}, "limit >= 1, got -3"),
        ("imagenet:level=3", {}, "each of preprocessing, ids at most once, as KEY=VALUE, got 'level=3'"),
        ("imagenet:ids=a,ids=b", {}, "at most once, as KEY=VALUE, got 'ids=b'"),
        ("imagenet:ids=", {}, "got 'ids='"),
        ("cifar10:severity=3", {}, "cifar10: expected each of size at most once, .* got 'severity=3'"),
        ("imagefolder:size=big", {}, "imagefolder: expected one size, a whole number, got 'big' and None"),
        ("digits:size=9", {"size": 8}, "digits: expected one size, a whole number, got '9' and 8"),
        ("digits", {"channels": 1}, "channels: expected 1 or 3 of imagefolder, None of others, got 1 of dig"),
        ("imagefolder:channels=2", {}, "channels: expected 1 or 3 of imagefolder, .* got 2"),
        ("absent:images", {}, "data set 'absent:images': No module named 'absent'"),
    ],
)
def test_bad_options_are_refused(name, arguments, match):
    refuses(match, load, name, **{"split": "test"} | arguments)


def test_a_size_may_stand_in_the_name():
    assert load("digits:size=10", limit=3).data_hash == load("digits", size=10, limit=3).data_hash


OWN = """
import torch
from torch.utils.data import DataLoader, TensorDataset
from fastadv.data import ImageSet, load

x, y = (torch.arange(40 * 9).view(40, 1, 3, 3) % 256).byte(), torch.arange(40) % 4

def pair(split, shift: int = 0):
    return (x, y + shift) if split == "train" else (x[:8], y[:8] + shift)

def loader(limit=None, size=3):
    return DataLoader(TensorDataset(x[:limit, :, :size], y[:limit]), batch_size=7, shuffle=True)

def images(data_dir="nowhere"):
    return ImageSet(x, y, 5, data_dir)

def series():
    return x[:, 0].clone(), y

def wanting(split, number):
    return None
"""


def test_a_function_of_ones_own_gives_a_set(tmp_path, monkeypatch):
    (tmp_path / "mysets.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "mysets", raising=False)
    train, test = load("mysets:pair"), load("mysets:pair", "test", limit=5)
    import mysets

    assert torch.equal(train.x, mysets.x)
    assert (train.name, train.num_classes, train.shape) == ("mysets:pair train", 4, (1, 3, 3))
    assert (test.name, len(test), test.num_classes) == ("mysets:pair test", 5, 4)
    assert load("mysets:pair:shift=2,split=test").labels.tolist() == [2, 3, 4, 5] * 2
    assert load("mysets:loader", limit=6, size=2).shape == (1, 2, 3)
    assert torch.equal(load("mysets:loader").y, mysets.y)  # in the order of the set, not of the loader
    assert load("mysets:series", limit=6).shape == (3, 3)
    assert load("mysets:images", data_dir="here").describe()["name"] == "here"
    assert (load("mysets:images").name, len(load("mysets:images", limit=7))) == ("nowhere", 7)
    for name, options, says in (
        ("images", {"size": 3}, "size: expected none, as mysets:images does not take it, got 3"),
        ("pair:shfit=2", {}, "takes no 'shfit'; .* did you mean 'shift'"),
        ("wanting", {}, "mysets:wanting: missing a required argument: 'number'; write mysets:wanting:KEY"),
        ("absent", {}, "module mysets has no function 'absent'"),
    ):
        refuses(says, load, f"mysets:{name}", **options)
    assert isinstance(train, ImageSet)


def test_a_limit_keeps_the_first():
    whole, part = load("digits"), load("digits", limit=7)
    assert part.labels.tolist() == whole.labels[:7].tolist()
    assert len(load("digits", limit=10**6)) == len(whole)


@pytest.mark.parametrize("name", ["mnist", "cifar10", "svhn", "imagefolder", "imagenet"])
def test_a_missing_folder_is_named(name, tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"^data_dir .*absent: expected a folder of data sets, got none"):
        load(name, data_dir=tmp_path / "absent")
    monkeypatch.setenv("FASTADV_DATA", str(tmp_path / "elsewhere"))
    refuses(r"^FASTADV_DATA .*elsewhere: expected a folder", load, name)


@pytest.mark.parametrize(
    ("name", "layout"),
    [("mnist", r"MNIST/raw/\*-ubyte"), ("cifar10", r"cifar10/\{train,test\}/CLASS/\*\.jpg")],
)
def test_missing_files_say_what_belongs_where(name, layout, tmp_path):
    says = rf"expected .*{layout} below {tmp_path}, got none.*switched off.*FASTADV_DATA"
    refuses(says, load, name, data_dir=tmp_path, download=False)


@pytest.mark.parametrize(("name", "attribute"), [("mnist", "MNIST"), ("cifar10", "CIFAR10")])
def test_a_failed_download_says_so_in_one_line_and_prints_nothing(
    name, attribute, tmp_path, monkeypatch, capfd
):
    from tests.vision import datasets

    def offline(root, **arguments):
        assert arguments["download"] is True
        print("Downloading ...")
        raise OSError("<urlopen error>\nno route to host")

    monkeypatch.setattr(datasets, attribute, offline)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    says = "the download failed: <urlopen error> no route to host; put the files there"
    with pytest.raises(InputError, match=says) as caught:
        load(name)
    assert "\n" not in str(caught.value)
    assert str(tmp_path / "cache" / "fastadv") in str(caught.value)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("parts", [1, 3])
def test_the_sets_that_were_published_are_read(tmp_path, monkeypatch, parts):
    x, y = torch.rand(30, 3, 32, 32), torch.arange(30) % 10
    (folder := tmp_path / "d_robust_CIFAR").mkdir()
    torch.save(list(x.chunk(parts)) if parts > 1 else x, folder / "CIFAR_ims")
    torch.save(tuple(y.chunk(parts)) if parts > 1 else y, folder / "CIFAR_lab")
    loaded = load_folder(folder)
    assert all(map(torch.equal, (loaded.x, loaded.y), (x, y)))
    assert (loaded.name, loaded.classes[:2]) == ("d_robust_CIFAR", ("airplane", "automobile"))
    for limit in (7, 99):
        assert torch.equal(load(folder, limit=limit).x, x[:limit])
    for given in ({"split": "test"}, {"size": 8}, {"severity": 3}, {"limit": 0}):
        refuses("expected (no split, size or severity|an integer >= 1)", load, str(folder), **given)
    monkeypatch.chdir(folder.rename(tmp_path / "digits").parent)
    assert load("digits", limit=7).shape == (1, 8, 8)


def test_damaged_tensors_and_other_folders_are_refused(tmp_path):
    images = tmp_path / "CIFAR_ims"
    torch.save([torch.rand(3, 3, 5, 7)], images)
    whole = images.read_bytes()
    for content, file in ((whole[:200], "ims"), (whole, "lab")):
        images.write_bytes(content)
        with pytest.raises(CorruptFileError, match=f"CIFAR_{file}: expected a torch file"):
            load_folder(tmp_path)
    torch.save(["text"], images)
    with pytest.raises(CorruptFileError, match="with other things"):
        load_folder(tmp_path)
    refuses(r"expected a folder with index\.json or CIFAR_ims", load_folder, tmp_path / "nowhere")

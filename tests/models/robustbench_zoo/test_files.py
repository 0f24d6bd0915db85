"""Where weights are found."""

import pytest

from fastadv import models
from fastadv.errors import InputError
from fastadv.models.zoo import find, locate
from fastadv.models.zoo.loading import weights_folder

NAME = "cifar10/L2/Rice2020Overfitting"


def put(path, text="weights"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_the_cache_is_the_named_folder_or_the_users(tmp_path, monkeypatch):
    assert weights_folder() == tmp_path / "cache"
    monkeypatch.delenv("FASTADV_WEIGHTS")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    assert weights_folder() == tmp_path / "home" / "fastadv" / "models"
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize("ending", [".pt", ".safetensors"])
def test_a_file_a_folder_in_either_layout_and_the_cache_are_looked_at(tmp_path, cache, ending):
    entry = find(NAME)
    own = put(tmp_path / "any name.bin")
    deep, flat = (put(tmp_path / at / f"Rice2020Overfitting{ending}") for at in ("a/cifar10/L2", "b"))
    kept = put(cache / f"{NAME}{ending}")
    put(cache / "cifar10/Linf/Rice2020Overfitting.pt")
    assert locate(entry, own) == own
    assert (locate(entry, tmp_path / "a"), locate(entry, str(tmp_path / "b"))) == (deep, flat)
    assert locate(entry, None) == kept


def test_a_missing_file_says_where_it_belongs_and_where_the_zoo_keeps_it(tmp_path, cache):
    entry = find(NAME)
    for weights, place in (
        (None, cache / f"{NAME}.pt"),
        (tmp_path, tmp_path / f"{NAME}.pt"),
        (tmp_path / "absent.pt", tmp_path / "absent.pt"),
    ):
        with pytest.raises(
            InputError, match=rf"drive\.google\.com/file/d/{entry.drive}.*--weights"
        ) as caught:
            models.robustbench(NAME, weights)
        assert f"its weights in {place}, got no such file" in str(caught.value)

"""Constructed sets as products: thumbnails and verification from the command line."""

import pytest
from PIL import Image

from fastadv.data import load_constructed

SOME = "-n 60"


@pytest.fixture
def made(fastadv, folder, net):
    line = f"construct fixed-shift {net} {SOME} --steps 2 --shard-size 25"
    done = fastadv(f"{line} --out sets/a")
    assert "images of a label" in done.out
    return folder / "sets" / "a"


@pytest.mark.slow
def test_verify_finds_what_the_card_says(fastadv, made):
    assert sorted(path.name for path in made.iterdir()) == [
        "index.json",
        *(f"shard-{k:05d}.safetensors" for k in range(3)),
        "thumbnails.png",
    ]
    with Image.open(made / "thumbnails.png") as picture:
        assert min(picture.size) > 500
    assert load_constructed(made).card["config"]["step_size"] == "20 * radius / steps"
    card = load_constructed(made).card["measured"]
    assert fastadv("verify sets/a --json").json["measured"] == card
    done = fastadv("verify sets/a")
    assert "sets/a is what its card says" in done.out
    assert card["data_hash"] in done.out


@pytest.mark.slow
def test_verify_fails_on_any_difference(fastadv, refused, made):
    fastadv("verify sets/a")
    (made / "shard-00001.safetensors").unlink()
    path = made / "shard-00002.safetensors"
    path.write_bytes(path.read_bytes()[:-9])
    told = refused("verify sets/a", "shard-00001.safetensors: expected a shard, got no file", 1)
    assert "shard-00002.safetensors: expected a whole shard" in told
    fastadv("verify nowhere", code=2)

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
    assert "images of a label" in done.out
    return folder / "sets" / "a"


@pytest.mark.slow
def test_verify_a_set_alone_with_its_base_and_with_its_model(fastadv, net, made):
    assert sorted(path.name for path in made.iterdir()) == [
        "index.json",
        *(f"shard-{k:05d}.safetensors" for k in range(3)),
        "thumbnails.png",
    ]
    with Image.open(made / "thumbnails.png") as picture:
        assert min(picture.size) > 500
    assert load_constructed(made).card["config"]["step_size"] == "20 * radius / steps"
    card = load_constructed(made).card["measured"]
    model = net.removesuffix(" --data digits")
    for more in ("", f"--data digits {SOME}", model, f"{net} {SOME}"):
        assert fastadv(f"verify sets/a {more} --json").json["measured"] == card
    done = fastadv("verify sets/a")
    assert "sets/a is what its card says" in done.out
    assert "not asked: add --data" in done.out
    assert card["data_hash"] in done.out
    assert "not asked" not in fastadv(f"verify sets/a {net} {SOME}").out


@pytest.mark.slow
def test_verify_fails_on_any_difference(fastadv, refused, net, made):
    for line, says in (
        (f"{net} -n 59", "base: expected that on the card, digits train of 60 images"),
        (f"-m small_cnn -o width=4 --data digits {SOME}", "model: expected that on the card"),
    ):
        refused(f"verify sets/a {line}", says, 1)
    fastadv("verify sets/a")
    (made / "shard-00001.safetensors").unlink()
    path = made / "shard-00002.safetensors"
    path.write_bytes(path.read_bytes()[:-9])
    told = refused("verify sets/a", "shard-00001.safetensors: expected a shard, got no file", 1)
    assert "shard-00002.safetensors: expected a whole shard" in told
    fastadv("verify nowhere", code=2)


@pytest.mark.parametrize(
    "line", ["--split train", "-n 60", "--data-dir .", "-w net.safetensors", "--device cpu"]
)
def test_options_of_what_is_not_asked_are_refused(refused, folder, line):
    (folder / "sets" / "a").mkdir(parents=True)
    refused(f"verify sets/a {line}", "has no effect without --")

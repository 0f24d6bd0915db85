"""`fastadv evaluate --judge`: adversarial images of others, and whether they are what they should be."""

import pytest
import torch

import fastadv as fa
from fastadv.data import load
from fastadv.evaluation.external import save_external
from fastadv.evaluation.robustbench import IMAGES

LINE = "--judge adv.pt -n 60 --radius 0.1"


@pytest.fixture
def made(net, trained):
    """adv.pt of the first 60 digits, of which two are outside: by their distance, and by the box."""
    digits = load("digits", "test", limit=60)
    x_adv = fa.attacks.fgsm(trained, digits.x, digits.y, fa.Linf(0.1)).x_adv
    x_adv[7, 0, 0, 0] = digits.x[7, 0, 0, 0] + (0.10001 if digits.x[7, 0, 0, 0] < 0.5 else -0.10001)
    x_adv[9, 0, 0, 0] = -1e-5
    save_external("adv.pt", x_adv)
    return fa.evaluation.external(trained, x_adv, digits, fa.Linf(0.1))


@pytest.mark.slow
def test_images_are_judged_as_the_library_does(fastadv, net, made):
    done = fastadv(f"evaluate {net} {LINE}")
    assert "the farthest lies 0.10001" in done.out
    assert "2 outside the ball or the box break nothing: 7, 9" in done.out
    told = fastadv(f"evaluate {net} {LINE} --json").json["measured"]
    assert 0 < made.robust_accuracy < made.clean_accuracy
    assert (told["clean_accuracy"], told["robust_accuracy"]) == (made.clean_accuracy, made.robust_accuracy)
    assert (told["images"], told["outside"]) == (60, [7, 9])
    assert told["largest_distance"] == pytest.approx(0.10001, abs=1e-8)
    fastadv(f"evaluate {net} {LINE} --strict --json", code=3)
    fastadv(f"evaluate {net} {LINE} --strict", code=3)
    inside = torch.load("adv.pt", weights_only=True)
    inside[[7, 9]] = load("digits", "test").x[[7, 9]]
    save_external("adv.pt", inside)
    assert "all are in the ball and the box" in fastadv(f"evaluate {net} {LINE} --strict").out


@pytest.mark.slow
def test_the_suite_names_the_threat_and_counts_the_images(fastadv, net, made, monkeypatch):
    monkeypatch.setitem(IMAGES, "digits", 360)
    monkeypatch.setitem(fa.evaluation.robustbench.RADII, ("digits", "l2"), 0.5)
    told = fastadv(f"evaluate {net} --judge adv.pt --suite robustbench --norm l2 --json").json
    assert (told["config"]["threat"]["norm"], told["config"]["threat"]["radius"]) == ("l2", 0.5)
    assert told["measured"]["lacks"].endswith("of 360 images of digits, got 60: 300 are missing")


@pytest.mark.parametrize(
    ("options", "says", "code"),
    [
        ("--judge adv.pt", "give --radius, or --suite", 2),
        ("--judge absent.pt --radius 0.1", "absent.pt", 2),
        ("--judge torn.pt --radius 0.1", "does not read", 1),
        ("--judge short.pt --radius 0.1", "expected floating [2, 1, 8, 8]", 2),
        ("--judge adv.pt --radius -1", "radius", 2),
        ("--judge adv.pt --radius 0.1 -a pgd", "--attack has no effect with --judge", 2),
        ("--judge adv.pt --radius 0.1 --steps 3", "--steps has no effect", 2),
        ("--judge adv.pt --radius 0.1 --draws 3", "--draws has no effect", 2),
        ("--judge adv.pt --radius 0.1 --out a.safetensors", "--out has no effect", 2),
        ("--judge adv.pt --radius 0.1 --robustbench e.json", "--robustbench has no effect", 2),
        ("--judge adv.pt --radius 0.1 --precision bf16", "--precision has no effect", 2),
        ("--judge adv.pt --radius 0.1 --bpda 1=identity", "--bpda has no effect", 2),
    ],
)
def test_what_cannot_be_judged_is_refused(refused, folder, options, says, code):
    (folder / "torn.pt").write_bytes(b"no torch file")
    save_external("short.pt", torch.zeros(2, 1, 4, 4))
    save_external("adv.pt", torch.zeros(2, 1, 8, 8))
    refused(f"evaluate -m softmax --data digits {options}", says, code)

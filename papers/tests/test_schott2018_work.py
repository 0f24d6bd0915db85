"""The work of the study: what is kept and told apart, and which adversarials count."""

import math
from dataclasses import replace

import pytest
import torch

import fastadv as fa
from fastadv.errors import InputError
from papers.schott2018 import work
from papers.schott2018.plan import Cell
from papers.schott2018.work import Images, Work
from papers.tests.schott import PUSH, FakeSubjects, image_set

INF = math.inf


@pytest.mark.slow
def test_cells_of_other_seeds_arguments_and_models_are_kept_apart(attacks, tmp_path, monkeypatch):
    images = Images.drawn(image_set(), 3, 0, torch.device("cpu"))
    subjects, own = FakeSubjects(), Work(tmp_path, images)
    longer = Cell("cnn", replace(PUSH, arguments={"share": 0.9}))
    cases = [
        (own, Cell("cnn", PUSH)),
        (own, longer),
        (own, Cell("abs", PUSH)),
        (replace(own, seed=1), Cell("cnn", PUSH)),
    ]
    found = [work.attack(kept, subjects, cell, 3).tensors["x_adv"] for kept, cell in cases]
    assert len(attacks.calls) == len(cases)
    assert len(list(tmp_path.iterdir())) == len(cases)
    for (kept, cell), x_adv in zip(cases, found, strict=True):
        assert torch.equal(work.attack(kept, subjects, cell, 3).tensors["x_adv"], x_adv)
    assert len(attacks.calls) == len(cases)
    torch.nn.init.constant_(subjects["cnn"].model[1].bias, 0.01)
    fresh = FakeSubjects()
    fresh.made["cnn"] = replace(subjects["cnn"])
    work.attack(own, fresh, Cell("cnn", PUSH), 3)
    assert len(attacks.calls) == len(cases) + 1


def test_a_file_of_other_images_is_refused(attacks, tmp_path):
    images = Images.drawn(image_set(), 6, 0, torch.device("cpu"))
    own, subjects, cell = Work(tmp_path, images), FakeSubjects(), Cell("cnn", PUSH)
    work.attack(own, subjects, cell, 3)
    for other in (replace(images, y=(images.y + 1) % 3), replace(images, ids=images.ids + 1)):
        with pytest.raises(InputError, match="another images"):
            work.attack(Work(tmp_path, other), subjects, cell, 3)
    first, second = sorted(tmp_path.glob("*/*.safetensors"))
    second.write_bytes(first.read_bytes())
    with pytest.raises(InputError, match="another images"):
        work.attack(own, subjects, cell, 3)


def batch(subject, count=6):
    subjects = FakeSubjects()
    return subjects[subject], Images.drawn(image_set(), count, 0, torch.device("cpu"))


def test_a_point_counts_only_if_the_published_model_errs():
    subject, images = batch("cnn")
    verdict = fa.freeze(subject.model).verdict
    seen = verdict(images.x).argmax(1)
    images = replace(images, y=torch.where(torch.arange(6) == 2, (seen + 1) % 3, seen))
    found = torch.where(torch.arange(6).view(-1, 1, 1, 1) % 2 == 1, 1 - images.x, 0.999 * images.x)
    proved = work.proved(subject, images, found)
    clean_wrong = seen != images.y
    wrong = verdict(found).argmax(1) != images.y
    assert clean_wrong.sum() == 1
    assert (wrong & ~clean_wrong).any()
    assert (~wrong).any()
    away = (found - images.x).flatten(1)
    for norm, far in {"l2": away.norm(dim=1), "l0": (away != 0).sum(1), "linf": away.abs().amax(1)}.items():
        expected = torch.where(clean_wrong, 0.0, torch.where(wrong, far.float(), INF))
        torch.testing.assert_close(proved[norm], expected)
    moved = (proved["x_adv"] != images.x).flatten(1).any(1)
    assert torch.equal(moved, wrong & ~clean_wrong)


@pytest.mark.slow
def test_what_only_the_faster_search_believed_is_tried_longer():
    subject, images = batch("abs", 8)
    verdict = fa.freeze(subject.model).verdict
    other = images.x.roll(1, 0)

    def at(share):
        return (images.x + share * (other - images.x)).clamp(0, 1)

    shares = [0.3 + 0.005 * k for k in range(140)]
    right = torch.stack([verdict(at(share)).argmax(1) == images.y for share in shares])
    last = (right.cumprod(0).sum(0) - 1).clamp_min(0)  # just before the first error
    turns = right[0] & ~right.all(0)
    assert turns.any()
    found = torch.stack([at(shares[int(k)])[i] for i, k in enumerate(last)])
    proved = work.proved(subject, images, found)
    x_adv, distance = proved["x_adv"], proved["l2"]
    assert distance[turns].isfinite().all()
    assert (verdict(x_adv).argmax(1) != images.y)[turns].all()
    length = (found - images.x).flatten(1).norm(dim=1)
    assert ((distance / length)[turns] <= 1.051).all()
    exact = replace(subject, fast=False)
    assert (work.proved(exact, images, found)["l2"][turns] == INF).all()


def test_pixels_that_did_not_cross_go_back():
    subject, images = batch("binary_abs")
    distance = work.proved(subject, images, 1 - images.x)["linf"]
    assert (distance[distance.isfinite()] <= 0.5).all()
    assert distance.isfinite().any()


def test_nothing_nearer_looks_the_same_to_a_binary_model():
    x, x_adv = torch.rand(2, 1, 200, generator=torch.Generator().manual_seed(0))
    snapped = work.snap(x, x_adv, 0.7)
    same = (x >= 0.7) == (x_adv >= 0.7)
    assert torch.equal(snapped >= 0.7, x_adv >= 0.7)
    assert torch.equal(snapped[same], x[same])
    assert torch.equal(snapped.nextafter(x)[~same] >= 0.7, x[~same] >= 0.7)

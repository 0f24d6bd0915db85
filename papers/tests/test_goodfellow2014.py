"""The study of Goodfellow et al.: what its networks are, what it measures, and where its work lies."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, one_hot

import fastadv as fa
from fastadv.errors import InputError
from papers.goodfellow2014 import models, paper
from papers.goodfellow2014.bench import Line, craft, craft_rounded
from papers.goodfellow2014.plan import SCALES, plans
from papers.text import in_markdown

TINY = replace(SCALES["tiny"], tested=40, l1=(0.0025,))


def digits(split, count):
    return fa.data.load("digits", split, limit=count)


@pytest.mark.parametrize("name", ["softmax", "rbf"])
def test_crafted_is_the_sign_of_the_gradient_of_the_networks_own_loss(name):
    make = models.RBF if name == "rbf" else fa.models.SoftmaxRegression
    model = make((1, 8, 8), seed=3).eval()
    images = digits("test", 30)
    x, y = images.x, images.y
    loss = "bce" if name == "rbf" else "ce"
    crafted = craft(model, x, y, TINY.threat, loss)
    leaf = x.double().requires_grad_()
    model.double()
    if name == "rbf":
        right = one_hot(y, 10).double()
        value = binary_cross_entropy_with_logits(model(leaf), right, reduction="sum")
    else:
        value = cross_entropy(model(leaf), y, reduction="sum")
    (gradient,) = torch.autograd.grad(value, leaf)
    clear = gradient.abs() > 1e-9
    assert clear.double().mean() > 0.9
    expected = x + TINY.radius * gradient.sign()
    torch.testing.assert_close(crafted.double()[clear], expected[clear], atol=1e-6, rtol=0)
    assert ((crafted < 0) | (crafted > 1)).any()
    boxed = craft(model.float(), x, y, TINY.boxed, loss)
    torch.testing.assert_close(boxed, crafted.clamp(0, 1))


def test_a_rounded_gradient_points_elsewhere_where_the_network_is_sure():
    images = digits("test", 30)
    model = fa.models.create("softmax", shape=(1, 8, 8), seed=3).eval()
    calm = craft(model, images.x, images.y, TINY.threat)
    torch.testing.assert_close(craft_rounded(model, images.x, images.y, TINY.threat), calm)
    y = model(images.x).argmax(1)
    with torch.no_grad():
        model.linear.weight.mul_(100)
        model.linear.bias.mul_(100)
    sure = craft(model, images.x, y, TINY.threat)
    rounded = craft_rounded(model, images.x, y, TINY.threat)
    exact = craft_rounded(model.double(), images.x.double(), y, TINY.threat).float()
    left = 1 - model(images.x.double()).softmax(1).amax(1)
    clear = left > 1e-12  # where float64 rounds little
    assert clear.sum() > 5
    torch.testing.assert_close(sure[clear], exact[clear])
    lost = clear & (left < 1e-7)
    assert lost.any()
    assert (rounded != sure).flatten(1).any(1)[lost].all()


@pytest.mark.slow
def test_parts_of_the_tiny_study_add_up(tmp_path):
    sets = digits("train", 100), digits("test", 40)
    first = paper.run(TINY, *sets, tmp_path, parts=("fgsm",))
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.glob("nets/*/model.safetensors")}
    assert {path.parent.name for path in kept} == {"softmax", "maxout", "rbf", "quadratic"}
    whole = paper.run(TINY, *sets, tmp_path)
    assert all(path.stat().st_mtime_ns == time for path, time in kept.items())
    lines = whole["measured"]["lines"]
    assert lines[: len(first["measured"]["lines"])] == first["measured"]["lines"]
    assert {line["part"] for line in lines} == set(paper.PARTS)
    assert all(0 <= line["share"] <= 1 for line in lines)
    assert set(whole["measured"]["nets"]) >= {"large_adversarial", "member-1", "noise_sign", "l1_0.0025"}
    assert len(whole["measured"]["figures"]) == 3
    for path in whole["measured"]["figures"].values():
        assert Path(path).stat().st_size > 10_000
    page = (tmp_path / "report.md").read_text()
    assert page == paper.markdown(json.loads((tmp_path / "results.json").read_text()))
    assert "| 99.90% |" in page  # what the paper printed
    with pytest.raises(InputError, match="got one with another seed"):
        paper.run(replace(TINY, seed=1), *sets, tmp_path, parts=("fgsm",))


MANY = replace(SCALES["tiny"], members=3, seeds=2, radius=0.2, patience=7)


class Asked:
    """In place of a Bench: answers say who was asked, about what, in place of the error."""

    def __init__(self):
        self.settings, self.y = MANY, torch.zeros(5)
        self.nets = SimpleNamespace(plans=plans(MANY))

    def crafted(self, name, boxed=False):
        return f"{name}{' boxed' if boxed else ''}"

    def rounded(self, name):
        return f"{name} rounded"

    def answers(self, name, x="clean"):
        said = f"{name} on {x}"
        told = {"mean_confidence": "of all", "confidence_on_mistakes": "of mistakes"}
        return SimpleNamespace(error=said, wrong=True, **told)

    def robust_accuracy(self, name):
        return 0.75


def test_each_line_crosses_the_networks_that_it_names_beside_what_the_paper_printed(monkeypatch):
    """In goodfellow2014.md, checked by hand: who answers on whose examples, and which confidence is told."""
    monkeypatch.setattr(paper, "_agrees", lambda what, *_: Line(what, None))
    page = []
    for part in (paper.fgsm, paper.ensemble, paper.adversarial, paper.controls, paper.rounding):
        cells = [["line", "said", "confidence", "printed share", "printed confidence"]]
        cells += [
            [line.what, *map(str, (line.share, line.confidence, *line.paper))] for line in part(Asked())
        ]
        page.append(f"# {part.__name__}\n\n{in_markdown(cells, names=5)}\n")
    assert "\n".join(page) == (Path(__file__).parent / "goodfellow2014.md").read_text()

"""The four constructions: what they store, whatever the batch size, the storage and the model's precision."""

import math

import pytest
import torch
from PIL import Image
from torch import nn

from fastadv import rng
from fastadv.data import FolderSet, construct, load_constructed
from fastadv.data.construct.constructed import measured
from fastadv.threat import L2, Linf
from tests.docs.test_pages import DOCS, run
from tests.refusals import refuses

from .sets import CLASSES, fixed_shift, non_robust, random_target, robust, toy_base, toy_model


def served(images):
    return images.float() / 255 if images.dtype == torch.uint8 else images


def features(model, x):
    with torch.no_grad():
        return model[:3](x)


@pytest.mark.parametrize(("construct", "start"), [(robust, "images"), (non_robust, "noise")])
def test_inversion_matches_the_representation_and_keeps_labels(construct, start):
    base, model = toy_base(), toy_model()
    made = construct(model, base, steps=60, start=start)
    assert torch.equal(made.y, base.y)
    assert torch.equal(made.original_labels, base.y)
    assert torch.equal(made.ids, torch.arange(60))
    assert (made.x.dtype, made.x.shape) == (torch.uint8, base.x.shape)
    after = (features(model, served(made.x)) - features(model, served(base.x))).norm(dim=1)
    torch.testing.assert_close(made.figures["objective_after"], after, atol=1e-4, rtol=1e-4)
    before = made.figures["objective_before"]
    assert after.mean() < 0.25 * before.mean()
    assert (after < before).all()
    # what the representation does not see comes from the start, not from x
    assert (served(made.x) - served(base.x)).flatten(1).norm(dim=1).min() > 0.5
    assert made.card["measured"]["objective_after"] == pytest.approx(after.mean().item(), rel=1e-4)
    assert made.card["measured"]["kept_label"] == 1.0


@pytest.mark.parametrize("start", ["images", "noise"])
def test_an_inversion_starts_at_an_image_or_noise_drawn_by_seed_and_sample(start):
    base, ids = toy_base(), torch.arange(60)
    made = robust(toy_model(), base, steps=1, step_size=1e-6, start=start, seed=3, dtype="float32")
    others = (ids + 1 + rng.integers(59, rng.derive(3, "construct partners"), ids)) % 60
    noise = 0.5 + rng.normal(64, rng.derive(3, "construct noise"), ids).view(60, 1, 8, 8) / 20
    wanted = served(base.x)[others] if start == "images" else noise
    torch.testing.assert_close(made.x, wanted, rtol=0, atol=1e-5)
    assert (others != ids).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_inversion_towards_a_named_module_or_a_function(dtype):
    base, model = toy_base(10), toy_model().to(dtype).eval()
    named = robust(model, base, steps=5, module="1")
    assert torch.equal(named.x, robust(model, base, steps=5, module=lambda x: model[:2](x)).x)
    assert not torch.equal(named.x, robust(model, base, steps=5).x)
    assert named.card["config"]["module"] == "1"


def test_random_targets_are_uniform_over_all_classes():
    base = toy_base(500)
    made = random_target(toy_model(), base, steps=1)
    assert torch.equal(made.y, rng.integers(CLASSES, rng.derive(0, "construct targets"), torch.arange(500)))
    assert made.card["measured"]["kept_label"] == pytest.approx(1 / CLASSES, abs=0.06)
    # they belong to the sample's number and the seed
    some = {"base": base.subset(range(200)), "steps": 1, "batch_size": 7, "shard_size": 50}
    assert torch.equal(random_target(toy_model(), **some).labels, made.y[:200])
    other = random_target(toy_model(), **some, seed=1).labels
    assert abs((other == made.y[:200]).float().mean() - 1 / CLASSES) < 0.1


@pytest.mark.parametrize("construct", [random_target, fixed_shift])
def test_targeted_images_lower_the_loss_to_their_label(construct):
    base, model = toy_base(), toy_model()
    made = construct(model, base, threat=L2(2.0), steps=30)
    loss = nn.functional.cross_entropy(model(served(made.x)), made.y, reduction="none").detach()
    torch.testing.assert_close(made.figures["objective_after"], loss, atol=1e-4, rtol=1e-4)
    assert (loss < made.figures["objective_before"]).all()
    fooled = (model(served(made.x)).argmax(1) == made.y).float().mean().item()
    assert made.card["measured"]["fooling_rate"] == pytest.approx(fooled)
    assert fooled > 0.5
    if construct is fixed_shift:
        assert torch.equal(made.y, (base.y + 1) % CLASSES)
        assert made.card["measured"]["kept_label"] == 0.0


@pytest.mark.parametrize(
    ("threat", "dtype"),
    [
        *zip((L2(0.5), L2(0.01), Linf(8 / 255), Linf(0.0)), ["uint8"] * 4, strict=True),
        *zip((L2(0.5), Linf(0.001)), ["float32"] * 2, strict=True),
    ],
)
def test_stored_images_stay_inside_the_budget(tmp_path, threat, dtype):
    base = toy_base(20)
    random_target(toy_model(), base, threat=threat, steps=10, dtype=dtype, out_dir=tmp_path)
    made = load_constructed(tmp_path)
    assert made.x.dtype == getattr(torch, dtype)
    assert threat.contains(served(made.x), served(base.x)).all()
    assert made.card["measured"]["distance_max"] <= threat.radius * (1 + 1e-6)
    assert threat != L2(0.5) or made.figures["distance"].min() > 0.45
    config = made.card["config"]
    assert (config["threat"], config["steps"], config["step_size"]) == (threat.describe(), 10, 0.1)


def test_base_of_image_files_is_stored_in_8_bits(tmp_path):
    noise = torch.randint(256, (6, 8, 8, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
    paths = [tmp_path / f"{i}.png" for i in range(6)]
    for path, image in zip(paths, noise, strict=True):
        Image.fromarray(image.numpy()).save(path)
    base = FolderSet(tmp_path, [("cat", paths[::2]), ("dog", paths[1::2])], "files")
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 2))
    made = fixed_shift(model, base, steps=5, out_dir=tmp_path / "set")
    assert (made.x.dtype, made.classes) == (torch.uint8, ("cat", "dog"))
    assert L2(0.5).contains(served(made.x), torch.stack([image for image, _ in base])).all()
    assert torch.equal(made.labels, 1 - base.labels)
    robust(model, base, steps=2)


@pytest.mark.parametrize("name", ["robust", "non_robust", "random_target", "fixed_shift"])
def test_what_is_not_given_is_as_in_the_paper(name):
    """The default step at the paper's radius and steps is its 0.1; an inversion is free, from an image."""
    function, base = getattr(construct, name), toy_base(10, eight_bit=False)
    inverts = name in ("robust", "non_robust")
    given = {"steps": 20, "step_size": 0.1} if inverts else {"steps": 100, "threat": L2(0.5)}
    paper = given | ({"threat": L2(math.inf), "start": "images"} if inverts else {"step_size": 0.1})
    made, wanted = (function(toy_model(), base, **options) for options in (given, {**paper, "seed": 0}))
    assert torch.equal(made.x, wanted.x)
    assert torch.equal(made.y, wanted.y)
    told = {} if inverts else {"step_size": "20 * radius / steps"}
    assert made.card["config"] == wanted.card["config"] | told


@pytest.mark.slow
@pytest.mark.docs
def test_the_page_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = run(DOCS / "data.md")
    (report,) = names["reports"]
    assert report.loss > 0
    assert torch.equal(names["again"].x, names["made"].x)
    assert (tmp_path / "sets" / "d_det.png").stat().st_size > 1000


class NaNForDarkImages(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = toy_model()

    def forward(self, x):
        return torch.where(x.flatten(1).mean(1, keepdim=True) < 0.01, torch.nan, self.net(x))


@pytest.mark.parametrize("eight_bit", [True, False])
def test_a_sample_the_model_fails_on_spoils_no_other(eight_bit):
    base = toy_base(20, eight_bit)
    good = random_target(NaNForDarkImages(), base, steps=10)
    base.x[7] = 0
    made = random_target(NaNForDarkImages(), base, steps=10)
    others = torch.arange(20) != 7
    assert torch.equal(made.x[others], good.x[others])
    assert torch.equal(made.x[7], base.x[7])
    assert made.card["measured"]["non_finite"] == 1
    ends = made.tensors() | {"objective_before": torch.zeros(20)}
    assert measured(ends, made.num_classes)["non_finite"] == 1
    known = made.figures["objective_after"][others].double().mean().item()
    assert made.card["measured"]["objective_after"] == pytest.approx(known)


def bad_pixel(value):
    base = [toy_base(12)[i] for i in range(12)]  # whose images nobody has checked
    base[7][0][0, 1, 2] = value
    return {"base": base}


def linear(classes):
    return {"model": nn.Sequential(nn.Flatten(), nn.Linear(64, classes))}


BROKEN = toy_model()
nn.init.constant_(BROKEN[3].bias, math.nan)
REFUSED = [
    *((bad_pixel(value), "samples 0 to 11|samples 7 to 7") for value in (math.nan, math.inf, -0.1, 1.5)),
    *(({"step_size": size}, "step_size") for size in (0.0, math.nan)),
    ({"steps": 0}, "steps: expected an integer >= 1, got 0"),
    ({"threat": Linf(torch.full((12,), 0.1))}, "threat: expected one radius"),
    ({"batch_size": 0}, "batch_size"),
    ({"shard_size": 0}, "shard_size"),
    ({"dtype": "float64"}, "uint8"),
    (linear(1), "two classes"),
    (linear(4), "5 classes of the base, got 4"),
    ({"model": BROKEN}, "finite"),
]
OF_INVERSIONS = [
    ({"module": "layer4"}, r"expected one of 0, 1, 2, 3, got 'layer4'"),
    ({"module": lambda x: x.reshape(1, -1)}, r"shape \[B, F\].*got torch.float32 \[1, 128\]"),
    ({"module": lambda x: x.long()}, r"of floats.*got torch.int64 \[2, 64\]"),
    ({"start": "zeros"}, "start: expected one of images, noise, got 'zeros'"),
]


# an inversion and a targeted attack; the other two of each kind check alike
@pytest.mark.parametrize("construct", [robust, fixed_shift])
def test_what_cannot_be_constructed_is_named(construct):
    for options, says in REFUSED + (OF_INVERSIONS if construct is robust else []):
        refuses(says, construct, **{"model": toy_model(), "base": toy_base(12), "steps": 1} | options)
    with pytest.raises(TypeError, match="iterations"):
        construct(toy_model(), toy_base(12), steps=1, iterations=3)


def test_budget_that_8_bits_cannot_hold(tmp_path):
    given = toy_model(), toy_base(12, eight_bit=False)
    options = {"threat": Linf(1e-4), "steps": 2, "out_dir": tmp_path}
    refuses("use dtype='float32'", random_target, *given, dtype="uint8", **options)
    assert not list(tmp_path.glob("*"))
    random_target(*given, **options)

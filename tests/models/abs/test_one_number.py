"""One number for one x: the class losses are the same bits in any call, batch, layout or gradient mode."""

import pytest
import torch

from fastadv.models.abs import inference

from .nets import gradient, images, tiny

FACTORS = [1.0, 0.95, 1.05, 0.9]


def crossed(binary, prune, precision, **options):
    """A model of four classes with options under which pruning skips some classes and fits others."""
    options |= {"binary": binary, "prune": prune, "precision": precision, "prune_gain": 0.6}
    return tiny(4, seed=1, factors=FACTORS, **options)


def hard_images(model, count=20):
    x, _ = images(model, count, noise=0.2)
    return x


@pytest.mark.slow
@pytest.mark.parametrize(
    ("binary", "prune", "precision", "input_grad"),
    # every pair of options meets
    [
        (False, False, "fp32", "envelope"),
        (False, True, "bf16", "unrolled"),
        (True, False, "bf16", "envelope"),
        (True, True, "fp32", "unrolled"),
    ],
)
def test_every_way_to_ask_gives_the_same_bits(binary, prune, precision, input_grad, monkeypatch):
    model = crossed(binary, prune, precision, input_grad=input_grad)
    x = hard_images(model)
    logits = model(x)
    leaf = x.clone().requires_grad_()
    assert torch.equal(model(leaf).detach(), logits)
    with torch.no_grad():
        assert torch.equal(model(leaf), logits)
    with torch.inference_mode():
        assert torch.equal(model(x), logits)
    inferred = model.infer(x)
    assert torch.equal(-inferred.loss, logits)
    assert torch.equal(model.confidence(x), inferred.confidence)
    assert torch.equal(torch.cat([model(x[i : i + 1]) for i in range(len(x))]), logits)
    assert torch.equal(model(x.flip(0)).flip(0), logits)
    assert torch.equal(model(x.transpose(2, 3).contiguous().transpose(2, 3)), logits)
    monkeypatch.setattr(inference, "CHUNK", 7)
    assert torch.equal(model(x), logits)
    assert torch.equal(model(leaf).detach(), logits)
    assert torch.equal(model.infer(x).latents, inferred.latents)


@pytest.mark.parametrize(("binary", "precision"), [(False, "bf16"), (True, "fp32")])
def test_pruning_changes_no_loss_that_it_fits(binary, precision):
    pruned, whole = (crossed(binary, prune, precision) for prune in (True, False))
    x = hard_images(whole)
    mine, every, first = pruned.infer(x), whole.infer(x), whole.infer(x, steps=1)
    fitted = mine.loss == every.loss
    skipped = (mine.latents == first.latents).all(2) & ~fitted
    assert (fitted | skipped).all()
    assert fitted.any(1).all()
    assert skipped.any()
    rtol = 1e-5 if precision == "fp32" else 2e-3  # the prior search itself is in single precision
    torch.testing.assert_close(mine.loss[skipped], first.loss[skipped], rtol=rtol, atol=1e-7)
    assert torch.equal(mine.latents[fitted], every.latents[fitted])
    best = mine.loss.where(fitted, torch.inf).amin(1, keepdim=True).expand_as(mine.loss)
    assert (0.6 * first.loss >= best * (1 - 1e-5))[skipped].all(), "only classes that cannot win are skipped"
    assert torch.equal(mine.loss.argmin(1), every.loss.argmin(1))


@pytest.mark.parametrize(("binary", "prune"), [(False, True), (True, False)])
def test_the_gradient_is_that_of_the_loss(binary, prune):
    """2 (x - G(z)) / D, times the class factor of Binary ABS, at the latents that inference reports."""
    model = crossed(binary, prune, "fp32")
    x = hard_images(model, 6)
    inferred, seen = model.infer(x), model.observed(x)
    for k in range(4):
        expected = -2 * (seen - inferred.reconstruction[:, k]) / 64 * (FACTORS[k] if binary else 1)
        torch.testing.assert_close(gradient(model, x, k), expected, rtol=1e-5, atol=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("prune", [False, True])
def test_the_unrolled_gradient_goes_through_the_steps_of_fitted_classes_alone(prune):
    model, envelope = (crossed(False, prune, "fp32", input_grad=name) for name in ("unrolled", "envelope"))
    x = hard_images(model, 8)
    skipped = (model.infer(x).latents == model.infer(x, steps=1).latents).all(2)
    assert bool(skipped.any()) is prune
    for k in range(4):
        same = (gradient(model, x, k) - gradient(envelope, x, k)).flatten(1).abs().amax(1) < 1e-9
        assert torch.equal(same, skipped[:, k])


@pytest.mark.slow
@pytest.mark.parametrize(("binary", "dtype"), [(True, torch.bfloat16), (False, torch.float64)])
def test_other_dtypes_are_the_same_image(binary, dtype):
    model = crossed(binary, False, "fp32")
    x = hard_images(model).to(dtype)
    assert torch.equal(model(x), model(x.float()))
    assert torch.equal(model.infer(x).loss, model.infer(x.float()).loss)
    assert model(x).dtype == torch.float32
    y = model(x).argmax(1)
    for norm in ("l2", "linf"):
        torch.testing.assert_close(
            model.lower_bound(x, y, norm=norm), model.lower_bound(x.float(), y, norm=norm)
        )
    leaf = x.clone().requires_grad_()
    assert torch.autograd.grad(model(leaf).sum(), leaf)[0].dtype == dtype


def test_the_threshold_is_compared_in_the_image_s_own_precision():
    model = tiny(binary=True)
    x = torch.full((1, 1, 8, 8), 0.5, dtype=torch.float64)
    assert (model.observed(x) == 1).all()
    assert (model.observed(x - 1e-12) == 0).all()
    half = torch.full((1, 1, 8, 8), 0.5, dtype=torch.bfloat16)
    assert (model.observed(torch.nextafter(half, torch.zeros_like(half))) == 0).all()


@pytest.mark.slow
@pytest.mark.parametrize(("binary", "prune", "precision"), [(False, True, "bf16"), (True, False, "fp32")])
def test_a_sample_with_nan_spoils_no_other(binary, prune, precision):
    model = crossed(binary, prune, precision)
    x = hard_images(model, 6)
    y = model(x).argmax(1)
    y[2] = 0  # what argmin of NaN would take it for
    broken = x.clone()
    broken[2, 0, 3, 3] = torch.nan
    others = torch.tensor([0, 1, 3, 4, 5])
    good, bad = model.infer(x), model.infer(broken)
    for name in ("loss", "latents", "reconstruction", "confidence"):
        assert torch.equal(getattr(bad, name)[others], getattr(good, name)[others])
        assert getattr(bad, name)[2].isnan().all(), name
    assert torch.equal(model(broken)[others], model(x)[others])
    assert model(broken)[2].isnan().all()
    leaf = broken.clone().requires_grad_()
    assert torch.autograd.grad(model(leaf).sum(), leaf)[0][others].isfinite().all()
    for norm in ("l2", "linf"):
        for tight in (False, True):
            options = {"norm": norm, "tight": tight}
            bound = model.lower_bound(broken, y, **options)
            assert bound[2] == 0
            assert torch.equal(bound[others], model.lower_bound(x, y, **options)[others])


@pytest.mark.slow
def test_the_unrolled_gradient_is_the_slope_of_the_procedure_far_from_convergence():
    model, h = tiny(prior_samples=500).double(), 1e-7
    model = model.with_options(steps=5, step_size=0.3, input_grad="unrolled")
    x, _ = images(model, 2)
    x = x.double().clamp(0.1, 0.9)
    direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    measured = (model(x + h * direction) - model(x - h * direction)) / (2 * h)
    derivatives = [(gradient(model, x, k) * direction).flatten(1).sum(1) for k in range(3)]
    torch.testing.assert_close(torch.stack(derivatives, 1), measured, rtol=1e-5, atol=5e-8)
    apart = gradient(model.with_options(input_grad="envelope"), x, 0) - gradient(model, x, 0)
    assert apart.norm() > 0.01 * gradient(model, x, 0).norm()

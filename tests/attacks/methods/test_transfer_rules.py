"""Gradient rules against plain autograd in float64: DI, TI and VMI, and all together."""

from collections.abc import Callable
from inspect import signature
from typing import Any, Unpack

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastadv import rng
from fastadv.attacks import (
    ATTACKS,
    DiverseInput,
    TranslationInvariant,
    VarianceTuned,
    apgd,
    cw,
    fgsm,
    mim,
    pgd,
    square,
)  # fmt: skip
from fastadv.attacks.core import GradientCommon, GradientRule, Search, run, takes_common
from fastadv.engine import freeze
from fastadv.errors import InputError
from fastadv.threat import L2, Linf
from tests.attacks.graphed import as_on_a_gpu, batch, graphed, net
from tests.attacks.nets import Case, Counted, images, labels, mlp, threat

ALL = DiverseInput(0.7, 0.6, 1.2), TranslationInvariant(3), VarianceTuned(2, 1.5)
Grad = Callable[[Tensor], Tensor]


def scene(shape: tuple[int, ...] = (2, 7, 5), size: int = 5) -> tuple[nn.Module, Tensor, Tensor]:
    model = mlp(4, shape[0] * shape[1] * shape[2])
    x = images(size, shape)
    return model, x, labels(model, x)


def followed(model: nn.Module, x: Tensor, y: Tensor, *rules: GradientRule, steps: int = 1, **options: Any):
    """The gradients that a rule sees at x, x - 0.1, x - 0.2 and so on, and its last look."""
    looks: list[Any] = []

    def rule(search: Search) -> None:
        for step in range(steps):
            looks.append(search.gradient(search.x - 0.1 * step))

    ball = options.pop("threat", Linf(0.1, (-9, 9)))
    run(model, x, y, ball, rule, gradient=rules, **{"loss": "margin", **options})
    return [look.gradient for look in looks], looks[-1]


def plain(model: nn.Module, y: Tensor, transform: Grad = lambda x: x, loss: str = "margin") -> Grad:
    """The gradient of the loss at transform(x), by autograd."""

    def gradient(x: Tensor) -> Tensor:
        x = x.detach().requires_grad_()
        logits = model(transform(x))
        others = logits.masked_fill(F.one_hot(y, logits.shape[1]).bool(), -torch.inf).amax(1)
        margin = others - logits.gather(1, y[:, None])[:, 0]
        value = margin if loss == "margin" else F.cross_entropy(logits, y, reduction="none")
        return torch.autograd.grad(value.sum(), x)[0]

    return gradient


class Draws:
    """The numbers that a search draws for its rules, call after call."""

    def __init__(self, ids: Tensor, seed: int = 0) -> None:
        self.ids, self.seed, self.draw = ids, rng.derive(seed, "gradient rule", 0), 0

    def __call__(self, count: int) -> Tensor:
        self.draw += 1
        return rng.uniform(count, self.seed, self.ids, self.draw).double()


def diversified(rule: DiverseInput, x: Tensor, draws: Tensor) -> Tensor:
    """Each image resized and padded by torch's own functions."""
    modes: dict[str, Any] = {"mode": "bilinear", "align_corners": False}
    made = []
    for image, (chosen, size, *places) in zip(x, draws.tolist(), strict=True):
        ends = rule.smallest, rule.largest
        least, most = ([max(1, round(side * scale)) for side in image.shape[1:]] for scale in ends)
        sizes = [a + int(size * max(b - a, 1)) for a, b in zip(least, most, strict=True)]
        (above, left), (height, width) = (
            [int(p * (b - s + 1)) for p, b, s in zip(places, most, sizes, strict=True)], sizes
        )  # fmt: skip
        padding = left, most[1] - width - left, above, most[0] - height - above
        there = F.pad(F.interpolate(image[None], sizes, **modes), padding)
        if there.shape[2:] != image.shape[1:]:
            there = F.interpolate(there, image.shape[1:], **modes)
        made.append(there[0] if chosen < rule.probability else image)
    return torch.stack(made)


def smoothed(gradient: Tensor, size: int, deviations: float = 3.0) -> Tensor:
    at = torch.linspace(-deviations, deviations, size, dtype=torch.float64)
    line = torch.exp(-at * at / 2)
    kernel = torch.outer(line, line) / line.sum() ** 2
    channels = gradient.shape[1]
    return F.conv2d(gradient, kernel.expand(channels, 1, size, size), padding=size // 2, groups=channels)


@pytest.mark.parametrize("shape", [(1, 7, 5), (3, 8, 8), (2, 1, 9)])
@pytest.mark.parametrize("scales", [(1.0, 1.3), (0.5, 1.0), (0.4, 1.6)])
def test_diverse_input(shape: tuple[int, ...], scales: tuple[float, float]) -> None:
    model, x, y = scene(shape, 6)
    rule = DiverseInput(0.8, *scales)
    ids = torch.arange(6) + 3
    (first, second), _ = followed(model, x, y, rule, steps=2, seed=5, ids=ids)
    draws = Draws(ids, 5)
    for found, point in ((first, x), (second, x - 0.1)):
        four = draws(4)
        wanted = plain(model, y, lambda z, four=four: diversified(rule, z, four))(point)
        torch.testing.assert_close(found, wanted)


def test_diverse_input_draws_for_each_image_and_step() -> None:
    model, x, y = scene(size=200)
    (first, second), look = followed(model, x, y, DiverseInput(0.3), steps=2)
    gradient = plain(model, y)
    same = [(g == gradient(point)).all((1, 2, 3)) for g, point in ((first, x), (second, x - 0.1))]
    assert (same[0] != same[1]).any()
    assert 0.55 < torch.cat(same).double().mean() < 0.85
    # the verdict and the loss are those of the points
    torch.testing.assert_close(look.logits, model(x - 0.1))
    (never,), _ = followed(model, x, y, DiverseInput(0.0))
    torch.testing.assert_close(never, plain(model, y)(x))


@pytest.mark.parametrize("size", [1, 3, 15])
@pytest.mark.parametrize("shape", [(1, 7, 5), (3, 8, 8)])
def test_translation_invariant(size: int, shape: tuple[int, ...]) -> None:
    model, x, y = scene(shape)
    (found,), _ = followed(model, x, y, TranslationInvariant(size))
    wanted = smoothed(plain(model, y)(x), size) if size > 1 else plain(model, y)(x)
    torch.testing.assert_close(found, wanted)
    assert (size > 1) == bool((found - plain(model, y)(x)).abs().max() > 1e-3)


def test_variance_tuned() -> None:
    model, x, y = scene((1, 7, 5))
    radius = torch.linspace(0.05, 0.4, 5, dtype=torch.float64)
    ball = Linf(radius, (-9, 9))
    found, _ = followed(model, x, y, VarianceTuned(3, 2.0), steps=3, loss="ce", threat=ball, seed=2)
    gradient, draws = plain(model, y, loss="ce"), Draws(torch.arange(5), 2)
    torch.testing.assert_close(found[0], gradient(x))
    for step in (1, 2):
        before = x - 0.1 * (step - 1)
        near = [before + (draws(35).view_as(x) * 2 - 1) * 2.0 * radius.view(-1, 1, 1, 1) for _ in range(3)]
        variance = sum(map(gradient, near)) / 3 - gradient(before)
        torch.testing.assert_close(found[step], gradient(x - 0.1 * step) + variance)
        assert variance.abs().max() > 1e-3


def reference(model: nn.Module, x: Tensor, y: Tensor, radius: float, steps: int) -> Tensor:
    """MI with DI, TI and VMI as `ALL` has them."""
    draws, di = Draws(torch.arange(len(x))), ALL[0]

    def gradient(point: Tensor) -> Tensor:
        four = draws(4)
        return smoothed(plain(model, y, lambda z: diversified(di, z, four), "ce")(point), 3)

    x_adv, momentum, step_size, before = x, torch.zeros_like(x), radius / steps, None
    numbers = x[0].numel()
    for _ in range(steps):
        found = tuned = gradient(x_adv)
        if before is not None:
            u = [lambda: (draws(numbers).view_as(x) * 2 - 1) * 1.5 * radius] * 2
            tuned = found + sum(gradient(before[0] + draw()) for draw in u) / 2 - before[1]
        before = x_adv, found
        momentum = momentum + tuned / tuned.abs().sum((1, 2, 3), keepdim=True)
        x_adv = (x + (x_adv + step_size * momentum.sign() - x).clamp(-radius, radius)).clamp(0, 1)
    return x_adv


@pytest.mark.slow
def test_all_of_them_in_mim() -> None:
    model, x, y = scene((1, 7, 5))
    made: list[Tensor] = []

    def keep(module: nn.Module, given: Any) -> None:
        made.append(given[0].detach().clone())

    model.register_forward_pre_hook(keep)
    out = mim(model, x, y, Linf(0.1), stop_early=False, gradient=ALL, steps=4, loss="ce")
    wanted = reference(model, x, y, 0.1, 4)
    # the last point is what passes the model at the end, or is the strongest
    assert min((points - wanted).abs().max() for points in made if points.shape == wanted.shape) < 1e-9
    assert (out.x_adv - x).abs().max() <= 0.1 + 1e-12


@pytest.mark.parametrize(
    ("rules", "forwards", "backwards"),
    [
        ((), 4, 4),
        (DiverseInput(), 8, 4),  # the points themselves pass as well
        (TranslationInvariant(), 4, 4),
        ((VarianceTuned(5),), 4 + 15, 4 + 15),
        (ALL, 4 + 4 + 6, 4 + 6),
    ],
)
def test_passes_are_counted(rules: Any, forwards: int, backwards: int) -> None:
    model, x, y = scene((1, 7, 5))
    passed: list[int] = []
    back: list[int] = []
    counted = freeze(Counted(model, passed.append, back.append))
    options: dict[str, Any] = {"stop_early": False, "gradient": rules}
    mim(counted, x, y, Linf(0.1), steps=1)  # whose first gradient checks the search copy, uncounted
    passed.clear()
    back.clear()
    out = mim(counted, x, y, Linf(0.1), steps=4, **options)
    verdicts = 3  # at x, of the last point, and of the best
    assert out.forwards == sum(passed) == 5 * (forwards + verdicts)
    assert out.backwards == sum(back) == 5 * backwards
    twice = mim(model, x, y, Linf(0.1), steps=4, eot=2, **options)
    assert twice.backwards == 2 * out.backwards
    torch.testing.assert_close(twice.x_adv, out.x_adv)


@pytest.mark.slow
@pytest.mark.parametrize("method", [mim, pgd])
def test_samples_leave_and_batches_do_not_matter(method: Any) -> None:
    model, x, y = scene(size=12)
    options: dict[str, Any] = {"gradient": ALL, "seed": 3, "steps": 6, "restarts": 2}
    state = torch.get_rng_state()
    whole = method(model, x, y, Linf(0.06), **options)
    assert torch.equal(torch.get_rng_state(), state)
    assert 0 < whole.success.sum() < 12
    parts = [
        method(model, x[i : i + 5], y[i : i + 5], Linf(0.06), ids=torch.arange(12)[i : i + 5], **options)
        for i in range(0, 12, 5)
    ]
    torch.testing.assert_close(torch.cat([part.x_adv for part in parts]), whole.x_adv)
    assert sum(part.forwards for part in parts) == whole.forwards
    other = method(model, x, y, Linf(0.06), **{**options, "seed": 4})
    assert (other.x_adv != whole.x_adv).any()


@pytest.mark.slow
def test_runs_side_by_side_draw_as_runs_one_by_one() -> None:
    model, x, y = scene(size=40)  # of which no two copies fit into a full batch on the CPU
    options: dict[str, Any] = {
        "steps": 3, "loss": "dlr-targeted", "classes": 2, "stop_early": False, "gradient": (ALL[0], ALL[2]),
    }  # fmt: skip
    whole = apgd(model, x, y, Linf(0.05), **options)
    part = apgd(model, x[:3], y[:3], Linf(0.05), **options)
    torch.testing.assert_close(part.x_adv, whole.x_adv[:3])


@pytest.mark.usefixtures("asked_alone")
def test_steps_of_a_rule_are_not_replayed(monkeypatch: pytest.MonkeyPatch) -> None:
    as_on_a_gpu(monkeypatch)
    model = net()
    x, y = batch(model)
    options: dict[str, Any] = {"steps": 5, "stop_early": False, "gradient": ALL}
    found, wanted = (mim(one, x, y, Linf(0.03), **options) for one in (graphed(model), freeze(model)))
    torch.testing.assert_close(found.x_adv, wanted.x_adv)
    assert (found.forwards, found.backwards) == (wanted.forwards, wanted.backwards)


class Times(GradientRule):
    """The gradient, a multiple of it."""

    linear = True

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def __call__(self, search: Any, points: Tensor, ask: Any) -> Tensor:
        return self.factor * ask(points)


def test_a_rule_of_ones_own() -> None:
    model, x, _ = scene()
    x = 0.5 * x + 0.25
    y = labels(model, x)
    found, plainly = (fgsm(model, x, y, Linf(0.01), gradient=rules).x_adv for rules in (Times(-1), ()))
    torch.testing.assert_close(found - x, x - plainly)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, entry in ATTACKS.items() if entry.takes("gradient")])
def test_every_attack_that_follows_a_gradient_takes_rules(name: str) -> None:
    model, x, y = scene((1, 4, 4), 4)
    case = Case(name, ATTACKS[name])
    scale = 4 if case.entry.minimal else 1
    for norm in case.entry.norms:
        plainly, same, other = (
            case(model, x, y, threat(norm, scale), gradient=rules) for rules in ((), Times(1.0), ALL[:2])
        )
        assert torch.equal(same.x_adv, plainly.x_adv)
        assert (same.forwards, same.backwards) == (plainly.forwards, plainly.backwards)
        assert (other.x_adv != plainly.x_adv).any()
        mask = torch.arange(16).view(1, 4, 4) > 5
        held = case(model, x, y, threat(norm, scale), gradient=ALL[:2], mask=mask, targets=(y + 1) % 4)
        assert torch.equal(held.x_adv[:, ~mask], x[:, ~mask])
        assert torch.equal(other.success, labels(model, other.x_adv) != y)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DiverseInput(1.5), "probability"),
        (lambda: DiverseInput(largest=0.5), "largest"),
        (lambda: DiverseInput(smallest=0), "smallest"),
        (lambda: TranslationInvariant(4), "size: expected an odd number"),
        (lambda: TranslationInvariant(deviations=0), "deviations"),
        (lambda: VarianceTuned(0), "neighbors"),
        (lambda: VarianceTuned(5, 0), "reach"),
        (lambda: pgd(*scene(), Linf(0.1), steps=1, gradient=torch.sign), "gradient: expected gradient rules"),
        (lambda: pgd(*scene(), Linf(0.1), steps=1, gradient=ALL[::-1]), "once and at the end"),
        (lambda: pgd(*scene(), Linf(0.1), steps=1, gradient=ALL[2:] * 2), "once and at the end"),
        (lambda: pgd(*scene(), L2(0.1), steps=1, gradient=ALL), "VarianceTuned expects"),
        (lambda: cw(*scene(), Linf(0.1), steps=1, gradient=ALL), "VarianceTuned expects"),
    ],
)
def test_bad_input(make: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()


def test_only_images_are_resized() -> None:
    model, x, y = scene()
    for rule in (DiverseInput(), TranslationInvariant()):
        with pytest.raises(InputError, match=r"expects images x \[B, C, H, W\], got x of shape \(5, 70\)"):
            pgd(model, x.flatten(1), y, Linf(0.1), steps=1, gradient=rule)
    flat = pgd(model, x.flatten(1), y, Linf(0.1), steps=2, gradient=ALL[2:])
    assert torch.equal(flat.x_adv.view_as(x), pgd(model, x, y, Linf(0.1), steps=2, gradient=ALL[2:]).x_adv)


def test_attacks_that_follow_no_gradient_do_not_take_rules() -> None:
    with pytest.raises(TypeError, match="square: got an unexpected keyword argument 'gradient'"):
        square(*scene(), Linf(0.1), queries=1, gradient=ALL)
    assert "gradient: rules" in str(mim.__doc__)
    names = "apgd bim cw ddn ead fgsm fmn lbfgs mim pdgd pdpgd pgd sigma_zero"
    assert [name for name, entry in sorted(ATTACKS.items()) if entry.takes("gradient")] == names.split()


def test_an_attack_of_ones_own_takes_them_where_it_says_so() -> None:
    def own(model: Any, x: Any, y: Any, threat: Any, **common: Any) -> Any:
        return run(
            model, x, y, threat, lambda search: search.finish(search.gradient(search.x).gradient), **common
        )

    assert "gradient" not in signature(takes_common(own)).parameters
    for annotation in (Unpack[GradientCommon], "Unpack[core.GradientCommon]"):
        own.__annotations__["common"] = annotation
        assert signature(takes_common(own)).parameters["gradient"].default == ()
    model, x, y = scene()
    with pytest.raises(InputError, match="expected gradient rules"):
        takes_common(own)(model, x, y, Linf(0.1), gradient=[7])

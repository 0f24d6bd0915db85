"""What every attack promises, checked on tiny nets: `contract(card)`, `pytest --attack module:function`."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fastadv.arguments import name_and_arguments, nameable, parse_arguments
from fastadv.attacks import core
from fastadv.attacks.core.card import ATTACKS, REGISTRY, Attack, card_of
from fastadv.attacks.core.points import like
from fastadv.attacks.core.result import AttackResult, Status
from fastadv.engine.precision import with_gradient
from fastadv.errors import InputError
from fastadv.threat import THREATS, Threat

CLASSES, SHAPE = 3, (1, 4, 4)
DUAL = {"linf": 1.0, "l2": 2.0, "l1": math.inf}  # by whose dual norm a linear model is near
# radii in the unit box within which a few samples of `net()` are broken
RADIUS = {"linf": 0.24, "l2": 0.75, "l1": 1.8, "l0": 6.0}


def net(seed: int = 0, shape: tuple[int, ...] = SHAPE, classes: int = CLASSES) -> nn.Module:
    """Return a smooth net of two layers; in float64 no sign hangs on rounding."""
    g = torch.Generator().manual_seed(seed)
    first, last = nn.Linear(math.prod(shape), 12), nn.Linear(12, classes)
    made = nn.Sequential(nn.Flatten(), first, nn.Tanh(), last).double()
    with torch.no_grad():
        for weight, scale in zip(made.parameters(), (0.5, 0.2, 2.0, 0.2), strict=True):
            weight.copy_(scale * torch.randn(weight.shape, generator=g, dtype=torch.float64, device="cpu"))
    return made


def images(count: int, seed: int = 1, shape: tuple[int, ...] = SHAPE) -> Tensor:
    """Return images [count, *shape] in [0, 1]."""
    g = torch.Generator().manual_seed(seed)
    return torch.rand(count, *shape, generator=g, dtype=torch.float64, device="cpu")


def said(model: Any, x: Tensor) -> Tensor:
    """Return what a model decides."""
    with torch.no_grad():
        return model(x).argmax(1)  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Tried:
    """An attack in one norm, called with short settings."""

    card: Attack
    norm: str
    options: Mapping[str, Any] = field(default_factory=dict)  # instead of the card's `quick`

    def threat(self, scale: float = 1.0) -> Threat:
        """Return the ball of the nets here; without end for an attack that looks for the nearest success."""
        return THREATS[self.norm](math.inf if self.card.minimal else scale * RADIUS[self.norm])

    def __call__(self, model: Any, x: Tensor, y: Tensor, threat: Threat, **options: Any) -> AttackResult:
        with _untouched(x, y):
            out: Any = self.card.run(model, x, y, threat, **{**(self.options or self.card.quick), **options})
        assert isinstance(out, AttackResult), f"it returns a {type(out).__name__}, not what core.run does"
        return out


OF_BALLS = "anything_is_served", "distances_are_near"  # promises of other radii and boxes
Promise = Callable[[Tried], None]
PROMISES: dict[str, Promise] = {}


def promised(check: Promise) -> Promise:
    PROMISES[check.__name__] = check
    return check


def contract(card: Attack | Callable[..., Any] | str, **options: Any) -> None:
    """Run all promises over an attack, in each norm of its card.

    A function (model, x, y), or an object that is called so, is judged by its points, as in `fa.evaluate`: it
    may take `threat`, `targets`, `ids` and `seed`. One without a threat has points for one ball: it is judged
    in Linf, or the norms of its card, and asked for no other radius or box.

    Args:
        card: of the attack, the attack itself, or its name: one that is registered, or
            `package.module:function`, with arguments as commands have them.
        options: arguments for short runs, instead of the card's `quick`.

    Raises:
        AssertionError: the promises that the attack breaks, each with its norm.
        InputError: there is no such attack.

    Example:
        >>> from fastadv.attacks.contract import contract
        >>> contract("fgsm")
    """
    broken = []
    for name, tried, check in checks(card, **options):
        try:
            check(tried)
        except Exception as error:  # an attack raises anything
            broken.append(f"{name}: {error if isinstance(error, AssertionError) else repr(error)}")
    if broken:
        raise AssertionError("\n".join(["promises that do not hold:", *broken]))


def checks(card: Attack | Callable[..., Any] | str, **options: Any) -> Iterator[tuple[str, Tried, Promise]]:
    """Yield (name, attack in a norm, promise) for each norm of a card and each promise that it makes."""
    if isinstance(card, str):
        name, tail = name_and_arguments(card, ATTACKS)
        known = card_of("attack", name, ATTACKS)
        options = parse_arguments(f"attack {card!r}", name, tail, nameable(known.parameters)) | options
    elif isinstance(card, Attack):
        known = card
    elif callable(card):
        known = next((one for one in REGISTRY.values() if one.run is card), Attack(card))
    else:
        raise InputError(f"card: expected an attack, its card or its name, got {type(card).__name__}")
    promises = dict(PROMISES)
    if not known.takes("mask") and not any(one.kind is one.VAR_KEYWORD for one in known.parameters.values()):
        for name in () if known.takes("threat") else OF_BALLS:
            del promises[name]
        known, options = _judged(known, options), {}
    for norm in known.norms:
        for name, check in promises.items():
            yield f"{name}-{norm}", Tried(known, norm, options), check


def _judged(card: Attack, options: Mapping[str, Any]) -> Attack:
    """Return the card of a function that does not take what attacks share, whose points are judged."""
    attack = partial(card.run, **{**card.quick, **options})
    takes = [name for name in ("threat", "targets", "ids", "seed") if card.takes(name)]

    @core.takes_common
    def judged(
        model: Any, x: Tensor, y: Tensor | None, threat: Threat, *, seed: int = 0, **common: Any
    ) -> AttackResult:
        def rule(search: core.Search) -> None:
            x, task = search.x, search.problem
            values = {"threat": search.threat, "targets": task.targets, "ids": search.ids, "seed": seed}
            asked = {name: values[name] for name in takes}
            with with_gradient():
                out = attack(task.classifier.of(x, search.ids), x.clone(), search.y.clone(), **asked)
            points = getattr(out, "x_adv", out)
            assert isinstance(points, Tensor), f"it returns a {type(out).__name__}, and no x_adv"
            points = points.detach().to(x)
            if "threat" not in takes:
                points = points.where(like(search.threat.holds(points, x), x), x)
            search.finish(points)

        return core.run(model, x, y, threat, rule, seed=seed, stop_early=True, **common)

    norms = card.norms if "threat" in takes or card.norms != tuple(THREATS) else ("linf",)
    targeted = card.targeted and "targets" in takes
    known = replace(card, run=judged, norms=norms, targeted=targeted, quick={}, oracle={})
    with suppress(Exception):  # which the promises tell
        out = judged(net(), x := images(4), said(net(), x), THREATS["linf"](RADIUS["linf"]))
        known.knowledge = "gradient" if out.backwards else "score"
    return known


@contextmanager
def _untouched(*tensors: Tensor) -> Iterator[None]:
    before, state = [one.clone() for one in tensors], torch.get_rng_state()
    yield
    assert all(map(torch.equal, tensors, before)), "it changes tensors of the caller"
    assert torch.equal(torch.get_rng_state(), state), "it draws from the generator of torch; use fastadv.rng"


@promised
def results_are_facts(tried: Tried) -> None:
    """A success is what the model says; nothing leaves ball and box; distances are measured."""
    model, x, threat = net(), images(12), tried.threat()
    y = said(model, x)
    y[:2] = (y[:2] + 1) % CLASSES
    with _untouched(*model.parameters()):
        out = tried(model, x, y, threat)
    wrong, broken, held = said(model, out.x_adv) != y, out.status == Status.BROKEN, out.status >= Status.HELD
    assert torch.equal(out.success, wrong | (out.status == Status.ALREADY_WRONG)), "a success is none"
    _held(threat, out, x)
    away = threat.distance(out.x_adv, x)
    assert torch.allclose(out.distance[broken].double(), away[broken].double()), "distances are others"
    assert out.distance[held].isinf().all(), "an unbroken sample has a distance"
    assert (out.status[:2] == Status.ALREADY_WRONG).all(), "a sample that was wrong is called something else"
    assert torch.equal(out.x_adv[:2], x[:2]), "a sample that was wrong is changed"
    assert not tried.card.minimal or torch.equal(out.x_adv[held], x[held]), "an unbroken sample is changed"
    assert (out.backwards == 0) == (tried.card.knowledge != "gradient"), "its card names another knowledge"
    assert out.success[2:].any(), "it breaks nothing of a net that is easily broken"


@promised
def mates_change_nothing(tried: Tried) -> None:
    """A sample has the same result whatever is in its batch."""
    model, x = net(), images(9)
    y, threat, some = said(model, x), tried.threat(), torch.tensor([1, 4, 5, 8], device="cpu")
    whole, part = tried(model, x, y, threat), tried(model, x[some], y[some], threat, ids=some)
    apart = "a sample depends on its batch; draw by its id, and take means and sizes over no other sample"
    assert torch.allclose(part.x_adv, whole.x_adv[some]), apart
    assert torch.equal(part.success, whole.success[some]), "a verdict depends on the batch"


@promised
def anything_is_served(tried: Tried) -> None:
    """Images of another shape, box, type and number of classes, and a radius for each sample."""
    inner, x = net(shape=(3, 5, 2), classes=5).float(), 4 * images(8, shape=(3, 5, 2)).float() - 2
    radius = 8 * RADIUS[tried.norm] * torch.linspace(0.2, 1, 8, device="cpu")
    ball = THREATS[tried.norm](math.inf if tried.card.minimal else radius, box=(-2.0, 2.0))
    model = lambda x: inner((x + 2) / 4)  # noqa: E731
    y = said(model, x)
    out = tried(model, x, y, ball)
    assert (out.x_adv.shape, out.x_adv.dtype) == (x.shape, x.dtype), "images of another shape or type return"
    assert torch.equal(out.success, said(model, out.x_adv) != y), "a success is none"
    _held(ball, out, x)
    assert out.success.any(), "it breaks nothing in the box [-2, 2]"


def _held(threat: Threat, out: AttackResult, x: Tensor) -> None:
    assert threat.contains(out.x_adv, x).all(), "a point lies outside of ball or box"
    flags = [flag for flag in out.flags if flag.startswith("outside")]
    assert not flags, f"a point that it asked for last lies outside of ball or box: {flags}"


@promised
def small_logits_are_attacked(tried: Tried) -> None:
    """Of two classes, the size of the logits changes no direction."""
    model, x = net(classes=2), images(12)
    if tried.card.minimal or tried.card.knowledge != "gradient":
        return
    y, threat = said(model, x), tried.threat()
    out, small = (tried(lambda x, by=by: by * model(x), x, y, threat) for by in (1.0, 2.0**-20))
    assert small.success.sum() >= out.success.sum(), "small logits hold; divide gradients by their size"


@promised
def distances_are_near(tried: Tried) -> None:
    """A linear model is broken within the card's tolerance, with a budget at 1.5 times its distance."""
    card, norm = tried.card, tried.norm
    ascends = card.knowledge == "gradient" and norm != "l1"  # whose few steps take few values
    if norm not in DUAL or not (card.minimal or ascends):
        return
    weights, x = 2 * images(2, 5).flatten(1) - 1, 0.4 + 0.2 * images(6)
    model: Any = lambda x: (x - 0.5).flatten(1) @ weights.T  # noqa: E731
    exact = model(x).diff(dim=1).abs().squeeze(1) / weights.diff(dim=0).norm(DUAL[norm])
    if not card.minimal:
        holds = "a linear model holds in a ball 1.5 times as large as the distance of its boundary"
        assert tried(model, x, said(model, x), THREATS[norm](1.5 * exact)).success.all(), holds
        return
    out = card.run(model, x, said(model, x), tried.threat(), **{**card.quick, **card.oracle})
    far = float((out.distance / exact).max())
    told = f"a linear model is broken at {far:.2f} times the distance of its boundary"
    assert far <= card.tolerance, (
        f"{told}, its card allows {card.tolerance:g}; go nearer, or give it an oracle or a tolerance"
    )


@promised
def seeds_decide(tried: Tried) -> None:
    """One seed gives one result; of an attack that draws points of a ball, others give others."""
    if not tried.card.takes("seed"):
        assert not tried.card.random, "its card says random, and it takes no seed"
        return
    model, x = net(), images(24)
    free: dict[str, Any] = {"random_start": True, "stop_early": False}
    free = {name: given for name, given in free.items() if tried.card.takes(name)}
    y, threat = said(model, x), tried.threat(0.5)
    same, again, other = (tried(model, x, y, threat, seed=seed, **free).x_adv for seed in (1, 1, 2))
    assert torch.equal(same, again), "one seed gives two results"
    shifted = tried(model, x, y, threat, seed=1, ids=torch.arange(24, device="cpu") + 100, **free).x_adv
    differ = not (torch.equal(same, other) or torch.equal(same, shifted))
    draws = tried.card.random or "random_start" in free
    assert tried.card.minimal or differ or not draws, "another seed, or other ids, give the same result"


@promised
def targets_are_reached(tried: Tried) -> None:
    """With targets a success is the target and nothing else."""
    model, x = net(), images(24)
    if not tried.card.targeted:
        return
    with torch.no_grad():
        y, *others = model(x).topk(CLASSES).indices.unbind(1)
    reached = torch.ones_like(y, dtype=torch.bool)
    for targets in others:
        out = tried(model, x, y, tried.threat(4), targets=targets)
        assert torch.equal(out.success, said(model, out.x_adv) == targets), "a success is not the target"
        assert out.success.any(), "no target is reached"
        reached &= out.success
    alone = "of two targets it reaches one for each sample: it does not look for them"
    assert reached.any() or tried.card.knowledge != "gradient", alone
    wrong = tried(model, x, targets, tried.threat(), targets=y)
    assert (wrong.status == Status.ALREADY_WRONG).all(), "a target that is reached at x is looked for"


@promised
def masks_hold(tried: Tried) -> None:
    """What the mask leaves out does not move."""
    model, x, mask = net(), images(10), torch.ones(4, 4, dtype=torch.bool, device="cpu")
    mask[0], mask[1, 2] = False, False
    alone = {"indicators": False} if tried.card.takes("indicators") else {}
    out = tried(model, x, said(model, x), tried.threat(), mask=mask, **alone)
    assert torch.equal(out.x_adv[..., ~mask], x[..., ~mask]), "values outside of the mask move"


@promised
def nothing_is_found_where_nothing_is(tried: Tried) -> None:
    """A model that never changes its mind holds, whatever the attack returns."""
    model, x, threat = net(), images(5), tried.threat()
    last: Any = model[-1]  # type: ignore[index]
    with torch.no_grad():
        last.weight.mul_(1e-4)
        last.bias.copy_(torch.tensor([9.0, 0.0, 0.0], device="cpu"))
    out = tried(model, x, torch.zeros(5, dtype=torch.long, device="cpu"), threat)
    assert (out.status == Status.HELD).all(), "a sample that holds is called something else"
    assert out.distance.isinf().all(), "a sample that holds has a distance"
    assert not tried.card.minimal or torch.equal(out.x_adv, x), "a sample that holds is changed"
    _held(threat, out, x)


@promised
def nothing_to_do_is_not_done(tried: Tried) -> None:
    """No samples give no results, wrong ones stay and cost a pass each, and a radius of 0 moves nothing."""
    model, x = net(), images(4)
    y = said(model, x)
    empty = tried(model, x[:0], y[:0], tried.threat())
    assert empty.x_adv.shape == (0, *SHAPE), "no samples give some"
    assert (len(empty.success), len(empty.distance), empty.forwards) == (0, 0, 0), "no samples give some"
    wrong = tried(model, x, (y + 1) % CLASSES, tried.threat())
    assert (wrong.status == Status.ALREADY_WRONG).all(), "a sample that was wrong is called something else"
    assert torch.equal(wrong.x_adv, x), "a sample that was wrong is changed"
    assert (wrong.forwards, wrong.backwards) == (4, 0), "samples that were wrong are attacked"
    still = tried(model, x, y, THREATS[tried.norm](0.0))
    assert torch.equal(still.x_adv, x), "a radius of 0 lets samples move"
    assert (still.status == Status.HELD).all(), "samples are not held at a radius of 0"


@promised
def nan_stays_alone(tried: Tried) -> None:
    """Logits that are NaN make no success, and touch no other sample."""
    inner, x, threat = net(), images(8), tried.threat(0.4)
    x[0, 0, 0, 0], x[1:, 0, 0, 0] = 0.92, 0.3

    def model(x: Tensor) -> Tensor:
        first = x.flatten(1)[:, :1]
        return torch.where((first > 0.9) & (first < 0.95), torch.nan, inner(x))

    y = said(inner, x)
    out = tried(model, x, y, threat)
    assert out.status[0] == Status.FAILED, "a sample whose logits are NaN is called something else"
    assert torch.equal(out.x_adv[0], x[0]), "a sample whose logits are NaN is changed"
    found = model(out.x_adv[1:])
    wrong = (found.argmax(1) != y[1:]) & found.isfinite().all(1)
    assert torch.equal(out.success[1:], wrong), "a success is NaN, or one is missed beside a sample that is"


@promised
def wrong_calls_are_refused(tried: Tried) -> None:
    """An argument without sense is an error, at once."""
    model, x = net(), images(3)
    y, threat = said(model, x), tried.threat()
    bad: list[tuple[type[Exception], dict[str, Any]]] = [
        (InputError, {"threat": 0.3}), (InputError, {"y": y.double()}), (InputError, {"eot": 0}),
        (InputError, {"mask": torch.ones(4, 4, device="cpu")}), (TypeError, {"stepz": 3}),
    ]  # fmt: skip
    for kind, given in bad:
        try:
            tried(**{"model": model, "x": x, "y": y, "threat": threat, **given})
        except kind:
            continue
        raise AssertionError(f"it takes {next(iter(given))}={next(iter(given.values()))!r}")

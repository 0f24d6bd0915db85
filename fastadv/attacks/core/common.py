"""The arguments that attacks share: what they are called, what they mean, what they default to."""

import inspect
import re
from collections.abc import Callable, Mapping
from functools import partial, wraps
from textwrap import dedent, indent
from typing import ParamSpec, TypedDict, TypeVar, overload

from torch import Tensor

from fastadv._checks import check_count
from fastadv.attacks.core.criterion import Criterion
from fastadv.attacks.core.gradient_rule import GradientRules
from fastadv.attacks.core.problem import check_finite_radius, check_norm
from fastadv.attacks.core.variant import check_variant
from fastadv.engine import Frozen
from fastadv.engine.frozen import Model
from fastadv.threat import THREATS

P = ParamSpec("P")
R = TypeVar("R")
Classifier = Model | Frozen


class Common(TypedDict, total=False):
    """The arguments that every attack takes.

    targets: int [B]; a success is a decision for these classes, instead of one against y.
    criterion: None, or what else a success must be: `ConfidentlyWrong(confidence)`, `WrongBy(lead)` or
        `OutsideTopK(k)`.
    mask: bool, broadcasts to x; only coordinates where it is True may move. None: all.
    eot: an integer >= 1; the search averages loss, logits and gradient over that many passes of a randomized
        model (expectation over transformation).
    ids: int [B], sample numbers (default 0 to B - 1); random draws depend on them, not on the batch.
    """

    targets: Tensor | None
    criterion: Criterion | None
    mask: Tensor | None
    eot: int
    ids: Tensor | None


class GradientCommon(Common, total=False):
    """The arguments that every attack takes whose steps follow the gradient of a loss.

    gradient: rules that make the gradient to follow, such as `[DiverseInput(), TranslationInvariant()]`; the
        first is next to the model. Verdicts and losses stay those of the points. Random draws are those of
        the seed, 0 in an attack without one.
    """

    gradient: GradientRules


DEFAULTS = {"targets": None, "criterion": None, "mask": None, "eot": 1, "ids": None, "gradient": ()}
# what these mean wherever an attack takes them and does not say otherwise
OTHERS = """
model: classifier or Frozen; x [B, ...] in the threat's box to logits [B, K]. It is left as it is.
x: floating [B, ...] inside the box.
y: int [B], labels.
steps: an integer >= 1, gradients for each sample.
starts: floating like x, adversarial points of the box; None looks for them among blends of x and uniform
    noise, for which the box must be finite. A sample for which there is none is held.
variant: "fastadv", or "published" for the algorithm of the paper without what this library changes.
repetitions: an integer >= 1, noises in a batch; levels * repetitions samples pass the model for each image.
restarts: attempts, each from another random point or with other random draws; each sample's best is kept.
random_start: let the first attempt start at a random point of ball and box too, instead of x.
loss: "ce", "ce_scaled", "margin", "pm", "dlr", "cw", "bce" (see `fastadv.ops.logit_loss`), or a
    function (logits, y, targets) -> [B], maximized.
stop_early: leave a sample at its first success; otherwise return its strongest point.
seed: of all random draws.
"""
ENDING = """\
Where nothing was broken, the result has the strongest point met, or x itself from an attack for the nearest
success. Raises InputError on wrong input, naming it."""


@overload
def takes_common(function: Callable[P, R], /) -> Callable[P, R]: ...


@overload
def takes_common(
    *, norms: tuple[str, ...] = ..., finite: bool = ..., **least: int
) -> Callable[[Callable[P, R]], Callable[P, R]]: ...


def takes_common(
    function: Callable[P, R] | None = None,
    /,
    *,
    norms: tuple[str, ...] = (),
    finite: bool = False,
    **least: int,
) -> Callable[P, R] | Callable[[Callable[P, R]], Callable[P, R]]:
    """Return the attack with the arguments of `Common` in its signature, or of `GradientCommon` where it is
    annotated so, and all arguments in its help.

    norms: of the threats that it serves; () leaves the check to `run`. finite: whether their radius must be.
    least: the smallest value of arguments that are counts, by name. What is wrong raises InputError.
    """
    if function is None:
        return partial(takes_common, norms=norms, finite=finite, **least)
    kinds = inspect.Parameter
    own = inspect.signature(function).parameters
    shared = [
        kinds(name, kinds.KEYWORD_ONLY, default=DEFAULTS[name], annotation=annotation)
        for name, annotation in _shared(own).__annotations__.items()
    ]
    whole = inspect.Signature(
        [*(parameter for parameter in own.values() if parameter.kind is not kinds.VAR_KEYWORD), *shared],
        return_annotation=inspect.signature(function).return_annotation,
    )

    @wraps(function)
    def attack(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            given = whole.bind(*args, **kwargs).arguments
        except TypeError as error:
            raise TypeError(f"{function.__name__}: {error}") from None
        if norms:
            check_norm(function.__name__, given["threat"], norms)
        if finite:
            check_finite_radius(given["threat"])
        if "variant" in given:
            check_variant(given["variant"])
        for name, smallest in least.items():
            if name in given and not (given[name] is None and _takes_none(own[name])):
                check_count(name, given[name], smallest)
        return function(*args, **kwargs)

    attack.__signature__ = whole  # type: ignore[attr-defined]
    attack.norms = norms or tuple(THREATS)  # type: ignore[attr-defined]
    radius = "finite" if finite else "inf or the largest distance of interest"
    served = " or ".join(THREATS[norm].__name__ for norm in norms)
    threat = f"threat: {served}; the radius is {radius},\n    a number or [B], in input units.\n"
    attack.__doc__ = _completed(threat + OTHERS, inspect.getdoc(function) or "", list(whole.parameters))
    return attack


def _shared(own: Mapping[str, inspect.Parameter]) -> type:
    """Return the arguments that its `**common` stands for; an annotation may be text."""
    kinds = [parameter for parameter in own.values() if parameter.kind is parameter.VAR_KEYWORD]
    return GradientCommon if any("GradientCommon" in str(kind.annotation) for kind in kinds) else Common


def _takes_none(parameter: inspect.Parameter) -> bool:
    # an annotation is text where the attack's module postpones them
    return parameter.default is None or "None" in str(parameter.annotation)


def _completed(others: str, text: str, names: list[str]) -> str:
    """Return the docstring of an attack with the meaning of all its arguments, and how every attack ends."""
    head, _, rest = text.partition("\n\nArgs:\n")
    own, _, tail = rest.partition("\n\n")
    shared = [f"{inspect.getdoc(kind)}\n" for kind in (Common, GradientCommon)]
    meaning = _entries("".join(shared) + others) | _entries(dedent(own))
    arguments = "\n".join(f"{name}: {meaning[name]}" for name in names if name in meaning)
    parts = [head, f"Args:\n{indent(arguments, '    ')}", tail, ENDING]
    return "\n\n".join(part for part in parts if part)


def _entries(text: str) -> dict[str, str]:
    """Return what follows each `name: ` at the beginning of a line, up to the next one."""
    return dict(re.findall(r"^(\w+): (.*(?:\n {4}.*)*)", text, re.M))

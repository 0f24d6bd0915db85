"""The arguments that attacks share: what they are called, what they mean, what they default to."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial, wraps
from math import prod
from typing import Any, Literal, ParamSpec, TypedDict, TypeVar, get_args, overload

from torch import Tensor

from fastadv._checks import FOREIGN, check_choice, check_count, eager
from fastadv.attacks.core.card import REGISTRY
from fastadv.attacks.core.criterion import Criterion, check_criterion
from fastadv.attacks.core.gradient_rule import GradientRules
from fastadv.attacks.core.meanings import NEAREST, NO_LOSS, documented
from fastadv.attacks.core.problem import check_finite_radius, check_norm, from_bytes
from fastadv.attacks.core.result import AttackResult
from fastadv.attacks.core.through import Serves, on_parameters
from fastadv.attacks.special.training import warn_of_training
from fastadv.engine import Model, Prepared, prepare
from fastadv.engine.arguments import Outputs
from fastadv.engine.by_row import explained, takes_ids
from fastadv.engine.precision import no_autocast
from fastadv.engine.prepare import WORTH
from fastadv.errors import InputError
from fastadv.losses import check_loss
from fastadv.text import radius_text
from fastadv.threat import THREATS, Threat, Through

P = ParamSpec("P")
R = TypeVar("R")
Classifier = Model | Prepared
# the algorithm that an attack runs: this library's, or that of its paper
Variant = Literal["fastadv", "published"]
# arguments that multiply each other to the passes of a sample
COUNTS = ("steps", "queries", "restarts", "searches")
# passes of AutoAttack, on average, and of an attack without such arguments
OF_VERSION = {"quick": 500, "standard": 3000, "rand": 4000, "plus": 6000, "strong": 6000}
UNKNOWN = 100


class Common(TypedDict, total=False):
    """The arguments that every attack takes, by name only."""

    targets: Tensor | None
    criterion: Criterion | None
    mask: Tensor | None
    eot: int
    ids: Tensor | None
    whole_batches: bool
    freeze: bool | None


class GradientCommon(Common, total=False):
    """The arguments that every attack takes whose steps follow the gradient of a loss, by name only."""

    gradient: GradientRules


for kind in (Common, GradientCommon):
    kind.__doc__ = documented(f"{kind.__doc__}", kind.__annotations__, {}, returns=False)

DEFAULTS = {
    "targets": None, "criterion": None, "mask": None, "eot": 1, "ids": None, "whole_batches": False,
    "freeze": None, "gradient": (),
}  # fmt: skip


@overload
def takes_common(function: Callable[P, R], /) -> Callable[P, R]: ...


@overload
def takes_common(
    *, norms: tuple[str, ...] = ..., finite: bool = ..., through: Serves = ..., **least: int
) -> Callable[[Callable[P, R]], Callable[P, R]]: ...


def takes_common(
    function: Callable[P, R] | None = None, /, *, norms: tuple[str, ...] = (), finite: bool = False,
    through: Serves = "any", **least: int,
) -> Callable[P, R] | Callable[[Callable[P, R]], Callable[P, R]]:  # fmt: skip
    """Give an attack the arguments of `Common`, or of `GradientCommon` where its `**common` is annotated so.

    They appear in its signature and, with all other arguments, in its help. The arguments are checked before
    the attack is called.

    Args:
        function: the attack; None, the default, returns a decorator with the options below.
        norms: of the threats that the attack serves; () leaves the check to `run`.
        finite: whether the radius must be finite.
        through: which maps of parameters it serves (`fastadv.Through`).
        least: the smallest value of each argument that is a count, by name.

    Returns:
        The attack, or the decorator.

    Raises:
        TypeError: the attack is called with arguments that it does not take.
    """
    if function is None:
        return partial(takes_common, norms=norms, finite=finite, through=through, **least)
    kinds = inspect.Parameter
    parameters = inspect.signature(function).parameters
    shared = [
        kinds(name, kinds.KEYWORD_ONLY, default=DEFAULTS[name], annotation=annotation)
        for name, annotation in _shared(parameters).__annotations__.items()
    ]
    whole = inspect.Signature(
        [
            *(parameter for parameter in parameters.values() if parameter.kind is not kinds.VAR_KEYWORD),
            *shared,
        ],
        return_annotation=inspect.signature(function).return_annotation,
    )

    fixed = {name: parameter.default for name, parameter in parameters.items()}
    known = set(whole.parameters)
    placed = [name for name, parameter in parameters.items() if parameter.kind is kinds.POSITIONAL_OR_KEYWORD]
    needed = {name for name in placed if fixed[name] is kinds.empty}
    counts = [name for name in (*COUNTS, "version") if name in fixed]

    @wraps(function)
    def attack(*args: P.args, **kwargs: P.kwargs) -> R:
        arguments: dict[str, Any] = dict(zip(placed, args, strict=False)) | kwargs
        # fewer where there were too many by place, or one was given twice
        if len(arguments) < len(args) + len(kwargs) or not needed <= arguments.keys() <= known:
            foreign = {name: kwargs[name] for name in kwargs.keys() - known}
            _check_foreign(function.__name__, foreign, norms)
            try:
                whole.bind(*args, **kwargs)  # names what is wrong
            except TypeError as error:
                more = "; only model, x, y and threat go by place" if len(args) > len(placed) else ""
                raise TypeError(f"{function.__name__}: {error}{more}") from None
        ball: Any = arguments.get("threat")
        if isinstance(ball, Threat):
            arguments["x"] = from_bytes(arguments["x"], ball.box)
        if maps := isinstance(ball, Through):
            ball = ball.ball
        if norms:
            check_norm(function.__name__, ball, norms)
        if finite:
            check_finite_radius(ball)
        if "variant" in arguments:
            check_choice("variant", arguments["variant"], get_args(Variant))
        outputs = _take_outputs(function.__name__, arguments, fixed)
        loss: Any = arguments.get("loss", fixed.get("loss"))
        # a "-targeted" loss has classes, and a check of its own
        led = loss is None and arguments.get("criterion") is not None
        if (
            "loss" in parameters
            and "classes" not in parameters
            and (loss, fixed["loss"]) != (None, None)
            and not led
        ):
            check_loss(loss)
        for name, smallest in least.items():
            if name in arguments and not (arguments[name] is None and _takes_none(parameters[name])):
                check_count(name, arguments[name], smallest)
        x = arguments.get("x")
        warn_of_training(function.__name__, arguments)
        rows = len(x) if isinstance(x, Tensor) and not x.is_nested and x.ndim else 0
        work = passes({name: arguments.get(name, fixed[name]) for name in counts}) * rows
        if work >= WORTH and not arguments.get("whole_batches"):
            arguments["model"] = prepare(
                arguments["model"], arguments.get("eot"), work=work, freeze=arguments.get("freeze"),
                compile=arguments.get("compile"), rows=lambda: arguments["x"], outputs=outputs,
            )  # fmt: skip
        # its own arithmetic, too, is not that of an autocast around
        with no_autocast(x.device.type if isinstance(x, Tensor) else "cpu"):
            try:
                out: R = on_parameters(attack, **arguments) if maps else function(**arguments)  # type: ignore
            except Exception as error:
                if (explanation := explained(error, arguments["model"], x)) is error:
                    raise
                raise explanation from error
        if isinstance(out, AttackResult):
            out = replace(out, attack=function.__name__)
        return out

    attack.__signature__ = whole  # type: ignore[attr-defined]
    attack.norms = norms or tuple(THREATS)  # type: ignore[attr-defined]
    attack.through = through  # type: ignore[attr-defined]
    radius = "finite" if finite else "inf or the largest distance of interest"
    served = " or ".join(THREATS[norm].__name__ for norm in norms)
    others = {"threat": f"{served}; the radius is {radius},\n    a number or [B], in input units."}
    if {"gradient", "starts"} <= known and "stop_early" not in known:
        others |= NEAREST
    if fixed.get("loss", "") is None:
        others |= NO_LOSS
    attack.__doc__ = documented(inspect.getdoc(function) or "", whole.parameters, others)
    return eager(attack)


def _take_outputs(attack: str, arguments: dict[str, Any], fixed: Mapping[str, Any]) -> Outputs:
    """Return which outputs the criterion takes; where they may be any, put its loss in place of a name."""
    if arguments.get("criterion") is None:
        return "classes"
    arguments["criterion"] = criterion = check_criterion(arguments["criterion"]).for_labels(
        arguments.get("y")
    )
    if criterion.outputs != "any":
        if type(criterion) is not Criterion and criterion.outputs == "classes" and fixed.get("loss"):
            arguments.setdefault("loss", None)  # what the criterion raises
        return criterion.outputs
    if getattr(REGISTRY.get(attack), "needs", "loss") == "classes":
        serve = ", ".join(sorted(name for name, card in REGISTRY.items() if card.serves_all))
        raise InputError(
            f"criterion: expected one of classes, which {attack} needs, got {criterion!r}, served by {serve}"
        )
    default = fixed.get("loss")
    loss = arguments.get("loss", None if default is None else criterion.losses[0])
    if isinstance(loss, str):
        least = REGISTRY.get(attack) is not None and REGISTRY[attack].kind == "minimum"
        arguments["loss"] = criterion.margin if least and loss == "margin" else criterion.loss(loss)
    elif callable(loss) and getattr(loss, "__self__", None) is not criterion:
        arguments["loss"] = _of_outputs(loss, criterion)
    return "any"


def _of_outputs(loss: Callable[..., Tensor], criterion: Criterion) -> Callable[..., Tensor]:
    """Return a loss of rows [B, N] that gives the caller's own the outputs in their shape."""

    def value(rows: Tensor, y: Tensor, targets: Tensor | None) -> Tensor:
        return loss(criterion.in_shape(rows, y), y, targets)

    def value_of_rows(rows: Tensor, y: Tensor, targets: Tensor | None, ids: Tensor) -> Tensor:
        return loss(criterion.in_shape(rows, y), y, targets, ids=ids)

    return value_of_rows if takes_ids(loss) else value


def _check_foreign(attack: str, arguments: Mapping[str, Any], norms: tuple[str, ...]) -> None:
    """Raise TypeError for names of other libraries, which says what to write here."""
    kind, write = THREATS.get(str(arguments.get("norm")).lower(), THREATS[(*norms, "linf")[0]]), []
    for name in (names := sorted(FOREIGN.keys() & arguments.keys(), key=list(FOREIGN).index)):
        value = arguments[name]
        value = radius_text(kind(value)) if isinstance(value, float) and value >= 0 else value
        write.append(FOREIGN[name].format(value, ball=kind.__name__))
    if names:
        raise TypeError(f"{attack}: no argument {', '.join(names)}; write {', '.join(write)}")


def _shared(parameters: Mapping[str, inspect.Parameter]) -> type:
    """Return the arguments that its `**common` stands for; an annotation may be text."""
    kinds = [parameter for parameter in parameters.values() if parameter.kind is parameter.VAR_KEYWORD]
    return GradientCommon if any("GradientCommon" in str(kind.annotation) for kind in kinds) else Common


def _takes_none(parameter: inspect.Parameter) -> bool:
    # an annotation is text where the attack's module postpones them
    return parameter.default is None or "None" in str(parameter.annotation)


def passes(arguments: Mapping[str, Any]) -> int:
    """Return how many gradients or queries of a sample these arguments of an attack ask for."""
    if isinstance(version := arguments.get("version"), str):
        return OF_VERSION.get(version, UNKNOWN)
    counts = [arguments[name] for name in COUNTS if name in arguments]
    return prod(count for count in counts if isinstance(count, int) and count > 0) if counts else UNKNOWN


def planned(*attacks: Callable[..., Any]) -> int:
    """Return `passes` of all attacks, by their defaults and by what partials have bound."""
    return sum(
        passes({name: parameter.default for name, parameter in parameters_of(attack).items()})
        for attack in attacks
    )


def parameters_of(attack: Callable[..., Any], wrapped: bool = True) -> Mapping[str, inspect.Parameter]:
    """Return the parameters of an attack, or of what it wraps; none where it has no signature."""
    try:
        return inspect.signature(attack, follow_wrapped=wrapped).parameters
    except (TypeError, ValueError):
        return {}

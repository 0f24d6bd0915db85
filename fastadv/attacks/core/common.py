"""The arguments that attacks share: what they are called, what they mean, what they default to."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial, wraps
from math import prod
from typing import Any, Literal, ParamSpec, Protocol, TypedDict, TypeVar, get_args, overload

import torch
from torch import Tensor

from fastadv._checks import FOREIGN, check_choice, check_count, outside_compile
from fastadv.attacks.core.card import REGISTRY
from fastadv.attacks.core.checks import check_finite_radius, check_norm
from fastadv.attacks.core.criterion import WRONG, Criterion, check_criterion
from fastadv.attacks.core.gradient_rule import GradientRules
from fastadv.attacks.core.meanings import NEAREST, NO_LOSS, documented
from fastadv.attacks.core.result import AttackResult
from fastadv.attacks.core.task import Classified, Task, unwrapped
from fastadv.attacks.special.training import warn_of_training
from fastadv.engine import Model, Prepared
from fastadv.engine.by_row import explained, takes_ids
from fastadv.engine.precision import no_autocast, no_gradient
from fastadv.errors import InputError
from fastadv.losses import check_loss
from fastadv.text import radius_text
from fastadv.threat import THREATS, Through

P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
Classifier = Model | Prepared | Classified
# the algorithm that an attack runs: this library's, or that of its paper
Variant = Literal["fastadv", "published"]
# arguments that multiply each other to the passes of a sample
COUNTS = ("steps", "queries", "restarts", "searches")
# passes of AutoAttack, on average, and of an attack without such arguments
OF_VERSION = {"quick": 500, "robustvlm": 1000, "standard": 3000, "rand": 4000, "plus": 6000, "strong": 6000}
UNKNOWN = 100
# maps of parameters that an attack serves: any, those whose parameters [B, C, H, W] are images, or none
Serves = Literal["any", "images", "none"]
Door = Callable[[dict[str, Any]], dict[str, Any]]


class Public(Protocol[P, R_co]):
    """An attack as it is called, and `on` a task, for attacks that run others."""

    on: Callable[..., Any]

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co: ...


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
# arguments that make the task; `precision` and `compile` are those of AutoAttack
DOOR = {*Common.__annotations__, "precision", "compile"}
PLACES = "model", "x", "y", "threat"


@overload
def takes_common(function: Callable[P, R], /) -> Public[P, R]: ...


@overload
def takes_common(
    *,
    norms: tuple[str, ...] = ...,
    finite: bool = ...,
    through: Serves = ...,
    door: Door | None = ...,
    **least: int,
) -> Callable[[Callable[P, R]], Public[P, R]]: ...


def takes_common(
    function: Callable[P, R] | None = None, /, *, norms: tuple[str, ...] = (), finite: bool = False,
    through: Serves = "any", door: Door | None = None, **least: int,
) -> Any:  # fmt: skip
    """Give an attack the arguments of `Common`, or of `GradientCommon` where its `**common` is annotated so.

    They appear in its signature and, with all other arguments, in its help. The arguments are checked before
    the attack is called.

    Args:
        function: the attack; None, the default, returns a decorator with the options below.
        norms: of the threats that the attack serves; () are all.
        finite: whether the radius must be finite.
        through: which maps of parameters it serves (`fastadv.Through`).
        door: gives defaults of shared arguments that depend on others, by name.
        least: the smallest value of each argument that is a count, by name.

    Returns:
        The attack, or the decorator.

    Raises:
        TypeError: the attack is called with arguments that it does not take.
    """
    if function is None:
        return partial(takes_common, norms=norms, finite=finite, through=through, door=door, **least)
    kinds = inspect.Parameter
    parameters = inspect.signature(function).parameters
    shared = [
        kinds(name, kinds.KEYWORD_ONLY, default=DEFAULTS[name], annotation=annotation)
        for name, annotation in _shared(parameters).__annotations__.items()
    ]
    own = [parameter for parameter in parameters.values() if parameter.kind is not kinds.VAR_KEYWORD]
    whole = inspect.signature(function).replace(parameters=[*own, *shared])
    fixed = {name: parameter.default for name, parameter in parameters.items()}
    known = set(whole.parameters)
    placed = [name for name, parameter in parameters.items() if parameter.kind is kinds.POSITIONAL_OR_KEYWORD]
    needed = {name for name in placed if fixed[name] is kinds.empty}
    counts = [name for name in (*COUNTS, "version") if name in fixed]
    checks = _checks_of(function, parameters, norms, finite, least)

    @wraps(function)
    def attack(*args: P.args, **kwargs: P.kwargs) -> R:
        if torch.compiler.is_compiling():
            return outside_compile(attack, *args, **kwargs)
        arguments: dict[str, Any] = dict(zip(placed, args, strict=False)) | kwargs
        # fewer where there were too many by place, or one was given twice
        if len(arguments) < len(args) + len(kwargs) or not needed <= arguments.keys() <= known:
            _refuse(function.__name__, whole, norms, len(placed), args, kwargs)
        for check in checks:
            check(arguments)
        planned_passes = passes({name: arguments.get(name, fixed[name]) for name in counts})
        model, x = unwrapped(arguments["model"]), arguments["x"]
        called = {name: arguments.pop(name, fixed[name]) for name in PLACES}
        asked = door(arguments) if door else {}
        asked |= {name: arguments.pop(name) for name in DOOR & arguments.keys()}
        device = x.device.type if isinstance(x, Tensor) else "cpu"
        # its own arithmetic, too, is not that of an autocast around
        with no_gradient(), no_autocast(device):
            try:
                task = Task.of(**called, **asked, passes=planned_passes)
                _check_through(function.__name__, through, task)
                if model is called["model"]:
                    warn_of_training(function.__name__, model, task.classifier, "ids" in asked)
                with task.classifier.in_eval():
                    out: Any = function(task, task.x, task.y, task.threat, **arguments)  # type: ignore
            except Exception as error:
                if (explanation := explained(error, model, x)) is error:
                    raise
                raise explanation from error
        if isinstance(out, AttackResult):
            out = task.with_images(out) if isinstance(called["threat"], Through) else out
            out = replace(out, attack=function.__name__)
        return out  # type: ignore[no-any-return]

    def on(task: Task, **options: Any) -> R:
        """Return the attack on a task, for an attack that runs others: nothing is checked again."""
        if task.criterion is not WRONG:
            _take_loss(function.__name__, parameters, task.criterion, options)
        return function(task, task.x, task.y, task.threat, **options)  # type: ignore

    attack.__signature__ = whole  # type: ignore[attr-defined]
    attack.norms = norms or tuple(THREATS)  # type: ignore[attr-defined]
    attack.through, attack.on = through, on  # type: ignore[attr-defined]
    radius = "finite" if finite else "inf or the largest distance of interest"
    served = " or ".join(THREATS[norm].__name__ for norm in norms)
    others = {"threat": f"{served}; the radius is {radius},\n    a number or [B], in input units."}
    if {"gradient", "starts"} <= known and "stop_early" not in known:
        others |= NEAREST
    if fixed.get("loss", "") is None:
        others |= NO_LOSS
    attack.__doc__ = documented(inspect.getdoc(function) or "", whole.parameters, others)
    return attack


def _refuse(
    name: str, whole: inspect.Signature, norms: tuple[str, ...], places: int, args: Any, kwargs: Any
) -> None:
    """Raise TypeError for arguments that an attack does not take."""
    foreign = {option: kwargs[option] for option in kwargs.keys() - whole.parameters.keys()}
    _check_foreign(name, foreign, norms)
    try:
        whole.bind(*args, **kwargs)  # names what is wrong
    except TypeError as error:
        more = "; only model, x, y and threat go by place" if len(args) > places else ""
        raise TypeError(f"{name}: {error}{more}") from None


def _checks_of(
    function: Callable[..., Any], parameters: Mapping[str, inspect.Parameter], norms: tuple[str, ...],
    finite: bool, least: Mapping[str, int],
) -> tuple[Callable[[dict[str, Any]], None], ...]:  # fmt: skip
    """Return what checks the arguments of an attack by name, before it is called."""
    name, checks = function.__name__, list[Callable[[dict[str, Any]], None]]()

    def check_ball(arguments: dict[str, Any]) -> None:
        threat = arguments.get("threat")
        ball: Any = threat.ball if isinstance(threat, Through) else threat
        if norms:
            check_norm(name, ball, norms)
        if finite:
            check_finite_radius(ball)

    def check_variant(arguments: dict[str, Any]) -> None:
        check_choice("variant", arguments.get("variant", parameters["variant"].default), get_args(Variant))

    def take_criterion(arguments: dict[str, Any]) -> None:
        if arguments.get("criterion") is not None:
            criterion = check_criterion(arguments["criterion"]).for_labels(arguments.get("y"))
            _take_loss(name, parameters, criterion, arguments)

    def check_counts(arguments: dict[str, Any]) -> None:
        for count, smallest in least.items():
            if count in arguments and not (arguments[count] is None and _takes_none(parameters[count])):
                check_count(count, arguments[count], smallest)

    def check_named_loss(arguments: dict[str, Any]) -> None:
        loss = arguments.get("loss", parameters["loss"].default)
        # None is the criterion's own
        if loss is not None or (parameters["loss"].default is not None and not arguments.get("criterion")):
            check_loss(loss)

    if norms or finite:
        checks.append(check_ball)
    if "variant" in parameters:
        checks.append(check_variant)
    checks.append(take_criterion)
    if "loss" in parameters and "classes" not in parameters:  # a "-targeted" loss has a check of its own
        checks.append(check_named_loss)
    return (*checks, check_counts) if least else tuple(checks)


def _take_loss(
    attack: str, parameters: Mapping[str, inspect.Parameter], criterion: Criterion, arguments: dict[str, Any]
) -> None:
    """Put the loss of a criterion in place of a name or of none."""
    default = parameters["loss"].default if "loss" in parameters else None
    if criterion.outputs != "any":
        if type(criterion) is not Criterion and criterion.outputs == "classes" and default:
            arguments.setdefault("loss", None)  # what the criterion raises
        return
    if getattr(REGISTRY.get(attack), "needs", "loss") == "classes":
        serve = ", ".join(sorted(name for name, card in REGISTRY.items() if card.serves_all))
        raise InputError(
            f"criterion: expected one of classes, which {attack} needs, got {criterion!r}, served by {serve}"
        )
    loss = arguments.get("loss", None if default is None else criterion.losses[0])
    if isinstance(loss, str):
        least = REGISTRY.get(attack) is not None and REGISTRY[attack].kind == "minimum"
        arguments["loss"] = criterion.margin if least and loss == "margin" else criterion.loss(loss)
    elif callable(loss) and getattr(loss, "__self__", None) is not criterion:
        arguments["loss"] = _of_outputs(loss, criterion)


def _check_through(attack: str, served: Serves, task: Task) -> None:
    """Raise InputError where an attack does not serve the map of parameters of a task."""
    if task.through is None or served == "any" or (served == "images" and task.x.ndim == 4):
        return
    wanted = "and no map of parameters" if served == "none" else "or a map of parameters [C, H, W]"
    blind = "grid" if task.x[0].numel() <= 3 else "nes"
    raise InputError(
        f"threat: expected a ball {wanted} for {attack}, got {task.through.name}, whose parameters are "
        f"{list(task.x.shape[1:])}; use apgd or, without gradients, {blind}"
    )


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

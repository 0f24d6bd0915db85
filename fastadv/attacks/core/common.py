"""The arguments that attacks share: what they are called, what they mean, what they default to."""

import inspect
from collections.abc import Callable, Mapping
from functools import partial, wraps
from math import prod
from typing import Any, Literal, ParamSpec, Protocol, TypeVar, get_args, overload

import torch
from torch import Tensor

from fastadv._checks import FOREIGN, check_choice, check_count, check_known, outside_compile
from fastadv.attacks.core.arguments import SHARED
from fastadv.attacks.core.arguments import Common as Common
from fastadv.attacks.core.card import REGISTRY, Attack
from fastadv.attacks.core.checks import check_finite_radius, check_norm
from fastadv.attacks.core.classified import Classified
from fastadv.attacks.core.criterion import WRONG, Criterion, check_criterion
from fastadv.attacks.core.gradient_rule import GradientRules
from fastadv.attacks.core.result import AttackResult
from fastadv.attacks.core.task import Task
from fastadv.attacks.core.training import warn_of_training
from fastadv.engine import Model, Prepared
from fastadv.engine.precision import no_autocast, no_gradient
from fastadv.errors import InputError
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
OF_VERSION = {
    "screen": 60, "quick": 500, "robustvlm": 1000, "standard": 3000, "rand": 4000, "plus": 6000,
    "strong": 6000,
}  # fmt: skip
TO_THE_END = {"screen": 100, "quick": 1200, "standard": 7000, "plus": 16000, "strong": 9000}
UNTOLD = 100
# maps of parameters that an attack serves: any, those whose parameters are [B, C, H, W] or like x, or none
Serves = Literal["any", "images", "none"]
Door = Callable[[dict[str, Any]], dict[str, Any]]


class Public(Protocol[P, R_co]):
    """An attack as it is called, and `on` a task, for attacks that run others."""

    on: Callable[..., Any]

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co: ...


class GradientCommon(Common, total=False):
    """The arguments that every attack takes whose steps follow the gradient of a loss, by name only.

    Args:
        others: as in `pgd`.
    """

    gradient: GradientRules


DEFAULTS = {**SHARED, "gradient": ()}
PLACES = "model", "x", "y", "threat"
OF_TASK = *PLACES, *SHARED
UNKNOWN = Attack(lambda: None)  # type: ignore[arg-type,return-value]  # of an attack without a card
TARGETED = "-targeted"  # at the end of a loss that has a check of its own


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

    They appear in its signature, and `pgd` explains them. Arguments are checked first.

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
    front = _Front(function, norms, finite, through, least)

    @wraps(function)
    def attack(*args: P.args, **kwargs: P.kwargs) -> R:
        if torch.compiler.is_compiling():
            return outside_compile(attack, *args, **kwargs)
        arguments = front.by_name(args, kwargs)
        front.check(arguments)
        work = passes(front.defaults | arguments)
        asked = front.places | (door(arguments) if door else {})
        asked |= {name: arguments[name] for name in OF_TASK if name in arguments}
        own = {name: value for name, value in arguments.items() if name not in asked}
        x, threat = asked["x"], asked["threat"]
        mapped = isinstance(threat, Through)
        device = x.device.type if isinstance(x, Tensor) else "cpu"
        # its own arithmetic, too, is not that of an autocast around
        with no_gradient(), no_autocast(device):
            task = Task.of(**asked, passes=work)
            if mapped:
                front.check_map(task, x.shape)
            if not isinstance(asked["model"], Classified | Prepared):
                warn_of_training(front.name, task.classifier)
            with task.classifier.in_eval():
                out: Any = function(task, task.x, task.y, task.threat, **own)  # type: ignore
        if isinstance(out, AttackResult):
            out = task.with_images(out) if mapped else out
            out.attack = front.name
        return out  # type: ignore[no-any-return]

    def on(task: Task, **options: Any) -> R:
        """Return the attack on a task, for an attack that runs others: nothing is checked again."""
        if task.criterion is not WRONG:
            front.take_loss(task.criterion, options)
        return function(task, task.x, task.y, task.threat, **options)  # type: ignore

    facts = {"__signature__": front.whole, "norms": norms or tuple(THREATS), "through": through, "on": on}
    vars(attack).update(facts)
    return attack


class _Front:
    """What is known of an attack at import: its arguments, how they are checked, and what it serves.

    Attributes:
        whole: the signature, as a caller sees it.
        defaults: of the arguments that it names itself.
        places: those of model, x, y and threat that may be left out.
        checks: of arguments that it names itself, in the order in which they are asked.
    """

    def __init__(
        self, function: Callable[..., Any], norms: tuple[str, ...], finite: bool, through: Serves,
        least: Mapping[str, int],
    ) -> None:  # fmt: skip
        kinds, signature = inspect.Parameter, inspect.signature(function)
        own = {name: one for name, one in signature.parameters.items() if one.kind is not kinds.VAR_KEYWORD}
        kind = GradientCommon if "GradientCommon" in str(function.__annotations__) else Common
        more = [
            kinds(name, kinds.KEYWORD_ONLY, default=DEFAULTS[name], annotation=annotation)
            for name, annotation in kind.__annotations__.items()
        ]
        self.name, self.norms, self.finite, self.through = function.__name__, norms, finite, through
        self.whole = signature.replace(parameters=[*own.values(), *more])
        self.known = frozenset(self.whole.parameters)
        self.defaults = {name: one.default for name, one in own.items() if one.default is not kinds.empty}
        self.places = {name: value for name, value in self.defaults.items() if name in PLACES}
        self.placed = [name for name, one in own.items() if one.kind is kinds.POSITIONAL_OR_KEYWORD]
        self.needed = frozenset(self.placed) - self.defaults.keys()
        self.checks: dict[str, Callable[[Any], Any]] = (
            {"threat": self._check_threat} if norms or finite else {}
        )
        if "variant" in own:
            self.checks["variant"] = partial(check_choice, "variant", choices=get_args(Variant))
        for name, value in least.items():
            optional = "None" in f"{own[name].default} {own[name].annotation}"
            self.checks[name] = partial(_check_optional if optional else check_count, name, least=value)

    def by_name(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """Return the arguments of a call by name; raise TypeError for what the attack does not take."""
        arguments = dict(zip(self.placed, args, strict=False)) | kwargs
        # fewer where there were too many by place, or one was given twice
        single = len(arguments) == len(args) + len(kwargs)
        if single and self.needed <= arguments.keys() <= self.known:
            return arguments
        self._check_foreign({name: kwargs[name] for name in kwargs.keys() - self.known})
        check_known(self.name, kwargs, self.whole.parameters)
        try:
            return self.whole.bind(*args, **kwargs).arguments  # names what is wrong
        except TypeError as error:
            more = "; only model, x, y and threat go by place" if len(args) > len(self.placed) else ""
            raise TypeError(f"{self.name}: {error}{more}") from None

    def _check_foreign(self, arguments: Mapping[str, Any]) -> None:
        """Raise TypeError for names of other libraries, which says what to write here."""
        usual = THREATS[(*self.norms, "linf")[0]]
        kind, write = THREATS.get(str(arguments.get("norm")).lower(), usual), []
        names = [name for name in FOREIGN if name in arguments]
        for name in names:
            value = arguments[name]
            value = radius_text(kind(value)) if isinstance(value, float) and value >= 0 else value
            write.append(FOREIGN[name].format(value, ball=kind.__name__))
        if names:
            raise TypeError(f"{self.name}: no argument {', '.join(names)}; write {', '.join(write)}")

    def check(self, arguments: dict[str, Any]) -> None:
        """Check arguments of a call that the attack names itself, and take the loss of its criterion."""
        for name, check in self.checks.items():
            if name in arguments:
                check(arguments[name])
        if "criterion" in arguments or "loss" in arguments:
            criterion = check_criterion(arguments.get("criterion"))
            self.take_loss(criterion.for_labels(arguments.get("y")), arguments)

    def _check_threat(self, threat: Any) -> None:
        """Raise InputError unless the attack serves norm and radius of a threat, or of the ball of a map."""
        ball = threat.ball if isinstance(threat, Through) else threat
        if self.norms:
            check_norm(self.name, ball, self.norms)
        if self.finite:
            check_finite_radius(ball)

    def check_map(self, task: Task, shape: torch.Size) -> None:
        """Raise InputError unless the attack serves the map of parameters of a task, of x of that shape."""
        images = task.x.ndim == 4 or task.x.shape == shape
        if {"any": True, "images": images, "none": False}[self.through]:
            return
        no_map, like_x = "and no map of parameters", "or a map of parameters like x or [C, H, W]"
        blind, got = "grid" if task.x[0].numel() <= 3 else "nes", list(task.x.shape[1:])
        raise InputError(
            f"threat: expected a ball {no_map if self.through == 'none' else like_x} for {self.name}, got "
            f"{task.through and task.through.name}, whose parameters are {got}; use apgd or, without "
            f"gradients, {blind}"
        )

    def take_loss(self, criterion: Criterion, arguments: dict[str, Any]) -> None:
        """Put the loss of a criterion in place of a name or of none."""
        card, others = REGISTRY.get(self.name, UNKNOWN), criterion.outputs == "any"
        if others and card.needs == "classes":
            serve = ", ".join(sorted(name for name, card in REGISTRY.items() if card.serves_all))
            raise InputError(
                f"criterion: expected one of classes, which {self.name} needs, got {criterion!r}, served by "
                f"{serve}"
            )
        # "margin" is the default of attacks for the nearest, and stands for that of the criterion
        default = "loss" not in arguments or (card.minimal and arguments["loss"] == "margin")
        if criterion.raises and default and "loss" in self.known:
            named = others and self.defaults.get("loss") is not None
            arguments["loss"] = criterion.losses[0] if named else None
        loss = arguments.get("loss")
        of_attack = "classes" in self.known and str(loss).endswith(TARGETED) and not others
        if loss is not None and not of_attack:
            arguments["loss"] = criterion.followed(loss)


def _check_optional(name: str, value: Any, least: int) -> None:
    """Raise InputError for what is no count; None stands for a default that depends on others."""
    if value is not None:
        check_count(name, value, least)


def passes(arguments: Mapping[str, Any]) -> int:
    """Return how many gradients or queries of a sample these arguments of an attack ask for."""
    if isinstance(version := arguments.get("version"), str):
        return OF_VERSION.get(version, UNTOLD)
    counts = [arguments[name] for name in COUNTS if name in arguments]
    return prod([count for count in counts if isinstance(count, int) and count > 0]) if counts else UNTOLD


def planned(*attacks: Callable[..., Any], to_the_end: bool = False) -> int:
    """Return `passes` of all attacks, by their defaults and by what partials have bound.

    `to_the_end`: those of a sample that AutoAttack does not break, where it has a version.
    """
    defaults = [{name: one.default for name, one in parameters_of(attack).items()} for attack in attacks]
    most = TO_THE_END if to_the_end else {}
    return sum(most.get(str(of.get("version")), passes(of)) for of in defaults)


def parameters_of(attack: Callable[..., Any], wrapped: bool = True) -> Mapping[str, inspect.Parameter]:
    """Return the parameters of an attack, or of what it wraps; none where it has no signature."""
    try:
        return inspect.signature(attack, follow_wrapped=wrapped).parameters
    except (TypeError, ValueError):
        return {}

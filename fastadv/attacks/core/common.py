"""The arguments that attacks share: what they are called, what they mean, what they default to."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
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
from fastadv.engine.precision import no_autocast, no_gradient
from fastadv.errors import InputError
from fastadv.losses import LOSSES, check_loss
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
TO_THE_END = {"quick": 1200, "standard": 7000, "plus": 16000, "strong": 9000}
UNKNOWN = 100
# maps of parameters that an attack serves: any, those whose parameters are [B, C, H, W] or like x, or none
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
    freeze: bool | None


class GradientCommon(Common, total=False):
    """The arguments that every attack takes whose steps follow the gradient of a loss, by name only."""

    gradient: GradientRules


for kind in (Common, GradientCommon):
    kind.__doc__ = documented(f"{kind.__doc__}", kind.__annotations__, {}, returns=False)

DEFAULTS = {
    "targets": None, "criterion": None, "mask": None, "eot": 1, "ids": None,
    "freeze": None, "gradient": (),
}  # fmt: skip
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

    They appear in its signature and, with all other arguments, in its help. Arguments are checked first.

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
    front = _Front.of(function, norms, finite, least)
    name, counts = front.name, [name for name in (*COUNTS, "version") if name in front.defaults]

    @wraps(function)
    def attack(*args: P.args, **kwargs: P.kwargs) -> R:
        if torch.compiler.is_compiling():
            return outside_compile(attack, *args, **kwargs)
        arguments = front.by_name(args, kwargs)
        front.check(arguments)
        work = passes({count: arguments.get(count, front.defaults[count]) for count in counts})
        model, x = unwrapped(arguments["model"]), arguments["x"]
        called = {place: arguments.pop(place, front.defaults[place]) for place in PLACES}
        asked = door(arguments) if door else {}
        asked |= {option: arguments.pop(option) for option in Common.__annotations__ if option in arguments}
        device = x.device.type if isinstance(x, Tensor) else "cpu"
        # its own arithmetic, too, is not that of an autocast around
        with no_gradient(), no_autocast(device):
            task = Task.of(**called, **asked, passes=work)
            _check_through(name, through, task, x.shape)
            if model is called["model"]:
                warn_of_training(name, model, task.classifier, "ids" in asked)
            with task.classifier.in_eval():
                out: Any = function(task, task.x, task.y, task.threat, **arguments)  # type: ignore
        if isinstance(out, AttackResult):
            out = task.with_images(out) if isinstance(called["threat"], Through) else out
            out = replace(out, attack=name)
        return out  # type: ignore[no-any-return]

    def on(task: Task, **options: Any) -> R:
        """Return the attack on a task, for an attack that runs others: nothing is checked again."""
        if task.criterion is not WRONG:
            front.take_loss(task.criterion, options)
        return function(task, task.x, task.y, task.threat, **options)  # type: ignore

    facts = {"__signature__": front.whole, "norms": norms or tuple(THREATS), "through": through, "on": on}
    vars(attack).update(facts)
    attack.__doc__ = front.documented(inspect.getdoc(function) or "")
    return attack


@dataclass(frozen=True, eq=False)
class _Front:
    """What is known of an attack at import: its arguments, and what it serves."""

    name: str
    whole: inspect.Signature  # as a caller sees it
    defaults: Mapping[str, Any]  # of the arguments that it names itself
    placed: tuple[str, ...]
    needed: frozenset[str]
    optional: frozenset[str]  # what may be None
    norms: tuple[str, ...]
    finite: bool
    least: Mapping[str, int]

    @classmethod
    def of(
        cls, function: Callable[..., Any], norms: tuple[str, ...], finite: bool, least: Mapping[str, int]
    ) -> "_Front":
        kinds, whole = inspect.Parameter, inspect.signature(function)
        own = [one for one in whole.parameters.values() if one.kind is not kinds.VAR_KEYWORD]
        rest = [one for one in whole.parameters.values() if one.kind is kinds.VAR_KEYWORD]
        # an annotation is text where the attack's module postpones them
        follows = any("GradientCommon" in str(one.annotation) for one in rest)
        shared = (GradientCommon if follows else Common).__annotations__.items()
        more = [
            kinds(name, kinds.KEYWORD_ONLY, default=DEFAULTS[name], annotation=annotation)
            for name, annotation in shared
        ]
        placed = tuple(one.name for one in own if one.kind is kinds.POSITIONAL_OR_KEYWORD)
        defaults = {one.name: one.default for one in own}
        needed = frozenset(name for name in placed if defaults[name] is kinds.empty)
        optional = frozenset(one.name for one in own if one.default is None or "None" in str(one.annotation))
        seen = whole.replace(parameters=[*own, *more])
        return cls(function.__name__, seen, defaults, placed, needed, optional, norms, finite, least)

    def by_name(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """Return the arguments of a call by name; raise TypeError for what the attack does not take."""
        arguments = dict(zip(self.placed, args, strict=False)) | kwargs
        # fewer where there were too many by place, or one was given twice
        single = len(arguments) == len(args) + len(kwargs)
        if single and self.needed <= arguments.keys() <= self.whole.parameters.keys():
            return arguments
        self._check_foreign({name: kwargs[name] for name in kwargs.keys() - self.whole.parameters.keys()})
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
        """Check the arguments of a call, and take the loss of its criterion."""
        threat = arguments.get("threat")
        ball: Any = threat.ball if isinstance(threat, Through) else threat
        if self.norms:
            check_norm(self.name, ball, self.norms)
        if self.finite:
            check_finite_radius(ball)
        if "variant" in self.defaults:
            check_choice("variant", arguments.get("variant", self.defaults["variant"]), get_args(Variant))
        criterion = arguments.get("criterion")
        if criterion is not None:
            self.take_loss(check_criterion(criterion).for_labels(arguments.get("y")), arguments)
        if "loss" in self.defaults and "classes" not in self.defaults:  # "-targeted" has a check of its own
            loss = arguments.get("loss", self.defaults["loss"])
            # None is the criterion's own
            if loss is not None or (self.defaults["loss"] is not None and not criterion):
                check_loss(loss)
        for name, least in self.least.items():
            count = arguments.get(name, least)
            if count is not None or name not in self.optional:
                check_count(name, count, least)

    def take_loss(self, criterion: Criterion, arguments: dict[str, Any]) -> None:
        """Put the loss of a criterion in place of a name or of none."""
        default, card = self.defaults.get("loss"), REGISTRY.get(self.name)
        if type(criterion) is Criterion or criterion.outputs == "logit":
            return
        if card is not None and card.minimal and arguments.get("loss") == "margin":
            del arguments["loss"]  # the margin of the criterion is their default
        if criterion.outputs != "any":
            if "loss" in self.defaults:
                loss = arguments.setdefault("loss", None)  # what the criterion raises
                arguments["loss"] = criterion.of_classes(loss) if loss in LOSSES else loss
            return
        if card is not None and card.needs == "classes":
            serve = ", ".join(sorted(name for name, card in REGISTRY.items() if card.serves_all))
            raise InputError(
                f"criterion: expected one of classes, which {self.name} needs, got {criterion!r}, served by "
                f"{serve}"
            )
        loss = arguments.get("loss", None if default is None else criterion.losses[0])
        if isinstance(loss, str):
            arguments["loss"] = criterion.loss(loss)
        elif callable(loss) and getattr(loss, "__self__", None) is not criterion:
            arguments["loss"] = _of_outputs(loss, criterion)

    def documented(self, text: str) -> str:
        """Return the help of the attack, with the arguments that it does not explain."""
        known, radius = self.whole.parameters.keys(), "inf or the largest distance of interest"
        radius = "finite" if self.finite else radius
        served = " or ".join(THREATS[norm].__name__ for norm in self.norms)
        others = {"threat": f"{served}; the radius is {radius},\n    a number or [B], in input units."}
        if {"gradient", "starts"} <= known and "stop_early" not in known:
            others |= NEAREST
        if self.defaults.get("loss", "") is None:
            others |= NO_LOSS
        return documented(text, known, others)


def _check_through(attack: str, served: Serves, task: Task, shape: torch.Size) -> None:
    """Raise InputError where an attack does not serve the map of parameters of a task."""
    images = task.x.ndim == 4 or task.x.shape == shape
    if task.through is None or served == "any" or (served == "images" and images):
        return
    wanted = "and no map of parameters" if served == "none" else "or a map of parameters like x or [C, H, W]"
    blind = "grid" if task.x[0].numel() <= 3 else "nes"
    raise InputError(
        f"threat: expected a ball {wanted} for {attack}, got {task.through.name}, whose parameters are "
        f"{list(task.x.shape[1:])}; use apgd or, without gradients, {blind}"
    )


def _of_outputs(loss: Callable[..., Tensor], criterion: Criterion) -> Callable[..., Tensor]:
    """Return a loss of rows [B, N] that gives the caller's own the outputs in their shape."""

    def value(rows: Tensor, y: Tensor, targets: Tensor | None) -> Tensor:
        return loss(criterion.in_shape(rows, y), y, targets)

    return value


def passes(arguments: Mapping[str, Any]) -> int:
    """Return how many gradients or queries of a sample these arguments of an attack ask for."""
    if isinstance(version := arguments.get("version"), str):
        return OF_VERSION.get(version, UNKNOWN)
    counts = [arguments[name] for name in COUNTS if name in arguments]
    return prod(count for count in counts if isinstance(count, int) and count > 0) if counts else UNKNOWN


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

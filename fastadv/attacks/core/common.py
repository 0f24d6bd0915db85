"""The arguments that attacks share: what they are called, what they mean, what they default to."""

import inspect
import re
from collections.abc import Callable, Mapping
from functools import partial, wraps
from math import prod
from textwrap import dedent, indent
from typing import Any, Literal, ParamSpec, TypedDict, TypeVar, get_args, overload

from torch import Tensor

from fastadv._checks import FOREIGN, check_choice, check_count, eager
from fastadv.attacks.core.card import REGISTRY
from fastadv.attacks.core.criterion import Criterion, check_criterion
from fastadv.attacks.core.gradient_rule import GradientRules
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
# which algorithm an attack runs: this library's, or that of its paper
Variant = Literal["fastadv", "published"]
# arguments that multiply each other to the passes of a sample
COUNTS = ("steps", "queries", "restarts", "searches")
# those of AutoAttack, on average; and of an attack that has none of either
OF_VERSION = {"quick": 500, "standard": 3000, "rand": 4000, "plus": 6000, "strong": 6000}
UNKNOWN = 100


class Common(TypedDict, total=False):
    """The arguments that every attack takes, by name only.

    Args:
        targets: int [B], the class that each sample must be taken for; a success is a decision for it. None,
            the default, accepts every class but y.
        criterion: what a success must fulfill beyond the class: `ConfidentlyWrong(confidence)`,
            `WrongBy(lead)`, `OutsideTopK(k)` or `Unless(reject)`. Of models with other outputs `Signs()`,
            `Share(least)` or `Beyond(distance)`, which say what y and targets are, and which losses there
            are. None, the default, asks for the class alone.
        mask: bool, broadcasts to x; only coordinates where it is True may change. None, the default, lets all
            of them change.
        eot: forward passes of a randomized model over which the search averages loss, logits and gradient
            (expectation over transformation), an integer >= 1; the default is 1.
        ids: int [B], sample numbers, by default 0 to B - 1. Random numbers depend on them, not on the place
            in the batch. A model or loss with an argument `ids` gets those of the rows that it is given.
        whole_batches: whether each pass has all rows of x in their places, for a model that takes batches of
            one size, or keeps something of each row. False, the default, passes those still to be broken.
        freeze: whether to search on a frozen copy of the model (`fastadv.freeze`); None, the default, does so
            where steps times samples are many. A Frozen is used as it is.

    Source:
        Athalye et al. 2018, "Obfuscated Gradients Give a False Sense of Security" (arXiv 1802.00420), for
        `eot`.
    """

    targets: Tensor | None
    criterion: Criterion | None
    mask: Tensor | None
    eot: int
    ids: Tensor | None
    whole_batches: bool
    freeze: bool | None


class GradientCommon(Common, total=False):
    """The arguments that every attack takes whose steps follow the gradient of a loss: `Common` and one more.

    Args:
        gradient: rules that make the gradient to follow, such as those of docs/transfer.md; the first one
            asks the model. They do not change what counts as a success, nor the losses that are reported.
            Random numbers are those of the seed, 0 in an attack without one. The default is (), the gradient
            itself.
        others: as in `Common`.
    """

    gradient: GradientRules


DEFAULTS = {
    "targets": None, "criterion": None, "mask": None, "eot": 1, "ids": None, "whole_batches": False,
    "freeze": None, "gradient": (),
}  # fmt: skip
# what these mean wherever an attack takes them and does not say otherwise
OTHERS = """
model: classifier or Frozen; x [B, ...] in the threat's box to logits [B, K]. It is not changed.
x: floating [B, ...] inside the box.
y: int [B], labels; or what the criterion takes.
steps: gradients for each sample, an integer >= 1.
starts: floating like x, adversarial points inside the box. None looks for them among blends of x and uniform
    noise, which needs a finite box. A sample without such a point counts as held.
variant: "fastadv", or "published" for the algorithm of the paper. What the first changes, and what that
    gains, is in docs/departures.md.
repetitions: noises in a batch, an integer >= 1; levels * repetitions samples pass the model for each image.
restarts: attempts, each with other random numbers; the best result of each sample is kept.
random_start: whether the first attempt, too, starts at a random point of ball and box; False starts it
    at x.
loss: "ce", "ce_sharp", "margin", "dlr", "cw", "bce" (see `fastadv.ops.logit_loss`),
    or a function (logits, y, targets) -> [B]; it is maximized. "ce" is the published choice. The default,
    "ce_sharp", first scales logits whose range is below 8 up to it, and breaks more where they are nearly
    alike. With a criterion of one class the default is its margin: half of the steps then lead to the
    likeliest class that would meet it, half to the next one.
stop_early: whether a sample stops at its first success; False searches on for its strongest point.
seed: of all random numbers, an integer >= 0.
"""
# the same where the loss is None by default, and of gradient attacks for the minimum norm
NO_LOSS = """
loss: a name of `fastadv.ops.logit_loss`, or a function (logits, y, targets) -> [B]; it is maximized. None is
    the margin of the criterion.
"""
NEAREST = """
starts: floating like x, adversarial points of the box, where the first attempt begins: bisected towards x in
    ten queries. A sample whose point is not adversarial begins as usual, and so do all with None.
restarts: attempts; the others begin at random points within half the distance of the nearest success.
seed: of the random points of restarts.
"""
ENDING = {
    "Returns": """\
An `AttackResult` with the adversarial examples x_adv, like x, and success, bool [B]. Where nothing was
found, x_adv is the strongest point for an attack with a budget, and x itself for a minimum-norm attack.
""",
    "Raises": "InputError: an argument is wrong; the message names it, what was expected and what came.\n",
}
# how the example of every attack begins
EXAMPLE = """\
>>> import fastadv as fa
>>> x = fa.data.load("digits", "test").x[:8]
>>> model = fa.models.create("softmax", shape=(1, 8, 8), classes=10)
>>> y = model(x).argmax(1)  # what it decides before the attack
"""
SECTIONS = ("Args", "Returns", "Raises", "Example", "Source")


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
    own = inspect.signature(function).parameters
    shared = [
        kinds(name, kinds.KEYWORD_ONLY, default=DEFAULTS[name], annotation=annotation)
        for name, annotation in _shared(own).__annotations__.items()
    ]
    whole = inspect.Signature(
        [*(parameter for parameter in own.values() if parameter.kind is not kinds.VAR_KEYWORD), *shared],
        return_annotation=inspect.signature(function).return_annotation,
    )

    fixed = {name: parameter.default for name, parameter in own.items()}
    known = set(whole.parameters)
    placed = [name for name, parameter in own.items() if parameter.kind is kinds.POSITIONAL_OR_KEYWORD]
    needed = {name for name in placed if fixed[name] is kinds.empty}
    counts = [name for name in (*COUNTS, "version") if name in fixed]

    @wraps(function)
    def attack(*args: P.args, **kwargs: P.kwargs) -> R:
        given: dict[str, Any] = dict(zip(placed, args, strict=False)) | kwargs
        # fewer where there were too many by place, or one was given twice
        if len(given) < len(args) + len(kwargs) or not needed <= given.keys() <= known:
            foreign = {name: kwargs[name] for name in kwargs.keys() - known}
            _check_foreign(function.__name__, foreign, norms)
            try:
                whole.bind(*args, **kwargs)  # names what is wrong
            except TypeError as error:
                more = "; only model, x, y and threat go by place" if len(args) > len(placed) else ""
                raise TypeError(f"{function.__name__}: {error}{more}") from None
        ball: Any = given.get("threat")
        if isinstance(ball, Threat):
            given["x"] = from_bytes(given["x"], ball.box)
        if maps := isinstance(ball, Through):
            ball = ball.ball
        if norms:
            check_norm(function.__name__, ball, norms)
        if finite:
            check_finite_radius(ball)
        if "variant" in given:
            check_choice("variant", given["variant"], get_args(Variant))
        outputs = _take_outputs(function.__name__, given, fixed)
        loss: Any = given.get("loss", fixed.get("loss"))
        # a "-targeted" loss has classes, and a check of its own
        led = loss is None and given.get("criterion") is not None
        if "loss" in own and "classes" not in own and (loss, fixed["loss"]) != (None, None) and not led:
            check_loss(loss)
        for name, smallest in least.items():
            if name in given and not (given[name] is None and _takes_none(own[name])):
                check_count(name, given[name], smallest)
        x = given.get("x")
        warn_of_training(function.__name__, given)
        rows = len(x) if isinstance(x, Tensor) and not x.is_nested and x.ndim else 0
        work = passes({name: given.get(name, fixed[name]) for name in counts}) * rows
        if work >= WORTH and not given.get("whole_batches"):
            given["model"] = prepare(
                given["model"], given.get("eot"), work=work, freeze=given.get("freeze"),
                compile=given.get("compile"), rows=lambda: given["x"], outputs=outputs,
            )  # fmt: skip
        # its own arithmetic, too, is not that of an autocast around
        with no_autocast(x.device.type if isinstance(x, Tensor) else "cpu"):
            try:
                out: R = on_parameters(attack, **given) if maps else function(**given)  # type: ignore
            except Exception as error:
                if (told := explained(error, given["model"], x)) is error:
                    raise
                raise told from error
        if isinstance(out, AttackResult):
            object.__setattr__(out, "attack", function.__name__)  # it was made by this call
        return out

    attack.__signature__ = whole  # type: ignore[attr-defined]
    attack.norms = norms or tuple(THREATS)  # type: ignore[attr-defined]
    attack.through = through  # type: ignore[attr-defined]
    radius = "finite" if finite else "inf or the largest distance of interest"
    served = " or ".join(THREATS[norm].__name__ for norm in norms)
    threat = f"threat: {served}; the radius is {radius},\n    a number or [B], in input units.\n"
    others = threat + OTHERS
    others += NO_LOSS if fixed.get("loss", "") is None else ""
    others += NEAREST if {"gradient", "starts"} <= known and "stop_early" not in known else ""
    attack.__doc__ = _completed(others, inspect.getdoc(function) or "", list(whole.parameters))
    return eager(attack)


def _take_outputs(attack: str, given: dict[str, Any], fixed: Mapping[str, Any]) -> Outputs:
    """Return which outputs the criterion takes; where they may be any, put its loss in place of a name."""
    if given.get("criterion") is None:
        return "classes"
    given["criterion"] = criterion = check_criterion(given["criterion"]).for_labels(given.get("y"))
    if criterion.outputs != "any":
        if type(criterion) is not Criterion and criterion.outputs == "classes" and fixed.get("loss"):
            given.setdefault("loss", None)  # what the criterion raises
        return criterion.outputs
    if getattr(REGISTRY.get(attack), "needs", "loss") == "classes":
        serve = ", ".join(sorted(name for name, card in REGISTRY.items() if card.serves_all))
        raise InputError(
            f"criterion: expected one of classes, which {attack} needs, got {criterion!r}, served by {serve}"
        )
    default = fixed.get("loss")
    loss = given.get("loss", None if default is None else criterion.losses[0])
    if isinstance(loss, str):
        least = REGISTRY.get(attack) is not None and REGISTRY[attack].kind == "minimum"
        given["loss"] = criterion.margin if least and loss == "margin" else criterion.loss(loss)
    elif callable(loss) and getattr(loss, "__self__", None) is not criterion:
        given["loss"] = _of_outputs(loss, criterion)
    return "any"


def _of_outputs(loss: Callable[..., Tensor], criterion: Criterion) -> Callable[..., Tensor]:
    """Return a loss of rows [B, N] that gives the caller's own the outputs in their shape."""

    def value(rows: Tensor, y: Tensor, targets: Tensor | None) -> Tensor:
        return loss(criterion.in_shape(rows, y), y, targets)

    def value_of_rows(rows: Tensor, y: Tensor, targets: Tensor | None, ids: Tensor) -> Tensor:
        return loss(criterion.in_shape(rows, y), y, targets, ids=ids)

    return value_of_rows if takes_ids(loss) else value


def _check_foreign(attack: str, given: Mapping[str, Any], norms: tuple[str, ...]) -> None:
    """Raise TypeError for names of other libraries, which says what to write here."""
    kind, write = THREATS.get(str(given.get("norm")).lower(), THREATS[(*norms, "linf")[0]]), []
    for name in (names := sorted(FOREIGN.keys() & given.keys(), key=list(FOREIGN).index)):
        value = given[name]
        value = radius_text(kind(value)) if isinstance(value, float) and value >= 0 else value
        write.append(FOREIGN[name].format(value, ball=kind.__name__))
    if names:
        raise TypeError(f"{attack}: no argument {', '.join(names)}; write {', '.join(write)}")


def _shared(own: Mapping[str, inspect.Parameter]) -> type:
    """Return the arguments that its `**common` stands for; an annotation may be text."""
    kinds = [parameter for parameter in own.values() if parameter.kind is parameter.VAR_KEYWORD]
    return GradientCommon if any("GradientCommon" in str(kind.annotation) for kind in kinds) else Common


def _takes_none(parameter: inspect.Parameter) -> bool:
    # an annotation is text where the attack's module postpones them
    return parameter.default is None or "None" in str(parameter.annotation)


def _completed(others: str, text: str, names: list[str]) -> str:
    """Return the docstring of an attack with the meaning of all its arguments, and what attacks return."""
    head, *rest = re.split(rf"^({'|'.join(SECTIONS)}):\n", text, flags=re.M)
    own = {name: dedent(part).strip() + "\n" for name, part in zip(rest[::2], rest[1::2], strict=True)}
    shared = "".join(_arguments(kind) for kind in (GradientCommon, Common))
    meaning = _entries(shared + others) | _entries(own.get("Args", ""))
    told = {"Args": "\n".join(f"{name}: {meaning[name]}" for name in names if name in meaning)}
    if "Example" in own:
        own["Example"] = EXAMPLE + own["Example"]
    parts = ENDING | own | told
    sections = [f"{name}:\n{indent(parts[name].strip(), '    ')}" for name in SECTIONS if name in parts]
    return "\n\n".join([head.strip(), *sections])


def _arguments(kind: type) -> str:
    text = (inspect.getdoc(kind) or "").partition("Args:\n")[2].partition("\n\n")[0]
    return f"{dedent(text)}\n"


def _entries(text: str) -> dict[str, str]:
    """Return what follows each `name: ` at the beginning of a line, up to the next one."""
    return dict(re.findall(r"^(\w+): (.*(?:\n {4}.*)*)", text, re.M))


def passes(arguments: Mapping[str, Any]) -> int:
    """Return how many gradients or queries of a sample these arguments of an attack ask for."""
    if isinstance(version := arguments.get("version"), str):
        return OF_VERSION.get(version, UNKNOWN)
    counts = [arguments[name] for name in COUNTS if name in arguments]
    return prod(count for count in counts if isinstance(count, int) and count > 0) if counts else UNKNOWN


def planned(*attacks: Callable[..., Any]) -> int:
    """Return `passes` of all attacks, by their defaults and by what partials have bound."""
    return sum(
        passes({name: each.default for name, each in parameters_of(attack).items()}) for attack in attacks
    )


def parameters_of(attack: Callable[..., Any], wrapped: bool = True) -> Mapping[str, inspect.Parameter]:
    """Return the parameters of an attack, or of what it wraps; none where it has no signature."""
    try:
        return inspect.signature(attack, follow_wrapped=wrapped).parameters
    except (TypeError, ValueError):
        return {}

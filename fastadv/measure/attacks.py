"""The attacks of an evaluation: by name, or as functions, with the threat said once for all."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

from torch import Tensor

from fastadv._checks import meant
from fastadv.attacks import ATTACKS, DENSE_ATTACKS, PARAMETER_ATTACKS, Status
from fastadv.attacks.core.card import name_of
from fastadv.attacks.core.common import parameters_of
from fastadv.attacks.core.criterion import Criterion
from fastadv.attacks.methods.claims import Within, is_own
from fastadv.data.imageset import UNIT
from fastadv.engine import Model, Prepared
from fastadv.errors import InputError
from fastadv.measure.bound import Attack, Threats, bound, held_by, takes, threat_of
from fastadv.measure.plan import Plan, read
from fastadv.measure.reading import boxes_of
from fastadv.threat import Threat, Through
from fastadv.threat.checks import check_threat

Attacks = Mapping[str, Attack | str] | Iterable[Attack | str] | str

LINES = ("none", "worst of all", "union")  # of a table, beside those of its attacks
GREY_BOX = "grey box"  # the row of images that were made on another net
MISREAD = "grey_box: the net inside misreads some samples, which stay as they are"
GOAL = ("threat", "criterion", "targets", "mask")  # what an attack is asked for


def named(
    attacks: Attacks | None, threat: Threats | None = None, recipe: Any = None,
    criterion: Criterion | None = None, grey_box: Model | Prepared | None = None, seed: int = 0,
) -> dict[str, Attack]:  # fmt: skip
    """Return attacks by name, with the threat, or the recipe's, criterion and seed bound where none is.

    Points of functions that take no threat are judged in it; without it, in that of all other attacks.
    With several threats an attack that has none is there once for each, named like "apgd Linf". Last comes
    what the first of them makes of the net `grey_box`, where there is one.
    """
    threats = tuple(threat) if isinstance(threat, list | tuple) else (threat,)
    by_name, without_threat, taken = dict[str, Attack](), list[str](), False
    for name, value in _pairs(attacks):
        attack = _judged_in_its_own(function_of(name, value))
        bind, rows = _asks_for_threat(attack), [(name, attack)]
        if bind is not None and threat is not None:
            rows, taken = [(name + end, bind(one)) for end, one in _endings(threats)], True
        elif bind is not None and is_own(attack):
            without_threat.append(name)
        elif bind is not None and isinstance(value, str):
            _check_optional(name, attack)
        for row, one in rows:
            if row in (*by_name, *LINES):
                raise InputError(
                    f"attacks: expected lines with names of their own, got two of {row!r}; rename in a dict"
                )
            by_name[row] = _with_default(_with_default(one, "criterion", criterion), "seed", seed or None)
    if without_threat and (ball := _in_common(by_name.values(), recipe)) is not None:
        by_name |= {name: Within(by_name[name], ball) for name in without_threat}
    if threat is not None and not taken:
        _check_held(threat, threats, by_name, recipe)
    return by_name if grey_box is None else by_name | _on_grey_box(by_name, grey_box)


def _pairs(attacks: Attacks | None) -> Iterable[tuple[str, Attack | str]]:
    """Return names of rows and what is asked for in each."""
    if isinstance(attacks, Mapping):
        return attacks.items()
    if hasattr(attacks, "__array__"):  # a tensor, too
        raise InputError("attacks: expected names or functions, got an array; pass data as a pair, (x, y)")
    single = isinstance(attacks, str) or callable(attacks) or not isinstance(attacks, Iterable | None)
    several: list[Any] = [attacks] if single else [*(attacks or [])]
    return [(plan_of(one).label if isinstance(one, str) else name_of(one), one) for one in several]


def plan_of(text: str) -> Plan:
    """Read an attack as commands write it, such as pgd:steps=100."""
    return read("attacks", text, {**ATTACKS, **DENSE_ATTACKS, **PARAMETER_ATTACKS})


def function_of(name: str, value: Any) -> Attack:
    """Return the attack of a name, or the function itself; InputError for what is neither."""
    if isinstance(value, str):
        value = plan_of(value).run
    if not callable(value):
        raise InputError(
            f"attacks[{name!r}]: expected a name or a function (model, x, y, ids=ids), "
            f"got {type(value).__name__}; bind arguments with functools.partial"
        )
    attack: Attack = value
    _check_arguments(name, attack)
    return attack


def _check_optional(name: str, attack: Attack) -> None:
    """Raise InputError for an attack that cannot do without a threat."""
    if parameters_of(attack)["threat"].default is not None:
        raise InputError(f"threat: expected one for {name}, got None; pass threat=fa.Linf(8 / 255)")


def _judged_in_its_own(attack: Attack) -> Attack:
    """Return an attack of the caller's that holds a threat, as a default or an attribute, judged in it."""
    if not is_own(attack) or threat_of(attack) is not None:
        return attack
    parameter = parameters_of(attack, wrapped=False).get("threat")
    own = held_by(attack) if parameter is None else parameter.default
    return Within(attack, own) if isinstance(own, Threat) else attack


def _asks_for_threat(attack: Attack) -> Callable[[Threat], Attack] | None:
    """Return what gives a threat to an attack without one: as an argument, or to judge its points in."""
    parameter = parameters_of(attack, wrapped=not is_own(attack)).get("threat")
    if parameter is not None and parameter.default in (parameter.empty, None):
        return lambda threat: partial(attack, threat=threat)
    if is_own(attack) and threat_of(attack) is None:
        return partial(Within, attack)
    return None


def _with_default(attack: Attack, name: str, value: Any) -> Attack:
    """Return an attack with the argument bound, where it takes it and has none; None binds nothing."""
    lacks = value is not None and bound(attack, name) is None and takes(attack, name)
    return partial(attack, **{name: value}) if lacks else attack


def _check_held(threat: Any, threats: Sequence[Any], by_name: Mapping[str, Attack], recipe: Any) -> None:
    """Refuse a threat that no attack took, but that of a recipe or of a universal perturbation.

    One may also say the box of the data, if nothing else does.
    """
    held = (getattr(one, "threat", None) for one in (recipe, *by_name.values()))
    if any(_same(getattr(one, "threats", (one,)), threats) for one in held):
        return
    if boxes_of(by_name, recipe=recipe) or getattr(threat, "box", UNIT) == UNIT:
        raise InputError(f"threat: expected None, as nothing here takes it, got {threat!r}; leave it out")


def _check_arguments(name: str, attack: Attack) -> None:
    """Say which argument that is bound to an attack it does not have; such a partial has no signature."""
    if isinstance(attack, partial) and not (parameters_of(attack) or is_own(attack)):
        known = parameters_of(attack.func)
        for foreign in sorted(attack.keywords.keys() - known.keys()):
            raise InputError(f"attacks[{name!r}]: no argument {foreign!r}{meant(foreign, known)}")


def _in_common(attacks: Iterable[Attack], recipe: Any) -> Threat | None:
    """Return the threat of all attacks that have one, or the recipe's; None where it is a map."""
    known: list[Any] = [*filter(None, map(threat_of, attacks))]  # a map asks for parameters, too
    first, *others = known or [getattr(recipe, "threat", None)]
    if not isinstance(first, Threat) or isinstance(first, Through):
        return None
    return first if all(first.same(one) for one in others) else None


def _same(held: Sequence[Any], threats: Sequence[Any]) -> bool:
    """Return whether these are the same threats, one after the other."""
    pairs = zip(held, threats, strict=False)
    return len(held) == len(threats) and all(isinstance(a, Threat) and a.same(b) for a, b in pairs)


def _endings(threats: Sequence[Any]) -> list[tuple[str, Threat]]:
    """Return each threat after what its attacks' names end with: nothing for one, a radius where needed."""
    for one in threats or [threats]:
        check_threat(one, maps=True)
    kinds = [getattr(one, "name", "") or type(one).__name__ for one in threats]
    if len(threats) == 1:
        return [("", threats[0])]
    radii = [_radius(one) if kinds.count(kinds[k]) > 1 else "" for k, one in enumerate(threats)]
    return [(f" {kind}{radius}", one) for kind, radius, one in zip(kinds, radii, threats, strict=True)]


def _radius(threat: Threat) -> str:
    """Return what tells a threat from another of its name."""
    if isinstance(threat.radius, Tensor) and threat.radius.ndim:
        raise InputError(
            f"threat: expected one radius in each of several threats of a norm, got {threat.radius.numel()}; "
            "pass a dict of attacks with their threats: {'a': partial(fa.attacks.pgd, threat=...)}"
        )
    return f" {float(threat.radius):g}"


def _on_grey_box(attacks: Mapping[str, Attack], net: Model | Prepared) -> dict[str, Attack]:
    """Return by its name what the first attack of the library makes of another net."""
    if GREY_BOX in attacks:
        raise InputError(f"attacks: expected none named {GREY_BOX!r} with grey_box=, got one; rename it")
    known = [one for one in attacks.values() if not is_own(one) and isinstance(bound(one, "threat"), Threat)]
    if not known:
        raise InputError(
            "grey_box: expected an attack of fastadv.attacks with a threat, to run on this net, got none; "
            'pass attacks="pgd", threat=fa.Linf(8 / 255)'
        )
    attack, goal = known[0], {name: value for name in GOAL if (value := bound(known[0], name)) is not None}
    # the strongest point, not the first beyond the boundary; signs are looked for on the model
    off = [name for name in ("stop_early", "indicators") if name in parameters_of(attack, wrapped=False)]
    attack = partial(attack, **dict.fromkeys(off, False))

    def grey_box(model: Prepared, x: Tensor, y: Tensor, *, ids: Tensor, **goal: Any) -> Any:
        try:
            out = attack(net, x, y, ids=ids, **goal)  # of this batch alone
        except InputError as error:
            raise InputError(f"{error} (on the net of grey_box=)") from error
        wrong = bool((out.status == Status.ALREADY_WRONG).any())
        return SimpleNamespace(x_adv=out.x_adv, parameters=out.parameters, flags=(MISREAD,) * wrong)

    return {GREY_BOX: partial(grey_box, **goal)}

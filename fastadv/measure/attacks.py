"""The attacks of an evaluation: by name, or as functions, with the threat said once for all."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

from torch import Tensor

from fastadv._checks import meant
from fastadv.attacks import ATTACKS, DENSE_ATTACKS, PARAMETER_ATTACKS, AttackResult, Status
from fastadv.attacks.core.card import REGISTRY, card_of, name_of
from fastadv.attacks.core.common import parameters_of
from fastadv.attacks.core.criterion import WRONG, Criterion, check_criterion, decides_by_class
from fastadv.attacks.methods.claims import Within, is_own
from fastadv.data.given import ANY, CLASSES
from fastadv.data.imageset import UNIT, Box, Held
from fastadv.engine import Model, Prepared
from fastadv.errors import InputError
from fastadv.threat import Threat, Through
from fastadv.threat.checks import check_threat

Attack = Callable[..., AttackResult]
"""(model, x, y) or (model, x, y, ids=ids) -> AttackResult or x_adv: partial(fa.attacks.pgd, threat=L)."""

Threats = Threat | Sequence[Threat]

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
    if isinstance(attacks, Mapping):
        pairs = list(attacks.items())
    elif hasattr(attacks, "__array__"):  # a tensor, too
        raise InputError("attacks: expected names or functions, got an array; pass data as a pair, (x, y)")
    else:
        single = isinstance(attacks, str) or callable(attacks) or not isinstance(attacks, Iterable | None)
        several = [attacks] if single else attacks or []
        names = (one.rpartition(":")[2] if isinstance(one, str) else name_of(one) for one in several)
        pairs = [*zip(names, several, strict=False)]
    by_name, untold = dict[str, Attack](), list[str]()
    threats, taken = tuple(threat) if isinstance(threat, list | tuple) else (threat,), False
    for name, value in pairs:
        attack = value
        if isinstance(value, str):
            known = {**ATTACKS, **DENSE_ATTACKS, **PARAMETER_ATTACKS}
            attack = card_of("attacks", value, known).run
        if not callable(attack):
            raise InputError(
                f"attacks[{name!r}]: expected a name or a function (model, x, y, ids=ids), "
                f"got {type(attack).__name__}; bind arguments with functools.partial"
            )
        _check_arguments(name, attack)
        own, each = is_own(attack), [("", attack)]
        parameter = parameters_of(attack, wrapped=not own).get("threat")
        if parameter is not None and parameter.default in (parameter.empty, None):
            if threat is not None:
                each = [(end, partial(attack, threat=one)) for end, one in _endings(threats)]
                taken = True
            elif isinstance(value, str) and parameter.default is not None:
                raise InputError(f"threat: expected one for {name}, got None; pass threat=fa.Linf(8 / 255)")
            elif own:
                untold.append(name)
        elif own and threat_of(attack) is None:
            mine = _held_by(attack) if parameter is None else parameter.default
            if isinstance(mine, Threat):
                each = [("", Within(attack, mine))]
            elif threat is not None:
                each, taken = [(end, Within(attack, one)) for end, one in _endings(threats)], True
            else:
                untold.append(name)
        for end, one in each:
            row = name + end
            if row in (*by_name, *LINES):
                raise InputError(
                    f"attacks: expected lines with names of their own, got two of {row!r}; rename in a dict"
                )
            if criterion is not None and bound(one, "criterion") is None and takes(one, "criterion"):
                one = partial(one, criterion=criterion)
            if seed and bound(one, "seed") is None and takes(one, "seed"):  # 0 is what each begins with
                one = partial(one, seed=seed)
            by_name[row] = one
    if untold and (ball := _in_common(by_name.values(), recipe)) is not None:
        by_name |= {name: Within(by_name[name], ball) for name in untold}
    if threat is not None and not taken:
        # universal perturbations hold one; what nothing takes may still say the data's box, if no other does
        held = (getattr(one, "threat", None) for one in (recipe, *by_name.values()))
        taken = any(_same(getattr(one, "threats", (one,)), threats) for one in held)
        if not taken and (boxes_of(by_name, recipe=recipe) or getattr(threat, "box", UNIT) == UNIT):
            raise InputError(f"threat: expected None, as nothing here takes it, got {threat!r}; leave it out")
    return by_name if grey_box is None else by_name | _on_grey_box(by_name, grey_box)


def _check_arguments(name: str, attack: Attack) -> None:
    """Say which argument that is bound to an attack it does not have; such a partial has no signature."""
    if isinstance(attack, partial) and not (parameters_of(attack) or is_own(attack)):
        known = parameters_of(attack.func)
        for foreign in sorted(attack.keywords.keys() - known.keys()):
            raise InputError(f"attacks[{name!r}]: no argument {foreign!r}{meant(foreign, known)}")


def threat_of(attack: Attack) -> Threat | None:
    """Return the threat that is bound to an attack, or in which its points are judged."""
    given = bound(attack, "threat"), bound(attack, "within")
    return next((one for one in given if isinstance(one, Threat)), None)


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


def _held_by(attack: Attack) -> Threat | None:
    """Return the threat that an object which attacks has of its own; None without."""
    held = (getattr(layer, "threat", None) for layer in layers(attack))
    return next((one for one in held if isinstance(one, Threat)), None)


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


def boxes_of(
    attacks: Mapping[str, Attack], threat: Threats | None = None, recipe: Any = None, dataset: Any = None
) -> dict[str, Box]:
    """Return the boxes in which the data must lie, by the names of their threats.

    They are those of the attacks and the recipe, or else that of `threat`, or else the data set's.
    """
    threats = {f"attacks[{name!r}]": threat_of(attack) for name, attack in attacks.items()}
    threats["the recipe"] = getattr(recipe, "threat", None)
    boxes = {name: one.box for name, one in threats.items() if isinstance(one, Threat)}
    if not boxes and isinstance(threat, Threat):
        return {"threat": threat.box}
    if boxes or dataset is None:
        return boxes
    return {"": dataset.box if isinstance(dataset, Held) else UNIT}


def criterion_of(attacks: Mapping[str, Attack], criterion: Criterion | None = None) -> Criterion:
    """Return the criterion that says which samples are right; InputError where the attacks have several."""
    if criterion is not None:
        check_criterion(criterion)
    asked = [attack for attack in attacks.values() if criterion is None or takes(attack, "criterion")]
    bound_to = [bound(attack, "criterion") for attack in asked]
    if criterion is not None or not bound_to:
        bound_to.append(criterion)
    if criterion is not None and all(one == criterion for one in bound_to):
        return criterion
    meanings = [WRONG if decides_by_class(one) else one for one in bound_to]
    if any(one != meanings[0] for one in meanings):
        raise InputError(
            f"attacks: expected criteria that agree on what is right without an attack, got {bound_to}; "
            "evaluate them one after the other"
        )
    return meanings[0]


def labels_of(criterion: Criterion) -> str:
    """Return what labels of data a criterion takes."""
    return CLASSES if criterion.outputs == "classes" else ANY


def minimizes(attack: Any) -> bool:
    """Return whether it is a minimum-norm attack: one of `fastadv.attacks`, or with a `minimum`."""
    known = [entry.run for entry in REGISTRY.values() if entry.minimal]
    for layer in layers(attack):
        if any(layer is one for one in known):
            return True
        if isinstance(says := getattr(layer, "minimum", None), bool):
            return says
    return False


def takes(attack: Attack, name: str) -> bool:
    """Return whether an attack can be called with an argument of this name, as far as it tells."""
    known = parameters_of(attack, wrapped=False)
    return not known or name in known or any(one.kind is one.VAR_KEYWORD for one in known.values())


def bound(attack: Any, name: str) -> Any:
    """Return the argument of this name that is bound to an attack, perhaps inside another; None without."""
    given = (layer.keywords for layer in layers(attack) if isinstance(layer, partial | Within))
    return next((keywords[name] for keywords in given if name in keywords), None)


def layers(attack: Any) -> Iterator[Any]:
    """Yield an attack and what it wraps, from outside to inside."""
    while attack is not None:
        yield attack
        attack = getattr(attack, "func", getattr(attack, "__wrapped__", None))

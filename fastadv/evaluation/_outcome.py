"""What one attack did to one batch, and what that comes to over all batches."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from fastadv.attacks import AttackResult, AutoAttackResult, Status
from fastadv.attacks.core.card import name_of
from fastadv.attacks.core.common import parameters_of
from fastadv.attacks.core.criterion import WRONG, Criterion
from fastadv.attacks.core.flags import DENIED, denied_flags, denied_in
from fastadv.attacks.core.result import FAILED, failed_flags
from fastadv.attacks.core.task import Classified
from fastadv.attacks.masking.evidence import counted
from fastadv.attacks.masking.flags import SQUARE_FLAG, Cost, blind, square_stands_out
from fastadv.attacks.methods.claims import UNTOLD, Within, checked, claim_flags, is_own, posed
from fastadv.data.imageset import Boxes
from fastadv.errors import InputError, NoGradientError
from fastadv.evaluation.draws import Draws
from fastadv.evaluation.named import Attack, bound, minimizes, takes, threat_of
from fastadv.evaluation.row import Components, Row
from fastadv.intervals import clopper_pearson
from fastadv.labels import LABELS, label_flags
from fastadv.text import percent, threat_text
from fastadv.threat import THREATS, Named, Threat
from fastadv.threat.through import Own

FEW = 8  # images; where there are fewer, a model may well see one class in all
FAR = 0.1  # how far below the stated accuracy the interval of the one measured must end
NARROWER = "a success is {}; samples that are wrong otherwise count as robust"
APART = 1e-3  # the difference of two passes, more than rounding makes
NOT_RUN = "zero_gradient: the attack could not run"
ELSEWHERE = "grey_box: made without a pass of the model given to the attack; one that sees it may break more"


@dataclass(frozen=True, eq=False)
class Batch(Classified):
    """The samples of a batch on the model's device, and which are right without an attack."""

    number: int
    y: Tensor
    correct: Tensor  # bool [B]
    failed: Tensor  # bool [B], without finite logits
    seen: Tensor  # int64 [K], how many images of the whole batch the model takes for each class

    def take(self, kept: Tensor) -> "Batch":
        """Return the batch of some samples."""
        names = ("x", "y", "ids", "rows", "clean", "correct", "failed")
        return replace(self, **{name: getattr(self, name)[kept] for name in names})

    def varies(self) -> bool:
        """Return whether another pass of x has other logits."""
        again, clean = self.classifier.verdict(self.x), self.clean
        return clean is not None and not torch.allclose(again, clean, APART, APART, equal_nan=True)

    def as_right(self, right: Tensor) -> "Batch":
        """Return the batch with logits of a draw in which the samples `right` bool [B] are."""
        logits, y = self.clean, self.y[:, None]
        assert logits is not None
        top = logits.argmax(1, keepdim=True)
        swapped = logits.scatter(1, y, logits.gather(1, top)).scatter(1, top, logits.gather(1, y))
        return replace(self, clean=torch.where((right & ~self.correct)[:, None], swapped, logits))


@dataclass(frozen=True)
class Part:
    """What one attack, or none, did to one batch: tensors [B, ...] on the CPU, and `notes` as JSON."""

    tensors: dict[str, Tensor]
    notes: dict[str, Any] = field(default_factory=dict)  # flags, remarks, the threat, costs of components

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]


def joined(parts: Sequence[Part], name: str) -> Tensor:
    """Return a tensor of all batches."""
    return torch.cat([part[name] for part in parts])


def columns(parts: Sequence[Part], group: str) -> dict[str, Tensor]:
    """Return the tensors of all batches whose names begin with that of the group, by the rest."""
    names = [name for name in parts[0].tensors if name.startswith(f"{group}.")]
    return {name.removeprefix(f"{group}."): joined(parts, name) for name in names}


def by_ids(attack: Attack, x: Tensor, ids: Tensor, sizes: Sequence[int]) -> Attack:
    """Return an attack with what is bound to it for each sample of the data set: of these samples alone."""
    for name in ("threat", "within", "targets", "mask"):
        value = bound(attack, name)
        each = value.radius if isinstance(value, Threat) else value
        if (
            not isinstance(each, Tensor)
            or not each.ndim
            or not (name == "within" or takes(attack, name))
            or (name == "mask" and each.shape[: -x.ndim + 1] in ((), (1,)))
        ):
            continue
        if len(each) not in sizes or len(each) <= int(ids.max()):
            what = "radius" if isinstance(value, Threat) else name
            raise InputError(
                f"{what}: expected one value, or one for each of the {sizes[0]} samples of the data set, got "
                f"{len(each)}"
            )
        at = ids.to(each.device)
        own = value.take(at) if isinstance(value, Threat) else value[at]
        attack = Within(attack, own) if name == "within" else partial(attack, **{name: own})
    return attack


def attempted(
    name: str, attack: Attack, batch: Batch, judged: Criterion, box: Boxes, claims: Counter[str]
) -> AttackResult:
    """Run an attack, with `ids` if it takes them; what one of the caller's own claims is checked.

    One that needs a gradient where there is none breaks nothing, and a flag says so.
    """
    options: dict[str, Any] = {"ids": batch.ids} if takes(attack, "ids") else {}
    # indicators of an evaluation are over all attacks and batches
    options |= {"indicators": False} if "indicators" in parameters_of(attack, wrapped=False) else {}
    x, y, right, check = batch.x, batch.y, batch.correct, is_own(attack)
    # an attack of the caller's own may pass the model without more
    frozen = batch.classifier
    model, forwards, backwards = frozen if check else batch, frozen.forwards, frozen.backwards
    out: Any
    try:
        out = attack(model, x.clone() if check else x, y.clone() if check else y, **options)
    except NoGradientError as error:
        nothing = {"success": torch.zeros_like(right), "zero_gradient": right}
        out, check = SimpleNamespace(x_adv=x, **nothing, flags=(f"{NOT_RUN} ({error})",)), True
    if not check:
        return out  # type: ignore[no-any-return]
    spent = frozen.forwards - forwards, frozen.backwards - backwards
    lows, highs = zip(*(box.values() if isinstance(box, Mapping) else [box]), strict=True)
    problem = posed(partial(bound, attack), out, frozen, batch, judged, (min(lows), max(highs)))
    result = checked(f"attacks[{name!r}]", out, problem, right, claims, spent)
    finished = not any(spent) and not torch.equal(result.x_adv, x)
    return replace(result, flags=(*result.flags, ELSEWHERE)) if finished else result


def untouched(batch: Batch, points: bool) -> dict[str, Tensor]:
    """Return the tensors of an attack that did nothing, with x_adv where `points` are kept."""
    size = len(batch.y)
    none = torch.zeros(size, dtype=torch.bool, device="cpu")
    tensors = {
        "broken": none,
        "distance": torch.full((size,), torch.nan, dtype=torch.float64, device="cpu"),
        "failed.attack": none.clone(),
        "unmoved": none.clone(),
        "unfinished": torch.full((size,), torch.nan, dtype=torch.float32, device="cpu"),
        "component": torch.full((size,), -1, device="cpu"),
        "cost": torch.zeros(2, dtype=torch.int64, device="cpu"),
        "seconds": torch.zeros(1, dtype=torch.float64, device="cpu"),
    }
    return tensors | ({"x_adv": batch.x.to("cpu", copy=True)} if points else {})


def write(tensors: dict[str, Tensor], result: AttackResult, batch: Batch, place: Tensor) -> None:
    """Write what an attack did to the samples of a batch into the tensors of all, at these places."""
    right, broken = batch.correct, batch.correct & result.success
    distance = torch.where(broken, result.distance.to(torch.float64), torch.inf)
    values = {
        "broken": broken,
        "distance": distance.masked_fill(~right, 0.0),
        "failed.attack": right & (result.status == int(Status.FAILED)),
        "unmoved": right & ~broken & result.zero_gradient,
        "unfinished": result.unfinished,
        "x_adv": result.x_adv,
    }
    if isinstance(result, AutoAttackResult):
        names = list(result.costs)
        by = torch.tensor([names.index(one) if one else -1 for one in result.by], device="cpu")
        values["component"] = by.masked_fill(~broken.cpu(), -1)
    for key, value in values.items():
        if key in tensors and value is not None:
            tensors[key][place] = value.to("cpu", tensors[key].dtype)


def notes_of(result: AttackResult, claims: Mapping[str, int]) -> dict[str, Any]:
    """Return what an attack says of a batch, as JSON."""
    notes = {"flags": list(getattr(result, "flags", ())), "method": getattr(result, "attack", "")}
    if claims:
        notes["claims"] = dict(claims)
    if result.threat is None:
        notes["remarks"] = [UNTOLD]
    elif (threat := _as_json(result.threat)) is not None:
        notes["threat"] = threat
    goal = result.goal
    narrower = goal.criterion.outputs == "classes" and goal.criterion != WRONG
    asked = [repr(goal.criterion)] * narrower + ["the target"] * (goal.targets is not None)
    notes["asked"] = ", ".join(asked)
    if goal.mask is not None:
        times = len(result.status) // len(goal.mask)  # one for all samples, or one for each
        notes["moving"] = [times * int(goal.mask.sum()), times * goal.mask.numel()]
    if result.parameters is not None:
        notes["parameters"] = counted(result.parameters, result.x_adv)
    if isinstance(result, AutoAttackResult):
        notes["method"] = f"AutoAttack {result.version}"
        notes |= {"remarks": list(result.notes), "costs": {k: asdict(v) for k, v in result.costs.items()}}
    return notes


def moving(parts: Sequence[Part]) -> float:
    """Return the share of the values of x that a mask let change; 1 without one."""
    counts = [part.notes["moving"] for part in parts if "moving" in part.notes]
    moved, values = (sum(each) for each in zip(*counts, strict=True)) if counts else (1, 1)
    return moved / values


def remarks(correct: Tensor, failed: Tensor, seen: Tensor, stated: float | None) -> list[str]:
    """Return what casts doubt on labels or model without an attack; bool [n] both, images seen by class.

    `stated` is the clean accuracy that the file of its weights states.
    """
    decided = correct[~failed]
    # logits that are not finite explain a low accuracy, too, as in the result of an attack
    flags = () if len(decided) < len(correct) else label_flags(int(decided.sum()), len(decided), len(seen))
    texts = [flag.removeprefix(LABELS).capitalize() for flag in flags]
    if int((seen > 0).sum()) == 1 and len(decided) >= FEW and not bool(decided.all()):
        texts.append("The model predicts one class for all images.")
    if stated and clopper_pearson(int(correct.sum()), len(correct))[1] < stated - FAR:
        texts.append(
            f"The clean accuracy is far below the {percent(stated)} that is stated of these weights: are the "
            "mean and deviation of its training in front of the model, and are the images of that set?"
        )
    return texts


def nearest(batch: Batch, parts: Sequence[Part]) -> dict[str, Tensor]:
    """Return the `Samples` of a batch, each with the nearest of its adversarial examples, by their fields."""
    names = ("x", "y", "ids", "correct", "failed")
    x, y, ids, correct, unusable = (getattr(batch, name).cpu() for name in names)
    distances = torch.empty(len(parts), len(y), device="cpu").double()
    x_adv, by = x.clone(), torch.full_like(ids, -1)
    distance = torch.where(correct | unusable, torch.inf, 0.0).double()
    status = torch.where(correct, int(Status.HELD), int(Status.ALREADY_WRONG))
    status[unusable] = int(Status.FAILED)
    for place, part in enumerate(parts):
        distances[place] = part["distance"]
        status[part["failed.attack"] & (by < 0)] = int(Status.FAILED)
        nearer = part["broken"] & ((by < 0) | (distances[place] < distance))
        x_adv[nearer], distance[nearer] = part["x_adv"][nearer].to(x.dtype), distances[place][nearer]
        by[nearer], status[nearer] = place, int(Status.BROKEN)
    return {
        "x": x, "x_adv": x_adv, "y": y, "ids": ids, "status": status, "distance": distance, "by": by,
        "success": (by >= 0) | (status == int(Status.ALREADY_WRONG)), "distances": distances.T.contiguous(),
    }  # fmt: skip


def draws_of(parts: Sequence[Part], verdict: Tensor, count: int) -> Draws | None:
    """Return the draws of all batches, `verdict` [n] being the one that counts; None for one draw."""
    return None if count == 1 else Draws(count, **columns(parts, "draws"), verdict=verdict)


def row(
    name: str, attack: Attack, correct: Tensor, parts: Sequence[Part], draws: int, clean: Draws | None
) -> Row:
    """Return one attack over all batches; `clean`: the draws at each x."""
    broken = joined(parts, "broken")
    forwards, backwards = torch.stack([part["cost"] for part in parts]).sum(0).tolist()
    components = _components(parts)
    refused = next((part.notes["refused"] for part in parts if "refused" in part.notes), "")
    asked = next((part.notes["asked"] for part in parts if part.notes.get("asked")), "")
    more = (NARROWER.format(asked),) * bool(asked)
    return Row(
        name=name,
        correct=correct,
        broken=broken,
        distance=joined(parts, "distance"),
        failed=int(joined(parts, "failed.attack").sum()),
        unmoved=int(joined(parts, "unmoved").sum()),
        forwards=forwards,
        backwards=backwards,
        seconds=sum(float(part["seconds"]) for part in parts),
        minimum_norm=minimizes(attack) and not refused,
        flags=_flags(parts, components),
        remarks=(*more, *_said(part.notes.get("remarks", ()) for part in parts)),
        components=components,
        draws=None if refused else draws_of(parts, correct & ~broken, draws),
        clean=None if refused else clean,
        refused=refused,
        threat=_threat(parts, threat_of(attack)) if not refused else _from_json(_as_json(threat_of(attack))),
        attack=name_of(attack),
        asked=asked,
        moving=moving(parts),
        method=next((part.notes.get("method", "") for part in parts if part.notes), ""),
        heading=getattr(attack, "title", ""),
        sums=columns(parts, "sums"),
    )


def unserved(attacks: Iterable[Attack], rows: Sequence[Row]) -> tuple[str, ...]:
    """Return the threats with a radius in which attacks were asked for, and none ran."""
    asked = [(threat_of(attack), row) for attack, row in zip(attacks, rows, strict=True)]
    ran = [threat for threat, row in asked if threat is not None and not row.refused]
    lacks = {
        row.within if row.threat else threat_text(threat)
        for threat, row in asked
        if row.refused and (threat is None or (threat.finite and not any(map(threat.same, ran))))
    }
    return tuple(sorted(lacks))


def _threat(parts: Sequence[Part], asked: Threat | None) -> Threat | None:
    """Return the threat of all batches; None where they had none or several."""
    known = [part.notes.get("threat") for part in parts if part.notes]  # none where no sample had logits
    *own, metric = _as_json(asked) or [None]
    # another process may know a function without a name by another metric
    known = [[*own, metric] if kept and kept[:-1] == own else kept for kept in known]
    return _from_json(known[0]) if known and all(other == known[0] for other in known) else None


def _from_json(kept: Sequence[Any] | None) -> Threat | None:
    if kept is None:
        return None
    kind, name, radius, low, high, does = kept
    if kind:
        return (Named if kind == "map" else Own)(radius, (low, high), name=name, _does=does)
    return THREATS[name](radius, (low, high))


def _as_json(threat: Threat | None) -> list[Any] | None:
    """Return what is kept of a threat: its kind, "" for a known norm, name, radius, box and metric."""
    if threat is None or isinstance(threat.radius, Tensor):
        return None
    known, of = isinstance(threat, Named), type(threat)
    kind = "" if of is THREATS.get(threat.norm) else "map" if known else "own"
    # a norm of the caller's own may have inherited the name of another
    name = threat.norm if known or not kind else vars(of).get("symbol", of.__name__)
    return [kind, name, threat.radius, *threat.box, threat.metric]


def _flags(parts: Sequence[Part], components: Components | None) -> tuple[str, ...]:
    """Return the flags of the batches; what counts samples is about all of them."""

    def counts(flag: str) -> bool:
        return flag == SQUARE_FLAG or flag.startswith((FAILED, LABELS, DENIED))

    said = [part.notes.get("flags", ()) for part in parts]
    flags = _said([flag for flag in texts if not counts(flag)] for texts in said)
    flags += denied_flags(sum(map(denied_in, said)))
    samples = sum(len(part["broken"]) for part in parts)
    flags += claim_flags(sum((Counter(part.notes.get("claims", {})) for part in parts), Counter()))
    flags += failed_flags(0, int(joined(parts, "failed.attack").sum()), samples)
    if components is None or any("parameters" in part.notes for part in parts):
        return flags
    broken = int(components.by_any_of(blind(components.costs)).sum())
    return (*flags, SQUARE_FLAG) if square_stands_out(broken, samples) else flags


def _said(texts: Iterable[Sequence[str]]) -> tuple[str, ...]:
    """Return what was said of the batches, each once, with their number where it was not said of all."""
    batches = list(texts)
    count = Counter(text for batch in batches for text in dict.fromkeys(batch))
    return tuple(
        text if times == len(batches) else f"{text} (in {times} of {len(batches)} batches)"
        for text, times in count.items()
    )


def _components(parts: Sequence[Part]) -> Components | None:
    """Return the components of all batches; None for an attack that has none."""
    if not any("costs" in part.notes for part in parts):
        return None
    costs, by = dict[str, dict[str, Any]](), []
    for part in parts:
        here = part.notes.get("costs", {})
        for name, cost in here.items():
            before = costs.get(name, dict.fromkeys(cost, 0))
            costs[name] = {key: before[key] + value for key, value in cost.items()}
        # the last place is for -1, which stands for no component
        places = torch.tensor([*map(list(costs).index, here), -1], device="cpu")
        by.append(places[part["component"]])
    return Components(torch.cat(by), {name: Cost(**cost) for name, cost in costs.items()})

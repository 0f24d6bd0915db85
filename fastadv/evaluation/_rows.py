"""What an attack did over all batches, as a row of the table."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fastadv.attacks import Status
from fastadv.attacks.core.card import name_of
from fastadv.attacks.masking.flags import SQUARE_FLAG, Cost, blind, square_stands_out
from fastadv.evaluation.draws import Draws
from fastadv.evaluation.row import Components, Row
from fastadv.intervals import clopper_pearson
from fastadv.labels import LABELS, label_flags
from fastadv.measure.batch import Batch
from fastadv.measure.bound import Attack, minimizes, threat_of
from fastadv.measure.outcome import Part, columns, flags_of, joined, said
from fastadv.measure.threats import threat_as_json, threat_from_json
from fastadv.text import percent, threat_text
from fastadv.threat import Threat

FEW = 8  # images; where there are fewer, a model may well see one class in all
FAR = 0.1  # how far below the stated accuracy the interval of the one measured must end
NARROWER = "a success is {}; samples that are wrong otherwise count as robust"


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


def by_norm(attacks: Mapping[str, Attack]) -> list[list[int]]:
    """Return the places of the attacks of each metric, where there are several metrics; else nothing."""
    places: dict[str, list[int]] = {}
    for place, threat in enumerate(map(threat_of, attacks.values())):
        if threat is not None:
            places.setdefault(threat.metric, []).append(place)
    return [*places.values()] if len(places) > 1 else []


def nearest(batch: Batch, parts: Sequence[Part], places: Sequence[int] | None = None) -> dict[str, Tensor]:
    """Return the `Samples` of a batch, each with the nearest of its adversarial examples, by their fields.

    By all attacks, or by those at `places`.
    """
    names = ("x", "y", "ids", "correct", "failed")
    x, y, ids, correct, unusable = (getattr(batch, name).cpu() for name in names)
    distances = torch.empty(len(parts), len(y), device="cpu").double()
    x_adv, by = x.clone(), torch.full_like(ids, -1)
    distance = torch.where(correct | unusable, torch.inf, 0.0).double()
    status = torch.where(correct, int(Status.HELD), int(Status.ALREADY_WRONG))
    status[unusable] = int(Status.FAILED)
    for place, part in enumerate(parts):
        distances[place] = part["distance"]
        if places is not None and place not in places:
            continue
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
    components = components_of(parts)
    refused = next((part.notes["refused"] for part in parts if "refused" in part.notes), "")
    asked = next((part.notes["asked"] for part in parts if part.notes.get("asked")), "")
    more = (NARROWER.format(asked),) * bool(asked)
    threat = threat_of(attack)
    if threat is not None and isinstance(threat.radius, Tensor):  # of which the table keeps no threat
        more += (f"within {threat_text(threat)}",)
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
        flags=flags_of(parts) + square_flag(parts, components),
        remarks=(*more, *said(part.notes.get("remarks", ()) for part in parts)),
        components=components,
        draws=None if refused else draws_of(parts, correct & ~broken, draws),
        clean=None if refused else clean,
        refused=refused,
        threat=_threat(parts, threat, bool(refused)),
        attack=name_of(attack),
        asked=asked,
        moving=moving(parts),
        method=next((part.notes.get("method", "") for part in parts if part.notes), ""),
        heading=getattr(attack, "title", ""),
        sums=columns(parts, "sums"),
    )


def square_flag(parts: Sequence[Part], components: Components | None) -> tuple[str, ...]:
    """Return the flag of AutoAttack where its blind search broke what gradients did not; not of maps."""
    if components is None or any("parameters" in part.notes for part in parts):
        return ()
    broken = int(components.by_any_of(blind(components.costs)).sum())
    return (SQUARE_FLAG,) * square_stands_out(broken, len(components.by))


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


def _threat(parts: Sequence[Part], asked: Threat | None, refused: bool) -> Threat | None:
    """Return the threat of all batches, or the one that is refused; None where they had none or several."""
    if refused:
        return threat_from_json(threat_as_json(asked))
    known = [part.notes.get("threat") for part in parts if part.notes]  # none where no sample had logits
    *own, metric = threat_as_json(asked) or [None]
    # another process may know a function without a name by another metric
    known = [[*own, metric] if kept and kept[:-1] == own else kept for kept in known]
    return threat_from_json(known[0]) if known and all(other == known[0] for other in known) else None


def components_of(parts: Sequence[Part]) -> Components | None:
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

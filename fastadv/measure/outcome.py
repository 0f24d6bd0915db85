"""What one attack does to one batch."""

import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from types import SimpleNamespace
from typing import Any
from zlib import crc32

import torch
from torch import Tensor

from fastadv.attacks import AttackResult, AutoAttackResult, Status
from fastadv.attacks.core.common import parameters_of
from fastadv.attacks.core.criterion import WRONG
from fastadv.attacks.core.flags import DENIED, denied_flags, denied_in
from fastadv.attacks.core.result import FAILED, failed_flags
from fastadv.attacks.core.trial import TWO_ANSWERS
from fastadv.attacks.masking.evidence import counted
from fastadv.attacks.masking.flags import SQUARE_FLAG
from fastadv.attacks.methods.claims import UNTOLD, Within, checked, claim_flags, is_own, posed
from fastadv.errors import InputError, NoGradientError
from fastadv.labels import LABELS
from fastadv.measure.batch import Batch
from fastadv.measure.bound import Attack, bound, takes
from fastadv.measure.drawing import RANDOMIZED
from fastadv.measure.job import Job
from fastadv.measure.threats import threat_as_json
from fastadv.threat import Threat

REFUSALS = ("threat", "radius", "points")  # arguments of which an attack says that it does not serve a threat
NOT_RUN = "zero_gradient: the attack could not run"
ELSEWHERE = "grey_box: made without a pass of the model given to the attack; one that sees it may break more"


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


def attacked(job: Job, name: str, attack: Attack, batch: Batch, points: bool = False) -> tuple[Part, Tensor]:
    """Return what an attack does to a batch, or why it does not serve the threat; and where it leads, like x.

    Samples without finite logits are not attacked. With `points` the part has x_adv.
    """
    tensors, usable = untouched(batch, points), (~batch.failed).nonzero().flatten()
    if not len(usable):
        return Part(tensors), batch.x
    some, claims = batch.take(usable), Counter[str]()
    started, compared = time.perf_counter(), job.frozen.compared
    try:
        with job.drawing.kept(batch.x.device, batch.number, 1 + crc32(name.encode())):
            result = attempted(name, attack, some, job, claims)
    except InputError as error:
        if error.argument not in REFUSALS:
            raise
        return Part(tensors, {"refused": str(error)}), batch.x
    # reading the results waits for the device: the seconds are then the attack's own
    write(tensors, result, some, usable.cpu())
    tensors["seconds"][0] = time.perf_counter() - started
    # passes that compare the copy at a process's first batches do not count: else more processes would
    # count more
    passes = zip((result.forwards, result.backwards), job.frozen.compared, compared, strict=True)
    cost = [int(total) - (now - then) for total, now, then in passes]
    tensors["cost"] = torch.tensor(cost, device="cpu")
    notes = notes_of(result, claims)
    wrong = some.correct & (result.status == int(Status.ALREADY_WRONG))
    changed = len(usable) == len(batch.y) and bool(wrong.any())
    if TWO_ANSWERS in notes["flags"] or changed or (denied_in(notes["flags"]) and batch.varies()):
        notes["flags"].append(TWO_ANSWERS if job.drawing.count > 1 else RANDOMIZED)
    return Part(tensors, notes), batch.x.index_copy(0, usable, result.x_adv.to(batch.x))


def check_some_ran(parts: Sequence[Part]) -> None:
    """Raise InputError where none of the attacks on a batch serves its threat."""
    if parts and all("refused" in part.notes for part in parts):
        raise InputError(parts[0].notes["refused"])


def attempted(name: str, attack: Attack, batch: Batch, job: Job, claims: Counter[str]) -> AttackResult:
    """Run an attack, with `ids` if it takes them; what one of the caller's own claims is checked.

    One that needs a gradient where there is none breaks nothing, and a flag says so.
    """
    attack = by_ids(attack, batch.x, batch.ids, job.sizes)
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
    lows, highs = zip(*(job.box.values() if isinstance(job.box, Mapping) else [job.box]), strict=True)
    problem = posed(partial(bound, attack), out, frozen, batch, job.criterion, (min(lows), max(highs)))
    result = checked(f"attacks[{name!r}]", out, problem, right, claims, spent)
    finished = not any(spent) and not torch.equal(result.x_adv, x)
    return replace(result, flags=(*result.flags, ELSEWHERE)) if finished else result


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
    elif (threat := threat_as_json(result.threat)) is not None:
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


def flags_of(parts: Sequence[Part]) -> tuple[str, ...]:
    """Return the flags of the batches; what counts samples is about all of them."""

    def counts(flag: str) -> bool:
        return flag == SQUARE_FLAG or flag.startswith((FAILED, LABELS, DENIED))

    flags = [part.notes.get("flags", ()) for part in parts]
    claims = sum((Counter(part.notes.get("claims", {})) for part in parts), Counter[str]())
    return (
        *said([flag for flag in texts if not counts(flag)] for texts in flags),
        *denied_flags(sum(map(denied_in, flags))),
        *claim_flags(claims),
        *failed_flags(0, int(joined(parts, "failed.attack").sum()), sum(len(p["broken"]) for p in parts)),
    )


def said(texts: Iterable[Sequence[str]]) -> tuple[str, ...]:
    """Return what was said of the batches, each once, with their number where it was not said of all."""
    batches = list(texts)
    count = Counter(text for batch in batches for text in dict.fromkeys(batch))
    return tuple(
        text if times == len(batches) else f"{text} (in {times} of {len(batches)} batches)"
        for text, times in count.items()
    )

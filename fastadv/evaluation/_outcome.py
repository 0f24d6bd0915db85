"""What one attack did to one batch, and what that comes to over all batches."""

import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, field
from functools import partial
from types import SimpleNamespace
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from fastadv.attacks import AttackResult, AutoAttackResult, Status
from fastadv.attacks.core.common import parameters_of
from fastadv.attacks.core.criterion import WRONG, Criterion, Goal
from fastadv.attacks.core.result import FAILED, failed_flags
from fastadv.attacks.core.trial import TWO_ANSWERS, right_at_times
from fastadv.attacks.masking.flags import SQUARE_FLAG, Cost, blind, square_stands_out
from fastadv.attacks.methods.claims import checked, claim_flags, is_own, posed
from fastadv.attacks.special.labels import LABELS, label_flags
from fastadv.data.imageset import UNIT, Boxes
from fastadv.engine import Prepared
from fastadv.errors import InputError, NoGradientError
from fastadv.evaluation.draws import RANDOMIZED, TENSORS, Drawing, Draws
from fastadv.evaluation.row import Components, Row, Samples
from fastadv.evaluation.sums import Sums, sums_at
from fastadv.threat import THREATS, Named, Threat
from fastadv.threat.through import Own

REFUSALS = ("threat", "radius", "points")  # arguments of which an attack says that it does not serve a threat
FEW = 8  # images; where there are fewer, a model may well see one class in all
NARROWER = "a success is {}; samples that are wrong otherwise count as robust"
NOT_RUN = "zero_gradient: the attack could not run"
BLOCK, LINE = 1 << 20, 64  # bytes of a block of small results, and to which each is aligned

Attack = Callable[..., AttackResult]
"""(model, x, y) or (model, x, y, ids=ids) -> AttackResult or x_adv: partial(fa.attacks.pgd, threat=L)."""


Counted = Callable[[Tensor], dict[str, Tensor]]
"""Of points x_adv [B, ...] of a batch: `counted_at`."""


class Batch(NamedTuple):
    """Samples, and which are right without an attack, on the model's device; `failed`: logits not finite."""

    x: Tensor
    y: Tensor
    ids: Tensor
    right: Tensor
    failed: Tensor
    logits: Tensor
    drawn: Tensor  # bool [B], right in some draw of x, where there are several

    @property
    def correct(self) -> Tensor:
        """bool [B]."""
        return self.right & ~self.failed

    def take(self, kept: Tensor) -> "Batch":
        return Batch(*(value[kept] for value in self))


@dataclass
class Part:
    """The outcome of one attack on one batch: tensors on the CPU, and what it says in words, JSON-able."""

    tensors: dict[str, Tensor]
    told: dict[str, Any] = field(default_factory=dict)  # flags, remarks, the threat, the costs of components

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]


class Shelf:
    """Copies tensors into blocks of their own."""

    # small results between batches split the memory which their passes leave, and the next need more

    def __init__(self) -> None:
        self._block, self._used = torch.empty(0, dtype=torch.uint8, device="cpu"), 0

    def keep(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return them as copies, on the CPU; large ones as they are."""
        return {name: self._kept(tensor) for name, tensor in tensors.items()}

    def _kept(self, tensor: Tensor) -> Tensor:
        size = tensor.numel() * tensor.element_size()
        if size > BLOCK // 4:
            return tensor
        if self._used + size > len(self._block):
            self._block, self._used = torch.empty(BLOCK, dtype=torch.uint8, device="cpu"), 0
        place = self._block[self._used : self._used + size]
        self._used += math.ceil(size / LINE) * LINE
        return place.view(tensor.dtype).view(tensor.shape).copy_(tensor)


def attempted(
    name: str, attack: Attack, frozen: Prepared, batch: Batch, judged: Criterion, box: Boxes,
    claims: Counter[str],
) -> AttackResult:  # fmt: skip
    """Run an attack, with `ids` if it takes them; what one of the caller's own claims is checked.

    One that needs a gradient where there is none breaks nothing, and a flag says so.
    """
    options: dict[str, Any] = {"ids": batch.ids} if takes(attack, "ids") else {}
    # indicators of an evaluation are over all attacks and batches
    options |= {"indicators": False} if "indicators" in parameters_of(attack, wrapped=False) else {}
    own, forwards, backwards = is_own(attack), frozen.forwards, frozen.backwards
    x, y, right = batch.x, batch.y, batch.correct
    frozen.asks_for(batch.ids)  # an attack of the caller's own may pass the model without more
    try:
        out = attack(frozen, x.clone() if own else x, y.clone() if own else y, **options)
    except NoGradientError as error:
        none, told = torch.zeros_like(right), f"{NOT_RUN} ({error})"
        given = SimpleNamespace(x_adv=x, success=none, zero_gradient=right, flags=(told,))
        out, own = cast(AttackResult, given), True
    except InputError as error:
        of_data = bound(attack, name := error.argument) if error.argument in ("targets", "mask") else None
        if not isinstance(of_data, Tensor) or not of_data.ndim or len(of_data) == len(x):
            raise
        do = f"pass a function (model, x, y, ids) that gives the attack {name}[ids]"
        raise InputError(f"{error}; samples come in batches: {do}") from error
    if not own:
        return out
    spent = frozen.forwards - forwards, frozen.backwards - backwards
    lows, highs = zip(*(box.values() if isinstance(box, Mapping) else [box]), strict=True)
    asked = posed(partial(bound, attack), out, frozen, batch, judged, (min(lows), max(highs)))
    return checked(f"attacks[{name!r}]", out, frozen, asked, right, claims, spent)


def takes(attack: Attack, name: str) -> bool:
    """Return whether an attack can be called with an argument of this name, as far as it tells."""
    known = parameters_of(attack, wrapped=False)
    return not known or name in known or any(each.kind is each.VAR_KEYWORD for each in known.values())


def bound(attack: Any, name: str) -> Any:
    """Return the argument of this name that is bound to an attack, perhaps inside another; None without."""
    partials = (each for each in layers(attack) if isinstance(each, partial) and name in each.keywords)
    return next((each.keywords[name] for each in partials), None)


def layers(attack: Any) -> Iterator[Any]:
    """Yield an attack and what it wraps, from outside to inside."""
    while attack is not None:
        yield attack
        attack = getattr(attack, "func", getattr(attack, "__wrapped__", None))


def untouched(whole: Batch, keep_samples: bool) -> Part:
    """Return the outcome of an attack that did nothing."""
    size = len(whole.y)
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
    if keep_samples:
        tensors["x_adv"] = whole.x.to("cpu", copy=True)
    return Part(tensors)


def outcome(
    name: str, attack: Attack, frozen: Prepared, whole: Batch, keep_samples: bool, several: bool, at: Counted,
    judged: Criterion = WRONG, box: Boxes = UNIT,
) -> Part:  # fmt: skip
    """Run one attack on one batch; `several`: on all samples that are right in some draw."""
    size, part = len(whole.y), untouched(whole, keep_samples)
    tensors = part.tensors
    broken, failed, unmoved = (tensors[name] for name in ("broken", "failed.attack", "unmoved"))
    usable = (~whole.failed).nonzero().flatten()
    if not len(usable):
        tensors |= at(whole.x)
        return part
    batch = whole.take(usable)
    started, claims = time.perf_counter(), Counter[str]()
    compared = frozen.compared
    held = right_at_times.set(batch.ids[batch.right | batch.drawn] if several else None)
    try:
        result = attempted(name, attack, frozen, batch, judged, box, claims)
    finally:
        right_at_times.reset(held)
    right = batch.correct
    success = right & result.success
    distance = torch.where(success, result.distance.to(torch.float64), torch.inf).masked_fill(~right, 0.0)
    place = usable.cpu()
    # reading the results waits for the device: the seconds are then the attack's own
    broken[place], tensors["distance"][place] = success.cpu(), distance.cpu()
    failed[place] = (right & (result.status == int(Status.FAILED))).cpu()
    unmoved[place] = (right & ~success & result.zero_gradient).cpu()
    if result.unfinished is not None:
        tensors["unfinished"][place] = result.unfinished.to("cpu", torch.float32)
    tensors["seconds"][0] = time.perf_counter() - started
    # without what a search compares at the first batches of a process: a table is the same for any number
    beside = frozen.compared[0] - compared[0], frozen.compared[1] - compared[1]
    cost = int(result.forwards) - beside[0], int(result.backwards) - beside[1]
    tensors["cost"] = torch.tensor(cost, device="cpu")
    part.told = {"flags": list(getattr(result, "flags", ())), "method": getattr(result, "attack", "")}
    part.told |= {"claims": dict(claims)} if claims else {}
    if result.threat is not None and not isinstance(result.threat.radius, Tensor):
        part.told["threat"] = _told(result.threat)
    tensors |= _asked(result.goal, place, size)
    if result.goal.criterion.outputs == "classes" and result.goal.criterion != WRONG:
        part.told["criterion"] = repr(result.goal.criterion)
    if result.parameters is not None:
        part.told["parameters"] = result.parameters.shape[1:].numel()
    skipped = result.status == int(Status.ALREADY_WRONG)
    twice = TWO_ANSWERS in part.told["flags"] or (len(usable) == size and bool((right & skipped).any()))
    if twice and not several:
        part.told["flags"].append(RANDOMIZED)
    if isinstance(result, AutoAttackResult):
        part.told["method"] = f"AutoAttack {result.version}"
        part.told |= {"remarks": list(result.notes), "costs": {k: asdict(v) for k, v in result.costs.items()}}
        names = list(result.costs)
        places = [names.index(one) if one else -1 for one in result.by]
        tensors["component"][place] = torch.tensor(places, device="cpu")
        tensors["component"][~broken] = -1
    if keep_samples:
        tensors["x_adv"][place] = result.x_adv.to("cpu", tensors["x_adv"].dtype)
    tensors |= at(whole.x.index_copy(0, usable, result.x_adv.to(whole.x)))
    return part


def _asked(goal: Goal, place: Tensor, size: int) -> dict[str, Tensor]:
    """Return the targets [n, ...] and the mask [1 or n, ...] of a batch, known of the samples at `place`."""
    found = {}
    for name, given in (("targets", goal.targets), ("mask", goal.mask)):
        if given is not None and name == "mask" and bool((given == given[:1]).all()):
            found[name] = given[:1].to("cpu", copy=True)
        elif given is not None:
            whole = torch.zeros(size, *given.shape[1:], dtype=given.dtype, device="cpu")
            found[name] = whole.index_copy(0, place, given.cpu())
    return found


def wanted_of(parts: Sequence[Part]) -> str:
    """Return the criterion of classes that was asked for; "" for any wrong class."""
    return next((part.told["criterion"] for part in parts if "criterion" in part.told), "")


def of_all(parts: Sequence[Part], name: str) -> Tensor | None:
    """Return the targets [N, ...] or the mask [1 or N, ...] of all batches; None without."""
    known = [part[name] for part in parts if name in part.tensors]
    if not known:
        return None
    first = known[0]
    if name == "mask" and len(first) == 1 and all(torch.equal(each, first) for each in known):
        return first
    blank = torch.zeros_like(first[:1])  # of a batch without a sample to attack
    every = ((part.tensors.get(name, blank), len(part["broken"])) for part in parts)
    return torch.cat([each.expand(size, *first.shape[1:]) for each, size in every])


def counted_at(
    x_adv: Tensor, frozen: Prepared, y: Tensor, ids: Tensor, criterion: Criterion, drawing: Drawing,
    number: int,
) -> dict[str, Tensor]:  # fmt: skip
    """Return what counts at points x_adv [B, ...] of the batch `number`: sums of the criterion, and draws."""
    frozen.asks_for(ids)
    with drawing.kept(x_adv.device, number, 0, 1):
        found = {f"sums.{key}": value for key, value in sums_at(criterion, frozen, x_adv, y).items()}
    drawn = drawing.draw(frozen, x_adv, y, ids, number) if drawing.count > 1 else {}
    return found | {f"draws.{key}": value.cpu() for key, value in drawn.items()}


def all_sums(parts: Sequence[Mapping[str, Tensor]]) -> Sums:
    names = [name for name in parts[0] if name.startswith("sums.")] if parts else []
    return {name.removeprefix("sums."): torch.cat([part[name] for part in parts]) for name in names}


def remarks(correct: Tensor, failed: Tensor, parts: Sequence[Mapping[str, Tensor]]) -> list[str]:
    """Return what casts doubt on labels or model without an attack; bool [n] both, parts of each batch."""
    seen = torch.stack([part["seen"] for part in parts]).sum(0)  # images of each class, as the model sees it
    decided = correct[~failed]
    # logits that are not finite explain a low accuracy, too, as in the result of an attack
    flags = () if len(decided) < len(correct) else label_flags(int(decided.sum()), len(decided), len(seen))
    found = [flag.removeprefix(LABELS).capitalize() for flag in flags]
    if int((seen > 0).sum()) == 1 and len(decided) >= FEW and not bool(decided.all()):
        found.append("The model predicts one class for all images.")
    return found


def nearest(batch: Batch, parts: Sequence[Part]) -> Samples:
    """Return the samples of a batch, each with the nearest of its adversarial examples; no components yet."""
    x, y, ids, _, unusable, *_ = (value.cpu() for value in batch)
    correct = batch.correct.cpu()
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
    success = (by >= 0) | (status == int(Status.ALREADY_WRONG))
    component = torch.full_like(by, -1)
    return Samples(x, x_adv, y, ids, success, status, distance, by, component, distances.T.contiguous())


def row(
    name: str, correct: Tensor, minimum_norm: bool, parts: Sequence[Part], drawing: Drawing,
    clean: Draws | None = None,
) -> Row:  # fmt: skip
    """Return one attack over all batches; clean: the draws at each x."""
    whole = {key: torch.cat([part[key] for part in parts]) for key in ("broken", "distance")}
    forwards, backwards = torch.stack([part["cost"] for part in parts]).sum(0).tolist()
    components, targets, mask = _components(parts), of_all(parts, "targets"), of_all(parts, "mask")
    verdict = correct & ~whole["broken"]
    refused = next((part.told["refused"] for part in parts if "refused" in part.told), "")
    asked = ", ".join(filter(None, [wanted_of(parts), "the target" * (targets is not None)]))
    more = (NARROWER.format(asked),) * bool(asked)
    return Row(
        name=name,
        correct=correct,
        broken=whole["broken"],
        distance=whole["distance"],
        failed=sum(int(part["failed.attack"].sum()) for part in parts),
        unmoved=sum(int(part["unmoved"].sum()) for part in parts),
        forwards=forwards,
        backwards=backwards,
        seconds=sum(float(part["seconds"]) for part in parts),
        minimum_norm=minimum_norm and not refused,
        flags=_flags(parts, components),
        remarks=(*more, *_said(part.told.get("remarks", ()) for part in parts)),
        components=components,
        draws=None if refused else all_draws([one.tensors for one in parts], verdict, drawing),
        clean=None if refused else clean,
        refused=refused,
        threat=_threat(parts),
        asked=asked,
        moving=1.0 if mask is None else float(mask.double().mean()),
        method=next((part.told.get("method", "") for part in parts if part.told), ""),
        sums=all_sums([part.tensors for part in parts]),
    )


def _threat(parts: Sequence[Part]) -> Threat | None:
    """Return the threat of all batches; None where they had none or several."""
    told = [part.told.get("threat") for part in parts if part.told]  # none where no sample had logits
    if not told or told[0] is None or any(each != told[0] for each in told):
        return None
    kind, name, radius, low, high, does = told[0]
    if kind:
        return (Named if kind == "map" else Own)(radius, (low, high), name=name, _does=does)
    return THREATS[name](radius, (low, high))


def _told(threat: Threat) -> list[Any]:
    """Return what is kept of a threat: its kind, "" for a known norm, name, radius, box and metric."""
    known, of = isinstance(threat, Named), type(threat)
    kind = "" if of is THREATS.get(threat.norm) else "map" if known else "own"
    # a norm of the caller's own may have inherited the name of another
    name = threat.norm if known or not kind else vars(of).get("symbol", of.__name__)
    return [kind, name, threat.radius, *threat.box, threat.metric]


def all_draws(parts: Sequence[dict[str, Tensor]], verdict: Tensor, drawing: Drawing) -> Draws | None:
    """Return the draws of all batches, `verdict` [n] being the one that counts; None for one draw."""
    if drawing.count == 1:
        return None
    drawn = {key: torch.cat([part[f"draws.{key}"] for part in parts]) for key in TENSORS}
    return Draws(drawing.count, **drawn, verdict=verdict)


def _flags(parts: Sequence[Part], components: Components | None) -> tuple[str, ...]:
    """Return the flags of the batches; what counts samples is about all of them."""

    def counts(flag: str) -> bool:
        return flag == SQUARE_FLAG or flag.startswith((FAILED, LABELS))

    flags = _said([flag for flag in part.told.get("flags", ()) if not counts(flag)] for part in parts)
    samples = sum(len(part["broken"]) for part in parts)
    flags += claim_flags(sum((Counter(part.told.get("claims", {})) for part in parts), Counter()))
    flags += failed_flags(0, sum(int(part["failed.attack"].sum()) for part in parts), samples)
    if components is None or any("parameters" in part.told for part in parts):
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
    if not any("costs" in part.told for part in parts):
        return None
    costs: dict[str, Cost] = {}
    by = []
    for part in parts:
        own = {name: Cost(**cost) for name, cost in part.told.get("costs", {}).items()}
        for name, cost in own.items():
            before = astuple(costs.get(name, Cost(0, 0, 0, 0, 0.0)))
            costs[name] = Cost(*(a + b for a, b in zip(before, astuple(cost), strict=True)))
        # the last place is for -1, which stands for no component
        places = torch.tensor([*map(list(costs).index, own), -1], device="cpu")
        by.append(places[part["component"]])
    return Components(torch.cat(by), costs)

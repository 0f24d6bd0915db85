"""How an audit runs: who audits which attacks, in which order samples are drawn, and for how long."""

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fastadv import rng
from fastadv.attacks.core.card import REGISTRY, name_of
from fastadv.attacks.core.checks import check_norm
from fastadv.attacks.core.common import planned
from fastadv.attacks.core.criterion import Criterion
from fastadv.attacks.methods.claims import is_own
from fastadv.errors import InputError
from fastadv.evaluation._events import Events
from fastadv.evaluation._parts import Parts
from fastadv.evaluation._rows import components_of, square_flag
from fastadv.evaluation.audit import Audit, Audited
from fastadv.evaluation.export import published
from fastadv.evaluation.row import Group, Row
from fastadv.hashes import data_hash
from fastadv.measure.attacks import GOAL, function_of, named
from fastadv.measure.bound import Attack, bound, takes, threat_of
from fastadv.measure.job import Job
from fastadv.measure.outcome import Part, attacked, flags_of
from fastadv.runs import processes
from fastadv.runs.identity import BY_NAME, describe
from fastadv.threat import Through

TOGETHER = 128  # samples of a batch on a CPU
FIRST = 4  # samples of the first batch where time is limited, before any is measured
PIECES = 4  # into which the rest of the time is cut: what is left of it at the end is less than a batch


@dataclass(frozen=True)
class Auditor:
    """The attack that audits those of one threat and goal."""

    attack: Attack
    audits: tuple[str, ...]  # the names of their rows
    about: Any  # the attack as JSON: by it a folder knows its parts


def drawn_order(ids: Tensor, seed: int) -> Tensor:
    """Return the samples `ids` int64 [m] in the order in which they are drawn, by seed and number alone."""
    ids = ids.sort().values
    words = rng.bits(2, rng.derive(seed, "audit"), ids)
    return ids[((words[:, 0] << 31) | (words[:, 1] >> 1)).argsort(stable=True)]


def auditors(
    job: Job, audit: Audit, seed: int, criterion: Criterion | None, code: str | None
) -> tuple[Auditor, ...]:
    """Return the auditor of each threat and goal; InputError before any work where it cannot audit."""
    attack, alike = function_of("audit", audit.attack), dict[str, list[str]]()
    own = threat_of(attack)
    for name, one in job.attacks.items():
        threat = threat_of(one)
        if threat is not None and threat.finite and (own is None or own.same(threat)):
            goal = [bound(one, key) for key in GOAL[1:]]
            alike.setdefault(str(describe([threat, *goal], identity=BY_NAME)), []).append(name)
    if not alike:
        asked = "the radius that is bound to the auditor" if own else "a radius"
        raise InputError(f"audit: expected attacks within {asked}, got none; pass threat=fa.Linf(8 / 255)")
    card = REGISTRY.get("" if is_own(attack) else name_of(attack))
    if card is not None and card.needs == "classes" and job.criterion.outputs == "any":
        raise InputError(
            f"audit: expected an attack that serves {job.criterion!r}, got {card.name}, which needs classes"
        )
    made = [(_towards(attack, job.attacks[names[0]], seed, criterion), names) for names in alike.values()]
    return tuple(Auditor(one, tuple(names), describe(one, identity=code)) for one, names in made)


def _towards(attack: Attack, audited: Attack, seed: int, criterion: Criterion | None) -> Attack:
    """Return an auditor with threat and goal of an attack that it audits."""
    goal = {key: value for key in GOAL[1:] if (value := bound(audited, key)) is not None}
    for name in ("targets", "mask"):
        if name in goal and not takes(attack, name):
            raise InputError(f"audit: expected an attack that takes {name}=, as the audited do, got none")
    threat = threat_of(audited)
    card = None if is_own(attack) else REGISTRY.get(name_of(attack))
    if threat is not None and card is not None:
        try:
            check_norm(card.name, threat.ball if isinstance(threat, Through) else threat, card.norms)
        except InputError as error:
            raise InputError(f"audit: {error}") from error
    attack = partial(attack, **{key: value for key, value in goal.items() if takes(attack, key)})
    free = None if threat_of(attack) else threat
    return named({"audit": attack}, free, criterion=criterion, seed=seed)["audit"]


@dataclass(frozen=True)
class Auditing:
    """An audit as it runs, with what is kept and told of it."""

    job: Job
    audit: Audit
    auditors: tuple[Auditor, ...]
    seed: int
    parts: Parts
    events: Events

    def results(self, rows: Sequence[Row], ids: Tensor) -> Iterator[Audited]:
        """Yield what is found among the samples `ids` int64 [n] that hold, threat by threat."""
        rest = math.inf if self.audit.seconds is None else self.audit.seconds
        for place, auditor in enumerate(self.auditors):
            started = time.perf_counter()
            screen = tuple(row for row in rows if row.name in auditor.audits and not row.refused)
            if not screen:
                continue
            held = ids[Group(screen[0].threat, screen).held(rows)]
            order = drawn_order(held, self.seed)[: self.audit.samples]
            # the time that is left is shared by the threats that are left
            parts = self._attacked(auditor, screen, order, rest / (len(self.auditors) - place))
            known, hit = (torch.cat([order[:0], *one]) for one in _columns(parts))
            # a stopped audit of more samples than before has some of before behind others that it lacks
            drawn = order[: int(torch.isin(order, known).cumprod(0).sum())]
            parts = [part for part in parts if bool(torch.isin(part["ids"], drawn).any())]
            method = next((part.notes.get("method", "") for part in parts), "")
            forwards, backwards = (sum(int(part["cost"][k]) for part in parts) for k in (0, 1))
            yield Audited(
                published(method or name_of(auditor.attack)), screen[0].threat, screen[0].within,
                len(ids), len(held), drawn, torch.isin(drawn, known[hit.bool()]), self.audit.confidence,
                sum(float(part["seconds"]) for part in parts), forwards, backwards, len(order),
                flags_of(parts) + square_flag(parts, components_of(parts)) if parts else (),
            )  # fmt: skip
            rest -= self._since(started)

    def _since(self, started: float) -> float:
        """Return the seconds since then in the first process, in all of them."""
        return processes.from_first(lambda: time.perf_counter() - started)

    def _attacked(self, auditor: Auditor, screen: Sequence[Row], order: Tensor, seconds: float) -> list[Part]:
        """Return what the auditor does to the samples, batch by batch; what is in the folder is read."""
        started, seal = time.perf_counter(), self.parts.seal_of(["audit", auditor.about])
        parts = processes.from_first(lambda: self._kept(seal, order))
        left = order[~torch.isin(order, torch.cat([order[:0], *_columns(parts)[0]]))]
        name = f"audit {screen[0].within}"
        self.events.went_on(name, self.audit.samples - len(left))
        attack = partial(self._attack, auditor, name, seal)
        while len(left):
            pace, rest = _pace(parts, auditor, screen), seconds - self._since(started)
            size = self._size(parts, pace, rest)
            if pace * min(size, len(left)) > rest:
                break
            batches = torch.split(left[: size * processes.world()], size)
            for part in processes.in_turn(len(batches), map(attack, processes.share_of(batches))):
                parts.append(part)
                self.events.went_on(name, len(part["ids"]))
            left = left[size * processes.world() :]
        self.events.went_on(name, len(left))
        return parts

    def _attack(self, auditor: Auditor, name: str, seal: str, ids: Tensor) -> Part:
        """Return what the auditor does to the samples `ids`, as it does where it runs alone."""
        x, y, numbers = next(self.job.read(ids, len(ids), workers=0))
        batch = self.job.judged(0, x, y, numbers, self.job.batch_size)
        batch = replace(batch, correct=torch.ones_like(batch.correct))  # as all were before
        attack = self.events.begun(name, auditor.attack, batch.classifier.counts, len(ids))
        part, _ = attacked(self.job, name, attack, batch)
        if "refused" in part.notes:
            raise InputError(f"audit: {part.notes['refused']}")
        part.tensors["ids"] = ids
        part.notes["data"] = data_hash(x, y)
        self.parts.keep(f"audit-{seal[:12]}-{int(ids[0]):08d}.safetensors", seal, part.tensors, part.notes)
        return part

    def _kept(self, seal: str, order: Tensor) -> list[Part]:
        """Return the parts of an auditor that are in the folder, of these samples."""
        folder = self.parts.path
        files = [] if folder is None else sorted(folder.glob(f"audit-{seal[:12]}-*.safetensors"))
        kept = [self.parts.part(file.name, seal) for file in files]
        parts = [part for part in (Part(*one) for one in kept if one is not None) if self._is_of(order, part)]
        self.parts.seconds += sum(float(part["seconds"]) for part in parts)
        return parts

    def _is_of(self, order: Tensor, part: Part) -> bool:
        """Return whether a part is of some of these samples, as the data set still has them."""
        ids = part["ids"]
        if int(ids.max()) >= self.job.sizes[0] or not bool(torch.isin(ids, order).any()):
            return False
        x, y, _ = next(self.job.read(ids, len(ids), workers=0))
        return data_hash(x, y) == part.notes.get("data")

    def _size(self, parts: Sequence[Part], pace: float, rest: float) -> int:
        """Return how many samples are attacked at once: on a CPU few, and fewer where time is limited."""
        device = self.job.frozen.device
        if device is not None and device.type == "cuda":  # where all sizes take as long
            return self.job.batch_size
        most = min(self.job.batch_size, TOGETHER)
        if math.isinf(rest):
            return most
        most = min(most, 2 * len(parts[-1]["ids"]) if parts else FIRST)
        return max(1, min(most, int(rest / PIECES / pace))) if pace else 1


def _columns(parts: Sequence[Part]) -> tuple[list[Tensor], list[Tensor]]:
    """Return the numbers of samples, and which are broken, part by part."""
    return [part["ids"] for part in parts], [part["broken"] for part in parts]


def _pace(parts: Sequence[Part], auditor: Auditor, screen: Sequence[Row]) -> float:
    """Return the seconds of a sample that holds, by the last batches or by the screen; 0 if nobody knows."""
    paces = [float(part["seconds"]) / held for part in parts if (held := int((~part["broken"]).sum()))]
    if paces:
        return max(paces[-2:])
    passes, seconds = sum(row.forwards + row.backwards for row in screen), sum(row.seconds for row in screen)
    return planned(auditor.attack, to_the_end=True) * seconds / passes if passes else 0.0

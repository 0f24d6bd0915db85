"""What each process of a test does with an evaluation; what it returned lies in files, without times."""

import json
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

import fastadv as fa
from fastadv.data import ImageSet
from fastadv.evaluation import Table, accuracy_against_radius, evaluate
from fastadv.files import save_tensors
from fastadv.runs import processes
from tests.evaluation.nets import contents, timeless
from tests.kills import die, loss_told
from tests.processes import tell
from tests.relations.test_evaluation import CLASSES, PGD, Net, X, asked, labels

KINDS = ("classes", "random", "every tag")
SIZE = {"batch_size": 4}  # six batches: with four processes two have none in the last turn


def write(table: Table, path: Path) -> None:
    """All that a table holds, in a file that is equal for equal tables."""
    tensors, told = contents(table)
    save_tensors(path, tensors, {"table": json.dumps(told)})


def whole(folder: Path, rank: int = 0) -> None:
    """Evaluations of several kinds, in folders; and the curves."""
    name = f"{processes.world()}-{rank}"
    told, seconds = list[Any](), list[float]()
    for kind in KINDS:
        options = {"run_dir": folder / name[0] / kind, "on_event": told.append, **SIZE}
        table = evaluate(**asked(kind, **options))
        write(table, folder / f"{kind}-{name}")
        seconds += [table.seconds, *(row.seconds for row in table.rows)]
    (folder / f"events-{name}").write_text(json.dumps(timeless(told)))
    (folder / f"seconds-{name}").write_text(str(seconds))
    curve = partial(accuracy_against_radius, Net(3), (X, labels("classes")), **SIZE)
    curves = [curve(at_radius, [0, 0.01, 0.03]), curve(minimum_norm=CLASSES["fmn"])]
    (folder / f"curves-{name}").write_text(str([[part.tolist() for part in each] for each in curves]))


def at_radius(radius: float) -> Any:
    return partial(PGD, threat=fa.Linf(radius))


class Ending:
    """PGD, and a kill at the second call in the second process."""

    def __init__(self, end: Any) -> None:
        self.calls, self.end = 0, end

    def describe(self) -> str:
        return "pgd"

    def __call__(self, model: Any, x: Tensor, y: Tensor, *, ids: Tensor) -> Any:
        self.calls += 1
        if self.calls == 2 and processes.rank() == 1:
            self.end()
        return PGD(model, x, y, ids=ids)


def resumed(folder: Path, end: Any = lambda: None, **options: Any) -> Table:
    attacks = {"square": CLASSES["square"], "pgd": Ending(end)}
    return evaluate(**asked("classes", attacks=attacks, run_dir=folder, **SIZE, **options))


def killed(folder: Path, rank: int) -> None:
    with loss_told(folder):
        resumed(folder / "run", die)


def go_on(folder: Path, rank: int = 0) -> None:
    name = f"{processes.world()}-{rank}"
    write(resumed(folder / f"run-{name[0]}", resume=True), folder / f"resumed-{name}")


def audited(folder: Path) -> Table:
    auto = partial(fa.attacks.autoattack, version=["apgd-ce"])
    audit = fa.evaluation.Audit(auto, 12)
    return evaluate(
        **asked("classes", attacks={"square": CLASSES["square"]}, run_dir=folder, resume=True, **SIZE),
        audit=audit,
    )


def found(table: Table) -> list[Any]:
    """All that an audit holds but times."""
    audit: Any = table.audit
    return json.loads(json.dumps([audit.ids.tolist(), audit.success.tolist(), timeless(audit.to_dict())]))


def audit(folder: Path, rank: int) -> None:
    said = [found(audited(folder / "2")) for _ in range(2)]
    (folder / f"audited-{rank}").write_text(json.dumps(said))


def faults(folder: Path, rank: int) -> None:
    """What each process says of an evaluation that goes wrong in one of them."""
    (folder / "file").write_text("")
    y = labels("classes")
    evaluate(Net(3), (X, y), run_dir=folder / "done")
    other, wide = Net(3), y.clone()
    other.weight.data[0, 0] += 1e-6 * rank
    wide[17] = 3

    def odd(model: Any, x: Tensor, y: Tensor, *, ids: Tensor) -> Any:
        return "no result" if processes.rank() == 1 else PGD(model, x, y, ids=ids)

    wrong: dict[str, dict[str, Any]] = {
        "data": {"dataset": (X, (y + rank) % 3)},
        "model": {"model": other},
        "attacks": {"attacks": {"pgd": partial(PGD, steps=3 + rank)}},
        "batch_size": {"batch_size": 4 + rank},
        "resume": {"run_dir": folder / "done", "resume": rank == 1},
        "keep_samples": {"keep_samples": rank == 1},
        "audit": {"audit": 1 + rank},
        "argument": {"limit": 1 - rank},
        "folder": {"run_dir": folder / "file"},
        "done": {"run_dir": folder / "done"},
        "label": {"dataset": ImageSet(X, wide, 4, "of four")},
        "attack": {"attacks": {"odd": odd}},
        "nan": {"limit": 5},
    }
    given = {"model": Net(3), "dataset": (X, y), "attacks": {"pgd": PGD}, **SIZE}
    calls = {name: partial(evaluate, **(given | options)) for name, options in wrong.items()}
    curve = partial(accuracy_against_radius, Net(3), (X, y), at_radius)
    calls["radii"] = partial(curve, radii=[0.01 * (rank + 1)])
    calls["curve"] = partial(curve, radii=[0.01], batch_size=4 + rank)
    tell(folder, rank, calls)

"""Sessions at small sizes in this process, for either device, and clocks whose times are known."""

import time
from collections.abc import Callable
from typing import Any, ClassVar

import torch

from bench.session import Row, Session
from bench.stage import run_stage

CPU = torch.device("cpu")


def session(kind: type[Session] = Session, seconds: float = 60.0, **options: Any) -> Session:
    """That of `make gpu` on a machine without a GPU."""
    return kind(CPU, True, 0.0, time.monotonic() + seconds, **options)


class Known(Session):
    """Every way runs once; the milliseconds of a way are those of its name, 4 where it has none."""

    milliseconds: ClassVar[dict[str, float]] = {}

    def warmed(self, way: Any) -> Row:
        way()
        return {} if self.on_cpu else {"peak_mib": 2.0}

    def times(self, ways: Any, least: int = 5) -> dict[str, list[float]]:
        for way in ways.values():
            way()
        return {name: [self.milliseconds.get(name, 4.0)] * 3 for name in ways}


class OnCPU(Known):
    """The cases of `make bench`, at tiny sizes."""

    @property
    def on_cpu(self) -> bool:
        return True

    def size(self, gpu: Any, tiny: Any, cpu: Any = None) -> Any:
        return cpu if cpu == 0 else tiny


def known(kind: type[Known] = Known, **milliseconds: float) -> Known:
    made = session(kind)
    assert isinstance(made, Known)
    made.milliseconds = {name.replace("_", " "): value for name, value in milliseconds.items()}
    return made


def ran(given: Session, stage: str, only: str = "") -> list[Row]:
    rows: list[Row] = []
    assert run_stage(stage, given, rows.append, (), only)
    return rows


def ends(rows: list[Row]) -> dict[str, str]:
    return {row["case"]: row["status"] for row in rows if "status" in row}


def clock(monkeypatch: Any) -> Callable[[str, float], Callable[[], None]]:
    """A clock that only the ways it makes move on: way(name, seconds) tells its name to `way.calls`."""
    now, calls = [0.0], []
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def way(name: str, seconds: float) -> Callable[[], None]:
        def run() -> None:
            calls.append(name)
            now[0] += seconds

        return run

    way.calls = calls  # type: ignore[attr-defined]
    return way

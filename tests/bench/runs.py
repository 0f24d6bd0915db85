"""Sessions at small sizes in this process, for either device, and clocks whose times are known."""

import time
from typing import ClassVar

import torch

from bench.session import Row, Session
from bench.stage import run_stage

CPU = torch.device("cpu")


def session(kind=Session, seconds=60.0, **options):
    """That of `make gpu` on a machine without a GPU."""
    return kind(CPU, True, 0.0, time.monotonic() + seconds, **options)


class Known(Session):
    """Every way runs once; the milliseconds of a way are those of its name, 4 where it has none."""

    milliseconds: ClassVar[dict[str, float]] = {}

    def warmed(self, way):
        way()
        return {} if self.on_cpu else {"peak_mib": 2.0}

    def times(self, ways, least=5):
        for way in ways.values():
            way()
        return {name: [self.milliseconds.get(name, 4.0)] * 3 for name in ways}


class OnCPU(Known):
    """The cases of `make bench`, at tiny sizes."""

    @property
    def on_cpu(self):
        return True

    def size(self, gpu, tiny, cpu=None):
        return cpu if cpu == 0 else tiny


def known(kind=Known, **milliseconds):
    made = session(kind)
    assert isinstance(made, Known)
    made.milliseconds = {name.replace("_", " "): value for name, value in milliseconds.items()}
    return made


def ran(given, stage, only=""):
    rows: list[Row] = []
    assert run_stage(stage, given, rows.append, (), only)
    return rows


def ends(rows):
    return {row["case"]: row["status"] for row in rows if "status" in row}


def clock(monkeypatch):
    """A clock that only the ways it makes move on: way(name, seconds) tells its name to `way.calls`."""
    now, calls = [0.0], []
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def way(name, seconds):
        def run():
            calls.append(name)
            now[0] += seconds

        return run

    way.calls = calls  # type: ignore[attr-defined]
    return way

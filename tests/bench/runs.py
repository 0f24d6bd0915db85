"""Sessions at small sizes in this process, for either device."""

import time
from typing import ClassVar

import torch

from bench.session import Row, Session, run_stage

CPU = torch.device("cpu")


def session(kind=Session, seconds=60.0, **options):
    return kind(CPU, True, 0.0, time.monotonic() + seconds, **options)


class Known(Session):
    """Every way runs once; the milliseconds of a way are those of its name, 4 where it has none."""

    milliseconds: ClassVar[dict[str, float]] = {}

    def warmed(self, way):
        return {} if self.on_cpu else {"peak_mib": 2.0}

    def times(self, ways, least=5):
        for way in ways.values():
            way()
        return {name: [self.milliseconds.get(name, 4.0)] * 3 for name in ways}


class OnCPU(Known):
    @property
    def on_cpu(self):
        return True

    def size(self, gpu, tiny, cpu=None):
        return cpu if cpu == 0 else tiny


def known(kind=Known, **milliseconds):
    clocked = session(kind)
    assert isinstance(clocked, Known)
    clocked.milliseconds = {name.replace("_", " "): value for name, value in milliseconds.items()}
    return clocked


def ran(of, stage, only=""):
    rows: list[Row] = []
    assert run_stage(stage, of, rows.append, (), only)
    return rows


def ends(rows):
    return {row["case"]: row["status"] for row in rows if "status" in row}

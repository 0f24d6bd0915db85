"""Stages of `make gpu` in this process, at tiny sizes."""

import time
from typing import Any

import torch

from bench.gpu import worker as gpu_worker
from bench.gpu.session import Row, Session

CPU = torch.device("cpu")


def session(seconds: float = 60.0, **options: Any) -> Session:
    return Session(CPU, True, 0.0, time.monotonic() + seconds, **options)


def ran(stage: str, only: str = "", **options: Any) -> list[Row]:
    rows: list[Row] = []
    assert gpu_worker.run_stage(stage, session(**options), rows.append, set(), only)
    return rows


def ends(rows: list[Row]) -> dict[str, str]:
    return {row["case"]: row["status"] for row in rows if "status" in row}

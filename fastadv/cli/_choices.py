"""What was measured on this machine of calls in another way than PyTorch's, for `fastadv doctor`."""

from collections.abc import Iterator
from typing import Any

from fastadv.engine.choices import here
from fastadv.engine.chooser import asked_seconds


def measured() -> dict[str, Any]:
    """Return the file, and of each call its milliseconds in either way, JSON-able."""
    kept = here()
    known = {} if kept is None else kept.known
    calls = {
        call: {"way_ms": 1000 * taken[0], "plain_ms": 1000 * taken[1]} if taken else None
        for call, taken in sorted(known.items())
    }
    return {"file": None if kept is None else str(kept.path), "seconds": asked_seconds(), "calls": calls}


def lines(found: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Say in lines for how many kinds of calls each way is faster, and by how much."""
    by_name: dict[str, list[float]] = {}
    for call, taken in found["calls"].items():
        if taken is not None:
            by_name.setdefault(call.partition(" ")[0], []).append(taken["plain_ms"] / taken["way_ms"])
    for name, times in by_name.items():
        faster, slower = [each for each in times if each > 1], [each for each in times if each <= 1]
        told = [f"faster for {len(faster)} kinds of calls ({_span(faster)} times)"] if faster else []
        told += [f"not for {len(slower)} ({_span(slower)})"] if slower else []
        yield f"tuned, {name}", ", ".join(told)
    if left := sum(taken is None for taken in found["calls"].values()):
        yield "not tuned", f"{left} kinds of calls, for want of time: freeze(model, tune=10) measures them"
    if not found["seconds"]:
        yield "tuning", "off (FASTADV_TUNE=0)"
    elif not found["calls"]:
        yield "tuned", "nothing yet: the first attack on a CPU measures the calls of its model"


def _span(times: list[float]) -> str:
    return " to ".join(dict.fromkeys(f"{each:.2f}" for each in (min(times), max(times))))

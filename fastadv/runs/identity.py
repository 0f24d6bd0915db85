"""How a folder recognizes its own run and refuses another."""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastadv.errors import InputError

# largest difference of a probe's values that another machine's rounding may cause, as a share of their spread
_ROUNDING = 1e-3
_HALF_ROUNDING = 5e-2
NAMED = 3  # differences that an error tells

Where = tuple[str | int, ...]
"""The keys and places that lead to an entry."""


def probe(outputs: Tensor, again: Tensor, dtype: torch.dtype | None = None) -> dict[str, Any]:
    """Return a few numbers that tell functions apart by their outputs [B, ...]; a random one has none."""
    flat = outputs.detach().double().cpu().flatten(1)
    finite = flat.isfinite().all(1)
    spread = float(flat[finite].square().mean().sqrt()) if finite.any() else 0.0
    within = spread * rounding(dtype)
    twice = again.detach().double().cpu().flatten(1)
    if twice.shape != flat.shape or not torch.allclose(flat, twice, rtol=0, atol=within, equal_nan=True):
        return {"values": "random", "within": 0.0}
    # directions fixed by a formula, so that no generator is involved
    direction = torch.cos(torch.arange(1.0, 1.0 + flat.shape[1], dtype=torch.float64, device="cpu").square())
    values = flat.nan_to_num(0, 0, 0) @ direction / direction.norm()
    return {
        "values": [float(f"{v:.6g}") if ok else None for v, ok in zip(values, finite, strict=True)],
        "within": float(f"{within:.3g}"),
    }


def rounding(dtype: torch.dtype | None) -> float:
    """Return how far another machine may round `dtype`, as a share of the values' spread."""
    return _HALF_ROUNDING if dtype in (torch.float16, torch.bfloat16) else _ROUNDING


def plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return `config` as it comes back from JSON: to compare what was written with what is asked for."""
    result: dict[str, Any] = json.loads(json.dumps(config, sort_keys=True))
    return result


def dotted(where: Where, stored: Any, now: Any) -> str:
    """Tell an entry that differs by its dotted name, with both values."""
    name = "".join(f"[{each}]" if isinstance(each, int) else f".{each}" for each in where).removeprefix(".")
    return f"{name} ({short(stored)} there, {short(now)} here)"


def check_same(
    path: Path, stored: Mapping[str, Any], config: Mapping[str, Any], *,
    told: Callable[[Where, Any, Any], str] = dotted,
) -> None:  # fmt: skip
    """InputError, naming what differs, unless the file `path` of the run `stored` is of the run `config`."""
    by_name: dict[str, str] = {}
    for text in (told(*each) for each in _different((), dict(stored), plain(config))):
        by_name.setdefault(text.partition(" (")[0], text)
    if by_name:
        more = f" and {len(by_name) - NAMED} more" if len(by_name) > NAMED else ""
        named = ", another ".join([*by_name.values()][:NAMED]) + more
        raise InputError(
            f"{path}: expected the run that wrote it, got one with another {named}; resume with the same "
            "arguments, or choose another folder"
        )


def _different(where: Where, stored: Any, now: Any) -> Iterator[tuple[Where, Any, Any]]:
    """Yield what differs, each with both values."""
    if agree(stored, now):
        return
    if isinstance(stored, dict) and isinstance(now, dict) and "within" not in now:
        for key in sorted(stored.keys() | now.keys()):
            yield from _different((*where, key), stored.get(key), now.get(key))
    elif isinstance(stored, list) and isinstance(now, list) and len(stored) == len(now) and _nested(now):
        for place, (old, new) in enumerate(zip(stored, now, strict=True)):
            yield from _different((*where, place), old, new)
    else:
        yield where, stored, now


def _nested(values: list[Any]) -> bool:
    return any(isinstance(value, dict | list) for value in values)


def short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:56]} ..."


def agree(stored: Any, now: Any) -> bool:
    """Return whether two values are equal, and probes in them within the rounding of another machine."""
    if not (isinstance(stored, dict) and isinstance(now, dict)):
        return bool(stored == now)
    if stored.keys() == now.keys() == {"values", "within"}:
        old, new, within = stored["values"], now["values"], max(stored["within"], now["within"])
        if not (isinstance(old, list) and isinstance(new, list)) or len(old) != len(new):
            return bool(old == new)
        return all(
            a == b or (None not in (a, b) and abs(a - b) <= within) for a, b in zip(old, new, strict=True)
        )
    return all(agree(stored.get(key), now.get(key)) for key in stored.keys() | now.keys())

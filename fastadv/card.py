"""Provenance: what made a result, so that it can be made again."""

import platform
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from fastadv._version import __version__

FORMAT = 1  # of cards; another where a key changes its place or meaning


@cache
def _commit() -> str:
    """Commit of the source tree that fastadv runs from, with `+` if it was changed; empty for a wheel."""
    root = Path(__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return ""

    def git(*args: str) -> str:
        return subprocess.run(
            ["git", "-C", str(root), *args], capture_output=True, text=True, timeout=10
        ).stdout.strip()

    try:
        return git("rev-parse", "--short=12", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.TimeoutExpired):
        return ""


@cache
def version_of(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


@cache
def cpu_name() -> str:
    """Return the processor's model name as the system reports it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()


def extension_build() -> dict[str, str] | None:
    """Return what built the C++ extension; None where it is not loaded, or does not tell."""
    build = getattr(sys.modules.get("fastadv._C"), "build", None)
    return dict(build) if isinstance(build, dict) else None


def machine() -> dict[str, Any]:
    """Versions and hardware of this process, as JSON-able values."""
    built = extension_build()
    return {
        "fastadv": __version__,
        **{name: version_of(name) or "absent" for name in ("torch", "triton", "numpy")},
        "extension": built and f"{built['compiler']}, pybind11 {built['pybind11']}, {built['libc']}",
        "commit": _commit(),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": cpu_name(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def card(kind: str, config: Mapping[str, Any], **measured: Any) -> dict[str, Any]:
    return {
        "kind": kind,
        "format": FORMAT,
        "config": dict(config),
        "measured": measured,
        "machine": machine(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


_TOLD: ContextVar[dict[str, str]] = ContextVar("told")


@contextmanager
def telling(**parts: object) -> Iterator[None]:
    """Make `about` include these parts inside: telling(command="fastadv demo", seed=0)."""
    before = _TOLD.set(_TOLD.get({}) | {name: str(part) for name, part in parts.items()})
    try:
        yield
    finally:
        _TOLD.reset(before)


def about() -> dict[str, str]:
    """Return what a picture keeps as text: software, machine, date, and what `telling` was given."""
    software = {"Software": f"fastadv {__version__}", "machine": cpu_name()}
    return software | {"date": f"{datetime.now(UTC):%Y-%m-%d}"} | _TOLD.get({})

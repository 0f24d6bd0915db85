"""Where data sets are on disk, and how they get there."""

import contextlib
import io
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fastadv.errors import InputError
from fastadv.runs.files import user_cache

_log = logging.getLogger("fastadv")


def data_folder(data_dir: str | os.PathLike[str] | None) -> Path:
    """Return `data_dir`, else the folder in FASTADV_DATA, else fastadv/ in the user's cache (created)."""
    named = data_dir or os.environ.get("FASTADV_DATA")
    if named:
        root = Path(named).expanduser()
        if not root.is_dir():
            source = "data_dir" if data_dir else "FASTADV_DATA"
            raise InputError(
                f"{source} {root}: expected a folder of data sets, got none; create it or name another"
            )
        return root
    root = user_cache()
    root.mkdir(parents=True, exist_ok=True)
    return root


def fetch(name: str, layout: str, root: Path, download: bool, get: Callable[[], Any]) -> None:
    """Download `name` into `root` by calling `get`; InputError that says what belongs there if that fails."""
    reason = "downloading is switched off"
    if download:
        _log.info("downloading %s into %s", name, root)
        try:
            # torchvision prints; the library does not
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                get()
            return
        except (OSError, RuntimeError, ValueError) as error:
            reason = f"the download failed: {' '.join(str(error).split())[:300]}"
    raise InputError(
        f"{name}: expected {layout} below {root}, got none, and {reason}; put the files there, or name the "
        "folder that holds them with data_dir or FASTADV_DATA, or load once where there is a network"
    )

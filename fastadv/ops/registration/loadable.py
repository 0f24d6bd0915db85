"""Whether the C++ extension in the package is one to load: whole, of this Python and of this version."""

import struct
from importlib.machinery import EXTENSION_SUFFIXES
from os import SEEK_END
from pathlib import Path
from typing import Any

from fastadv._version import __version__

PACKAGE = Path(__file__).parents[2]
AGAIN = "install fastadv again"
SEGMENT = 56  # bytes of an entry in the list of segments


def unloadable(package: Path = PACKAGE) -> str:
    """Return why the extension in this folder must not be loaded, or "" where nothing is wrong."""
    files = {path.name.removeprefix("_C"): path for path in package.glob("_C.*") if _is_extension(path)}
    for suffix in EXTENSION_SUFFIXES:  # in Python's order
        if found := files.get(suffix):
            missing = _missing_bytes(found)
            return f"{found.name} is cut short by {missing} bytes: {AGAIN}" if missing else ""
    names = ", ".join(sorted(path.name for path in files.values()))
    return f"{names} is of another Python than this, {EXTENSION_SUFFIXES[0]}: {AGAIN}" if names else ""


def of_another_version(extension: Any) -> str:
    """Return the versions of extension and package where they differ, else ""."""
    built = getattr(extension, "__version__", "an older version")
    return "" if built == __version__ else f"it was built for {built}, and this is {__version__}: {AGAIN}"


def _is_extension(path: Path) -> bool:
    return path.suffix in {".so", ".pyd"}


def _missing_bytes(path: Path) -> int:
    """Count the bytes that a 64-bit ELF file lacks: to read them, once mapped, ends the process.

    Of a file that cannot be read, or is none, the loader says what is wrong.
    """
    try:
        with path.open("rb") as file:
            size = file.seek(0, SEEK_END)
            file.seek(0)
            header = file.read(64)
            if len(header) < 64 or not header.startswith(b"\x7fELF\x02"):
                return 0
            (table,) = struct.unpack_from("<Q", header, 32)
            entry, number = struct.unpack_from("<HH", header, 54)
            if entry < SEGMENT:
                return 0
            file.seek(min(table, size))
            listed = file.read(entry * number)
    except OSError:
        return 0
    end: int = table + entry * number
    for at in range(0, len(listed) - entry + 1, entry):
        start, length = struct.unpack_from("<8xQ16xQ", listed, at)  # a segment's, in the file
        end = max(end, start + length)
    return max(0, end - size)

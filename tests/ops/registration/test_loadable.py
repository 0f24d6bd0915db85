"""An extension that is cut short, or of another Python or version, is named and not loaded."""

import shutil
import struct
import subprocess
import sys
import types
from importlib.machinery import EXTENSION_SUFFIXES

import pytest

import fastadv
from fastadv.ops.registration import library
from fastadv.ops.registration.loadable import PACKAGE, of_another_version, unloadable
from fastadv.runs.card import extension_build

FOREIGN = "_C.cpython-399-x86_64-linux-gnu.so"


@pytest.fixture
def whole():
    for suffix in EXTENSION_SUFFIXES:
        if (file := PACKAGE / f"_C{suffix}").exists():
            return file
    pytest.skip("no extension built")


def test_nothing_is_wrong_with_ours(whole):
    assert unloadable() == ""
    assert of_another_version(library.extension) == ""


@pytest.mark.skipif(sys.platform != "linux", reason="reads ELF")
@pytest.mark.parametrize("share", [0.001, 0.3, 0.9])
def test_a_part_of_one_is_cut_short(whole, tmp_path, share):
    content = whole.read_bytes()
    kept = int(share * len(content))
    (tmp_path / whole.name).write_bytes(content[:kept])
    fault = unloadable(tmp_path)
    assert fault.startswith(f"{whole.name} is cut short by ")
    assert 0 < int(fault.split()[-5]) <= len(content) - kept


@pytest.mark.parametrize(("size", "missing"), [(300, 0), (299, 1), (200, 100), (100, 76)])
def test_every_segment_must_be_there(tmp_path, size, missing):
    """Two segments, which end at bytes 300 and 250, listed in bytes 64 to 176."""
    content = bytearray(400)
    content[:5] = b"\x7fELF\x02"
    struct.pack_into("<Q", content, 32, 64)  # where the list begins
    struct.pack_into("<HH", content, 54, 56, 2)  # the size and number of its entries
    struct.pack_into("<8xQ16xQ", content, 64, 180, 120)
    struct.pack_into("<8xQ16xQ", content, 64 + 56, 240, 10)
    name = f"_C{EXTENSION_SUFFIXES[0]}"
    (tmp_path / name).write_bytes(content[:size])
    told = f"{name} is cut short by {missing} bytes: install fastadv again" if missing else ""
    assert unloadable(tmp_path) == told


def test_one_of_another_python(tmp_path):
    (tmp_path / FOREIGN).touch()
    assert unloadable(tmp_path) == (
        f"{FOREIGN} is of another Python than this, {EXTENSION_SUFFIXES[0]}: install fastadv again"
    )
    (tmp_path / f"_C{EXTENSION_SUFFIXES[0]}").touch()
    assert unloadable(tmp_path) == ""


@pytest.mark.parametrize("versions", [{"__version__": f"{fastadv.__version__}.post1"}, {}])
def test_one_of_another_version_gives_way_to_the_references(versions, monkeypatch, logged):
    monkeypatch.setattr(library, "_import_if_there", lambda name: (types.SimpleNamespace(**versions), ""))
    monkeypatch.setattr(library, "unloadable", lambda: "")
    monkeypatch.setitem(sys.modules, "fastadv._C", types.SimpleNamespace(build={"compiler": "g++ 1"}))
    extension, fault = library._load_extension()
    assert extension is None
    built = versions.get("__version__", "an older version")
    assert fault == f"it was built for {built}, and this is {fastadv.__version__}: install fastadv again"
    assert fault in logged.text
    assert extension_build() is None  # a card names what built the kernels that ran


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads ELF")
def test_a_half_built_one_ends_no_process(whole, tmp_path):
    """dlopen of such a file maps what is not there: the process dies of SIGBUS."""
    package = tmp_path / "fastadv"
    shutil.copytree(whole.parent, package, ignore=shutil.ignore_patterns("__pycache__", "_C*"))
    (package / whole.name).write_bytes(whole.read_bytes()[:100_000])
    code = (
        "import fastadv as fa, torch; x = torch.rand(2, 3); fa.ops.linf_step(x, x, x, 0.1, 0.1); "
        "print(fa.backends()['linf_step']['cpu'])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"reference (the extension does not import: {whole.name} is cut short by ")
    assert "is cut short by" in done.stderr

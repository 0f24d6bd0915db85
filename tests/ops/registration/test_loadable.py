"""An extension that is cut short, or of another Python or version, is named and not loaded."""

import shutil
import subprocess
import sys
import types
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest

import fastadv
from fastadv.ops.registration import library
from fastadv.ops.registration.loadable import of_another_version, unloadable

FOREIGN = "_C.cpython-399-x86_64-linux-gnu.so"


@pytest.fixture
def whole():
    if library.extension is None:
        pytest.skip("no extension built")
    return Path(library.extension.__file__)


def test_nothing_is_wrong_with_ours(whole):
    assert unloadable() == ""
    assert of_another_version(library.extension) == ""


def test_none_is_no_fault(tmp_path):
    (tmp_path / "_C.pyi").touch()
    assert unloadable(tmp_path) == ""


@pytest.mark.skipif(sys.platform != "linux", reason="reads ELF")
@pytest.mark.parametrize("share", [0.001, 0.3, 0.9])
def test_a_part_of_one_is_cut_short(whole, tmp_path, share):
    content = whole.read_bytes()
    kept = int(share * len(content))
    (tmp_path / whole.name).write_bytes(content[:kept])
    fault = unloadable(tmp_path)
    assert fault.startswith(f"{whole.name} is cut short by ")
    assert 0 < int(fault.split()[-5]) <= len(content) - kept


def test_one_of_another_python(tmp_path):
    (tmp_path / FOREIGN).touch()
    assert unloadable(tmp_path) == (
        f"{FOREIGN} is of another Python than this, {EXTENSION_SUFFIXES[0]}: install fastadv again"
    )
    (tmp_path / f"_C{EXTENSION_SUFFIXES[0]}").touch()
    assert unloadable(tmp_path) == ""


@pytest.mark.parametrize("versions", [{"__version__": "0.0.9"}, {}])
def test_one_of_another_version_gives_way_to_the_references(versions, monkeypatch, logged):
    monkeypatch.setattr(library, "_import_if_there", lambda name: (types.SimpleNamespace(**versions), ""))
    monkeypatch.setattr(library, "unloadable", lambda: "")
    extension, fault = library._load_extension()
    assert extension is None
    built = versions.get("__version__", "an older version")
    assert fault == f"it was built for {built}, and this is {fastadv.__version__}: install fastadv again"
    assert fault in logged.text


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

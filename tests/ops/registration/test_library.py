"""What serves an op: fallbacks that FASTADV_STRICT refuses, and imports that fail aloud."""

import sys
import types
from importlib.machinery import EXTENSION_SUFFIXES

import pytest
import torch

import fastadv
import fastadv.ops.registration.library as library
from fastadv import ops
from fastadv.card import extension_build
from fastadv.ops.registration.library import CARDS, backends, triton_launcher

FOREIGN = "_C.cpython-399-x86_64-linux-gnu.so"


def step(op, dtype):
    x = torch.full((2, 3), 0.5, dtype=dtype)
    return op(x.clone(), torch.ones_like(x), x, 0.1, 0.1)


@pytest.mark.parametrize("op", [ops.linf_step, ops.linf_step_])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16], ids=str)
def test_strict_refuses_dtypes_without_a_kernel(op, dtype, monkeypatch):
    monkeypatch.setenv("FASTADV_STRICT", "1")
    name = "float64" if dtype == torch.float64 else "float16"
    with pytest.raises(
        RuntimeError, match=rf"linf_step: FASTADV_STRICT=1, and no compiled kernel serves torch\.{name}"
    ):
        step(op, dtype)
    monkeypatch.setenv("FASTADV_STRICT", "0")
    assert float(step(op, dtype)[0, 0]) == pytest.approx(0.6, abs=1e-3)


def failing(monkeypatch, error, module="fastadv.ops.triton.l2_step"):
    """Let the import of a module, one Triton kernel, fail with `error`."""
    real = library.importlib.import_module

    def load(name, *rest):
        if name == module:
            raise error
        return real(name, *rest)

    monkeypatch.setattr(library.importlib, "import_module", load)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)


@pytest.mark.parametrize("missing", ["triton", "fastadv.ops.triton.l2_step"])
def test_a_missing_kernel_is_no_kernel(missing, monkeypatch):
    failing(monkeypatch, ModuleNotFoundError(f"No module named {missing!r}", name=missing))
    assert triton_launcher(CARDS["l2_step"]) is None
    assert backends()["l2_step"]["cuda"] == "reference (no Triton kernel)"


def test_a_missing_triton_is_named(monkeypatch):
    failing(monkeypatch, ModuleNotFoundError("No module named 'triton'", name="triton"))
    monkeypatch.setitem(sys.modules, "triton", None)
    assert backends()["l2_step"]["cuda"] == "reference (Triton is not installed)"


@pytest.mark.parametrize(
    "error",
    [
        ImportError("cannot import name 'edge' from 'fastadv.ops.triton._common'"),
        ModuleNotFoundError("No module named 'triton.language'", name="triton.language"),
        RuntimeError("0 active drivers ([]). There should only be one."),
    ],
    ids=lambda error: getattr(error, "name", None) or type(error).__name__,
)
def test_a_broken_kernel_is_reported(error, monkeypatch, logged):
    failing(monkeypatch, error)
    with pytest.raises(ImportError, match="l2_step"):
        triton_launcher(CARDS["l2_step"])
    assert backends()["l2_step"]["cuda"] == f"reference (the Triton kernel does not import: {error})"
    assert "fastadv.ops.triton.l2_step does not import" in logged.text


@pytest.mark.parametrize(
    ("error", "fault", "text"),
    [
        (
            ModuleNotFoundError("none", name="fastadv._C"), "",
            "no extension: FASTADV_NO_EXT=1 or build failed",
        ),
        (
            ImportError("undefined symbol: omp"), "undefined symbol: omp",
            "the extension does not import: undefined symbol: omp",
        ),
    ],
)  # fmt: skip
def test_a_broken_extension_is_not_a_missing_one(error, fault, text, monkeypatch, logged):
    failing(monkeypatch, error, "fastadv._C")
    found = library._import_if_there("fastadv._C")
    assert found == (None, fault)
    assert ("does not import" in logged.text) == bool(fault)
    for name, value in zip(("extension", "extension_fault"), found, strict=True):
        monkeypatch.setattr(library, name, value)
    assert backends()["linf_step"]["cpu"] == f"reference ({text})"


def test_one_of_another_python(tmp_path):
    assert library._of_another_python(tmp_path) == ""
    (tmp_path / FOREIGN).touch()
    assert library._of_another_python(tmp_path) == (
        f"{FOREIGN} is for another Python than this one, {EXTENSION_SUFFIXES[0]}: install fastadv again"
    )
    (tmp_path / f"_C{EXTENSION_SUFFIXES[0]}").touch()
    assert library._of_another_python(tmp_path) == ""


@pytest.mark.parametrize("versions", [{"__version__": f"{fastadv.__version__}.post1"}, {}])
def test_one_of_another_version_gives_way_to_the_references(versions, monkeypatch, logged):
    monkeypatch.setattr(library, "_import_if_there", lambda name: (types.SimpleNamespace(**versions), ""))
    monkeypatch.setitem(sys.modules, "fastadv._C", types.SimpleNamespace(build={"compiler": "g++ 1"}))
    extension, fault = library._load_extension()
    assert extension is None
    built = versions.get("__version__", "an older version")
    assert (
        fault == f"it was built for fastadv {built}, and this is {fastadv.__version__}: install fastadv again"
    )
    assert fault in logged.text
    assert extension_build() is None  # a card names what built the kernels that ran

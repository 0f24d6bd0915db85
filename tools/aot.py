"""Compile every Triton kernel for GPUs that need not be there; record registers, spills and shared memory.

    python tools/aot.py [--out bench/results/aot.jsonl] [--ops linf_step,l2_step]

Each launcher runs on its card's samples with the launch itself recorded instead of done: the arguments it
would launch with give the signature that Triton compiles, so no signature is written twice. Of the launches
that differ only in alignment the best aligned one is kept.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import triton
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import CUDABackend
from triton.compiler import ASTSource, make_backend
from triton.runtime.jit import JITFunction, create_function_from_signature

import fastadv.ops  # noqa: F401  (fills CARDS)
from fastadv.card import machine
from fastadv.ops.registration.library import CARDS, OpCard, results_of, triton_launcher
from fastadv.ops.triton import _row

ROOT = Path(__file__).resolve().parents[1]
ARCHES = 80, 90
OPTIONAL = ("targets", "hidden")  # and what has one value a row, as schemas name it
OF_SIZES = ("WHOLE",)  # flags that follow from sizes, as tiles do
# samples are small: so many values of a row in registers, and one too many
ROWS = 3072, _row.MOST, _row.MOST + 16
Launch = tuple[Any, tuple[Any, ...], dict[str, Any]]
Variant = tuple[str, Any, Any, Any]  # its name, the kernel, the source and the options of the compiler


def record(card: OpCard, dtype: torch.dtype) -> list[Launch]:
    """Every launch that the op's samples cause, none of them done."""
    launcher, launches = triton_launcher(card), []
    assert launcher is not None, f"{card.name} has no Triton launcher"

    def run(kernel: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> None:
        launches.append((kernel, args, options))

    shape = _row.shape
    with mock.patch.object(JITFunction, "run", run):
        for sample in card.samples(torch.device("cpu"), dtype):
            for cols in (0, *ROWS):
                with mock.patch.object(
                    _row, "shape", lambda own, chunks, cols=cols: shape(cols or own, chunks)
                ):
                    launcher(*results_of(card, sample), *sample)
    return launches


def variants(launches: list[Launch], target: GPUTarget, quick: bool = False) -> Iterator[Variant]:
    """(name, kernel, source, options) for each variant.

    A variant is one choice of compile-time arguments and of which optional arguments are given.
    `quick` takes, for each choice of words and flags, the one with the most optional arguments.
    """
    backend = make_backend(target)
    best: dict[Any, tuple[int, str, Any, Any, Any]] = {}
    for kernel, args, options in launches:
        binder = create_function_from_signature(kernel.signature, kernel.params, backend)
        bound, specialization, rest = binder(*args, **options)
        settings, signature, constants, attributes = kernel._pack_args(
            backend, options, bound, specialization, rest
        )
        chosen = {kernel.arg_names[path[0]]: value for path, value in constants.items()}
        # an integer that happens to be 1 is made a constant too, and so is a missing tensor
        chosen = {
            name: value
            for name, value in chosen.items()
            if value is None or kernel.params[kernel.arg_names.index(name)].is_constexpr
        }
        words = [
            str(value)
            for name, value in chosen.items()
            if isinstance(value, str | bool) and name not in OF_SIZES
        ]
        # a gradient of fewer bits than the points
        narrow = "x_adv" in signature and signature.get("grad", signature["x_adv"]) != signature["x_adv"]
        words += ["narrow"] * narrow
        words += [f"{chosen['CHUNKS']}x{chosen['BLOCK']}"] if "CHUNKS" in chosen else []
        given = [
            name
            for name in kernel.arg_names
            if (name in OPTIONAL or name.endswith("_rows")) and bound[name] is not None
        ]
        key = (
            (kernel.fn.__name__, *words)
            if quick
            else (kernel.fn.__name__, narrow, str(sorted(chosen.items(), key=str)), str(rest))
        )
        aligned = sum(map(bool, attributes.values()))
        if key not in best or aligned > best[key][0]:
            source = ASTSource(kernel, signature, constants, attributes)
            best[key] = aligned, " ".join(words + given), kernel, source, settings
    for _, name, kernel, source, settings in best.values():
        yield name, kernel, source, settings


def resources(ptx: str, arch: int, fuse: bool) -> dict[str, int]:
    """Registers, spills, stack and shared memory, as Triton's own ptxas reports them."""
    with tempfile.NamedTemporaryFile("w", suffix=".ptx") as file:
        file.write(ptx)
        file.flush()
        suffix = "a" if arch >= 90 else ""
        options = [f"--gpu-name=sm_{arch}{suffix}", *([] if fuse else ["--fmad=false"])]
        command = [knobs.nvidia.ptxas.path, "-v", *options, file.name, "-o", os.devnull]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stderr

    def number(pattern: str) -> int:
        match = re.search(pattern, said)
        return int(match[1]) if match else 0

    return {
        "registers": number(r"Used (\d+) registers"),
        "spill_bytes": number(r"(\d+) bytes spill stores") + number(r"(\d+) bytes spill loads"),
        "stack_bytes": number(r"(\d+) bytes stack frame"),
    }


def widest_load(ptx: str) -> int:
    """Bytes of the widest load from device memory; 16 is the most there is."""
    loads = [int(n or 1) * int(bits) // 8 for n, bits in re.findall(r"ld\.global(?:\.v(\d))?\.b(\d+)", ptx)]
    copies = re.findall(r"cp\.async\.c[ag]\.shared\.global \[[^]]*\], \[[^]]*\], (\w+)", ptx)
    return max(loads + [int(size, 0) for size in copies], default=0)


def pairs(found: list[tuple[torch.dtype, int, Variant]]) -> Iterator[tuple[torch.dtype, int, Variant]]:
    """Enough of them for each variant to be compiled, and each kernel for each dtype."""
    # one dtype for the newest architecture first, the other for the other
    orders = (sorted({one[place] for one in found}, key=str) for place in (0, 1))
    places = [{value: place for place, value in enumerate(order)} for order in orders]
    met: set[Any] = set()
    for one in sorted(found, key=lambda one: (places[0][one[0]] + places[1][one[1]]) % 2 == 0):
        dtype, _, (variant, kernel, *_) = one
        new = {(kernel, variant), (kernel, dtype)} - met
        if new:
            met |= new
            yield one


def build(name: str, quick: bool) -> list[dict[str, Any]]:
    """Compile the variants of the op `name` for each architecture; what each takes there."""
    card, rows = CARDS[name], []
    found = [
        (dtype, arch, variant)
        for dtype in card.dtypes
        for launches in [record(card, dtype)]
        for arch in ARCHES
        for variant in variants(launches, GPUTarget("cuda", arch, 32), quick)
    ]
    for dtype, arch, (variant, kernel, source, settings) in pairs(found) if quick else found:
        # `resources` assembles it and reads what ptxas says, once
        with mock.patch.object(CUDABackend, "make_cubin", return_value=b""):
            target = GPUTarget("cuda", arch, 32)
            compiled = triton.compile(source, target=target, options=settings.__dict__)
        rows.append(
            {
                "op": name,
                "kernel": kernel.fn.__name__,
                "dtype": str(dtype).removeprefix("torch."),
                "variant": variant,
                "arch": arch,
                **resources(compiled.asm["ptx"], arch, settings.enable_fp_fusion),
                "shared_bytes": compiled.metadata.shared,
                "load_bytes": widest_load(compiled.asm["ptx"]),
                "num_warps": settings.num_warps,
            }
        )
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "results" / "aot.jsonl")
    every = ",".join(name for name, card in CARDS.items() if card.triton)
    parser.add_argument("--ops", default=every, help="names, by commas (default: all with a kernel)")
    parser.add_argument(
        "--quick",
        action="store_true",
        help="one variant for each choice of words and flags, and not each for each architecture",
    )
    options = parser.parse_args()
    if knobs.runtime.interpret:
        parser.error("unset TRITON_INTERPRET: interpreted kernels cannot be compiled")
    # a throwaway compilation cache
    with tempfile.TemporaryDirectory() as cache, mock.patch.dict(os.environ, TRITON_CACHE_DIR=cache):
        rows = [row for name in options.ops.split(",") for row in build(name, options.quick)]
    options.out.parent.mkdir(parents=True, exist_ok=True)
    about = {**machine(), "date": datetime.now(UTC).isoformat(timespec="seconds")}
    options.out.write_text("".join(json.dumps({**row, **about}) + "\n" for row in rows))
    for row in rows:
        print(*(f"{name}={value}" for name, value in row.items()))
    return int(any(row["spill_bytes"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())

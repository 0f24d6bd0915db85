"""philox: counter-based random bits, uniforms, normals or signs of each sample id (see _philox.py)."""

from collections.abc import Iterator

import torch
from torch import Tensor

from fastadv._checks import check_choice, check_count
from fastadv.errors import InputError
from fastadv.ops import _philox
from fastadv.ops._samples import assert_ulps
from fastadv.ops.registration.library import OpCard, Sample, op, register

KINDS = ("bits", "uniform", "normal", "sign")


def reference(ids: Tensor, count: int, kind: str, seed: int, draw: int, draws: int = 1) -> Tensor:
    if draws != 1:
        parts = [reference(ids, count, kind, seed, draw + more) for more in range(draws)]
        return torch.cat(parts) if parts else fake(ids, count, kind, seed, draw, draws)
    if kind == "normal":
        return _philox.normals(ids, count, seed, draw).float()
    if kind == "sign":
        return _philox.signs(ids, count, seed, draw).float()
    bits = _philox.words(ids, count, seed, draw)
    return bits if kind == "bits" else _philox.to_uniform(bits).float()


def fake(ids: Tensor, count: int, kind: str, seed: int, draw: int, draws: int = 1) -> Tensor:
    dtype = torch.int64 if kind == "bits" else torch.float32
    return ids.new_empty((draws * ids.shape[0], count), dtype=dtype)


def compare(actual: Tensor, expected: Tensor, args: Sample) -> None:
    if args[2] == "normal":
        assert_ulps(actual, expected, 4, floor=1e-15)
    else:
        assert torch.equal(actual, expected)


def samples(device: torch.device, dtype: torch.dtype) -> Iterator[Sample]:
    ids = torch.tensor([0, 1, 7, 2**32 - 1, 2**32, 2**40 + 3, 2**62], device=device)
    for kind in KINDS:
        for count in (0, 1, 2, 5, 784, 1031):
            yield ids, count, kind, 0, 0
        yield ids, 33, kind, 2**63 - 1, 3
        yield ids[:0], 4, kind, 1, 1
        yield ids[::2], 4, kind, 123456789, 2**31
        yield ids, 70, kind, 5, 2**32 - 3, 3


register(
    OpCard(
        name="philox",
        schema="(Tensor ids, int count, str kind, int seed, int draw, int draws=1) -> Tensor",
        summary="Philox 4x32-10 of (seed, id, draw, element): bits, uniform [0, 1), standard normal, or sign",
        reference=reference,
        fake=fake,
        samples=samples,
        compare=compare,
        no_gradient="random numbers depend on no input",
        dtypes=(torch.int64,),
        bytes_moved=lambda *args: fake(*args).nbytes,
        flops=lambda *args: 25 * fake(*args).numel(),
    )
)


def philox(ids: Tensor, count: int, kind: str, seed: int = 0, draw: int = 0, draws: int = 1) -> Tensor:
    """Return `count` random values for each sample: [B, count] from `ids`, int64 [B].

    kind: "bits" (int64 in [0, 2^32)), "uniform" (float32 in [0, 1)), "normal" (float32), "sign" (float32, 1
    or -1, 32 of a word). More `draws` give [draws * B, count], one draw after the other.
    """
    check_choice("kind", kind, KINDS)
    if ids.dim() != 1 or ids.dtype != torch.int64:
        raise InputError(
            f"ids: expected int64 sample numbers of shape (B,), got {ids.dtype} {tuple(ids.shape)}"
        )
    check_count("count", count, 0)
    check_count("draws", draws, 1)
    _philox.check_stream(seed, draw)
    _philox.check_stream(seed, draw + draws - 1)
    return op("philox")(ids, count, kind, seed, draw, draws)

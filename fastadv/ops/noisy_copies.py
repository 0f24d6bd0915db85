"""noisy_copies: images plus noise of a discrete distribution, drawn by an alias table in whole numbers.

Points of a grid are whole numbers of its steps, and so is the noise: sums are exact, and a copy depends on
the point that it is and on nothing else. The 64 bits of element e are words 2e (high) and 2e + 1 (low) of the
stream (seed, id, draw). The first bits name a column of the table, the next 47 choose between the column
itself and its alias:

    entry = table[column] = threshold << 16 | alias
    copy  = (level + (column if bits < threshold else alias) - center) * step
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from fastadv._checks import check_count
from fastadv.errors import InputError
from fastadv.ops import philox
from fastadv.ops._rows import check_column
from fastadv.ops._samples import within
from fastadv.ops.registration.library import Sample, op, register

CHOICE = 47  # bits between a column and its alias; 16 more name the alias
ALIASES = 16


def fake(
    levels: Tensor, rows: Tensor, ids: Tensor, draws: Tensor, table: Tensor, center: int, step: float,
    seed: int, narrow: bool = False,
) -> Tensor:  # fmt: skip
    dtype = torch.bfloat16 if narrow else torch.float32
    return levels.new_empty((rows.shape[0], *levels.shape[1:]), dtype=dtype)


def reference(
    levels: Tensor, rows: Tensor, ids: Tensor, draws: Tensor, table: Tensor, center: int, step: float,
    seed: int, narrow: bool = False,
) -> Tensor:  # fmt: skip
    of_copy = levels[rows].flatten(1)
    words = philox.words(ids, 2 * of_copy.shape[1], seed, draws)
    high, low = words[:, ::2], words[:, 1::2]
    width = table.shape[0].bit_length() - 1
    column = high >> (32 - width)
    left = 32 - width  # bits of the high word behind the column
    bits = ((high & ((1 << left) - 1)) << (CHOICE - left)) | (low >> (32 - CHOICE + left))
    entry = table[column]
    choice = torch.where(bits < entry >> ALIASES, column, entry & ((1 << ALIASES) - 1))
    copies = ((of_copy + choice - center).double() * step).float()
    return copies.to(torch.bfloat16 if narrow else torch.float32).reshape(len(rows), *levels.shape[1:])


def samples(device: torch.device, dtype: torch.dtype) -> Iterator[Sample]:
    draw = torch.Generator().manual_seed(7)
    for shape, width in (((3, 1, 5, 7), 3), ((2, 3, 4, 4), 11), ((1, 1031), 16), ((2, 0), 1), ((1, 1), 1)):
        levels = torch.randint(-300, 1021, shape, generator=draw, dtype=torch.int32).to(device)
        rows = torch.arange(shape[0], device=device).repeat_interleave(3)
        ids = rows * (2**33 + 1) + 5
        draws = torch.arange(len(rows), device=device) * 1_000_003
        size = 1 << width
        threshold = torch.randint(1 << CHOICE, (size,), generator=draw)
        table = (threshold << ALIASES | torch.randint(size, (size,), generator=draw)).to(device)
        for narrow in (False, True):
            yield levels, rows, ids, draws, table, size // 2, 1 / 1020, 2**40 + shape[0], narrow
            yield levels, rows[:0], ids[:0], draws[:0], table, 0, 0.5, 3, narrow


register(
    name="noisy_copies",
    schema="(Tensor levels, Tensor rows, Tensor ids, Tensor draws, Tensor table, int center, float step, "
    "int seed, bool narrow=False) -> Tensor",
    summary="copies of images on a grid, plus noise of an alias table: exact sums, draws by (seed, id)",
    reference=reference,
    fake=fake,
    samples=samples,
    compare=within(0),
    ordered=True,
    no_gradient="the copies of an image on a grid are not differentiated",
    dtypes=(torch.int32,),
    bytes_moved=lambda *args: fake(*args).nbytes,
    flops=lambda *args: 60 * fake(*args).numel(),
)


def noisy_copies(
    levels: Tensor, counts: Tensor, ids: Tensor, first: Tensor, table: Tensor, center: int, step: float,
    seed: int = 0, *, dtype: torch.dtype = torch.float32, total: int | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Return noisy copies [N, ...] of images, `counts` of each in turn, and which image [N] each is of.

    levels: int32 [B, ...], whole numbers of `step`. ids: int64 [B], sample numbers. first: int64 [B], the
    draw of an image's first copy; the next copies take the next draws. table: int64 [2^b], b from 1 to 16.
    total: N, the sum of `counts`; None reads it, for which a GPU is waited for.
    """
    if levels.dtype != torch.int32 or levels.dim() < 1:
        raise InputError(f"levels: expected int32 [B, ...], got {levels.dtype} {tuple(levels.shape)}")
    for name, value in (("counts", counts), ("ids", ids), ("first", first)):
        check_column(name, value, levels, torch.int64)
    size = table.shape[0] if table.dim() == 1 and table.dtype == torch.int64 else 0
    if size.bit_count() != 1 or not 2 <= size <= 1 << ALIASES:
        raise InputError(f"table: expected int64 [2^b], b 1 to 16, got {table.dtype} {tuple(table.shape)}")
    check_count("center", center, 0)
    philox.check_stream(seed, 0)
    rows = torch.arange(len(levels), device=levels.device).repeat_interleave(counts, output_size=total)
    ends = counts.cumsum(0)
    draws = torch.arange(len(rows), device=levels.device) + (first - ends + counts)[rows]
    narrow = dtype is torch.bfloat16
    copies = op("noisy_copies")(levels, rows, ids[rows], draws, table, center, step, seed, narrow)
    return copies.to(dtype), rows

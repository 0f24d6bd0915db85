"""philox on a GPU: every element from its counter, nothing read but the ids (see ops/philox.py)."""

import triton
import triton.language as tl
from torch import Tensor

from fastadv.ops.triton import _philox
from fastadv.ops.triton._common import WIDTH, start


# Arguments that are not specialized: a new seed or draw must not trigger a compilation
@triton.jit(do_not_specialize=["key_low", "key_high", "draw"])
def philox_kernel(
    out, ids, samples, count, key_low: tl.uint32, key_high: tl.uint32, draw: tl.uint32,
    KIND: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0).to(tl.int64)
    blocks = tl.cdiv(count, BLOCK)
    row = program // blocks
    first = (program % blocks) * BLOCK
    later = (row // samples).to(tl.uint32)
    stream = _philox.stream_of(ids, row % samples, key_low, key_high, draw + later)
    if KIND == "normal":
        value = _philox.normal_block(first, stream, BLOCK)
    elif KIND == "sign":
        places = first + tl.arange(0, BLOCK)
        bits = _philox.words(places // 32, stream) >> (places % 32).to(tl.uint32)
        value = 2.0 * (bits & 1).to(tl.float32) - 1.0
    elif KIND == "uniform":
        value = _philox.uniform(_philox.block(first, stream, BLOCK))
    else:
        value = _philox.block(first, stream, BLOCK)
    at = first + tl.arange(0, BLOCK)
    tl.store(out + row * count + at, value.to(out.dtype.element_ty), mask=at < count)


def launch(out: Tensor, ids: Tensor, count: int, kind: str, seed: int, draw: int, draws: int = 1) -> None:
    programs, stream = draws * len(ids) * triton.cdiv(count, WIDTH), _philox.seeded(seed, draw)
    start(philox_kernel, programs, out, ids.contiguous(), len(ids), count, *stream, KIND=kind, BLOCK=WIDTH)

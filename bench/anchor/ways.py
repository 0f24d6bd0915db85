"""The processes that take turns on a net: whose PGD each runs, and whether the C library keeps its pages."""

import os
from typing import NamedTuple

from bench.providers import ALONE, COMPILED, FROZEN, LOOP

PEERS = ("torchattacks", "adv-lib", LOOP, COMPILED)
UNFROZEN = "fastadv fp32"
OURS = (*FROZEN, UNFROZEN)
PASSES = tuple(f"{ALONE}{precision}" for precision in ("fp32", "bf16"))
# glibc's: blocks of up to so many bytes are kept when they are freed
KEPT = dict.fromkeys(("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"), str(4 << 30))
DECIDES = (*KEPT, "MALLOC_MMAP_MAX_", "GLIBC_TUNABLES")


class Way(NamedTuple):
    """A provider, and whether its process keeps the pages of all blocks that it frees."""

    provider: str
    kept: bool = False

    def environment(self) -> dict[str, str]:
        """Return that of this process, with glibc as the way has it; MALLOC_TOP_PAD_ stays."""
        left = {name: value for name, value in os.environ.items() if name not in DECIDES}
        return left | KEPT if self.kept else left


WAYS = tuple(Way(provider, kept) for provider in (*PEERS, *FROZEN) for kept in (False, True))
WAYS += tuple(map(Way, (UNFROZEN, *PASSES)))

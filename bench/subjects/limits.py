"""PGD beside the best that a user writes by hand on a GPU: a bfloat16 loop, compiled, and one CUDA graph.

Goals, on an H100, PGD-40: ResNet-18 with 512 images, bf16 compiled, at 0.95 of the best by hand and 3.1 times
the float32 loop (frozen 1.35, bf16 2.4), with 64 images 5.5 times; ViT-B/16 in bf16 5.0, compiled 6.5 times.
The MLP in bf16 is no slower than in float32.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from statistics import median
from typing import Any

import fastadv as fa
from bench import by_hand, pgd
from bench.clock import ratio
from bench.pgd import LOOP, NETS, Make, what
from bench.session import Case, Row, Session

# nets, images and steps, in order of importance; fewer steps of those that take seconds
PROBLEMS = (
    ("resnet18", 512, 40), ("vit", 128, 10), ("mlp", 1024, 40), ("resnet18", 64, 40), ("wrn", 256, 10),
    ("cnn", 1000, 40), ("resnet50", 128, 10),
)  # fmt: skip
BY_HAND = "by hand: "
HALF: Any = "bf16"
PROVIDERS: dict[str, Make] = {
    LOOP: lambda given: partial(pgd.plain, given),
    f"{BY_HAND}bf16": by_hand.half,
    f"{BY_HAND}bf16, compiled": partial(by_hand.half, compiled=True),
    f"{BY_HAND}bf16, captured": by_hand.captured,
    f"{BY_HAND}bf16, compiled, captured": partial(by_hand.captured, compiled=True),
    "fastadv plain": lambda given: partial(pgd.ours, given, given.model),
    **{f"fastadv {precision}": partial(pgd.frozen, precision) for precision in ("fp32", "bf16")},
    "fastadv bf16, compiled": lambda given: partial(
        pgd.ours, given, fa.freeze(given.model, HALF, compile=True)
    ),
}


def cases(session: Session) -> Iterator[Case]:
    for name, count, steps in PROBLEMS:
        label = f"PGD-{steps} {NETS[name].label}, {count} images, beside the best by hand"
        yield Case(label, partial(measured, session, name, count, steps), needs=50)


def measured(session: Session, name: str, count: int, steps: int) -> Iterator[Row]:
    """Yield a row of each provider, with its share of the speed of the best by hand."""
    given = pgd.problem(session, name, session.size(count, min(count, 2)))
    given = replace(given, steps=session.size(steps, 2))
    ways = {way: make(given) for way, make in PROVIDERS.items()}
    rows = [*session.compare(ways, LOOP, "times_plain", least=3)]
    taken = {row["provider"]: values for row, values in rows if values}
    peers = {name: median(values) for name, values in taken.items() if name.startswith((BY_HAND, LOOP))}
    hand = min(peers, key=peers.__getitem__)
    for row, values in rows:
        if values:
            row |= {"what": what(given), "best_by_hand": hand}
            row["share_of_best"] = round(ratio(taken[hand], values), 3)
        yield row

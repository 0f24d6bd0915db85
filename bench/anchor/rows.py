"""What the turns of a net say: the time of each way, and how many times faster than the best of all peers."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from statistics import median

from bench.anchor.ways import OURS, PASSES, PEERS, Way
from bench.ceilings import Ceilings
from bench.records import Row
from bench.subjects.attacks import searched
from bench.timing import quantiles, ratio


@dataclass
class Taken:
    """Milliseconds and page faults of a way in each turn; `flops` of the passes of one call."""

    way: Way
    ms: list[float] = field(default_factory=list)
    faults: list[int] = field(default_factory=list)
    found: Row = field(default_factory=dict)
    flops: float = 0


def best(taken: Sequence[Taken]) -> Taken:
    """Return the peer whose median is the least, with its pages kept or not."""
    return min((each for each in taken if each.way.provider in PEERS), key=lambda each: median(each.ms))


def rows(taken: Sequence[Taken], ceilings: Ceilings) -> Iterator[Row]:
    """Yield a row for each way, with the rates of the machine at that time."""
    first = best(taken)
    alone = {searched(each.way.provider): each for each in taken if each.way.provider in PASSES}
    rates = {f"{name}_product_tflop_per_s": float(f"{rate:.4g}") for name, rate in ceilings.tflops.items()}
    rates["copy_gb_per_s"] = float(f"{ceilings.copy_gb_per_s:.4g}")
    for each in taken:
        provider, precision = each.way.provider, searched(each.way.provider)
        row = {"provider": provider, "pages_kept": each.way.kept, **quantiles(each.ms)}
        row |= {"faults": round(median(each.faults)), "turns": len(each.ms), **each.found}
        if provider in (*OURS, *PASSES):
            row |= {**times(first, each), "best": first.way.provider, "best_pages_kept": first.way.kept}
            row |= ceilings.share_of_products(each.flops, median(each.ms), precision)
        if provider in OURS:
            row["share_of_ceiling"] = round(ratio(alone[precision].ms, each.ms), 3)
            row["limit"] = round(ratio(first.ms, alone[precision].ms), 3)
        yield row | rates


def times(first: Taken, each: Taken) -> Row:
    """Compare turn by turn: the median of the ratios, and the 20th and the 80th percentile."""
    low, middle, high = quantiles([a / b for a, b in zip(first.ms, each.ms, strict=True)]).values()
    found = {"times_best": middle, "times_best_p20": low, "times_best_p80": high}
    return {name: round(value, 3) for name, value in found.items()}

"""PGD against the same attack of other libraries.

All providers run the same steps without a random start, on the same weights and images, in torch's default
precisions. Accuracy, loss and distance are judged by the model as given. The passes alone, a search's
forwards and input gradients with one verdict before and one after, are what the attack would take without
work of its own: the ceiling.
"""

from collections.abc import Iterator
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from bench import pgd
from bench.clock import forward_flops, ratio
from bench.pgd import ALONE, LOOP, NETS, PEERS
from bench.session import Case, Row, Session
from fastadv.engine.precision import PRECISIONS

BASES = ("torchattacks", LOOP)  # by which the others are measured, the first that is installed


def cases(session: Session) -> Iterator[Case]:
    names = [name for name, net in NETS.items() if session.size(*net.counts)]
    chosen = pgd.by_device(session)
    if session.on_cpu:
        # other libraries' code and threads slow down all that comes after in a process
        late = [name for name in chosen if name in (*PEERS, pgd.COMPILED) and name != BASES[0]]
        groups = [[name for name in chosen if name not in late], late]
    else:
        groups = [[*chosen]]
    for told in groups:
        ways = {way: make for way, make in chosen.items() if way in (*told, *BASES) or ALONE in way}
        for name in names:
            yield Case(f"PGD {NETS[name].label}", partial(compared, session, name, ways, told), needs=20)


def searched(provider: str) -> str:
    words = provider.replace(",", "").split()
    return next((name for name in PRECISIONS if name in words), "fp32")


def found(given: pgd.Problem, x_adv: Tensor) -> Row:
    with torch.no_grad():
        logits = given.model(x_adv)
        loss = nn.functional.cross_entropy(logits, given.y)
    return {
        "accuracy": round(float((logits.argmax(1) == given.y).float().mean()), 4),
        "loss": float(f"{float(loss):.5g}"),
        "distance": round(float((x_adv - given.x).abs().max()), 5),
    }


def compared(session: Session, name: str, chosen: dict[str, Any], told: list[str]) -> Iterator[Row]:
    """Yield time and result of each way in `told`, and its share of the passes alone in its precision."""
    given = pgd.problem(session, name)
    ways, x_adv = pgd.made(session, given, chosen), dict[str, Any]()

    def run(name: str) -> None:
        x_adv[name] = ways[name]()

    flops = 0 if session.on_cpu else 2 * forward_flops(given.model, given.x[:1]) * len(given.x) * given.steps
    base = next(name for name in BASES if name in ways)
    column = "times_torchattacks" if base == "torchattacks" else "times_plain"
    kept = {name: partial(run, name) for name in ways}
    rows = [*session.compare(kept, base, column, least=session.size(5, 5, 3))]
    taken = {row["provider"]: values for row, values in rows if values}
    for row, values in rows:
        name = row["provider"]
        row |= {"what": pgd.what(given)}
        if values and x_adv[name] is not None:
            row |= found(given, x_adv[name])
        if values and "early" not in name:
            unit = given.unit if searched(name) == "fp32" else searched(name)
            row |= session.share_of_products(flops, median(values), unit)
            passes = taken.get(f"{ALONE}{searched(name)}")
            if passes and not name.startswith(ALONE):
                row["share_of_ceiling"] = round(ratio(passes, values), 3)
        if values and not session.on_cpu and base != LOOP:
            row["times_plain"] = round(ratio(taken[LOOP], values), 2) if LOOP in taken else None
        if name in PEERS:
            row["version"] = pgd.version_of(name)
        if name in told:
            yield row

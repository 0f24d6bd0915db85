"""What an audit costs, and whether the truth lies inside: plans beside the whole of AutoAttack.

    python -m bench.suite.audit [--net linf] [--norm linf] [--images 10000] [--plan standard quick screen]
                                [--samples 250 500] [--run-dir runs/audit]

Rows go to bench/results/audit.jsonl, and their table is printed; what is stored already is left alone. A plan
of its own is attacked once and audited with each number of samples; the plan "standard" is whole, without an
audit, and tells which images of the others' are missed. "auto-attack" is the authors' code, whose folder
FASTADV_PEERS names. With --run-dir what is done is kept, and a stopped measurement goes on. Seconds are those
of the attacks, on an idle machine.
"""

import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import fastadv as fa
from bench import records
from bench.suite.parity import Counting, where
from bench.suite.wall import SYMBOLS
from fastadv.evaluation import Audit
from fastadv.text import in_markdown, percent
from tests.parity import peers
from tests.parity.models import NETS, add_places, problem

WHOLE, PEER = "standard", "auto-attack"
PLANS = (WHOLE, "quick", "screen", PEER)
OUT = records.RESULTS / "audit.jsonl"


def packed(flags: Tensor) -> str:
    """Return bool [n] as text."""
    return np.packbits(flags.numpy()).tobytes().hex()


def unpacked(text: str, count: int) -> Tensor:
    """Return it from text."""
    bits = np.unpackbits(np.frombuffer(bytes.fromhex(text), np.uint8), count=count)
    return torch.from_numpy(bits).bool()


def audited(
    model: nn.Module, x: Tensor, y: Tensor, threat: fa.Linf, plan: str, samples: int, folder: Path | None
) -> records.Row:
    """Return a plan with an audit of so many samples; none for 0."""
    table = fa.evaluate(
        model, (x, y), f"autoattack:version={plan}", threat=threat, indicators=False, run_dir=folder,
        resume=folder is not None, audit=Audit(samples=samples) if samples else None,
    )  # fmt: skip
    spent = [*table.rows, *table.audits]
    row = {
        "robust": table.worst_case,
        "passes": sum(one.forwards + one.backwards for one in spent),
        "seconds": sum(one.seconds for one in spent),
        "held": packed(table.held),
    }
    return row | {"audit": table.audit.to_dict() if table.audit else None}


def by_the_authors(model: nn.Module, x: Tensor, y: Tensor, norm: str, radius: float) -> records.Row:
    """Return what the authors' AutoAttack leaves, in batches of the evaluation's size."""
    counting, held, started = Counting(model), list[Tensor](), time.perf_counter()
    for part, labels in zip(x.split(256), y.split(256), strict=True):
        x_adv = peers.autoattack(norm).run(counting, part, labels, radius, version=WHOLE)
        with torch.no_grad():
            held.append(model(x_adv).argmax(1) == labels)
    seconds, right = time.perf_counter() - started, torch.cat(held)
    passes = counting.forwards + counting.backwards
    robust = right.double().mean().item()
    return {"robust": robust, "passes": passes, "seconds": seconds, "held": packed(right), "audit": None}


def lines(rows: Sequence[records.Row]) -> Iterator[list[str]]:
    """A line for each plan, with its cost over that of the whole, and whether the truth lies inside."""
    whole = {(row["net"], row["norm"], row["images"]): row for row in rows if row["plan"] == WHOLE}
    yield ["net, threat, images", "plan", "passes", "seconds", "leaves", "these images", "truth"]
    for row in rows:
        base = whole.get((row["net"], row["norm"], row["images"]))
        costs = [f"{row['passes']:,}", f"{row['seconds']:,.0f}"]
        if base is not None and base is not row:
            costs = [f"{cost} = {row[key] / base[key]:.2f}×" for cost, key in zip(costs, COSTS, strict=True)]
        setting = f"{row['net']}, {SYMBOLS[row['norm']]} {row['radius']:.3g}, {row['images']:,}"
        plan, audit = row["plan"], row["audit"]
        inside = ["", ""]
        if audit is not None:
            plan += f", {audit['drawn']:,} audited"
            inside = [f"{percent(audit['low'], 2)} to {percent(audit['high'], 2)}", ""]
        if audit is not None and base is not None:
            both = unpacked(row["held"], row["images"]) & unpacked(base["held"], row["images"])
            truth = both.double().mean().item()
            inside[1] = (
                f"{percent(truth, 2)}, {'in' if audit['low'] <= truth <= audit['high'] else 'out'}side"
            )
        yield [setting, plan, *costs, percent(row["robust"], 2), *inside]


COSTS = ("passes", "seconds")


def main() -> None:
    parser = records.parser(__doc__)
    parser.add_argument("--net", choices=NETS, default="linf")
    parser.add_argument("--norm", choices=("linf", "l2", "l1"), default="linf")
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--plan", nargs="+", choices=PLANS, default=PLANS[:3])
    parser.add_argument("--samples", type=int, nargs="+", default=[250, 500])
    parser.add_argument("--run-dir", type=Path)
    parser.add_argument("--out", type=Path, default=OUT)
    add_places(parser)
    options = parser.parse_args()
    model, x, y = problem(options.net, options.images, options.data_dir, options.weights)
    radius = NETS[options.net].radii[options.norm]
    threat = fa.threat.THREATS[options.norm](radius)
    for plan in options.plan:
        for samples in [0] if plan in (WHOLE, PEER) else options.samples:
            key = {
                "net": options.net,
                "norm": options.norm,
                "images": len(x),
                "plan": plan,
                "samples": samples,
            }
            if any(key.items() <= row.items() for row in records.recorded(options.out)):
                continue
            folder = options.run_dir and options.run_dir / f"{options.net}-{options.norm}-{len(x)}-{plan}"
            if plan == PEER:
                found = by_the_authors(model, x, y, options.norm, radius)
            else:
                found = audited(model, x, y, threat, plan, samples, folder)
            row = {**key, "radius": radius, **found, "threads": torch.get_num_threads(), **where()}
            with options.out.open("a") as file:
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
            print(plan, samples, f"{row['seconds']:,.0f} s", flush=True)
    print(in_markdown([*lines([*records.recorded(options.out)])], names=2))


if __name__ == "__main__":
    main()

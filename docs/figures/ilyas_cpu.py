"""Draw ilyas_cpu_nets.png and ilyas_cpu_transfer.png from the rows of the runs that took hours.

The rows come from

    python -m papers.ilyas2019 pipeline --scale cpu --data-dir data --run-dir runs/ilyas2019

Those of kind "transfer" at radius 0.5 are of this scale as it was on 2026-11-21: 10,000 images, 30 epochs.

python docs/figures/ilyas_cpu.py
"""

import json
from pathlib import Path
from typing import Any

from fastadv.card import telling
from papers.ilyas2019 import figures

ROWS = Path(__file__).parents[2] / "papers" / "results" / "ilyas_cpu.jsonl"
COMMAND = "python -m papers.ilyas2019 pipeline --scale cpu"
ATTACK = "PGD L2 0.25"


def told(row: dict[str, Any]) -> dict[str, Any]:
    """Return what the picture of a run keeps of it."""
    return {"command": COMMAND, "seed": row["seed"], "machine": row["cpu"], "date": row["date"]}


def main() -> None:
    rows = [json.loads(line) for line in ROWS.read_text().splitlines()]
    nets = [row for row in rows if row["kind"] == "net"]
    points = [row for row in rows if row["kind"] == "transfer" and row["radius"] == 1]
    drawn = {row["trained_on"]: (row["clean"], row["robust"][ATTACK]) for row in nets}
    with telling(**told(nets[0])):
        figures.bars(drawn, ATTACK, "CIFAR-10", Path(__file__).with_name("ilyas_cpu_nets.png"))
    with telling(**told(points[0])):
        path = Path(__file__).with_name("ilyas_cpu_transfer.png")
        figures.transfer({"points": points}, path, "ResNet-18")


if __name__ == "__main__":
    main()

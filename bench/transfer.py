"""Measure how gradient rules help adversarial examples of small nets to transfer, in equal steps of mim.

    python -m bench.transfer [--data-dir DIR] [--weights FILE] [--radius 0.2] [--limit 300] [--seeds 0 1 2]

It prints the Markdown of the table in docs/transfer.md: a minute and a half of one core for each seed.
"""

import argparse
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import fastadv as fa
from tests.parity.models import add_places, published_cnn, small

DI, TI, VMI = fa.attacks.DiverseInput(), fa.attacks.TranslationInvariant(7), fa.attacks.VarianceTuned(20)
ATTACKS: dict[str, dict[str, Any]] = {
    "MI": {},
    "NI": {"nesterov": True},
    "MI, DI": {"gradient": [DI]},
    "MI, TI": {"gradient": [TI]},
    "MI, SI": {"gradient": [fa.attacks.ScaleInvariant(5)]},
    "MI, VMI": {"gradient": [VMI]},
    "MI, DI, TI, VMI": {"gradient": [DI, TI, VMI]},
}


def fooled(nets: dict[str, nn.Module], images: fa.data.ImageSet, attack: Any) -> Tensor:
    """The share of what a target gets right that it gets wrong at points of a source: [sources, targets]."""
    models = [net.eval() for net in nets.values()]
    lost, right = torch.zeros(len(models), len(models)), torch.zeros(len(models))
    for x, y, ids in fa.data.batches(images, 256):
        with torch.no_grad():
            clean = torch.stack([model(x).argmax(1) == y for model in models])
        right += clean.sum(1)
        for place, source in enumerate(models):
            x_adv = attack(source, x, y, ids=ids).x_adv
            with torch.no_grad():
                wrong = torch.stack([model(x_adv).argmax(1) != y for model in models])
            lost[place] += (wrong & clean).sum(1)
    return lost / right


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    add_places(parser)
    parser.add_argument("--radius", type=float, default=0.2)
    parser.add_argument("--limit", type=int, default=300)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    args = parser.parse_args()
    nets = {name: small(name) for name in ("standard", "linf", "l2")}
    nets["published"] = published_cnn(args.weights)
    images = fa.data.load("mnist", "test", data_dir=args.data_dir, limit=args.limit)
    pairs = [(source, target) for source in nets for target in nets if source != target]
    print("| attack | " + " | ".join(f"{source} to {target}" for source, target in pairs) + " | mean |")
    print("| --- |" + " ---: |" * (len(pairs) + 1))
    for name, options in ATTACKS.items():
        found = []
        for seed in args.seeds:
            attack = partial(
                fa.attacks.mim, threat=fa.Linf(args.radius), steps=10, loss="ce", stop_early=False, seed=seed,
                **options,
            )  # fmt: skip
            found.append(fooled(nets, images, attack))
        shares = torch.stack(found).mean(0)[~torch.eye(len(nets), dtype=torch.bool)]
        shown = [*shares.tolist(), float(shares.mean())]
        print(f"| {name} | " + " | ".join(f"{100 * share:.1f}" for share in shown) + " |", flush=True)


if __name__ == "__main__":
    main()

"""Minimum-norm attacks under AttackBench, which counts their passes, beside adv-lib and foolbox.

    pip install "attackbenchlib[attacks]==2.0.2" adv-lib==0.2.8
    python examples/11_attackbench.py FOLDER [2000]

The folder holds MNIST; the number is the budget of passes a sample. Prints the optimality on two nets of
docs/parity.md; runs/attackbench has a file for each run. Source: Cinà et al. 2025 (arXiv 2404.19460).
"""

import sys
from functools import partial
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import fastadv as fa

IMAGES, NETS, WEIGHTS = 32, ("linf", "l2"), Path(__file__).parents[1] / "tests" / "attacks" / "weights"
THREATS = {"l2": fa.L2(torch.inf), "linf": fa.Linf(torch.inf)}


def chosen(budget):
    """Return attacks by norm, with options by which each spends nearly the budget."""
    ours, apgd = {"steps": budget // 2 - 10}, partial(fa.attacks.apgd, steps=budget // 36 - 1)
    theirs, minimal = {"num_steps": budget // 2}, {"num_steps": budget // 40 - 2}  # at 20 radii
    l2 = {"fastadv ddn": ours, "fastadv fmn": ours, "fastadv minimum_norm": ours}
    l2 |= {"adv_lib ddn_NQ": theirs, "adv_lib fmn": theirs, "foolbox ddn": theirs}
    linf = {"fastadv fmn": ours, "fastadv pdpgd": ours, "fastadv minimum_norm": ours}
    linf |= {"fastadv minimum_radius": {"attack": apgd}, "adv_lib apgd_minimal": minimal}
    linf |= {"adv_lib fmn": theirs, "adv_lib pdpgd": theirs, "foolbox fmn": theirs}
    return {"l2": l2, "linf": linf}


def adapt(library, name, norm, **options):
    """Return our attack of that name as `attackbench.get_attack` does one of theirs."""

    def run(model, inputs, labels):
        attack, threat = fa.attacks.ATTACKS[name].run, THREATS[norm]
        # a frozen copy would search where nothing is counted, and beyond the budget
        return attack(model, inputs, labels, threat, freeze=False, **options).x_adv

    run._attackbench_name, run._attackbench_lib = name, library
    return run


def load(name):
    layers = []
    for inputs, channels in ((1, 8), (8, 16)):
        norm = [nn.BatchNorm2d(channels)] * (name == "l2")
        layers += [nn.Conv2d(inputs, channels, 4, stride=2, padding=1), *norm, nn.ReLU()]
    net = nn.Sequential(*layers, nn.Flatten(), nn.Linear(784, 48), nn.ReLU(), nn.Linear(48, 10))
    fa.models.load_weights(net, WEIGHTS / f"{name}.safetensors")
    return net.eval()


def main(data_dir, budget=2000):
    import attackbench as bench
    from attackbench.metrics import save_precompiled_distances as save

    test = fa.data.load("mnist", "test", data_dir=data_dir, limit=IMAGES)
    data = DataLoader(TensorDataset(*next(iter(fa.data.batches(test, IMAGES)))[:2]), batch_size=IMAGES)
    named = {"dataset_name": "mnist", "query_budget": budget}
    for norm, attacks in chosen(budget).items():
        runs = {name: {} for name in attacks}
        for name, options in attacks.items():
            get = adapt if name.startswith("fastadv") else bench.get_attack
            attack = get(*name.split(), norm, **options)
            for net in NETS:
                runs[name][net] = bench.run_attack(load(net), data, attack, norm, model_name=net, **named)
                save(runs[name][net], "runs/attackbench")
        board = bench.create_attack_leaderboard(runs, norm)
        for name, mean in board["leaderboard"]:
            local = board["attack_details"][name]["local_optimality"]
            print(norm, name, f"{mean:.3f}", *(f"{net} {local[net]:.3f}" for net in NETS), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))

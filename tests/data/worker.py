"""What each process of a test does with a construction; the sets it returned lie in files."""

import json
from functools import partial

import torch
from torch import nn

from fastadv.files import save_tensors
from fastadv.runs import processes
from tests.data.sets import ALL, CLASSES, random_target, toy_base
from tests.kills import die, loss_told
from tests.processes import tell

# 60 images are three shards of four, four and two batches: fewer shards than four processes
OPTIONS = {"steps": 3, "shard_size": 25, "batch_size": 7}


def net():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        parts = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, CLASSES)
        model = nn.Sequential(*parts)
        model[1].running_var.uniform_(0.2, 0.5)
    return model.eval()


def write(dataset, path):
    card = {name: value for name, value in dataset.card.items() if name != "date"}
    save_tensors(path, dataset.tensors(), {"card": json.dumps(card, sort_keys=True)})


def every_set(folder, rank=0):
    name = f"{processes.world()}-{rank}"
    for construct in ALL:
        kind = construct.__name__
        dataset = construct(net(), toy_base(), out_dir=folder / f"{kind}-{name[0]}", **OPTIONS)
        write(dataset, folder / f"{kind}-{name}.set")
        write(construct(net(), toy_base(), **OPTIONS), folder / f"{kind}-{name}.memory")


def resumed(folder, killed=False):

    def progress(done, total):
        if killed and done == 14 and processes.rank() == 1:
            die()

    return random_target(net(), toy_base(), out_dir=folder, progress=progress, **OPTIONS)


def killed(folder, rank):
    with loss_told(folder):
        resumed(folder / "run", killed=True)


def go_on(folder, rank=0):
    name = f"{processes.world()}-{rank}"
    write(resumed(folder / f"run-{name[0]}"), folder / f"resumed-{name}")


def faults(folder, rank):
    """What each process says of a construction that goes wrong in one of them."""
    (folder / "file").write_text("")
    random_target(net(), toy_base(20), out_dir=folder / "other", **OPTIONS)
    spoiled = toy_base(eight_bit=False)
    spoiled.x[29, 0, 2, 2] = 2.0
    wrong = {
        "base": {"base": toy_base(60 - rank)},
        "out_dir": {"out_dir": folder / f"set-{rank}"},
        "argument": {"steps": 1 - rank},
        "file": {"out_dir": folder / "file"},
        "folder": {"out_dir": folder / "other"},
        # in the second shard, which the second process makes
        "pixel": {"base": [*zip(spoiled.x, spoiled.y.tolist(), strict=True)]},
    }
    given = {"model": net(), "base": toy_base(), **OPTIONS}
    calls = {name: partial(random_target, **(given | options)) for name, options in wrong.items()}
    tell(folder, rank, calls)

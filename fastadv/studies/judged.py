"""How the studies of training judge a net: by AutoAttack, in a folder where a stopped evaluation goes on."""

from functools import partial
from pathlib import Path

from torch import nn

import fastadv as fa
from fastadv.attacks.autoattack import Version
from fastadv.data import ImageSet
from fastadv.evaluation import Row, Table


def by_autoattack(
    model: nn.Module,
    test_set: ImageSet,
    threat: fa.Linf,
    *,
    limit: int,
    version: Version,
    seed: int,
    folder: Path,
) -> tuple[Table, Row]:
    """Return the evaluation of the first `limit` images, and its row of AutoAttack."""
    attack = partial(fa.attacks.autoattack, threat=threat, version=version, seed=seed)
    table = fa.evaluate(
        model.eval(), test_set, {"AutoAttack": attack}, limit=limit, run_dir=folder, resume=True
    )
    return table, table["AutoAttack"]

"""Results in the layout of AttackBench, whose own scripts read them (github.com/attackbench/AttackBench).

results/DATASET/NORM/MODEL/batch_size_128/fastadv ATTACK/1/{config,info}.json   one run
results/DATASET-NORM-MODEL-128.json                                             best distances, by hash
compiled/DATASET/MODEL_NORM.json                                                the records of a leaderboard
"""

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastadv.errors import CorruptFileError, InputError
from fastadv.evaluation.attackbench import Measured
from fastadv.evaluation.optimality import local_optimality
from fastadv.runs.files import read_json, write_text

LIBRARY = "fastadv"
# its models: the name in paths, and that in the configuration of a run
MODELS = {
    "standard": "Standard", "stutz_2020": "Stutz2020CCAT", "zhang_2020_small": "Zhang2020CrownSmall",
    "xiao_2020": "Xiao2020KWTA", "wang_2023_small": "Wang2023DMAdvSmall", "standard_imagenet": "Standard_R50",
    "wong_2020": "Wong2020Fast", "salman_2020": "Salman2020Do_50_2",
    "debenedetti_2022": "Debenedetti2022Light_XCiT-S12",
}  # fmt: skip
# how its leaderboards write attacks that it knows
NAMES = {"sigma_zero": "$\\sigma$-zero"} | {
    name: name.upper() for name in ("apgd", "bim", "cw", "ddn", "ead", "fab", "fmn", "pdgd", "pdpgd", "pgd")
}


@dataclass(frozen=True)
class Submission:
    """A run of an attack in the form of AttackBench.

    Args:
        measured: what `attackbench` returned.
        dataset: the name of the data set in AttackBench.
        model: the name of the model in AttackBench.
        attack: the name of the attack.
        config: the arguments of the attack, for JSON.
    """

    measured: Measured
    dataset: str
    model: str
    attack: str
    config: Mapping[str, Any]

    @property
    def info(self) -> dict[str, Any]:
        """The content of info.json."""
        run = self.measured
        wrong, success = (~run.correct).tolist(), run.success.tolist()
        return {
            "hashes": list(run.hashes),
            "targeted": False,
            "accuracy": run.correct.double().mean().item(),
            "ori_success": wrong,
            "adv_success": success,
            "ASR": run.success.double().mean().item(),
            "times": list(run.seconds),
            "num_forwards": run.forwards.tolist(),
            "num_backwards": run.backwards.tolist(),
            "distances": {norm: row.tolist() for norm, row in run.distances.items()},
            "best_optim_distances": {norm: row.tolist() for norm, row in run.best.items()},
            "box_failures": [False] * len(wrong),
            "batch_failures": [False] * len(run.seconds),
        }

    def optimality(self, best: Mapping[str, float]) -> float:
        """Return the local optimality against stored best distances.

        Args:
            best: distances by the hash of each image, see `read_best`.

        Returns:
            The optimality; 1 where the run reaches the best distance of every sample.

        Raises:
            InputError: images of the run are not among them.
        """
        hashes, row = self.measured.hashes, self.measured.best[self.measured.norm]
        missing = sum(name not in best for name in hashes)
        if missing:
            raise InputError(
                f"best: expected the distances of these {len(hashes)} images, got none for {missing} of "
                "them; they are of other images, or of other pixels: JPEG copies, another preprocessing"
            )
        return local_optimality(row.numpy(), [best[name] for name in hashes])

    def write(self, folder: str | os.PathLike[str], best: Mapping[str, float] | None = None) -> Path:
        """Write the run below a folder.

        The file of best distances takes the smallest of its own, `best` and this run's.

        Args:
            folder: of all runs.
            best: distances by the hash of each image. With them the record of this attack is written,
                replacing an older one; None writes no record.

        Returns:
            The run's own folder, number 1 or the next that is free.
        """
        run, root = self.measured, Path(folder)
        record = None if best is None else self.record(best)
        scenario = root / "results" / self.dataset / run.norm / self.model / f"batch_size_{run.batch_size}"
        # the space divides library and attack where AttackBench makes records of folders
        runs = scenario / f"{LIBRARY} {self.attack}"
        number = 1
        while (runs / str(number)).exists():
            number += 1
        config = {
            "attack": {"name": self.attack, "threat_model": run.norm, **self.config},
            "dataset": {"batch_size": run.batch_size, "num_samples": len(run.hashes)},
            "model": {
                "dataset": self.dataset,
                "name": MODELS.get(self.model, self.model),
                "num_max_propagations": run.passes,
            },
        }
        _write(runs / str(number) / "config.json", config)
        _write(runs / str(number) / "info.json", self.info)
        known = root / "results" / f"{self.dataset}-{run.norm}-{self.model}-{run.batch_size}.json"
        least = read_best(known) if known.exists() else {}
        own = dict(zip(run.hashes, run.best[run.norm].tolist(), strict=True))
        for more in (best or {}, own):
            least |= {name: min(value, least.get(name, math.inf)) for name, value in more.items()}
        _write(known, least)
        if record is not None:
            path = root / "compiled" / self.dataset / f"{self.model}_{run.norm}.json"
            others = [one for one in _records(path) if not _same(one, record)]
            _write(path, [*others, record])
        return runs / str(number)

    def record(self, best: Mapping[str, float]) -> dict[str, Any]:
        """Return the line of a leaderboard.

        Args:
            best: distances by the hash of each image, see `read_best`.

        Returns:
            Optimality, success rate, and mean passes and time of a batch.
        """
        run = self.measured
        return {
            "dataset": self.dataset,
            "attack": NAMES.get(self.attack, self.attack),
            "library": LIBRARY,
            "model": self.model,
            "threat_model": run.norm,
            "ASR": run.success.double().mean().item(),
            "optimality": self.optimality(best),
            "n_forwards": float(int(run.forwards.double().mean())),
            "n_backwards": float(int(run.backwards.double().mean())),
            "time": sum(run.seconds) / len(run.seconds),
        }


def read_best(path: str | os.PathLike[str]) -> dict[str, float]:
    """Read the best distances as AttackBench compiles them.

    Args:
        path: of the file.

    Returns:
        Distances by the hash of each image.

    Raises:
        InputError: the file is missing.
        CorruptFileError: the file has another content.
    """
    if not Path(path).is_file():
        raise InputError(f"best: expected a file of best distances, got none at {path}; check its name")
    content = read_json(path)
    valid = isinstance(content, dict) and all(
        isinstance(value, int | float) and not isinstance(value, bool) and value >= 0
        for value in content.values()
    )
    if not valid or not content:
        raise CorruptFileError(
            f"{path}: expected a JSON object with a distance of at least 0 for the hash of each image, got "
            "another; results/DATASET-NORM-MODEL-128.json is such a file"
        )
    return {name: float(value) for name, value in content.items()}


def global_optimality(folder: str | os.PathLike[str], norm: str, attack: str) -> tuple[float, int]:
    """Return the mean optimality of an attack of fastadv over the models compiled in a folder.

    Args:
        folder: of all runs, where `Submission.write` wrote.
        norm: "linf", "l2", "l1" or "l0".
        attack: its name.

    Returns:
        The mean and the number of models; NaN and 0 where there is none.
    """
    values = [
        one["optimality"]
        for path in sorted(Path(folder).glob(f"compiled/*/*_{norm}.json"))
        for one in _records(path)
        if (one["library"], one["attack"]) == (LIBRARY, NAMES.get(attack, attack))
    ]
    return (sum(values) / len(values), len(values)) if values else (math.nan, 0)


def _records(path: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = read_json(path) if path.exists() else []
    return found


def _same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return all(one[key] == other[key] for key in ("attack", "library"))


def _write(path: Path, value: Any) -> None:
    # Python's JSON, with its word for infinity, as the scripts of AttackBench write and read it
    write_text(path, json.dumps(value, indent=4) + "\n")

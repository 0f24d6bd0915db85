"""What the papers share: progress, training, results and checks of what is asked for."""

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import fastadv as fa
from fastadv.card import card
from fastadv.data import ImageSet
from fastadv.errors import InputError
from fastadv.files import read_json, write_json, write_text
from fastadv.runs.checkpoint import CHECKPOINT
from fastadv.runs.identity import check_same, describe
from fastadv.runs.work import Keeper

CPU, NO_BOX = torch.device("cpu"), (-math.inf, math.inf)
RESULTS, REPORT, WEIGHTS = "results.json", "report.md", "model.safetensors"
SECONDS = "seconds"  # of each piece of work, beside what was measured
Watch = Callable[[str, int, int], None]  # called with (what is being done, done, total)
Report = Callable[[dict[str, Any]], str]  # the results of a study as a page in Markdown


def unwatched(what: str, done: int, total: int) -> None:
    """Ignore progress."""


class Spent(Exception):
    """The seconds of a run are spent: it stops where an interrupted one would."""


def limited(watch: Watch, budget: float | None) -> Watch:
    """Return `watch`, which raises Spent from `budget` seconds on; None never does."""
    if budget is None:
        return watch
    end = time.monotonic() + budget

    def watched(what: str, done: int, total: int) -> None:
        watch(what, done, total)
        if time.monotonic() >= end:
            raise Spent

    return watched


def work_off(
    work: Mapping[str, Callable[[], None]],
    seconds: dict[str, float],
    write: Callable[[Sequence[str]], dict[str, Any]],
) -> dict[str, Any]:
    """Do pieces of work until seconds are spent; after each, or a stop, `write` gets what is left."""
    left = list(work)
    stopped: BaseException | None = None
    while left and stopped is None:
        began, what = time.perf_counter(), left[0]
        try:
            work[what]()
            del left[0]
        except (Spent, KeyboardInterrupt) as stop:
            stopped = stop
        # added to the time of earlier runs: what is only read again has cost what it cost before
        seconds[what] = seconds.pop(what, 0.0) + time.perf_counter() - began
        result = write(left)
    if isinstance(stopped, KeyboardInterrupt):
        raise stopped
    return result if work else write(left)


def known_in(keeper: Keeper, config: Mapping[str, Any], *but: str) -> dict[str, Any]:
    """Return what a run of this configuration measured in the folder; entries `but` may differ."""
    if (there := keeper.read(RESULTS, read_json)) is None or keeper.path is None:
        return {}
    pair = ({**one, **dict.fromkeys(but)} for one in (there["config"], config))
    check_same(keeper.path / RESULTS, *pair)
    return dict(there["measured"])


def publish(
    keeper: Keeper, study: str, config: Mapping[str, Any], report: Report | None = None, **measured: Any
) -> dict[str, Any]:
    """Write the card of a study as results.json and its report as report.md."""
    result = card(study, config, **measured)
    keeper.result(RESULTS, partial(write_json, value=result))
    if report is not None:
        keeper.result(REPORT, partial(write_text, text=report(result)))
    return result


def some_of(name: str, chosen: Iterable[str], known: Iterable[str]) -> tuple[str, ...]:
    """Return the chosen names, each once, in the order in which they are known; InputError for others."""
    wanted, known = dict.fromkeys(chosen), tuple(known)
    if not wanted or wanted.keys() - set(known):
        got = ", ".join(option for option in wanted if option not in known) or "none"
        raise InputError(f"{name}: expected some of {', '.join(known)}, got {got}")
    return tuple(option for option in known if option in wanted)


def unit(x: Tensor) -> Tensor:
    """Return images as float32 in [0, 1]."""
    return x.float() / 255 if x.dtype == torch.uint8 else x


def load_images(name: str, split: str, **options: Any) -> ImageSet:
    images = fa.data.load(name, split, **options)
    assert isinstance(images, ImageSet)
    return images


def trained(
    model: str,
    images: ImageSet,
    recipe: fa.train.Recipe,
    folder: Path,
    *,
    seed: int,
    options: Mapping[str, Any] | None = None,
    **training: Any,
) -> nn.Module:
    """Train a network of `fa.models`; training that was interrupted in the folder resumes.

    Weights without a checkpoint were brought there from another machine: they are taken as they are.
    """
    shape, classes = images.shape, images.num_classes
    net = fa.models.create(model, shape=shape, classes=classes, seed=seed, **(options or {}))
    if (path := folder / WEIGHTS).exists() and not (folder / CHECKPOINT).exists():
        there = fa.models.load_weights(net, path).get("config", {})
        here = {"seed": seed, "data": images.describe(), "recipe": describe(recipe, net, None)}
        here |= {key: training[key] for key in ("epochs", "batch_size", "learning_rate") if key in training}
        check_same(path, {key: there.get(key) for key in here}, here)
        return net.to(training.get("device")).eval()
    fa.train.fit(net, images, recipe, run_dir=folder, resume=True, seed=seed, **training)
    return net.eval()


def one_of_each(y: Tensor, usable: Tensor | None = None) -> Tensor:
    """Find the first usable sample of each class."""
    usable = torch.ones_like(y, dtype=torch.bool) if usable is None else usable
    return torch.cat([((y == k) & usable).nonzero()[:1, 0] for k in range(int(y.max()) + 1)])

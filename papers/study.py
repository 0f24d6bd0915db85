"""What the studies share: progress, training and the results; settings and data of those on the digits."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import fastadv as fa
from fastadv.data import ImageSet
from fastadv.data.content import describe_set
from fastadv.runs.card import card
from fastadv.runs.description import describe
from fastadv.runs.files import read_json, write_json, write_text
from fastadv.runs.folder import Keeper
from fastadv.runs.identity import check_same
from fastadv.runs.record import CHECKPOINT

RESULTS, REPORT, WEIGHTS = "results.json", "report.md", "model.safetensors"
SECONDS = "seconds"  # of each piece of work, beside what was measured
Watch = Callable[[str, int, int], None]
"""A function that is called with (what is being done, done, total)."""
Report = Callable[[dict[str, Any]], str]
"""A function that returns the results of a study as a page in Markdown."""


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
    """Do pieces of work until seconds are spent; after each, and when interrupted, `write` gets what is left.

    The time of each is added to that of earlier runs: what is only read again has cost what it cost before.
    """
    left = list(work)
    stopped: BaseException | None = None
    while left and stopped is None:
        began, what = time.perf_counter(), left[0]
        try:
            work[what]()
            del left[0]
        except (Spent, KeyboardInterrupt) as stop:
            stopped = stop
        seconds[what] = seconds.pop(what, 0.0) + time.perf_counter() - began
        result = write(left)
    if isinstance(stopped, KeyboardInterrupt):
        raise stopped
    return result if work else write(left)


def known_in(keeper: Keeper, config: Mapping[str, Any], *but: str) -> dict[str, Any]:
    """Return what a run of this configuration measured in the folder; entries `but` may differ."""
    if (there := keeper.found(RESULTS, read_json)) is None or keeper.path is None:
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


def load_images(name: str, split: str, **options: Any) -> ImageSet:
    made = fa.data.load(name, split, **options)
    assert isinstance(made, ImageSet)
    return made


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
        here = {"seed": seed, "data": describe_set(images), "recipe": describe(recipe, net, None)}
        here |= {key: training[key] for key in ("epochs", "batch_size", "learning_rate") if key in training}
        check_same(path, {key: there.get(key) for key in here}, here)
        return net.to(training.get("device")).eval()
    fa.train.fit(net, images, recipe, run_dir=folder, resume=True, seed=seed, **training)
    return net.eval()


@dataclass(frozen=True)
class Settings:
    """The settings that the studies depend on, in input units; radii not named Linf are L2."""

    size: int = 10  # height and width of the digits
    seed: int = 0  # of everything random
    width: int = 8
    samples: int | None = None  # use this many training images only; None uses all
    epochs: int = 20
    batch_size: int = 64
    train_radius: float = 0.8  # of adversarial training
    train_steps: int = 7  # of the attack in adversarial training
    invert_steps: int = 100  # of the search for D_R and D_NR
    invert_step_size: float = 0.1  # of the search for D_R and D_NR
    push_radius: float = 1.2  # of the search for D_rand and D_det
    push_steps: int = 40  # of the search for D_rand and D_det
    linf_radius: float = 0.08  # of the attacks in L-infinity
    l2_radius: float = 0.4  # of the attacks in L2
    attack_steps: int = 20
    abs_epochs: int = 30  # of training ABS
    abs_prior: int = 1000  # prior samples of ABS
    abs_samples: int = 100  # images that ABS is measured on
    curve_radii: tuple[float, ...] = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)

    def attacks(self) -> dict[str, Callable[..., Any]]:
        linf, l2 = fa.Linf(self.linf_radius), fa.L2(self.l2_radius)
        fgsm = partial(fa.attacks.fgsm, loss="ce", seed=self.seed)
        pgd = partial(fa.attacks.pgd, steps=self.attack_steps, loss="ce", seed=self.seed)
        return {
            f"FGSM L∞ {self.linf_radius:g}": partial(fgsm, threat=linf),
            f"PGD L∞ {self.linf_radius:g}": partial(pgd, threat=linf),
            f"PGD L2 {self.l2_radius:g}": partial(pgd, threat=l2),
        }

    @property
    def push_step_size(self) -> float:
        return self.push_radius / 10

    @property
    def main_attack(self) -> str:
        return f"PGD L2 {self.l2_radius:g}"

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "curve_radii": list(self.curve_radii)}


class Study:
    """The settings, the digits, and the folder of a study, in which an interrupted run resumes."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self.settings, self.folder = settings, folder
        size = None if settings.size == 8 else settings.size
        of_size = partial(load_images, "digits", size=size, limit=settings.samples)
        self.base, self.test = of_size("train"), of_size("test")


def one_of_each(y: Tensor, usable: Tensor | None = None) -> Tensor:
    """Find the first usable sample of each class."""
    usable = torch.ones_like(y, dtype=torch.bool) if usable is None else usable
    places = [((y == k) & usable).nonzero().flatten() for k in range(int(y.max()) + 1)]
    found = [place[0] for place in places if len(place)]
    return torch.stack(found) if found else torch.empty(0, dtype=torch.int64)


@contextmanager
def one_thread() -> Iterator[None]:
    """Work on one thread: networks this small gain nothing by a second, and results stay the same."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


SIZES = {
    8: Settings(
        size=8, width=16, epochs=30, batch_size=128, train_radius=1.0, push_radius=1.5, linf_radius=0.15,
        l2_radius=0.65,
    ),
    10: Settings(),
    16: Settings(size=16, epochs=15, train_radius=0.5, push_radius=0.5, linf_radius=0.03, l2_radius=0.25),
    28: Settings(
        size=28, train_radius=0.5, push_radius=0.5, invert_step_size=0.2, linf_radius=0.015, l2_radius=0.15
    ),
}  # fmt: skip
"""The settings for each side of the images.

The larger the image, the more directions a net uses that a digit does not need, and the smaller the radius
that breaks it. At 8, D_R is hardly more robust than the digits; at 16 and 28, D_det no longer teaches the
true labels; at 10 every set shows its effect.
"""

TINY = Settings(
    width=4, samples=60, epochs=1, train_steps=1, invert_steps=2, push_steps=2, attack_steps=2, abs_epochs=1,
    abs_prior=20, abs_samples=4, curve_radii=(0.0, 1.0),
)  # fmt: skip
"""Every part in a second or two; the figures mean nothing."""

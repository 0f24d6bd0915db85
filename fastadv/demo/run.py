"""The demo: two papers on the embedded digits, the figures of it, and what it says of them."""

import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import fastadv as fa
from fastadv._extras import need
from fastadv.card import card
from fastadv.data import ImageSet
from fastadv.demo import nets
from fastadv.demo.nets import NETS, SETS, SOURCE, Digits, Net, Settings, Watch
from fastadv.evaluation import Attack
from fastadv.evaluation.figures import Strip, style
from fastadv.evaluation.figures.style import FAINT, GRID, INK, SKY, VERMILION
from fastadv.files import write_json
from fastadv.runs.identity import plain
from fastadv.runs.work import Keeper
from fastadv.text import finite

THICK, GAP = 0.17, 0.16  # inches of a bar, and between two nets
WIDE = 0.12  # of the axis, what a number takes
GUESSING = 0.1


def draw(digits: Digits, nets: Mapping[str, Net], folder: Path) -> dict[str, str]:
    """Draw four figures; return the path of each by what it shows."""
    s = digits.settings
    attack, pgd = s.main_attack, partial(fa.attacks.pgd, steps=s.attack_steps, loss="ce", seed=s.seed)
    shows = ("the six nets", "accuracy by radius", "nets under attack", "the four sets")
    files = ("nets.png", "radius.png", "attack.png", "sets.png")
    paths = {what: folder / file for what, file in zip(shows, files, strict=True)}
    shares = {n: (net.table.clean_accuracy, net.table[attack].robust_accuracy) for n, net in nets.items()}
    bars(shares, attack, f"digits of {s.size}×{s.size} pixels", paths["the six nets"])
    curves = {
        name: fa.accuracy_against_radius(
            net.model, digits.test, lambda r: partial(pgd, threat=fa.L2(r)), s.curve_radii
        )
        for name, net in nets.items()
    }
    fa.figures.curves(
        curves, paths["accuracy by radius"], radius="L2 radius of PGD",
        title="Accuracy against the size of the attack", chance=0.1,
    )  # fmt: skip
    # one digit of each class that both nets read correctly
    both = nets["standard"].table.correct & nets["adversarial"].table.correct
    picked = digits.test.subset(one_of_each(digits.test.y, both))
    fa.figures.strips(
        list(_attacked(nets, picked, partial(pgd, threat=fa.L2(s.l2_radius), stop_early=False))),
        path=paths["nets under attack"], title="What an attack must change to fool a network",
        subtitle=f"PGD in L2 {s.l2_radius:g}, the same budget for both networks; "
        "below each image the class seen, orange where that is wrong",
    )  # fmt: skip
    strips = [_strip("the digits", digits.base, digits.base, "true label")]
    strips += [_strip(name, nets[name].learned, digits.base, SETS[name][2]) for name in SETS]
    fa.figures.strips(
        strips, path=paths["the four sets"], title="The constructed sets",
        subtitle="below each image the label to train on, orange where it is not the true one",
    )  # fmt: skip
    return {what: str(path) for what, path in paths.items()}


def one_of_each(y: Tensor, usable: Tensor) -> Tensor:
    """Find the first usable sample of each class."""
    return torch.cat([((y == k) & usable).nonzero()[:1, 0] for k in range(int(y.max()) + 1)])


def bars(nets: Mapping[str, tuple[float, float]], attack: str, data: str, path: Path) -> None:
    """Draw the accuracy of each network, clean and under `attack` on `data`, with the paper's as marks."""
    from matplotlib.patheffects import withStroke
    from matplotlib.ticker import PercentFormatter

    names = [f"{name}\n{SETS[name][2]}" if name in SETS else name for name in nets]
    group = 2 * THICK + GAP
    left, bottom, top = 2.05, 0.3, 1.06
    width, height = left + 4.1, bottom + len(nets) * group + top
    figure = style.new_figure(width, height, "What networks learn from each training set")
    axes = figure.add_axes((left / width, bottom / height, 3.5 / width, len(nets) * group / height))
    style.plain(axes)
    axes.set(xlim=(0, 1), ylim=(len(nets) * group, 0), xticks=[tick / 5 for tick in range(6)])
    axes.set_yticks([(place + 0.5) * group for place in range(len(nets))], names, fontsize=9)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    axes.grid(axis="x", color=GRID, linewidth=0.8)
    subtitle = f"Bars: accuracy on {data}, clean and under {attack}.\nDiamonds: {SOURCE}, and clean."
    down = 1 - 0.32 / height
    figure.text(0, down, subtitle, fontsize=8, color=FAINT, va="top", linespacing=1.35)
    axes.axvline(GUESSING, color=INK, linewidth=0.9, linestyle=(0, (2, 2)), zorder=3)
    for place, (name, values) in enumerate(nets.items()):
        for line, (value, theirs) in enumerate(zip(values, NETS[name][1:], strict=True)):
            center = place * group + GAP / 2 + (line + 0.5) * THICK
            axes.barh(center, value, height=THICK * 0.88, color=(SKY, VERMILION)[line], zorder=2)
            axes.plot(theirs, center, "d", color=INK, markersize=5, mfc="white", zorder=4, clip_on=False)
            # a number beyond the mark would be read as the mark's
            after = theirs + 0.022 if 0 <= theirs - value < WIDE else value + 0.015
            after = GUESSING + 0.01 if after < GUESSING < after + WIDE / 2 else after
            axes.text(
                after, center + 0.005, f"{100 * value:.0f}%", va="center", fontsize=8, color=INK, zorder=5,
                path_effects=[withStroke(linewidth=2, foreground="white")],
            )  # fmt: skip
    entries = [("clean", "s", SKY), (attack, "s", VERMILION), ("paper", "$◇$", INK), ("guessing", ":", INK)]
    style.key(figure, left, top - 0.2, entries)
    style.save(figure, path)


def _strip(name: str, images: ImageSet, base: ImageSet, remark: str) -> Strip:
    """Return an image of each class of the base, as it is or as a set has made it, with the set's label."""
    places = one_of_each(base.y, torch.ones_like(base.y, dtype=torch.bool))
    labels, shown = images.y[places], torch.stack([images[place][0] for place in places.tolist()])
    names = [images.classes[label] for label in labels.tolist()]
    marked = None if images is base else labels != base.y[places]
    return Strip(name, shown, names, marked, remark=remark)


def _attacked(nets: Mapping[str, Net], picked: ImageSet, attack: Attack) -> Iterator[Strip]:
    """Yield these images, and what the attack makes of them on either net."""
    yield Strip("clean", picked.x, picked.y.tolist())
    for name in ("standard", "adversarial"):
        model = nets[name].model
        x_adv = attack(model, picked.x, picked.y).x_adv
        with torch.no_grad():
            seen = model(x_adv).argmax(1)
        wrong, remark = seen != picked.y, "attacked; its prediction"
        yield Strip(f"{name} network", x_adv, seen.tolist(), wrong, remark=remark, apart=0.12)
        yield Strip("difference", x_adv - picked.x, difference=True)


RESULTS = "results.json"
EXPLAINED, REMARK = (2, 3, 8), "explained by 0 to 9"


def run(settings: Settings, folder: Path, watch: Watch) -> dict[str, Any]:
    """Do both papers, draw their figures, and write results.json; what the folder holds is kept."""
    need("matplotlib")
    started, threads = time.perf_counter(), torch.get_num_threads()
    with Keeper(folder) as keeper, ExitStack() as after:
        # networks this small gain nothing by a second thread, and results stay the same
        after.callback(torch.set_num_threads, threads)
        torch.set_num_threads(1)
        digits = Digits(settings, folder)
        networks = {net.name: net for net in nets.nets(digits, watch)}
        model, explained = synthesis(digits, watch)
        drawn = draw(digits, networks, folder / "figures")
        drawn |= draw_synthesis(digits, model, folder / "figures")
        sets = {"train": digits.base.describe(), "test": digits.test.describe()}
        result = card(
            "demo", {"settings": plain(asdict(settings)), **sets},
            nets={name: nets.measured(net) for name, net in networks.items()}, abs=explained, figures=drawn,
            folder=str(folder), seconds=time.perf_counter() - started,
        )  # fmt: skip
        keeper.result(RESULTS, partial(write_json, value=result))
    return result


def cells(result: dict[str, Any]) -> list[list[str]]:
    results = result["measured"]["nets"]
    attacks = list(results["standard"]["robust"])
    measures = ["clean", *attacks, "paper*: clean", "paper*: PGD L2"]
    lines = [["net", "learned from", *(measure.replace(" ", "\n", 1) for measure in measures)]]
    for name, net in results.items():
        shares = [net["clean"], *(net["robust"][attack] for attack in attacks)]
        # The paper's own digits; some it says only are about 0
        paper = [f"{100 * share:.4g}%" if share else "~0%" for share in net["paper_cifar10"].values()]
        lines.append([name, NETS[name][0], *(f"{share:.1%}" for share in shares), *paper])
    return lines


def synthesis(digits: Digits, watch: Watch) -> tuple[fa.models.ABS, dict[str, Any]]:
    """Train an ABS and measure it on the first `abs_samples` test digits; None is an infinite median."""
    s = digits.settings
    model = fa.models.ABS.fit(
        digits.base, epochs=s.abs_epochs, width=s.width, prior_samples=s.abs_prior, seed=s.seed,
        progress=partial(watch, "training ABS"),
    )  # fmt: skip
    part = digits.test.subset(torch.arange(min(s.abs_samples, len(digits.test))))
    descent = partial(fa.attacks.latent_descent, steps=51, schedule="line_search")
    attacks = {s.main_attack: s.attacks()[s.main_attack], "latent descent": descent}
    rows = fa.evaluate(model, part, attacks, indicators=False, progress=partial(watch, "attacking ABS"))
    return model, {
        "clean": fa.evaluate(model, digits.test).clean_accuracy,
        "robust": rows[s.main_attack].robust_accuracy,
        "latent_descent": finite(rows["latent descent"].median_distance),
        "lower_bound": float(model.lower_bound(part.x, part.y).mean()),
        "samples": len(part),
    }


def synthesis_found(figures: Mapping[str, Any], attack: str) -> list[str]:
    median, broken = figures["latent_descent"], "less than half of its decisions"
    if median is not None:
        broken = f"its decisions at L2 {median:.2f} in the median"
    return [
        f"Analysis by Synthesis reads {figures['clean']:.1%} of the digits "
        f"and keeps {figures['robust']:.1%} of {figures['samples']} under {attack};",
        f"latent descent breaks {broken}; lower bounds average {figures['lower_bound']:.2f}.",
    ]


def draw_synthesis(digits: Digits, model: fa.models.ABS, folder: Path) -> dict[str, str]:
    test, classes, rows = digits.test, range(model.classes), list[fa.figures.Strip]()
    for shown in EXPLAINED:
        x = test.x[int((test.y == shown).nonzero()[0])][None]
        inferred = model.infer(x)
        loss = inferred.loss[0]
        images = torch.cat([x, inferred.reconstruction[0].to(x.dtype)])
        captions = ["digit", *(f"{k}: {1000 * float(loss[k]):.0f}" for k in classes)]
        best = torch.arange(-1, len(classes)) == int(loss.argmin())
        rows.append(fa.figures.Strip(f"a {shown}", images, captions, best, fa.figures.BLUE, remark=REMARK))
    fa.figures.strips(
        rows, path=(path := folder / "abs.png"),
        title="Analysis by Synthesis: the class that explains a digit best",
        subtitle="below each image the class and 1,000 times its loss, the mean squared error of a pixel "
        "plus what the latent costs; the smallest in blue",
    )  # fmt: skip
    return {"digits explained": str(path)}

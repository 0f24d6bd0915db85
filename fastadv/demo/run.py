"""The demo: two papers on the embedded digits, and what it says of them."""

import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch

import fastadv as fa
from fastadv._extras import need
from fastadv.demo import figures, nets
from fastadv.demo.nets import NETS, Digits, Settings, Watch
from fastadv.runs.card import card
from fastadv.runs.files import write_json
from fastadv.runs.identity import plain
from fastadv.runs.work import Keeper
from fastadv.text import finite

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
        made = {net.name: net for net in nets.nets(digits, watch)}
        model, explained = synthesis(digits, watch)
        drawn = figures.draw(digits, made, folder / "figures")
        drawn |= draw_synthesis(digits, model, folder / "figures")
        sets = {"train": digits.base.describe(), "test": digits.test.describe()}
        result = card(
            "demo", {"settings": plain(asdict(settings)), **sets},
            nets={name: nets.measured(net) for name, net in made.items()}, abs=explained, figures=drawn,
            folder=str(folder), seconds=time.perf_counter() - started,
        )  # fmt: skip
        keeper.result(RESULTS, partial(write_json, value=result))
    return result


def cells(result: dict[str, Any]) -> list[list[str]]:
    found = result["measured"]["nets"]
    attacks = list(found["standard"]["robust"])
    measures = ["clean", *attacks, "paper*: clean", "paper*: PGD L2"]
    lines = [["net", "learned from", *(measure.replace(" ", "\n", 1) for measure in measures)]]
    for name, net in found.items():
        shares = [net["clean"], *(net["robust"][attack] for attack in attacks)]
        # as the paper prints them; of some it says only that they are about 0
        paper = [f"{100 * share:.4g}%" if share else "~0%" for share in net["paper_cifar10"].values()]
        lines.append([name, NETS[name][0], *(f"{share:.1%}" for share in shares), *paper])
    return lines


def synthesis(digits: Digits, watch: Watch) -> tuple[fa.models.ABS, dict[str, Any]]:
    """Train an ABS and measure it on the first `abs_samples` test digits; None is an infinite median."""
    s = digits.settings
    model = fa.models.ABS.fit(
        digits.base, epochs=s.abs_epochs, width=s.width, prior_samples=s.abs_prior, seed=s.seed,
        run_dir=digits.folder / "abs", resume=True, progress=partial(watch, "training ABS"),
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
        rows, path := folder / "abs.png", title="Analysis by Synthesis: the class that explains a digit best",
        subtitle="below each image the class and 1,000 times its loss, the mean squared error of a pixel "
        "plus what the latent costs; the smallest in blue",
    )  # fmt: skip
    return {"digits explained": str(path)}

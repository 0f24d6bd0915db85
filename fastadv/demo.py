"""The demo: the studies of two papers on the embedded digits."""

import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

import fastadv as fa
from fastadv._extras import need
from fastadv.evaluation import Attack
from fastadv.runs.folder import Keeper
from fastadv.text import finite
from papers.ilyas2019 import digits as ilyas
from papers.ilyas2019.plan import printed
from papers.study import Settings, Study, Watch, one_thread, publish, unwatched

EXPLAINED = (2, 3, 8)


def run(settings: Settings, folder: Path, watch: Watch = unwatched) -> dict[str, Any]:
    """Do both studies, draw their figures, and write results.json; what the folder holds is kept."""
    need("matplotlib")
    started = time.perf_counter()
    with Keeper(folder) as keeper, one_thread():
        study = Study(settings, folder)
        nets = {net.name: net for net in ilyas.nets(study, watch)}
        model, explained = synthesis(study, watch)
        drawn = ilyas.draw(study, nets, folder / "figures")
        drawn |= draw_synthesis(study, model, folder / "figures")
        sets = {"train": study.base.describe(), "test": study.test.describe()}
        return publish(
            keeper,
            "demo",
            {"settings": settings.as_json(), **sets},
            nets={name: ilyas.measured(net) for name, net in nets.items()},
            abs=explained,
            figures=drawn,
            folder=str(folder),
            seconds=time.perf_counter() - started,
        )


def cells(result: dict[str, Any]) -> list[list[str]]:
    nets = result["measured"]["nets"]
    attacks = list(nets["standard"]["robust"])
    measures = ["clean", *attacks, "paper*: clean", "paper*: PGD L2"]
    lines = [["net", "learned from", *(measure.replace(" ", "\n", 1) for measure in measures)]]
    for name, net in nets.items():
        shares = [net["clean"], *(net["robust"][attack] for attack in attacks)]
        paper = map(printed, net["paper_cifar10"].values())
        lines.append([name, ilyas.LEARNED[name], *(f"{share:.1%}" for share in shares), *paper])
    return lines


def title(result: dict[str, Any]) -> str:
    side, count = result["config"]["settings"]["size"], result["config"]["test"]["samples"]
    return f"Six nets on {count} held-out digits of {side}x{side}: accuracy clean and under attack"


def notes(result: dict[str, Any]) -> list[str]:
    measured = result["measured"]
    attack = list(measured["nets"]["standard"]["robust"])[-1]
    return [*ilyas.findings(measured["nets"], attack), *synthesis_found(measured["abs"], attack)]


def synthesis(study: Study, watch: Watch) -> tuple[fa.models.ABS, dict[str, Any]]:
    """Train an ABS and measure it on the first `abs_samples` test digits; None is an infinite median."""
    s = study.settings
    model = fa.models.ABS.fit(
        study.base, epochs=s.abs_epochs, width=s.width, prior_samples=s.abs_prior, seed=s.seed,
        run_dir=study.folder / "abs", resume=True, progress=partial(watch, "training ABS"),
    )  # fmt: skip
    clean = fa.evaluate(model, study.test).clean_accuracy
    part = study.test.subset(torch.arange(min(s.abs_samples, len(study.test))))
    attacks: dict[str, Attack] = {
        s.main_attack: s.attacks()[s.main_attack],
        "latent descent": partial(fa.attacks.latent_descent, steps=51, schedule="line_search"),
    }
    rows = {}
    for done, (name, attack) in enumerate(attacks.items()):
        watch("attacking ABS", done, 3)
        rows[name] = fa.evaluate(model, part, {name: attack}, indicators=False)[name]
    watch("attacking ABS", 2, 3)
    bound = float(model.lower_bound(part.x, part.y).mean())
    watch("attacking ABS", 3, 3)
    median = rows["latent descent"].median_distance
    return model, {
        "clean": clean,
        "robust": rows[s.main_attack].robust_accuracy,
        "latent_descent": finite(median),
        "lower_bound": bound,
        "samples": len(part),
    }


def synthesis_found(figures: Mapping[str, Any], attack: str) -> list[str]:
    median = figures["latent_descent"]
    broken = (
        "latent descent breaks less than half of its decisions"
        if median is None
        else f"latent descent breaks its decisions at L2 {median:.2f} in the median"
    )
    return [
        f"Analysis by Synthesis reads {figures['clean']:.1%} of the digits "
        f"and keeps {figures['robust']:.1%} of {figures['samples']} under {attack};",
        f"{broken}; lower bounds average {figures['lower_bound']:.2f}.",
    ]


def draw_synthesis(study: Study, model: fa.models.ABS, folder: Path) -> dict[str, str]:
    test, classes, rows = study.test, range(model.classes), list[fa.figures.Strip]()
    for shown in EXPLAINED:
        x = test.x[int((test.y == shown).nonzero()[0])][None]
        inferred = model.infer(x)
        loss = inferred.loss[0]
        images = torch.cat([x, inferred.reconstruction[0].to(x.dtype)])
        captions = ["digit", *(f"{k}: {1000 * float(loss[k]):.0f}" for k in classes)]
        best = torch.arange(-1, len(classes)) == int(loss.argmin())
        remark = "explained by 0 to 9"
        rows.append(fa.figures.Strip(f"a {shown}", images, captions, best, fa.figures.BLUE, remark=remark))
    path = folder / "abs.png"
    fa.figures.strips(
        rows, path, title="Analysis by Synthesis: the class that explains a digit best",
        subtitle="below each image the class and 1,000 times its loss, the mean squared error of a pixel "
        "plus what the latent costs; the smallest in blue",
    )  # fmt: skip
    return {"digits explained": str(path)}

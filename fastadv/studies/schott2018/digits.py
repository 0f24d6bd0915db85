"""Schott et al. 2018, "Towards the first adversarially robust neural network model on MNIST", in small.

Analysis by Synthesis on the digits: one generative model for each class, attacks on the classifier they form,
and how each class explains an image.
"""

import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

import fastadv as fa
from fastadv.evaluation import Attack
from fastadv.studies.study import Study, Watch

SHOWN = (2, 3, 8)


def synthesis(study: Study, watch: Watch) -> tuple[fa.models.ABS, dict[str, Any]]:
    """Return the model, whose training resumes after a stop, and what was measured of it.

    The attacks and the bound are measured on the first `abs_samples` test digits. A median distance that is
    infinite (latent descent broke less than half of the decisions) is None.
    """
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
        "latent_descent": median if math.isfinite(median) else None,
        "lower_bound": bound,
        "samples": len(part),
    }


def findings(figures: Mapping[str, Any], attack: str) -> list[str]:
    """Return what the figures say in words."""
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


def draw(study: Study, model: fa.models.ABS, folder: Path) -> dict[str, str]:
    """Digits as each class explains them, and images made from noise that the model takes for each class."""
    test, classes, rows = study.test, range(model.classes), list[fa.figures.Strip]()
    for shown in SHOWN:
        x = test.x[int((test.y == shown).nonzero()[0])][None]
        inferred = model.infer(x)
        loss = inferred.loss[0]
        images = torch.cat([x, inferred.reconstruction[0].to(x.dtype)])
        captions = ["digit", *(f"{k}: {float(loss[k]):.3f}" for k in classes)]
        best = torch.arange(-1, len(classes)) == int(loss.argmin())
        remark = "as each class explains it"
        rows.append(fa.figures.Strip(f"a {shown}", images, captions, best, fa.figures.BLUE, remark=remark))
    distal = partial(
        fa.attacks.distal, model, torch.arange(len(classes)), tuple(test.shape), seed=study.settings.seed
    )
    noise, made = distal(steps=0), distal(steps=study.settings.noise_steps)
    images = torch.cat([noise.x[:1], made.x.to(noise.x.dtype)])
    captions = ["noise", *(f"{k}: {float(made.confidence[k]):.0%}" for k in classes)]
    remark = "until the class is confident"
    rows.append(fa.figures.Strip("from noise", images, captions, remark=remark, apart=0.12))
    path = folder / "abs.png"
    fa.figures.strips(
        rows, path, title="Analysis by Synthesis: the class that explains a digit best",
        subtitle="below each image the class and its loss, the smallest in blue; "
        "last, images that start from noise, with the confidence that the class reached",
    )  # fmt: skip
    return {"digits explained": str(path)}

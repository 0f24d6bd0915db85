"""The demo's Analysis by Synthesis: one generative model a class of the same digits, and what attacks leave of it (Schott et al. 2018)."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

import fastadv as fa
from fastadv.cli._gallery import Strip, gallery
from fastadv.cli._study import Study
from fastadv.evaluation.figures import BLUE

SHOWN = (2, 3, 8)


def synthesis(study: Study, watch: Callable[[str, int, int], None]) -> tuple[fa.models.ABS, dict[str, float]]:
    """The model, whose training resumes, and its figures; the attacks and the bound are for the first `abs_samples` test digits."""
    s = study.settings
    model = fa.models.ABS.fit(
        study.base,
        epochs=s.abs_epochs,
        width=s.width,
        prior_samples=s.abs_prior,
        seed=s.seed,
        run_dir=study.folder / "abs",
        resume=True,
        progress=partial(watch, "training ABS"),
    )
    attack = study.main_attack
    part = study.test.subset(torch.arange(min(s.abs_samples, len(study.test))))
    found = {"clean": fa.evaluate(model, study.test, {}).clean_accuracy}
    watch("attacking ABS", 0, 3)
    found["robust"] = fa.evaluate(model, part, {attack: s.attacks()[attack]})[attack].robust_accuracy
    watch("attacking ABS", 1, 3)
    found["latent_descent"] = float(
        fa.attacks.latent_descent(model, part.x, part.y, steps=51, schedule="line_search").distance.median()
    )
    watch("attacking ABS", 2, 3)
    found["lower_bound"] = float(model.lower_bound(part.x, part.y).mean())
    watch("attacking ABS", 3, 3)
    return model, found | {"samples": len(part)}


def picture(study: Study, model: fa.models.ABS, path: Path) -> str:
    """Digits as each class explains them, and what the model takes for each class when the search starts from noise."""
    test, classes = study.test, range(model.classes)
    strips = []
    for shown in SHOWN:
        place = int((test.y == shown).nonzero()[0])
        found = model.infer(test.x[place : place + 1])
        chosen = torch.arange(-1, len(classes)) == int(found.loss.argmin())
        captions = ["digit", *(f"{k}: {float(found.loss[0, k]):.3f}" for k in classes)]
        strips.append(
            Strip(
                f"a {shown}",
                _beside(test.x[place], found.reconstruction[0]),
                captions,
                chosen,
                BLUE,
                remark="as each class explains it",
            )
        )
    noise, reached = (
        fa.attacks.distal(
            model, torch.arange(len(classes)), model.shape.image, steps=n, seed=study.settings.seed
        )
        for n in (0, 1000)
    )
    captions = ["noise", *(f"{k}: {float(reached.confidence[k]):.0%}" for k in classes)]
    strips.append(
        Strip(
            "from noise",
            _beside(noise.x[0], reached.x),
            captions,
            remark="until the class is confident",
            apart=0.12,
        )
    )
    subtitle = "below each image the class and its loss, the least in blue; then images that start from noise, with the confidence reached"
    gallery(strips, path, "Analysis by Synthesis: the class that explains a digit best", subtitle)
    return str(path)


def _beside(first: Tensor, others: Tensor) -> Tensor:
    return torch.cat([first[None], others.to(first.dtype)])

"""Settings of papers, with their published figures: `preset.training()` is what `fit` takes of one."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch.utils.data import Dataset

from fastadv._checks import check_choice
from fastadv.threat import Linf, Threat
from fastadv.train.augment import Augment, random_resized_crop
from fastadv.train.options import Execution, Measuring, Optimization
from fastadv.train.recipes import RECIPES
from fastadv.train.schedules import OneCycle

SCREENED = 1000  # test images after each epoch


@dataclass(frozen=True, kw_only=True)
class Preset:
    """What a paper trained, as far as `fit` can do the same."""

    paper: str
    source: str  # where the settings stand
    data: str
    model: str | None  # the built-in network; None where the caller brings it
    options: Mapping[str, Any] = field(default_factory=dict)
    recipe: str
    arguments: Mapping[str, Any] = field(default_factory=dict)  # beside `threat`
    threat: Threat = field(default_factory=lambda: Linf(8 / 255))
    epochs: int
    batch_size: int
    optimizer: str = "sgd"
    learning_rate: float
    optimization: Optimization
    execution: Execution = Execution()
    augment: tuple[str | Augment, ...] | None = ("crop", "flip")
    generated: float | None = None  # the share of generated or extra images, which the caller brings
    clean: float  # published accuracy in percent
    robust: float  # the same under `judge`
    judge: str = "AutoAttack"
    differs: tuple[str, ...] = ()  # what is not as in `source`

    def training(
        self, test_set: Dataset[Any] | None = None, validation_set: Dataset[Any] | None = None
    ) -> dict[str, Any]:
        """Return what `fit` takes beside the model and its data: the recipe and every option.

        Of sets that are given, the first 1,000 test images and all of the validation set are measured after
        each epoch, by test_attacks="screen".
        """
        names = "epochs", "batch_size", "optimizer", "learning_rate", "augment", "optimization", "execution"
        options = {name: getattr(self, name) for name in names}
        if test_set is not None or validation_set is not None:
            measuring = Measuring(test_limit=SCREENED, validation_set=validation_set)
            options |= {"test_set": test_set, "test_attacks": "screen", "measuring": measuring}
        return {"recipe": RECIPES[self.recipe](threat=self.threat, **self.arguments), **options}


def _averaged(rate: float, batch_size: int, epochs: int, **more: Any) -> dict[str, Any]:
    """Return what the settings of Gowal et al. and those who followed them have in common."""
    return {
        "data": "cifar10", "model": "wide_resnet", "optimizer": "nesterov", "learning_rate": rate,
        "options": {"depth": 28, "widen_factor": 10, "activation": "silu", "padding": "same",
                    "normalize": "cifar10"},
        "batch_size": batch_size, "epochs": epochs, "generated": 0.7,
        # torch's OneCycleLR of the authors' code moves the momentum, too, once an epoch
        "optimization": Optimization(
            weight_decay=5e-4, norm_decay=False, batch_norm_momentum=0.01, ema=0.995,
            schedule=OneCycle(0.025, (0.85, 0.95)), schedule_by="epoch",
        ),
        "differs": (
            "examples are crafted in eval mode",
            "the average of weights does not begin anew after 2.5% of training",
            "the bias of the last layer, too, is left without decay",
            *more.pop("differs", ()),
        ),
        **more,
    }  # fmt: skip


_STEPS = {"steps": 10, "step_size": 2 / 255}
_TRADES = _STEPS | {"label_smoothing": 0.1, "start": "uniform"}
_FASTAT: dict[str, Any] = {
    "source": "github.com/fzjcdt/FastAT_Benchmark, main.py and configs/cifar10",
    "data": "cifar10", "model": "resnet18", "epochs": 100, "batch_size": 128, "learning_rate": 0.1,
    "optimization": Optimization(
        weight_decay=5e-4, ema=0.9995, schedule=OneCycle(0.3, (0.85, 0.95)), schedule_by="epoch"
    ),
    "differs": (
        "the statistics of BatchNorm are the last ones, not their average",
        "the authors hold out 1,000 training images to choose the epoch: --validation 1000",
    ),
}  # fmt: skip

PRESETS: dict[str, Preset] = {
    "wong2020": Preset(
        paper="Wong, Rice, Kolter 2020 (arXiv 2001.03994)",
        source="github.com/locuslab/fast_adversarial, CIFAR10/train_fgsm.py; figures: RobustBench",
        data="cifar10", model="preact_resnet18",
        options={"shortcut": "raw", "final_norm": False, "normalize": "cifar10"},
        recipe="fast", arguments={"step_size": 10 / 255}, epochs=15, batch_size=128, learning_rate=0.2,
        optimization=Optimization(weight_decay=5e-4, schedule="cyclic_half"),
        execution=Execution(precision="bf16"), clean=83.34, robust=43.21,
        differs=("in bf16, not fp16", "examples are crafted in eval mode"),
    ),
    "rice2020": Preset(
        paper="Rice, Wong, Kolter 2020 (arXiv 2002.11569)",
        source="github.com/locuslab/robust_overfitting, train_cifar.py; figures: RobustBench",
        data="cifar10", model="wide_resnet",
        options={"depth": 34, "widen_factor": 20, "normalize": "cifar10"},
        recipe="pgd", arguments=_STEPS, epochs=200, batch_size=128,
        learning_rate=0.1, optimization=Optimization(weight_decay=5e-4, schedule="piecewise"),
        clean=85.34, robust=53.42,
        differs=(
            "the published weights are those of the best epoch: best.safetensors",
            "examples are crafted in eval mode",
        ),
    ),
    "fastat": Preset(
        paper="FastAT benchmark, PGD-10 with averaged weights", recipe="pgd",
        arguments={**_STEPS, "label_smoothing": 0.4}, clean=82.4, robust=50.49,
        **_FASTAT,
    ),
    "fastat_n_fgsm": Preset(
        paper="FastAT benchmark, N-FGSM with averaged weights", recipe="fast",
        arguments={"method": "n-fgsm", "label_smoothing": 0.4}, clean=78.6, robust=47.77,
        **_FASTAT,
    ),
    "gowal2020": Preset(
        paper="Gowal et al. 2020 (arXiv 2010.03593), with extra images",
        source="github.com/imrahulr/adversarial_robustness_pytorch, README.md; figures: RobustBench",
        recipe="trades", arguments={**_TRADES, "beta": 6.0},
        clean=89.48, robust=62.8,
        **_averaged(0.4, 1024, 400, differs=(
            "settings are those of a reimplementation, which tells 0.5 to 0.9 points less",)),
    ),
    "wang2023": Preset(
        paper="Wang et al. 2023 (arXiv 2302.04638), with 1M generated images",
        source="github.com/wzekai99/DM-Improves-AT, README.md; figures: table 1",
        recipe="trades", arguments={**_TRADES, "beta": 5.0}, clean=91.12, robust=63.35,
        **_averaged(0.2, 512, 400),
    ),
    "pang2022": Preset(
        paper="Pang et al. 2022 (arXiv 2202.10103), SCORE with 1M generated images",
        source="github.com/P2333/SCORE, README.md; figures: RobustBench",
        recipe="score", arguments={**_STEPS, "beta": 4.0, "start": "uniform"},
        clean=88.61, robust=61.04, **_averaged(0.2, 512, 400),
    ),
    "debenedetti2022": Preset(
        paper="Debenedetti, Sehwag, Mittal 2022 (arXiv 2209.07399), XCiT-S12 from ImageNet weights",
        source="github.com/dedeswim/vits-robustness-torch, configs/xcit-adv-finetuning.yaml, README.md",
        data="cifar10", model=None, recipe="trades", arguments={"steps": 10, "beta": 6.0}, epochs=20,
        batch_size=512, optimizer="adamw", learning_rate=5e-5,
        optimization=Optimization(weight_decay=0.5, norm_decay=False, schedule="cosine", warm_up=5),
        augment=(partial(random_resized_crop, least=0.8, ratio=1.05), "flip"),
        clean=90.06, robust=56.14,
        differs=(
            "the cosine ends at 0, theirs at a tenth of the rate, and the warm-up begins at 0",
            "windows are resized bilinearly, theirs by cubic interpolation",
        ),
    ),
    **{
        f"{name}{radius}": Preset(
            paper=f"{paper}: CLIP ViT-L/14 at {radius}/255", source="github.com/chs20/RobustVLM, README.md",
            data="imagenet", model=None, recipe="aligned", threat=Linf(radius / 255),
            arguments={"to": to, "steps": 10, "step_size": 1 / 255}, epochs=2, batch_size=128,
            optimizer="adamw", learning_rate=1e-5, augment=None,
            optimization=Optimization(weight_decay=1e-4, warm_up=1400 / 10009, drop_last=True),
            clean=clean, robust=robust, judge="APGD-CE and APGD-T, mean of zero-shot sets",
            differs=(
                "two epochs are 20,018 steps, theirs end at 20,000; their cosine begins after the warm-up",
                "the steps of the attack have no momentum, theirs 0.9",
            ),
        )
        for name, paper, to, radius, clean, robust in (
            ("fare", "Schlarmann et al. 2024 (arXiv 2402.12336)", "frozen", 2, 67.0, 43.1),
            ("fare", "Schlarmann et al. 2024 (arXiv 2402.12336)", "frozen", 4, 61.1, 32.4),
            ("tecoa", "Mao et al. 2023 (arXiv 2212.07016), as trained by Schlarmann", "texts", 2, 60.0, 43.6),
            ("tecoa", "Mao et al. 2023 (arXiv 2212.07016), as trained by Schlarmann", "texts", 4, 54.2, 31.9),
        )
    },
}  # fmt: skip
"""The papers by name."""


def find_preset(name: str) -> Preset:
    return PRESETS[check_choice("preset", name, PRESETS)]

"""What an attack takes where nothing is said: the figures of its paper, or of the authors' code."""

import inspect
from typing import Any

import pytest

from fastadv.attacks import ABS_ATTACKS, ATTACKS, SUBSTITUTE_ATTACKS

COMMON = {
    "seed": 0, "eot": 1, "gradient": (), "stop_early": True, "restarts": 1, "loss": "ce_sharp",
    "variant": "fastadv",
}  # fmt: skip
NOISE = {"levels": 100, "repetitions": 10}
DEFAULTS: dict[str, dict[str, Any]] = {
    "apgd": {"steps": 100, "nearest": False, "rho": 0.75},
    "autoattack": {"version": "standard", "individual": False, "indicators": True},
    "bim": {"steps": 10, "random_start": False},
    "boundary": {},
    "contrast": {"levels": 10, "searches": 10},
    "cw": {},
    "ddn": {"steps": 1000, "gamma": 0.05},
    "deepfool": {"steps": 50, "candidates": 10, "overshoot": 0.02},
    "ead": {"steps": 1000, "searches": 9},
    "fab": {
        "steps": 100, "targeted": False, "classes": 9, "bias": 0.1, "overshoot": 1.05, "backward": 0.9,
    },
    "fgsm": {"random_start": False},
    "fmn": {"steps": 1000, "gamma": 0.05},
    "gaussian_noise": NOISE,
    "hopskipjump": {"directions": 100},
    "latent_descent": {"steps": 500, "step_size": 0.01, "schedule": "descent", "searches": 10},
    "lbfgs": {"searches": 9},
    "mim": {"steps": 10, "decay": 1.0, "nesterov": False, "random_start": False},
    "minimum_norm": {"steps": 1000},
    "minimum_radius": {"searches": 10},
    "nes": {"queries": 10_000, "directions": 25, "decay": 0.9},
    "pdgd": {"steps": 500},
    "pdpgd": {"steps": 500},
    "pgd": {"steps": 40, "random_start": True},
    "pointwise": {},
    "salt_and_pepper": NOISE,
    "sigma_zero": {"steps": 1000, "sigma": 1e-3, "threshold": 0.3},
    "sparse_rs": {"queries": 10_000, "share": 0.8, "rescale": True},
    "spsa": {"directions": 128},
    "square": {"queries": 5000, "share": 0.8},
    "superdeepfool": {"steps": 100, "candidates": 10, "overshoot": 0.02, "searches": 10},
    "transfer": {"scales": 24, "searches": 10},
    "uniform_noise": NOISE,
}  # fmt: skip
ENTRIES = {**ATTACKS, **ABS_ATTACKS, **SUBSTITUTE_ATTACKS}


def test_every_attack_is_here() -> None:
    assert ENTRIES.keys() == DEFAULTS.keys()


@pytest.mark.parametrize("name", DEFAULTS)
def test_every_attack_has_its_figures(name: str) -> None:
    given = {key: value.default for key, value in inspect.signature(ENTRIES[name].run).parameters.items()}
    given = {key: value for key, value in given.items() if value not in (None, inspect.Parameter.empty)}
    assert given == {key: value for key, value in COMMON.items() if key in given} | DEFAULTS[name]

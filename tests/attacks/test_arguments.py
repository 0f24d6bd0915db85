"""Each attack refuses what it cannot use, in words that say what it expected."""

import re
from functools import partial
from typing import Any

import pytest
import torch

from fastadv.attacks import ATTACKS, SUBSTITUTE_ATTACKS, OutsideTopK, WrongBy, bim
from fastadv.threat import L1, THREATS, Linf
from tests.refusals import refuses

from .nets import images, labeled, mlp

INF, NAN = torch.inf, torch.nan
# names of attacks, the sentence, and the arguments
BAD: list[tuple[str, str, dict[str, Any]]] = [
    ("apgd", "rho: expected a finite number >= 0 and <= 1", {"rho": 1.5}),
    ("apgd", "classes: expected None unless", {"classes": 3}),
    ("apgd", "classes: expected an integer >= 1", {"classes": 0, "loss": "dlr-targeted"}),
    ("apgd", "loss: expected 'dlr' where", {"loss": "dlr-targeted", "targets": "others"}),
    ("apgd", "loss: expected one of", {"loss": "hinge-targeted"}),
    ("autoattack", "version: expected one of standard, .*, robustvlm, got 'fast'", {"version": "fast"}),
    ("autoattack", r'that component alone give \["square"\]', {"version": "square"}),
    ("autoattack", "got 'custom'; give its components, such as", {"version": "custom"}),
    ("autoattack", "version: expected a list of the names apgd-ce, .*'pgd' in it",
     {"version": ["pgd"]}),
    ("autoattack", "each once, got", {"version": ["square", "apgd-ce", "square"]}),
    ("autoattack", r"or a list of .*, got \[\]", {"version": []}),
    ("autoattack", "one of apgd-ce, .* for this norm, .* got 'pdpgd'", {"version": ["pdpgd"]}),
    ("autoattack", "one of apgd-ce, apgd-ce-sharp, apgd-margin, fab, square for .* got 'apgd-t'",
     {"version": ["apgd-t"], "criterion": OutsideTopK(2)}),
    ("apgd", "nearest: expected False unless the loss ends in", {"nearest": True}),
    ("apgd", "starts: expected None or a floating tensor like x", {"starts": 0.5}),
    ("autoattack", "eot: expected an integer >= 1", {"eot": 0, "version": "rand"}),
    ("deepfool", "threat: expected one of Linf, L2, which deepfool serves, got L1", {"threat": L1(INF)}),
    ("autoattack boundary", "seed: expected an integer", {"seed": -1}),
    ("boundary hopskipjump pointwise", "queries: expected", {"queries": 0}),
    ("boundary hopskipjump pointwise", "queries: expected", {"queries": 2.5}),
    ("square sparse_rs", "share: expected a finite number >= 0 and <= 1", {"share": 1.5}),
    ("square sparse_rs", "share: expected a number in ", {"share": 0}),
    ("square sparse_rs boundary hopskipjump pointwise fab fmn", "restarts: expected", {"restarts": 0}),
    ("boundary hopskipjump pointwise", "variant: expected one of fastadv, published", {"variant": "paper"}),
    ("boundary", "candidates: expected None where variant", {"candidates": 5, "variant": "published"}),
    ("boundary", "candidates: expected", {"candidates": 1}),
    ("boundary", "spherical_step: expected", {"spherical_step": 1.1}),
    ("boundary", "spherical_step: expected", {"spherical_step": NAN}),
    ("boundary", "source_step: expected", {"source_step": 0}),
    ("boundary", "source_step: expected", {"source_step": 1}),
    ("hopskipjump", "directions: expected", {"directions": 0}),
    ("boundary hopskipjump pointwise", "starts: expected None or a floating tensor like x", {"starts": 3.0}),
    ("hopskipjump", "starts: expected None or a floating", {"starts": torch.ones(2, 1, 4, 4).long()}),
    ("boundary hopskipjump sparse_rs pointwise", "box: expected a finite one", {"box": (0.0, INF)}),
    ("gaussian_noise uniform_noise salt_and_pepper", "box: expected a finite one", {"box": (0.0, INF)}),
    ("gaussian_noise uniform_noise salt_and_pepper", "levels: expected", {"levels": 0}),
    ("gaussian_noise uniform_noise salt_and_pepper", "repetitions: expected", {"repetitions": 2.5}),
    ("cw ead lbfgs", "searches: expected", {"searches": 0}),
    ("cw ead lbfgs", "constant: expected", {"constant": 0.0}),
    ("cw ead lbfgs", "constant: expected", {"constant": INF}),
    ("cw ddn ead pdgd pdpgd", "step_size: expected", {"step_size": 0.0}),
    ("cw ddn ead pdgd pdpgd", "step_size: expected", {"step_size": NAN}),
    ("ead", "beta: expected", {"beta": 0.0}),
    ("cw ead fmn pdgd pdpgd", "variant: expected one of fastadv, published, got 'ours'", {"variant": "ours"}),
    ("fmn", "starts: expected None or a floating tensor like x", {"starts": 3.0}),
    ("fmn", r"like x, on its device: \(2, 1, 4, 4\)", {"starts": torch.ones(2, 16)}),
    ("fmn", r"starts: .* in the box \[0, 1\]", {"starts": 2 * images(2)}),
    ("ddn fmn", "seed: expected", {"seed": -1}),
    ("fmn", "step_size: expected a number > 0", {"step_size": 0, "variant": "published"}),
    ("ddn", "gamma: expected", {"gamma": 0.0}),
    ("ddn", "gamma: expected", {"gamma": 1.0}),
    ("ddn", "gamma: expected", {"gamma": NAN}),
    ("ddn", "first_norm: expected", {"first_norm": 0.0}),
    ("ddn", "first_norm: expected", {"first_norm": INF}),
    ("ddn pdgd pdpgd", "loss: expected", {"loss": "hinge"}),
    ("pdgd pdpgd", "weight: expected a number > 0", {"weight": 0}),
    ("nes spsa", "queries: expected an integer >= 1", {"queries": 0}),
    ("nes spsa", "queries: expected at least 21", {"queries": 20, "directions": 10}),
    ("nes spsa", "directions: expected an integer >= 1", {"directions": 0}),
    ("nes spsa", "probe: expected a number > 0", {"probe": 0.0}),
    ("nes spsa", "step_size: expected", {"step_size": -1.0}),
    ("nes spsa", "loss: expected one of", {"loss": "nothing"}),
    ("nes", "decay: expected", {"decay": 1.0}),
    ("superdeepfool", "searches: expected an integer >= 0", {"searches": -1}),
    ("cw ddn deepfool ead fab fmn lbfgs minimum_norm pdgd pdpgd sigma_zero superdeepfool",
     "steps: expected an integer >= 1", {"steps": 0}),
    ("minimum_norm", "seed: expected an integer", {"seed": -1}),
    ("deepfool superdeepfool", "candidates: expected an integer >= 1", {"candidates": 0}),
    ("deepfool superdeepfool", "overshoot: expected a finite number >= 0", {"overshoot": -0.1}),
    ("fab", "classes: expected an integer >= 1", {"classes": 0}),
    ("fab", "bias: expected a finite number >= 0 and <= 1", {"bias": 1.5}),
    ("fab", "bias: expected a finite number >= 0 and <= 1", {"bias": 1.5, "classes": None}),
    ("fab", "overshoot: expected a finite number >= 1", {"overshoot": 0.9}),
    ("fab", "backward: expected a number in", {"backward": 0.0}),
    ("minimum_radius transfer", "attack: expected an attack", {"attack": "bim"}),
    ("minimum_radius", "expected an AttackResult, or x_adv, .* got int", {"attack": lambda *a, **k: 1}),
    ("minimum_radius transfer", "searches: expected an integer >= 0", {"searches": -1}),
    ("transfer", "scales: expected an integer >= 2", {"scales": 1}),
    ("transfer", "source: expected a substitute", {"source": []}),
    ("transfer", "with the 3 classes of the model, got one with 5;", {"source": mlp(5)}),
    ("transfer", r"source: expected nets that take x \[B, 1, 4, 4\], got one that", {"source": mlp(3, 9)}),
    ("transfer", "with the 3 classes of the model, got one with 2 as number 1", {"source": [mlp(), mlp(2)]}),
    ("transfer", "threat: expected", {"threat": 0.3}),
]  # fmt: skip
NEEDED: dict[str, dict[str, Any]] = {
    "transfer": {"attack": partial(bim, steps=2), "source": mlp(seed=1)},
    "apgd": {"steps": 3},
    "minimum_radius": {"attack": partial(bim, steps=2), "searches": 2},
    "boundary": {"queries": 50}, "hopskipjump": {"queries": 50}, "pointwise": {"queries": 50},
}  # fmt: skip


@pytest.mark.parametrize("name", sorted({name for names, *_ in BAD for name in names.split()}))
def test_bad_arguments(name: str) -> None:
    for names, message, arguments in BAD:
        if name in names.split():
            is_refused(name, message, arguments)


def is_refused(name: str, message: str, arguments: dict[str, Any]) -> None:
    entry = {**ATTACKS, **SUBSTITUTE_ATTACKS}[name]
    model, x, y = labeled(mlp(), images(2))
    arguments = {**NEEDED.get(name, entry.quick), **arguments}
    radius, box = INF if entry.minimal else 0.3, arguments.pop("box", (0.0, 1.0))
    threat = arguments.pop("threat", radius)
    threat = THREATS[entry.norms[0]](threat, box) if threat in (radius, INF) else threat
    if arguments.get("targets") == "others":
        arguments["targets"] = (y + 1) % 3
    refuses(message, entry.run, model, x, y, threat, **arguments)


def test_the_margin_by_name_is_that_of_the_criterion() -> None:
    model, x, y = labeled(mlp(), images(8))
    nearest = partial(ATTACKS["fmn"].run, model, x, y, Linf(float("inf")), steps=5, criterion=WrongBy(0.5))
    assert torch.equal(nearest().x_adv, nearest(loss="margin").x_adv)


def test_a_lead_is_checked() -> None:
    for lead in (-1.0, NAN, INF):
        refuses("lead", WrongBy, lead)


FOREIGN = {
    "targeted": (False, "targets=, the class that each"), "norm": ("Linf", "threat=fa.Linf(radius)"),
    "confidence": (0.5, "criterion=fa.attacks.WrongBy(0.5)"), "num_random_init": (2, "restarts=2"),
    "rand_init": (False, "random_start=False"), "rel_stepsize": (0.1, "step_size=0.1 * radius"),
    "clip_values": ((0, 1), "threat=fa.Linf(radius, box=(0, 1))"), "verbose": (True, "progress=True in"),
    "batch_size": (9, "fa.evaluate(model, dataset, ..., batch_size=9)"), "minimal": (True, "fa.attacks.mini"),
    "kappa": (0.5, "criterion=fa.attacks.WrongBy(0.5)"), "device": ("cpu", "model.to('cpu')"),
    "precision": ("bf16", "fa.freeze(model, precision='bf16')"),
    "compile": (True, "fa.freeze(model, compile=True)"),
}  # fmt: skip


def test_arguments_of_other_libraries_are_told_what_to_write() -> None:
    model, x, y = labeled(mlp(), images(2))
    for name, (value, told) in FOREIGN.items():
        with pytest.raises(TypeError, match=re.escape(f"bim: no argument {name}; write {told}")):
            ATTACKS["bim"].run(model, x, y, Linf(0.1), **{name: value})

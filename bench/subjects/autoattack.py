"""AutoAttack, standard, on a robust ResNet-18 beside the authors' package: seconds and robust accuracy.

Goals, on an H100, with 512 images in Linf 8/255: frozen, bf16 and compiled, 3 times the authors' speed, a
plain call 2, and robust accuracies within one image.
"""

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import fastadv as fa
from bench import nets
from bench.clock import said
from bench.session import Case, Row, Session, Skip
from bench.subjects.training import images

THREAT = fa.Linf(8 / 255)
EPOCHS, IMAGES = 5, 512
WARM: Any = ["apgd-ce"]
Attack = Callable[..., Tensor]
AUTHORS = "the authors' package"


def cases(session: Session) -> Iterator[Case]:
    yield Case(f"AutoAttack standard, ResNet-18, {IMAGES} images", partial(compared, session), needs=150)


def authors() -> Attack:
    """Return the package `autoattack` of Croce and Hein; ImportError where it is not there."""
    from autoattack import AutoAttack

    def run(net: nn.Module, x: Tensor, y: Tensor, version: Any) -> Tensor:
        known = (
            {"version": version}
            if version == "standard"
            else {"version": "custom", "attacks_to_run": version}
        )
        attack = AutoAttack(net, norm="Linf", eps=THREAT.radius, device=x.device, verbose=False, **known)
        found: Tensor = attack.run_standard_evaluation(x, y, bs=len(x))
        return found

    return run


def ours(net: Any, x: Tensor, y: Tensor, version: Any) -> Tensor:
    return fa.attacks.autoattack(net, x, y, THREAT, version=version, indicators=False).x_adv


def compared(session: Session) -> Iterator[Row]:
    if session.data_dir is None and not session.tiny:
        raise Skip("no --data-dir with cifar10: no robust net can be trained")
    net, x, y = robust(session)
    frozen = fa.freeze(net, "bf16", compile=session.cuda)
    calls: dict[str, Attack] = {"fastadv bf16, compiled": partial(ours, frozen)}
    try:
        calls[AUTHORS] = partial(authors(), net)
    except ImportError as error:
        session.note(f"{AUTHORS} is not installed; its row is missing ({said(error)})")
    calls["fastadv plain"] = partial(ours, net)
    found: dict[str, Tensor] = {}

    def run(name: str, version: Any) -> None:
        found[name] = calls[name](x, y, version=version)

    ways, warm = (
        {name: partial(run, name, version) for name in calls}
        for version in (session.size("standard", WARM), WARM)
    )
    rows = session.compare(ways, AUTHORS, "times_authors", least=1, warm=warm)
    for row, values in rows:
        if values:
            with torch.no_grad():
                right = net(found[row["provider"]]).argmax(1) == y
            row |= {"images": len(x), "accuracy": round(float(right.float().mean()), 4)}
        yield {"what": f"AutoAttack standard, robust ResNet-18, {len(x)} images", **row}


def robust(session: Session) -> tuple[nn.Module, Tensor, Tensor]:
    """Train a ResNet-18 by PGD-7 for a few epochs; return it with test images and labels."""
    train, test = images(session, session.size(50_000, 8)), images(session, session.size(IMAGES, 8), "test")
    net, started = nets.resnet18(tiny=session.tiny).to(session.device), time.monotonic()
    recipe = fa.train.PGDTraining(THREAT, steps=session.size(7, 1), step_size=2 / 255)
    fa.train.fit(
        net, train, recipe, epochs=session.size(EPOCHS, 1), batch_size=128, learning_rate=0.2,
        augment="crop_flip", optimization=fa.train.Optimization(schedule="one_cycle"),
        execution=fa.train.Execution(precision="bf16"),
    )  # fmt: skip
    session.note(f"a robust ResNet-18 was trained in {time.monotonic() - started:.0f} s")
    return net.eval().requires_grad_(False), test.x.float() / 255, test.y

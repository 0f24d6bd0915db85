"""`make gpu`, stage attacks: PGD against eager torch and torchattacks, and every registered attack.

All providers run the same steps without a random start, on the same weights and images, in torch's default
precisions. The accuracy is that of the model as given on what the provider returned.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

import fastadv as fa
from bench.gpu import nets
from bench.gpu.attack_calls import call, norms_of, threat_of
from bench.gpu.session import Case, Row, Session, Skip, conv_precision, median, precisions, said
from bench.peers import torchattacks
from bench.pgd import Problem, classes, ours, passes, plain
from bench.timing import quantiles, ratio
from fastadv.engine.precision import PRECISIONS


def problem(session: Session, name: str) -> Problem:
    """One of the measured problems. Without data, labels are what the model says of the images."""
    convolution, tiny = conv_precision(session), session.tiny
    if name == "MNIST CNN":
        model, x, y = mnist(session)
        budget = 0.3, 0.01, session.size(40, 2), convolution
    elif name == "MLP 784-256-10":
        model, x, y = nets.mlp(), session.rand(session.size(1024, 4), 1, 28, 28), None
        budget = 0.3, 0.01, session.size(40, 2), "fp32"
    elif name == "ResNet-18":
        model = nets.resnet18(width=4) if tiny else nets.resnet18()
        x, y = session.rand(session.size(512, 4), 3, 32, 32), None
        budget = 8 / 255, 2 / 255, session.size(10, 2), convolution
    else:
        side = session.size(224, 32)
        model = nets.resnet50(width=4, side=side) if tiny else nets.resnet50()
        x, y = session.rand(session.size(128, 2), 3, side, side), None
        budget = 4 / 255, 1 / 255, session.size(10, 2), convolution
    model = model.to(session.device).eval()
    y = classes(model, x) if y is None else y
    return Problem(f"PGD-{budget[2]} {name} {'x'.join(map(str, x.shape))}", model, x, y, *budget)


def mnist(session: Session) -> tuple[nn.Module, Tensor, Tensor | None]:
    """The published CNN on MNIST test images where both are given; else random weights and images."""
    count = session.size(1000, 4)
    if session.data_dir is None or session.weights is None:
        session.note("no --data-dir and --weights: the MNIST CNN has random weights and images")
        return nets.cnn(), session.rand(count, 1, 28, 28), None
    images = fa.data.load("mnist", "test", data_dir=session.data_dir, limit=count)
    x, y, _ = next(iter(fa.data.batches(images, count)))
    return (
        fa.models.SchottCNN.from_official(session.weights), x.to(session.device), y.to(session.device),
    )  # fmt: skip


NAMES = ("MNIST CNN", "MLP 784-256-10", "ResNet-18", "ResNet-50")


def cases(session: Session) -> Iterator[Case]:
    for name in NAMES:
        yield Case(f"PGD {name}", lambda name=name: pgd(session, name), needs=30)
    for name, entry in fa.attacks.ATTACKS.items():
        yield Case(f"attack {name}", lambda name=name, entry=entry: registered(session, name, entry))


def providers(session: Session, given: Problem) -> dict[str, Callable[[], Any]]:
    """PGD of each provider. `ideal` ways are no attacks, but what an attack is measured by."""
    model = given.model
    frozen = {name: fa.freeze(model, name) for name in precisions(session)}
    ways: dict[str, Callable[[], Any]] = {"eager": lambda: plain(given)}
    try:
        ways["torchattacks"] = torchattacks(given)
    except ImportError as error:
        session.note(f"torchattacks is not installed; its rows are missing ({said(error)})")
    for name, twin in frozen.items():
        ways[f"fastadv {name}"] = lambda twin=twin: ours(given, twin)
    if session.cuda:
        for name in frozen:
            try:
                graphed = fa.freeze(model, name, cuda_graph=True)
            except Exception as error:
                session.note(f"no CUDA graphs: {said(error)}")
                continue
            ways[f"fastadv {name} graph"] = lambda twin=graphed: ours(given, twin)
    ways["fastadv bf16 early stop"] = lambda: ours(given, frozen["bf16"], stop_early=True)
    for name, twin in frozen.items():
        ways[f"ideal {name}"] = lambda twin=twin: passes(given, twin)
    return ways


def searched(provider: str) -> str:
    """The precision that a provider searches in."""
    return next((name for name in PRECISIONS if name in provider.split()), "fp32")


def step_flops(given: Problem) -> int:
    """Operations of one forward and one input gradient, counted by torch."""
    from torch.utils.flop_counter import FlopCounterMode

    flags = [(part, part.requires_grad) for part in given.model.parameters()]
    x = given.x[:1].clone().requires_grad_()
    try:
        for part, _ in flags:
            part.requires_grad_(False)
        with FlopCounterMode(display=False) as counter:
            given.model(x).sum().backward()
    finally:
        for part, flag in flags:
            part.requires_grad_(flag)
    return counter.get_total_flops() * len(given.x)


def pgd(session: Session, name: str) -> Iterator[Row]:
    given = problem(session, name)
    ways = providers(session, given)
    made: dict[str, Any] = {}

    def kept(name: str) -> Callable[[], None]:
        def run() -> None:
            made[name] = ways[name]()

        return run

    flops = step_flops(given) * given.steps
    taken: dict[str, list[float]] = {}
    rows: list[Row] = []
    for name, figures, values in session.compare({name: kept(name) for name in ways}, "eager"):
        row: Row = {"provider": name, "problem": given.name, **figures}
        taken[name] = values
        if values and made[name] is not None:
            with torch.no_grad():
                logits = given.model(made[name])
                loss = nn.functional.cross_entropy(logits, given.y)
            row["accuracy"] = round(float((logits.argmax(1) == given.y).float().mean()), 4)
            row["loss"] = float(f"{float(loss):.5g}")
        if values and "early" not in name:
            unit = given.unit if searched(name) == "fp32" else searched(name)
            row |= session.ceilings.share_of_products(flops, median(values), unit)
        rows.append(row)
    for row in rows:
        name = row["provider"]
        if taken.get("torchattacks") and taken[name]:
            row["times_torchattacks"] = round(ratio(taken["torchattacks"], taken[name]), 2)
        best = taken.get(f"ideal {searched(name)}")
        if name.startswith("fastadv") and "early" not in name and best and taken[name]:
            row["times_ideal_time"] = round(ratio(taken[name], best), 3)
        yield row


def registered(session: Session, name: str, entry: Any) -> Iterator[Row]:
    """A short run of one attack in each of its norms, on the MNIST CNN."""
    if needs := getattr(entry, "needs", ""):
        raise Skip(f"needs {needs}")
    model, x, y = mnist(session)
    model, x = model.to(session.device).eval(), x[: session.size(256, 4)]
    y = classes(model, x) if y is None else y[: len(x)]
    for norm in norms_of(entry)[: session.size(None, 1)]:
        if session.left() <= 0:
            session.note(f"attack {name}: the stage's time was used up before {norm}")
            return
        made: list[Any] = []
        threat = threat_of(entry, norm)

        def run(threat: Any = threat, made: list[Any] = made) -> None:
            made[:] = [call(entry, model, x, y, threat, session.tiny)]

        try:
            memory = session.warmed(run)
            values = session.times({name: run}, least=3)[name]
        except Exception as error:
            if session.dead():
                raise
            yield {"provider": f"fastadv {norm}", "error": said(error)}
            continue
        out = made[0]
        found = out.distance[out.distance.isfinite() & out.success]
        yield {
            "provider": f"fastadv {norm}",
            "problem": f"MNIST CNN {len(x)}",
            **quantiles(values),
            **memory,
            "success": round(float(out.success.float().mean()), 4),
            "median_distance": round(float(found.median()), 4) if len(found) else None,
            "forwards_a_sample": round(out.forwards / len(x), 2),
        }

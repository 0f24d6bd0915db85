"""Time what people do: attack a model of their own and read both accuracies, beside torchattacks, in turns.

    python -m bench.calls [--only NET ...] [--threads 2] [--memory] [--out FILE]

Each net has a process of its own. Its calls are FGSM, PGD with 10 and with 40 steps, and AutoAttack, on 1 to
128 images that hold, so that no early stop shortens ours. Every turn calls torchattacks, `plain` (the
module) and `frozen` (what `fa.freeze` made once); a row holds the median over turns of torchattacks' time by
ours, with its range, and the first call of each beside the warm ones. `loop` is a plain loop of PyTorch. Our
calls return the accuracy before and under attack; the others are followed by the two passes that tell it.
With --memory, each way has a process of its own, which calls it twice and gives freed memory back at once; a
row holds the memory that it added at its peak.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import fastadv as fa
import fastadv._torchvision
from bench import nets, pgd
from bench.clock import wall
from bench.records import RESULTS, ROOT, parser
from bench.subjects.large import MIB, grown
from fastadv.card import machine

SMALL, LARGE = (1, 16, 128), (1, 4, 16)
RADIUS, PART = 1 / 4096, 1 / 4  # so small that every image holds; a step is a quarter of it
LEAST, SECONDS, MOST = 3, 3.0, 90.0  # turns, and seconds of a case; beyond the last it has one turn


def published(name: str) -> nn.Module:
    from torchvision import models

    torch.manual_seed(0)
    net: nn.Module = getattr(models, name)()
    for part in net.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.normal_(0, 0.1)  # type: ignore[union-attr]
            part.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr]
        if isinstance(part, nn.Linear) and not part.weight.any():  # the head of a ViT: no gradient passes it
            nn.init.normal_(part.weight, std=0.02)
    return net.eval()


# net, shape of an image, numbers of images
NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], tuple[int, ...]]] = {
    "MLP": (nets.mlp, (1, 28, 28), (1, 16, 256)),
    "small CNN": (partial(nets.small_net, width=32), (3, 32, 32), SMALL),
    "CNN": (nets.cnn, (1, 28, 28), SMALL),
    "ResNet-18": (nets.resnet18, (3, 32, 32), SMALL),
    "ResNet-50": (partial(published, "resnet50"), (3, 224, 224), LARGE),
    "ViT-B/32": (partial(published, "vit_b_32"), (3, 224, 224), LARGE),
    "ConvNeXt-T": (partial(published, "convnext_tiny"), (3, 224, 224), LARGE),
    "EfficientNet-B0": (partial(published, "efficientnet_b0"), (3, 224, 224), LARGE),
}
WAYS = ("loop", "torchattacks", "plain", "frozen")
CALLS = ("FGSM", "PGD-10", "PGD-40", "AutoAttack")


def ways(call: str, net: nn.Module, frozen: Any, x: Tensor, y: Tensor) -> dict[str, Callable[[], object]]:
    import torchattacks as peer

    threat, steps = fa.Linf(RADIUS), {"FGSM": 1, "PGD-10": 10, "PGD-40": 40}.get(call, 0)
    if call == "AutoAttack":
        theirs: Any = peer.AutoAttack(net, eps=RADIUS, n_classes=10, seed=0)
        for part in theirs._autoattack.attacks:
            if hasattr(part, "steps"):
                part.steps = 100  # as in the paper; torchattacks takes 10
        ours = partial(fa.attacks.autoattack, x=x, y=y, threat=threat, indicators=False)
    elif call == "FGSM":
        theirs, ours = peer.FGSM(net, eps=RADIUS), partial(fa.attacks.fgsm, x=x, y=y, threat=threat)
    else:
        theirs = peer.PGD(net, eps=RADIUS, alpha=RADIUS * PART, steps=steps)
        ours = partial(fa.attacks.pgd, x=x, y=y, threat=threat, steps=steps, step_size=RADIUS * PART)
    size = RADIUS if steps == 1 else RADIUS * PART
    given = pgd.Problem(call, net, x, y, RADIUS, size, steps)
    made = {
        "torchattacks": lambda: accuracies(net, x, y, theirs(x, y)),
        "plain": lambda: ours(net),
        "frozen": lambda: ours(frozen),
    }
    return made | ({"loop": lambda: accuracies(net, x, y, pgd.plain(given))} if steps else {})


@torch.no_grad()
def accuracies(net: nn.Module, x: Tensor, y: Tensor, x_adv: Tensor) -> list[float]:
    return [(net(points).argmax(1) == y).double().mean().item() for points in (x, x_adv)]


def rows(name: str, calls: tuple[str, ...], counts: tuple[int, ...] | None) -> None:
    create, shape, usual = NETS[name]
    net = create()
    frozen = fa.freeze(net)
    for count in counts or usual:
        x = torch.rand(count, *shape, generator=torch.Generator().manual_seed(1))
        y = pgd.classes(net, x)
        for call in calls:
            if call == "AutoAttack" and (count != 16 or name not in ("MLP", "small CNN")):
                continue
            if call == "PGD-40" and shape[-1] == 224 and count > 1:
                continue
            tried = ways(call, net, frozen, x, y)
            first = {way: wall(run)[0] for way, run in tried.items()}
            seconds = sum(first.values())
            taken: dict[str, list[float]] = {way: [] for way in tried}
            begun = time.perf_counter()
            while True:
                for way, run in tried.items():
                    taken[way].append(wall(run)[0])
                done, spent = len(taken["plain"]), time.perf_counter() - begun
                if (done >= LEAST and spent > SECONDS) or seconds > MOST or spent > MOST:
                    break
            for way in taken.keys() - {"torchattacks"}:
                by = [a / b for a, b in zip(taken["torchattacks"], taken[way], strict=True)]
                row = {
                    "net": name, "call": call, "images": count, "way": way, "turns": len(by),
                    "times": round(statistics.median(by), 3), "least": round(min(by), 3),
                    "most": round(max(by), 3), "ms": round(1e3 * statistics.median(taken[way]), 3),
                    "first": round(first["torchattacks"] / first[way], 3),
                }  # fmt: skip
                print(json.dumps(row), flush=True)


def twice(way: str, net: nn.Module, x: Tensor, y: Tensor) -> None:
    frozen = fa.freeze(net) if way == "frozen" else None
    for _ in range(2):
        ways("PGD-10", net, frozen, x, y)[way]()


def memory(name: str, way: str, counts: tuple[int, ...] | None) -> None:
    """Print the peak memory that PGD-10 adds by one way, for each number of images of a net."""
    create, shape, usual = NETS[name]
    net = create()
    for count in counts or usual[-1:]:
        x = torch.rand(count, *shape, generator=torch.Generator().manual_seed(1))
        y = torch.cat([pgd.classes(net, row) for row in x.split(1)])  # fewer rows than the call passes
        added = grown(partial(twice, way, net, x, y))
        row = {"net": name, "call": "memory", "images": count, "way": way, "mib": round(added / MIB)}
        print(json.dumps(row), flush=True)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--only", nargs="+", choices=NETS, default=list(NETS))
    options.add_argument("--calls", nargs="+", choices=CALLS, default=list(CALLS))
    options.add_argument("--images", nargs="+", type=int)
    options.add_argument("--threads", type=int, default=2)
    options.add_argument("--out", type=Path, default=RESULTS / "calls.jsonl")
    options.add_argument("--memory", action="store_true")
    options.add_argument("--worker", choices=NETS)
    options.add_argument("--way", choices=WAYS)
    given = options.parse_args()
    torch.set_num_threads(given.threads)
    images = given.images and tuple(given.images)
    if given.way:
        memory(given.worker, given.way, images)
        return
    if given.worker:
        rows(given.worker, tuple(given.calls), images)
        return
    more = {"bench": "calls", "work": "attack and accuracies", **machine(), "date": time.strftime("%Y-%m-%d")}
    for name, way in product(given.only, WAYS if given.memory else [None]):
        command = [sys.executable, "-m", "bench.calls", "--worker", name, "--threads", str(given.threads)]
        command += ["--calls", *given.calls] if way is None else ["--way", way]
        command += ["--images", *map(str, given.images)] if given.images else []
        # or else what the C library keeps would count, which differs by half from way to way
        freed = {"MALLOC_MMAP_THRESHOLD_": "65536", "FASTADV_KEEP_PAGES": "0"} if given.memory else {}
        run = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, text=True, env={**os.environ, **freed}
        )
        assert run.stdout is not None
        for line in run.stdout:
            row = {**json.loads(line), **more}
            with given.out.open("a") as file:
                file.write(json.dumps(row) + "\n")
            told = row.get("times", row.get("mib"))
            print(f"{row['net']}, {row['call']}, {row['images']}: {row['way']} {told}")
        if run.wait():
            raise SystemExit(f"bench.calls: {name} ended with {run.returncode}")


if __name__ == "__main__":
    main()

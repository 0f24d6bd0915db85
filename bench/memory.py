"""Peak memory of an attack against one forward and backward of the same batch, each in its own process."""

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

BATCH = 1000

SCRIPT = """
import json, resource, sys, threading, time
import torch, fastadv as fa
def resident():
    with open("/proc/self/statm") as f: return int(f.read().split()[1]) * resource.getpagesize()
torch.set_num_threads(1)
model = fa.models.create("cnn").eval()
x, y = torch.rand({batch}, 1, 28, 28), torch.randint(10, ({batch},))
pgd = lambda x, y, **k: fa.attacks.pgd(model, x, y, fa.Linf(0.3), steps=5, step_size=0.1, **k)
# a tiny batch first, so that the buffers of the libraries exist already
pgd(x[:2], y[:2])
leaf = x[:2].clone().requires_grad_(); torch.nn.functional.cross_entropy(model(leaf), y[:2]).backward()
for p in model.parameters(): p.grad = None
del leaf
before, peak, done = resident(), 0, False
def watch():
    global peak
    while not done:
        peak = max(peak, resident()); time.sleep(0.0005)
thread = threading.Thread(target=watch); thread.start()
if sys.argv[1] == "attack":
    pgd(x, y, stop_early=False)
else:
    leaf = x.clone().requires_grad_()
    torch.nn.functional.cross_entropy(model(leaf), y).backward()
done = True; thread.join()
print(json.dumps(peak - before))
"""


def peak(what: str) -> int:
    """The most bytes by which the resident set grew."""
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(batch=BATCH), what], capture_output=True, text=True, check=True
    )
    return int(json.loads(run.stdout.splitlines()[-1]))


def rows() -> Iterator[dict[str, Any]]:
    """Two rows, each the median of three processes. None where the system has no /proc."""
    if not sys.platform.startswith("linux"):
        return
    base = sorted(peak("forward and backward") for _ in range(3))[1]
    attack = sorted(peak("attack") for _ in range(3))[1]
    what = f"peak memory, {BATCH} images, CNN"
    yield {"what": what, "provider": "forward and backward", "mib": round(base / 2**20, 1)}
    yield {
        "what": what,
        "provider": "fastadv pgd",
        "mib": round(attack / 2**20, 1),
        "times_forward_backward": round(attack / base, 3),
    }

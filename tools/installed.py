"""What an installed wheel must do; prints what it found."""

import json
import os
from importlib.metadata import entry_points
from pathlib import Path

import torch

import fastadv as fa

package = Path(fa.__file__).parent
assert "site-packages" in package.parts, f"{package} is not the installed one"
assert "HOME" in os.environ or not os.access(package, os.W_OK)
(command,) = entry_points(group="console_scripts", name="fastadv")
assert callable(command.load())
served = fa.backends()["linf_step"]["cpu"]
assert served.startswith("reference (no ext" if os.environ.get("FASTADV_NO_EXT") == "1" else "C++"), served

torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 10))
x = torch.rand(64, 3, 4, 4)
y = model(x).argmax(1)
found = fa.attacks.fgsm(model, x, y, fa.Linf(0.1))
assert found.success.any()
assert fa.Linf(0.1).contains(found.x_adv, x).all()

x = torch.rand(64, 99_999)
fa.ops.linf_step(x, x, x, 0.1, 0.1)
if (maps := Path("/proc/self/maps")).exists():
    runtimes = {line.split()[-1] for line in maps.read_text().splitlines() if "libgomp" in line}
    assert len(runtimes) == 1, f"expected torch's OpenMP alone, got {runtimes}"
    assert "torch" in next(iter(runtimes)), runtimes
print(json.dumps({"torch": torch.__version__, "served": served}))

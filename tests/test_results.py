"""What calls return: on whatever default device of torch, and as data that torch.load reads by default."""

import ast
import copy
import re
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import fastadv as fa
from tests.engine.nets import convnet, images

pytestmark = pytest.mark.slow
MODEL, (X, Y), BALL, CPU = convnet().eval(), images(), fa.Linf(0.1), {"device": "cpu"}
SET, PAIRS = DataLoader(TensorDataset(X, Y), 4), [*zip(X, Y.tolist(), strict=True)]
BRIEF = partial(fa.attacks.autoattack, threat=BALL, version=["apgd-ce"])
CALLS: dict[str, Any] = {
    "pgd": lambda: fa.attacks.pgd(lambda x: MODEL(x.round()), X, Y, fa.L2(torch.arange(6.0, **CPU), (-1, 2))),
    "fmn": lambda: fa.attacks.fmn(fa.freeze(MODEL), X, Y, fa.L0(5), steps=20),
    "minimum_norm": lambda: fa.attacks.minimum_norm(MODEL, X, Y, fa.L1(torch.inf), steps=30),
    "autoattack": lambda: BRIEF(MODEL, X, Y),
    "tensors": lambda: fa.evaluate(MODEL, (X, Y), {"auto": BRIEF}, keep_samples=True, draws=2),
    "loader": lambda: fa.evaluate(MODEL, SET, ["fgsm", "pgd"], threat=BALL),
    "indicators": lambda: fa.attacks.indicators(MODEL, X, Y, BALL),
    "certificates": lambda: fa.certify.smooth(MODEL, (X, Y), 0.25, n=20, sound=False),
}
OTHERS: dict[str, Any] = {
    "predict": lambda: fa.certify.predict(MODEL, X, 0.25, n=30, sound=False),
    "construct": lambda: fa.data.construct.random_target(MODEL, PAIRS, threat=BALL, steps=2),
    "fit": lambda: fa.train.fit(copy.deepcopy(MODEL), (X, Y), recipe="standard", epochs=1, **CPU),
}
READ = "import fastadv, sys, torch; print([str(vars(torch.load(path))) for path in sys.argv[1:]])"
MAKES = re.compile(r"torch\.(arange|as_tensor|empty|eye|full|l\w+space|ones|rand(n|int|perm)?|tensor|zeros)")
# commands, samples for tests, and modules, whose weights follow the default
FREE = (
    "cli", "demo", "ops", "models/abs/decoder.py", "models/abs/storage.py", "models/_common.py",
    "models/processor.py",
)  # fmt: skip


@pytest.mark.parametrize("name", CALLS | OTHERS)
def test_results_are_made_and_printed_on_another_default_device(name: str) -> None:
    call = (CALLS | OTHERS)[name]
    with torch.device("meta"):
        text = str(call())
    assert name in ("tensors", "loader", "fit") or text == str(call()), "but for seconds"


def test_every_tensor_is_made_on_a_device_that_is_named() -> None:
    root = Path(fa.__file__).parent
    for path in root.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and MAKES.fullmatch(ast.unparse(node.func)):
                placed = {k.arg for k in node.keywords} & {"device", None}
                assert placed or path.relative_to(root).as_posix().startswith(FREE), (path, ast.unparse(node))


def test_results_load_with_weights_only(tmp_path: Path) -> None:
    texts = []
    for name, call in CALLS.items():
        torch.save(result := call(), tmp_path / name)
        texts.append(str(vars(result)))
    command = [sys.executable, "-c", READ, *(str(tmp_path / name) for name in CALLS)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == str(texts)

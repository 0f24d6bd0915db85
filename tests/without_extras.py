"""What a user of the base does, where the packages that the command line names cannot be imported."""

import sys
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path

import pytest

blocked = sys.argv[1:]
sys.modules.update(dict.fromkeys(blocked))  # Python then imports none of them

import fastadv as fa  # noqa: E402
from fastadv.__main__ import main  # noqa: E402

VISION = "ResNets and most data sets need torchvision, which is not installed: pip install torchvision"
IMAGES = "image files need PIL, which is not installed: pip install pillow"
FIGURES = "figures need matplotlib, which is not installed: pip install matplotlib"
REPORTS = "reports need jinja2, which is not installed: pip install jinja2"
COMMAND = "the command fastadv needs typer, which is not installed: pip install typer"


def refused(sentence, call, *args):
    with pytest.raises(fa.errors.MissingExtraError) as raised:
        call(*args)
    assert str(raised.value) == sentence, raised.value


threat = fa.Linf(0.1)
digits = fa.data.load("digits", "test", limit=20)
model = fa.models.create("small_cnn", shape=digits.shape)
fa.train.fit(model, digits, fa.train.PGDTraining(threat, steps=1), epochs=1, run_dir="run")
frozen = fa.freeze(model)
assert fa.attacks.fgsm(frozen, digits.x, digits.y, threat).success.shape == (20,)
assert fa.attacks.pgd(frozen, digits.x, digits.y, threat, steps=2).success.shape == (20,)
table = fa.evaluate(model, digits, {"FGSM": lambda *args, **more: fa.attacks.fgsm(*args, threat, **more)})
synthesis = fa.models.ABS.fit(digits, epochs=1, prior_samples=10)
assert synthesis.infer(digits.x[:2], steps=1).loss.shape == (2, 10)
fa.data.construct.robust(model, digits, steps=1, step_size=0.1).save("d_r")

refused(VISION, fa.models.create, "resnet18")
refused(VISION, lambda: fa.models.ResNet50)
for name in ("mnist", "cifar10", "cifar100", "svhn"):
    refused(VISION, lambda name=name: fa.data.load(name, "test", data_dir="."))
Path("set/test/cat").mkdir(parents=True)
Path("set/test/cat/1.png").touch()
refused(IMAGES, lambda: fa.data.load("imagefolder", "test", data_dir="set")[0])
refused(REPORTS, fa.evaluation.report, table, "a.html")
refused(FIGURES, fa.figures.check_path, "a.png")
with redirect_stderr(StringIO()) as said:
    assert main() == 1
assert said.getvalue() == f"fastadv: {COMMAND}\n"
assert not any(sys.modules[name] for name in blocked)

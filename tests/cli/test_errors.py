"""One line on stderr, nothing on stdout, and an exit code that says whose fault it was."""

import pytest
import torch

from tests.cli.test_help import COMMANDS

DIGITS = "-m small_cnn --data digits"


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("evaluate", "--model"),
        (f"evaluate {DIGITS}", "--radius"),
        (f"evaluate {DIGITS} --radius much", "much"),
        (f"evaluate {DIGITS} --radius 0.1 --norm l7", "l7"),
        (f"evaluate {DIGITS} --radius 0.1 -a pgd:steps", "KEY=VALUE"),
        (f"evaluate {DIGITS} --radius 0.1 -a pgd:stop_early=no", "stop_early=false"),
        (f"evaluate {DIGITS} --radius 0.1 -o width=4 -o width=8", "width is given twice"),
        (f"evaluate {DIGITS} --radius 0.1 -o normalize=cifar", "one of cifar10, cifar100, imagenet"),
        (f"evaluate {DIGITS} --radius 0.1 -o shape=3", "follow from --data"),
        (f"evaluate {DIGITS} --radius 0.1 --out file/adv.safetensors", "cannot be written"),
        (f"evaluate {DIGITS} --radius 0.1 -n 0", "equal to 1. Try"),
        (f"train {DIGITS} --recipe pgd", "--radius"),
        (f"train {DIGITS} --recipe gaussian", "needs sigma: gaussian:sigma=VALUE"),
        (f"train {DIGITS} --recipe smoothadv:sigma=0.5 --radius 0.5", "--norm l2"),
        (f"train {DIGITS} --resume", "run to resume, got None; pass --run-dir, or leave out"),
        (f"evaluate {DIGITS} --radius 0.1 -a pgd:steps=3 -a fgsm --steps 3", "--steps"),
        (f"train {DIGITS} --recipe trades:steps=3 --radius 0.1 --steps 3", "--steps"),
        (f"evaluate {DIGITS} --radius 0.1 -a pgdd", "got 'pgdd'; did you mean 'pdgd' or 'pgd'? Try"),
        (f"evaluate {DIGITS} --radius 0.1 -a pgd:alpha=3", "freeze; did you mean 'step_size'? Try"),
        (f"evaluate {DIGITS} --eps 0.1", "no option --eps; did you mean '--radius'? Try"),
        ("train -m resnet19 --data digits", "did you mean 'resnet18' or 'resnet50'? Try"),
        (f"evalute {DIGITS}", "Did you mean 'evaluate'? Try"),
        (f"construct random_targte {DIGITS} --out made", "did you mean 'random-target'? Try"),
    ],
)
def test_wrong_usage_is_two(refused, folder, line, says):
    (folder / "file").touch()
    assert "--help" in refused(line, says)


def test_advice_of_the_library_is_told(fastadv, net):
    said = fastadv(f"evaluate {net} -n 4 --radius 8 -a fgsm").out
    assert "did you mean Linf(8 / 255)?" in " ".join(said.split())


@pytest.mark.slow
def test_failed_work_is_one(refused, folder, net):
    (folder / "torn.safetensors").write_bytes((folder / "net.safetensors").read_bytes()[:500])
    (folder / "other").mkdir()
    (folder / "other" / "index.json").write_text("{}")
    for line, says in (
        ("evaluate -m small_cnn -w torn.safetensors --data digits --radius 0.1", "torn.safetensors"),
        ("evaluate -m small_cnn --data other --radius 0.1", "index"),
        ("train -m softmax --data digits -n 200 --epochs 3 --learning-rate 1e38", "finite loss"),
    ):
        refused(line, says, 1)
    refused("evaluate -m small_cnn -w net.safetensors --data digits --radius 0.1", "shape")  # of width 4


# Values that are wrong whatever the command does, by the option that names them
WRONG = {
    "--data": ["nosuch", "digits:ids=3", "imagenet:ids=", "imagefolder", "file", "."],
    "--data-dir": ["nowhere", "file"],
    "--model": ["nosuch", "Carmon2019Unlabeled", "rb:nosuch", "nosuch:net"],
    "--weights": ["nosuch.pt", "."],
    "--device": ["nosuch"],
    "--samples": ["0", "many"],
    "--seed": ["-1"],
    "--run-dir": ["file", "file/run"],
    "--out": ["file/out"],
}


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_refuses_wrong_options(refused, folder, command):
    """As its example, which names weights and sets that are not there."""
    (folder / "file").touch()
    declared = COMMANDS[command]
    words = declared.epilog.removeprefix("Example: fastadv ").replace("-w runs/a/model.safetensors", "")
    taken = {name for option in declared.params for name in option.opts}
    for option in taken & WRONG.keys():
        for value in WRONG[option]:
            refused(f"{words} {option} {value}", "")


def test_unforeseen_error_is_one_line_and_debug_shows_where(fastadv, folder):
    (folder / "mynet.py").write_text("def broken(classes):\n    raise RuntimeError('no\\nluck')\n")
    line = "evaluate -m mynet:broken --data digits --radius 0.1"
    done = fastadv(f"{line} --debug", code=1)
    assert "Traceback" in done.err
    assert "mynet.py" in done.err
    done = fastadv(line, code=1)  # the option holds for one call
    assert done.err.count("\n") == 1
    assert "RuntimeError: no luck" in done.err


def test_untrained_model_is_pointed_out(fastadv):
    assert "untrained" in fastadv("evaluate -m softmax --data digits -n 20 --radius 0.1 -a fgsm").err
    assert not torch.is_inference_mode_enabled()

"""`-m rb:NAME`: an entry of RobustBench's zoo in every command that takes a model."""

from dataclasses import replace

import pytest
import torch

from fastadv import data, models
from fastadv.data import ImageSet
from fastadv.models.zoo import find
from tests.models.robustbench_zoo.conftest import net_of, state_of

NAME = "cifar10/Linf/Wang2023Better_WRN-28-10"
MODEL = f"-m rb:{NAME} -w net.pt --data cifar10"


@pytest.fixture(autouse=True)
def net(monkeypatch):
    """net.pt, weights of the entry in the zoo's layout, the net made small; and a CIFAR-10 of noise."""
    entry = find(NAME)
    tiny = replace(
        entry, net=replace(entry.net, options={**entry.net.options, "depth": 10, "widen_factor": 1})
    )
    # the other names stay what they are
    monkeypatch.setattr("fastadv.models.zoo.find", lambda name: tiny if name == NAME else find(name))
    small = net_of(tiny)
    torch.save(state_of(tiny, small), "net.pt")
    draw = torch.Generator().manual_seed(0)

    def load(name, split, **options):
        classes = {"cifar10": 10, "cifar100": 100, "svhn": 10}[name]
        x = torch.rand(12, 3, 32, 32, generator=draw)
        return ImageSet(x, torch.arange(12) % classes, classes, f"{name} {split}")

    monkeypatch.setattr(data, "names", lambda: ("cifar10", "cifar100", "svhn"))
    monkeypatch.setattr(data, "load", load)
    return small


def test_evaluate_measures_the_entry_and_says_what_it_is_published_with(fastadv, net):
    done = fastadv(f"evaluate {MODEL} -a fgsm --radius 8/255 --json")
    lists = f"RobustBench lists {NAME} with 92.44% clean and 67.31% under AutoAttack at Linf 0.0314"
    assert lists in done.err
    assert "untrained" not in done.err
    card = done.json
    assert card["config"]["model"] == f"rb:{NAME}"
    x = torch.rand(12, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    mean, std = models.STATISTICS["cifar10"]
    right = models.Normalized(net, mean, std)(x).argmax(1) == torch.arange(12) % 10
    assert card["measured"]["clean_accuracy"] == pytest.approx(right.float().mean().item())


@pytest.mark.parametrize(
    ("line", "match"),
    [
        (f"-m rb:{NAME} --data cifar10", "expected its weights in"),
        (f"-m rb:{NAME} -w absent.pt --data cifar10", "drive.google.com"),
        ("-m rb:Wang2023Bettr -w net.pt --data cifar10", "did you mean 'cifar100/Linf/Wang2023Better_WRN"),
        (f"-m {NAME} -w net.pt --data cifar10", "model"),
        ("-m rb:Standard -w net.pt --data cifar10", "give one of these"),
        (f"{MODEL} -o width=3", "--option: rb:"),
        (f"-m rb:{NAME} -w net.pt --data cifar100", "of 10 classes, got cifar100, [3, 32, 32] of 100;"),
        (
            f"-m rb:{NAME} -w net.pt --data svhn",
            "takes images of cifar10, [3, 32, 32] of 10 classes, got svhn",
        ),
        (
            "-m rb:cifar10/Linf/Sehwag2021Proxy_R18 -w net.pt --data cifar10",
            "missing bn1.bias, bn1.running_mean, ",
        ),
    ],
)
def test_what_cannot_be_is_wrong_usage(refused, line, match):
    refused(f"evaluate {line} -a fgsm --radius 8/255", match)


def test_other_images_of_imagenet_than_robustbenchs_are_told(fastadv, refused, monkeypatch):
    entry = find("Salman2020Do_R18")
    tiny = replace(entry, net=replace(entry.net, create="torchvision:squeezenet1_1"))
    torch.save(state_of(tiny, net_of(tiny)), "net.pt")
    monkeypatch.setattr("fastadv.models.zoo.find", lambda name: tiny)

    def load(name, *args, **options):
        images = ImageSet(torch.rand(1, 3, 224, 224), torch.zeros(1, dtype=torch.long), 1000, name)
        images.preprocessing = name.partition("=")[2]
        return images

    monkeypatch.setattr(data, "load", load)
    line = "evaluate -a fgsm --radius 4/255 -w net.pt --data imagenet:preprocessing=Res{}224 -m rb:{}"
    other = "RobustBench's images are imagenet:preprocessing=Res256Crop224, these have preprocessing Res224"
    assert other in fastadv(line.format("", entry.name)).err
    assert "these have" not in fastadv(line.format("256Crop", entry.name)).err
    refused(line.format("", "imagenet/Wong2020Fast"), "give --data imagenet:preprocessing=Crop288")

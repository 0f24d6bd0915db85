"""RobustBench: its entries and radii."""

import fastadv as fa
from fastadv.evaluation.robustbench import RADII, entry
from tests.refusals import refuses


def test_entries_are_as_robustbench_writes_them():
    # model_info/imagenet/Linf/Salman2020Do_R18.json
    about = {"venue": "NeurIPS 2020"}
    written = entry("imagenet", "ResNet-18", 0.5292, 0.2532, fa.Linf(4 / 255), unreliable=True, about=about)
    assert list(written) == [
        "link", "name", "authors", "additional_data", "number_forward_passes", "dataset", "venue",
        "architecture", "eps", "clean_acc", "reported", "autoattack_acc", "footnote", "unreliable",
    ]  # fmt: skip
    assert (written["clean_acc"], written["venue"], written["link"]) == ("52.92", "NeurIPS 2020", None)
    assert (written["eps"], written["autoattack_acc"], written["unreliable"]) == ("4/255", "25.32", True)
    for data, share, threat, more, says in (
        ("cifar10", 1, fa.Linf(8 / 255), {"about": {"eps": "1"}}, "expected fields among link, .*, got eps"),
        ("cifar10", 1, fa.Linf(0.2), {}, r"tables of cifar10, linf 0\.03137 and l2 0\.5, got"),
        ("cifar10", 95.0, fa.Linf(8 / 255), {}, "clean_accuracy: expected .* got 95"),
        ("cifar100", 1, fa.L2(0.5), {}, "tables of cifar100"),
    ):
        refuses(says, entry, data, "net", share, 1, threat, **more)
    assert entry("digits", "net", 1, 1, fa.Linf(0.2))["eps"] == "0.2"


def test_the_radii_are_those_of_the_leaderboards():
    linf = {"cifar10": 8 / 255, "cifar100": 8 / 255, "imagenet": 4 / 255}
    assert {(data, "linf"): radius for data, radius in linf.items()} | {("cifar10", "l2"): 0.5} == RADII

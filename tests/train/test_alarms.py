"""Alarms: what they see in reports, and that chance, divergence and unrest are none."""

import pytest

from fastadv.train import EpochReport
from fastadv.train.report import alarm

CATASTROPHIC, ROBUST = "catastrophic overfitting", "robust overfitting"


def past(robust, crafted=None, losses=None, **options):
    count = len(robust)
    crafted = crafted or [None] * count
    losses = losses or [2.0 - 0.01 * k for k in range(count)]
    rows = zip(range(1, count + 1), losses, robust, crafted, strict=True)
    return [
        EpochReport(k, loss, 0.9, {"pgd": r, "fgsm": min(1.0, r + 0.2)}, 0.1, 1.0, own_accuracy=o, **options)
        for k, loss, r, o in rows
    ]


def kinds(reports, tested=1000):
    seen = []
    for report in reports:
        seen.append(report)
        seen[-1] = EpochReport(**{**vars(report), "alarm": alarm(seen, tested)})
    return [report.alarm and report.alarm.partition(":")[0] for report in seen]


WEAK = EpochReport(1, 2.0, 0.9, {"noise": 0.9}, 0.1, 1.0, own_accuracy=0.5)
HALF, RISING = [0.5] * 5, [0.4, 0.5, 0.9]
AVERAGED = {"ema_robust_accuracy": {"pgd": 0.5, "fgsm": 0.6}}
COLLAPSED = {
    "once": (past([0.3, 0.42, 0.04, 0, 0, 0, 0], [0.4, 0.5, 0.93, 0.97, 0.98, 0.99, 0.99]), 2),
    "by its loss": (past([0.3, 0.42, 0.04], losses=[2.0, 1.5, 0.7]), 2),
    "by an equal loss": (past([0.3, 0.42, 0.04], losses=[2.0, 1.5, 1.5]), 2),
    "as well as then": (past([0.3, 0.42, 0.04], [0.4, 1.0, 1.0]), 2),
    # FGSM on MNIST at 0.3: the network learns to be linear nowhere before PGD is met at all
    "never rose": (past([0.0, 0.002, 0.004, 0.0], [0.23, 0.69, 0.93, 0.96]), 2),
    "never rose, on few": (past([0.0, 0.0], [0.26, 0.26]), 1),
}
FELL = {
    "for three epochs, once": (past([0.3, 0.5, 0.43, 0.42, 0.44, 0.4, 0.4], [0.5] * 7), 4),
    "by three points": (past([0.5, 0.47, 0.47, 0.47], HALF[:4]), 3),
}
NONE = {
    "loss rose": (past([0.3, 0.42, 0.04], losses=[2.0, 1.5, 9.0]), 1000),
    "more than half is left": (past([0.3, 0.42, 0.22], RISING), 1000),
    "the network is lost altogether": (past([0.3, 0.42, 0.04], [0.4, 0.5, 0.1]), 1000),
    "chance, of 1,000 images": (past([0.02, 0.025, 0.01], RISING), 1000),
    "chance, of 20 images": (past([0.3, 0.42, 0.2], RISING), 20),
    "one epoch may be chance": (past([0.0, 0.0, 0.0], [0.24, 0.24, 0.9]), 1000),
    "no examples of its own": (past([0.0, 0.0, 0.0]), 1000),
    "a little accuracy": (past([0.02, 0.02, 0.02], [0.6, 0.9, 0.9]), 1000),
    "no attack": ([EpochReport(k, 1.0 / k, None, {}, 0.1, 1.0) for k in (1, 2)], 1000),
    "it forgot its examples": (past([0.5, 0.0, 0.0], [0.4, 0.24, 0.24]), 1000),
    "unrest": (past([0.5, 0.43, 0.49, 0.43, 0.43], HALF), 1000),
    "below two points": (past([0.5, 0.49, 0.49, 0.49, 0.49], HALF), 10**6),
    "chance, of 500 images": (past([0.5, 0.47, 0.47, 0.47], HALF[:4]), 500),
    "1.6 deviations": (past([0.5, 0.45, 0.45, 0.45], HALF[:4]), 500),
    "it unlearns": (past([0.5, 0.4, 0.4, 0.4], HALF[:4], [1.0, 1.1, 1.2, 1.3]), 1000),
    "another attack": ([WEAK, *past([0.1, 0.1], [0.9, 0.9])], 1000),
    "equal": (past([0.5, 0.5], [0.5, 0.5]), 1000),
    "averaged weights": (past([0.5, 0.4, 0.4, 0.4, 0.4], HALF, **AVERAGED), 1000),
}


@pytest.mark.parametrize("case", COLLAPSED | FELL)
def test_an_alarm_is_raised_in_its_epoch_and_once(case):
    reports, place = (COLLAPSED | FELL)[case]
    expected = [None] * len(reports)
    expected[place] = CATASTROPHIC if case in COLLAPSED else ROBUST
    assert kinds(reports, 10**5 if case == "by three points" else 1000) == expected


@pytest.mark.parametrize("case", NONE)
def test_what_is_no_alarm(case):
    reports, tested = NONE[case]
    assert kinds(reports, tested) == [None] * len(reports)


def test_a_collapse_may_follow_a_fall():
    reports = past([0.5, 0.43, 0.42, 0.44, 0.01], crafted=[0.5, 0.5, 0.5, 0.5, 0.9])
    assert kinds(reports) == [None, None, None, ROBUST, CATASTROPHIC]


@pytest.mark.parametrize(
    ("case", "parts"),
    [
        ("once", ["fell from 42.0% in epoch 2 to 4.0%", "rose from 50.0% to 93.0%", "n-fgsm"]),
        ("by its loss", ["loss fell from 1.5 to 0.7"]),
        ("never rose", ["under attack is 0.4%, that on the recipe's own examples 93.0%"]),
        ("for three epochs, once", ["fell from 50.0% in epoch 2 to 44.0%", "patience"]),
    ],
)
def test_an_alarm_says_what_was_seen_and_what_to_do(case, parts):
    reports, place = (COLLAPSED | FELL)[case]
    text = alarm(reports[: place + 1], 1000)
    assert all(part in text for part in parts)

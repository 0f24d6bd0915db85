"""Alarms: what they see in reports, and that chance, divergence and unrest are none."""

from fastadv.train import EpochReport
from fastadv.train.report import alarm


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
        text = alarm(seen, tested)
        seen[-1] = EpochReport(**{**vars(report), "alarm": text})
    return [report.alarm and report.alarm.partition(":")[0] for report in seen]


CATASTROPHIC, ROBUST = "catastrophic overfitting", "robust overfitting"


def test_a_collapse_is_told_in_its_epoch_and_once():
    reports = past([0.3, 0.42, 0.04, 0.0, 0.0, 0.0, 0.0], crafted=[0.4, 0.5, 0.93, 0.97, 0.98, 0.99, 0.99])
    assert kinds(reports) == [None, None, CATASTROPHIC, None, None, None, None]
    text = alarm(reports[:3], 1000)
    assert "fell from 42.0% in epoch 2 to 4.0%" in text
    assert "rose from 50.0% to 93.0%" in text
    assert "n-fgsm" in text


def test_where_the_recipe_crafts_no_examples_its_loss_tells():
    robust = [0.3, 0.42, 0.04]
    assert kinds(past(robust, losses=[2.0, 1.5, 0.7]))[-1] == CATASTROPHIC
    assert kinds(past(robust, losses=[2.0, 1.5, 9.0]))[-1] is None
    assert kinds(past(robust, losses=[2.0, 1.5, 1.5]))[-1] == CATASTROPHIC
    assert kinds(past(robust, crafted=[0.4, 1.0, 1.0]))[-1] == CATASTROPHIC  # as well as then
    assert "loss fell from 1.5 to 0.7" in alarm(past(robust, losses=[2.0, 1.5, 0.7]), 1000)


def test_what_is_no_collapse():
    crafted = [0.4, 0.5, 0.9]
    assert kinds(past([0.3, 0.42, 0.22], crafted))[-1] is None  # more than half is left
    assert kinds(past([0.3, 0.42, 0.04], [0.4, 0.5, 0.1]))[-1] is None  # the network is lost altogether
    assert kinds(past([0.02, 0.025, 0.01], crafted))[-1] is None  # chance, of 1,000 images
    assert kinds(past([0.3, 0.42, 0.2], crafted), tested=20)[-1] is None
    assert kinds(past([0.0, 0.0, 0.0], [0.24, 0.24, 0.9])) == [None] * 3  # one epoch may be chance
    assert kinds(past([0.0, 0.0, 0.0])) == [None] * 3
    assert kinds(past([0.02, 0.02, 0.02], [0.6, 0.9, 0.9])) == [None] * 3
    assert kinds([EpochReport(k, 1.0 / k, None, {}, 0.1, 1.0) for k in (1, 2)]) == [None] * 2


def test_accuracy_under_attack_that_never_rises():
    """FGSM on MNIST at 0.3: the network learns to be linear nowhere before PGD is met at all."""
    reports = past([0.0, 0.002, 0.004, 0.0], crafted=[0.23, 0.69, 0.93, 0.96])
    assert kinds(reports) == [None, None, CATASTROPHIC, None]
    assert "under attack is 0.4%, that on the recipe's own examples 93.0%" in alarm(reports[:3], 1000)
    assert kinds(past([0.5, 0.0, 0.0], crafted=[0.4, 0.24, 0.24])) == [None] * 3
    assert kinds(past([0.0, 0.0], crafted=[0.26, 0.26])) == [None, CATASTROPHIC]


def test_a_fall_that_lasts_for_three_epochs_is_told_once():
    reports = past([0.3, 0.5, 0.43, 0.42, 0.44, 0.4, 0.4], crafted=[0.5] * 7)
    assert kinds(reports) == [None, None, None, None, ROBUST, None, None]
    text = alarm(reports[:5], 1000)
    assert "fell from 50.0% in epoch 2 to 44.0%" in text
    assert "patience" in text


def test_a_collapse_may_follow_a_fall():
    reports = past([0.5, 0.43, 0.42, 0.44, 0.01], crafted=[0.5, 0.5, 0.5, 0.5, 0.9])
    assert kinds(reports) == [None, None, None, ROBUST, CATASTROPHIC]


def test_what_is_no_robust_overfitting():
    assert kinds(past([0.5, 0.43, 0.49, 0.43, 0.43], crafted=[0.5] * 5)) == [None] * 5  # unrest
    assert (
        kinds(past([0.5, 0.49, 0.49, 0.49, 0.49], crafted=[0.5] * 5), 10**6) == [None] * 5
    )  # below two points
    assert kinds(past([0.5, 0.47, 0.47, 0.47], crafted=[0.5] * 4), 500) == [None] * 4  # chance
    assert kinds(past([0.5, 0.45, 0.45, 0.45], crafted=[0.5] * 4), 500) == [None] * 4  # 1.6 deviations
    assert kinds(past([0.5, 0.47, 0.47, 0.47], crafted=[0.5] * 4), 10**5)[-1] == ROBUST
    losses = [1.0, 1.1, 1.2, 1.3]
    assert kinds(past([0.5, 0.4, 0.4, 0.4], crafted=[0.5] * 4, losses=losses)) == [None] * 4  # it unlearns


def test_other_attacks_are_not_compared():
    reports = past([0.5, 0.5], crafted=[0.5, 0.5])
    weak = EpochReport(1, 2.0, 0.9, {"noise": 0.9}, 0.1, 1.0, own_accuracy=0.5)
    assert kinds([weak, *past([0.1, 0.1], crafted=[0.9, 0.9])]) == [None] * 3
    assert kinds(reports) == [None] * 2


def test_averaged_weights_are_judged_where_there_are_such():
    reports = past(
        [0.5, 0.4, 0.4, 0.4, 0.4], crafted=[0.5] * 5, ema_robust_accuracy={"pgd": 0.5, "fgsm": 0.6}
    )
    assert kinds(reports) == [None] * 5

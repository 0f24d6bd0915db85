"""Adversarial training with PGD: robust accuracy epoch by epoch. Rerun it after an interruption to resume."""

from functools import partial

import fastadv as fa

train_set, test_set = fa.data.load("digits", "train"), fa.data.load("digits", "test")
model = fa.models.create("small_cnn", shape=train_set.shape, classes=10, width=8)
recipe = fa.train.PGDTraining(fa.L2(0.5), steps=5)
check = {"pgd": partial(fa.attacks.pgd, threat=fa.L2(0.5), steps=10)}

for report in fa.train.epochs(
    model, train_set, recipe, epochs=8, batch_size=64, run_dir="runs/robust_digits", resume=True,
    test_set=test_set, test_attacks=check,
):  # fmt: skip
    robust = report.robust_accuracy["pgd"]
    print(f"epoch {report.epoch}: clean {report.clean_accuracy:.1%}, under PGD {robust:.1%}")

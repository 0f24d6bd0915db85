"""Several attacks, the worst of them for each sample, and accuracy against radius as a figure."""

from functools import partial

import fastadv as fa

train_set, test_set = fa.data.load("digits", "train"), fa.data.load("digits", "test")
model = fa.models.create("small_cnn", shape=train_set.shape, classes=10, width=16)
fa.train.fit(model, train_set, fa.train.Standard(), epochs=5)

attacks = {
    "FGSM": partial(fa.attacks.fgsm, threat=fa.Linf(0.1)),
    "PGD": partial(fa.attacks.pgd, threat=fa.Linf(0.1), steps=20),
    "PGD, margin loss, 3 starts": partial(
        fa.attacks.pgd, threat=fa.Linf(0.1), steps=20, loss="margin", restarts=3
    ),
    "MIM": partial(fa.attacks.mim, threat=fa.Linf(0.1), steps=20),
}
print(fa.evaluate(model, test_set, attacks))

curve = fa.accuracy_against_radius(
    model, test_set, lambda r: partial(fa.attacks.pgd, threat=fa.Linf(r), steps=20), [0, 0.05, 0.1, 0.15, 0.2]
)
fa.figures.curves({"small CNN": curve}, "radius.png", radius="L∞ radius", chance=0.1)
print("figure in radius.png")

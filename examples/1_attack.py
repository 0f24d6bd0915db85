"""Train a small net on the embedded digits, then attack it: how many digits stay right under PGD?"""

import fastadv as fa

train_set, test_set = fa.data.load("digits", "train"), fa.data.load("digits", "test")
model = fa.models.create("small_cnn", shape=train_set.shape, classes=10, width=16)
reports = fa.train.fit(model, train_set, fa.train.Standard(), epochs=5)
print(f"training loss {reports[0].loss:.3f} in the first epoch, {reports[-1].loss:.3f} in the last")

x, y = test_set.x, test_set.y
out = fa.attacks.pgd(model, x, y, fa.Linf(0.1), steps=20)
print(out)
print(f"median change where it broke: {out.distance[out.status == fa.attacks.Status.BROKEN].median():.3f}")

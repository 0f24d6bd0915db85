"""D_rand of Ilyas et al.: images pushed towards random classes, their new labels, still teach the digits."""

import fastadv as fa

train_set, test_set = fa.data.load("digits", "train"), fa.data.load("digits", "test")
standard = fa.models.create("small_cnn", shape=train_set.shape, classes=10, width=16, seed=0)
fa.train.fit(standard, train_set, fa.train.Standard(), epochs=10)

made = fa.data.construct.random_target(standard, train_set, threat=fa.L2(1.5), steps=20, step_size=0.15)
print(f"{made}: {made.card['measured']['kept_label']:.0%} of the labels are true")

fresh = fa.models.create("small_cnn", shape=train_set.shape, classes=10, width=16, seed=1)
fa.train.fit(fresh, made, fa.train.Standard(), epochs=20)
accuracy = fa.evaluate(fresh, test_set).clean_accuracy
print(f"a network that saw only those labels reads {accuracy:.0%} of the test digits")

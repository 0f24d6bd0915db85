"""Other packages beside this one: our attacks by their calls, their attacks by ours.

    from fastadv.adapters import torchattacks

    images_adv = torchattacks.PGD(model, eps=8 / 255, alpha=2 / 255, steps=10)(images, labels)  # ours

    theirs = torchattacks.wrap(their_package.PGD, alpha=2 / 255, steps=10)
    table = fa.evaluate(model, dataset, {"theirs": partial(theirs, threat=fa.Linf(8 / 255))})

`torchattacks`, `foolbox` and `art` are modules of this package. None imports the other package where what you
hand over is enough. docs/adapters.md says what differs.
"""

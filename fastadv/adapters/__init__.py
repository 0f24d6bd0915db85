"""Attacks of torchattacks, foolbox and ART by our calls, and ours by those of torchattacks.

    theirs = foolbox.wrap(their_package.attacks.LinfPGD, steps=10)
    table = fa.evaluate(model, dataset, {"theirs": partial(theirs, threat=fa.Linf(8 / 255))})

    from fastadv.adapters import torchattacks

    images_adv = torchattacks.PGD(model, eps=8 / 255, alpha=2 / 255, steps=10)(images, labels)  # ours

`torchattacks`, `foolbox` and `art` are modules of this package. None imports the other package before it is
asked for something of it. docs/adapters.md says what differs.
"""

"""Ilyas et al. 2019, "Adversarial examples are not bugs, they are features".

`pipeline` is the experiment of section 3: the constructed sets, nets trained on them, controls and transfer.
`digits` is the study in small, a part of the demo. `features` measures how useful the features of a standard
and of an adversarially trained net are (section 2). `theory` checks the three theorems of section 4.
"""

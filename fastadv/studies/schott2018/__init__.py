"""Schott et al. 2018, "Towards the first adversarially robust neural network model on MNIST".

`digits` is the study in small, a part of the demo: an ABS trained on the embedded digits. `paper` is the
paper's own evaluation, on the weights that its authors published.
"""

"""Schott et al. 2018, "Towards the first adversarially robust neural network model on MNIST".

`paper` is the paper's own evaluation, on the weights that its authors published. The demo has it in small.
"""

"""Tensors in, tensors out: no model, no loop over the steps of an attack.

An op whose name ends in an underscore writes its first argument.
"""

from fastadv.ops.distance import distance
from fastadv.ops.elu import elu, elu_slope
from fastadv.ops.keep_best import keep_best_
from fastadv.ops.l1_step import l1_step, l1_step_
from fastadv.ops.l2_step import l2_step, l2_step_
from fastadv.ops.largest import largest
from fastadv.ops.latent_decode import latent_decode
from fastadv.ops.latent_fit import latent_fit
from fastadv.ops.linf_step import linf_step, linf_step_
from fastadv.ops.logit_loss import logit_loss
from fastadv.ops.nearest_prototype import nearest_prototype
from fastadv.ops.philox import philox
from fastadv.ops.project_l0 import project_l0
from fastadv.ops.project_l1 import project_l1
from fastadv.ops.project_l2 import project_l2
from fastadv.ops.quantize_in_ball import quantize_in_ball
from fastadv.ops.random_start import random_start
from fastadv.ops.relu_slope import relu_slope
from fastadv.ops.square_l2 import square_l2
from fastadv.ops.square_linf import square_linf
from fastadv.ops.thin_gradient import thin_gradient
from fastadv.ops.to_hyperplane import to_hyperplane
from fastadv.ops.winograd import winograd_image, winograd_kernels, winograd_tiles

__all__ = [
    "distance",
    "elu",
    "elu_slope",
    "keep_best_",
    "l1_step",
    "l1_step_",
    "l2_step",
    "l2_step_",
    "largest",
    "latent_decode",
    "latent_fit",
    "linf_step",
    "linf_step_",
    "logit_loss",
    "nearest_prototype",
    "philox",
    "project_l0",
    "project_l1",
    "project_l2",
    "quantize_in_ball",
    "random_start",
    "relu_slope",
    "square_l2",
    "square_linf",
    "thin_gradient",
    "to_hyperplane",
    "winograd_image",
    "winograd_kernels",
    "winograd_tiles",
]

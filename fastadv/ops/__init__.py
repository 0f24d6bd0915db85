"""Tensors in, tensors out: no model, no loop over the steps of an attack.

An op whose name ends in an underscore writes its first argument. `docs/ops.md` lists all ops; those that only
the engine and attacks need are imported from their modules.
"""

from fastadv.ops import (  # noqa: F401  (registers the ops of these modules)
    climb,
    elu,
    judge,
    keep_best,
    keep_nearest,
    latent_decode,
    philox,
    relu_gradient,
    sparse_rs,
    square_bumps,
    square_linf,
    thin_gradient,
    winograd,
)
from fastadv.ops.distance import distance
from fastadv.ops.l1_step import l1_step, l1_step_
from fastadv.ops.l2_step import l2_step, l2_step_
from fastadv.ops.largest import largest
from fastadv.ops.latent_fit import latent_fit
from fastadv.ops.linf_step import linf_step, linf_step_
from fastadv.ops.logit_loss import logit_loss
from fastadv.ops.nearest_prototype import nearest_prototype
from fastadv.ops.project_l0 import project_l0
from fastadv.ops.project_l1 import project_l1
from fastadv.ops.project_l2 import project_l2
from fastadv.ops.quantize_in_ball import quantize_in_ball
from fastadv.ops.random_start import random_start
from fastadv.ops.to_hyperplane import to_hyperplane

__all__ = [
    "distance",
    "l1_step",
    "l1_step_",
    "l2_step",
    "l2_step_",
    "largest",
    "latent_fit",
    "linf_step",
    "linf_step_",
    "logit_loss",
    "nearest_prototype",
    "project_l0",
    "project_l1",
    "project_l2",
    "quantize_in_ball",
    "random_start",
    "to_hyperplane",
]

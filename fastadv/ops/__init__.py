"""Tensors in, tensors out; each op registers itself where it is defined (`docs/ops.md` lists all)."""

from importlib import import_module
from pkgutil import iter_modules

for _module in iter_modules(__path__):
    if not (_module.ispkg or _module.name.startswith("_")):
        import_module(f"fastadv.ops.{_module.name}")

from fastadv.ops.distance import distance as distance
from fastadv.ops.l1_step import l1_step, l1_step_
from fastadv.ops.l2_step import l2_step, l2_step_
from fastadv.ops.largest import largest as largest
from fastadv.ops.latent_fit import latent_fit as latent_fit
from fastadv.ops.linf_step import linf_step, linf_step_
from fastadv.ops.logit_loss import logit_loss
from fastadv.ops.nearest_prototype import nearest_prototype as nearest_prototype
from fastadv.ops.project_l0 import project_l0
from fastadv.ops.project_l1 import project_l1
from fastadv.ops.project_l2 import project_l2
from fastadv.ops.random_start import random_start as random_start
from fastadv.ops.to_hyperplane import to_hyperplane as to_hyperplane

__all__ = [
    "l1_step",
    "l1_step_",
    "l2_step",
    "l2_step_",
    "linf_step",
    "linf_step_",
    "logit_loss",
    "project_l0",
    "project_l1",
    "project_l2",
]

"""Data sets constructed with a source network: D_R, D_NR, D_rand and D_det of Ilyas et al. 2019."""

from fastadv.data.construct._build import BuildOptions
from fastadv.data.construct.constructed import ConstructedSet, load_constructed
from fastadv.data.construct.inversion import non_robust, robust
from fastadv.data.construct.paper import CIFAR10_PAPER, RESTRICTED_IMAGENET_PAPER
from fastadv.data.construct.targeted import fixed_shift, random_target
from fastadv.data.construct.verify import merge_constructed, verify_constructed

__all__ = [
    "CIFAR10_PAPER",
    "RESTRICTED_IMAGENET_PAPER",
    "BuildOptions",
    "ConstructedSet",
    "fixed_shift",
    "load_constructed",
    "merge_constructed",
    "non_robust",
    "random_target",
    "robust",
    "verify_constructed",
]

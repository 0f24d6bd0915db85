"""Certified robustness by randomized smoothing: radii within which a decision is proved."""

from fastadv.certify.result import Certificates
from fastadv.certify.smooth import predict, smooth

__all__ = ["Certificates", "predict", "smooth"]

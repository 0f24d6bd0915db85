"""Certified robustness by randomized smoothing: radii within which a decision is proved."""

from fastadv.certify.contradictions import contradictions
from fastadv.certify.result import Certificates
from fastadv.certify.smooth import predict, smooth

__all__ = ["Certificates", "contradictions", "predict", "smooth"]

"""Analysis by Synthesis: one generative model a class, and classification by how well each explains the image (Schott et al. 2018)."""

from fastadv.models.abs.decoder import DecoderShape
from fastadv.models.abs.model import ABS, Inference

__all__ = ["ABS", "DecoderShape", "Inference"]

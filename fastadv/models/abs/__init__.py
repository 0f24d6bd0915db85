"""Analysis by Synthesis: one generative model a class, and classification by how well each explains the image (Schott et al. 2018)."""

from fastadv.models.abs.decoder import DecoderShape
from fastadv.models.abs.inference import Inference
from fastadv.models.abs.model import ABS

# as functions, so that the command line can name them: -m fastadv.models.abs:load -o path=model.safetensors
load = ABS.load
from_official = ABS.from_official

__all__ = ["ABS", "DecoderShape", "Inference", "from_official", "load"]

"""Analysis by Synthesis: one generative model a class; the best explanation of an image is its class.

Schott et al. 2018. `ABS` is the classifier. It is composed of `Decoders`, a `PriorBank` and
`InferenceOptions`.
"""

from fastadv.models.abs.decoder import Decoders, DecoderShape
from fastadv.models.abs.inference import Inference
from fastadv.models.abs.model import ABS
from fastadv.models.abs.options import InferenceOptions
from fastadv.models.abs.prior import PriorBank

# As functions, so that the command line can name them: -m fastadv.models.abs:load -o path=model.safetensors
load = ABS.load
from_official = ABS.from_official

__all__ = [
    "ABS",
    "DecoderShape",
    "Decoders",
    "Inference",
    "InferenceOptions",
    "PriorBank",
    "from_official",
    "load",
]

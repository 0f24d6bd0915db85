"""Analysis by Synthesis: one generative model a class; the best explanation of an image is its class.

Schott et al. 2018. `ABS` is the classifier. `InferenceOptions` say how it infers.
"""

from fastadv.models.abs.inference import Inference
from fastadv.models.abs.model import ABS
from fastadv.models.abs.options import InferenceOptions

# Functions that the command line can name: -m fastadv.models.abs:load -o path=model.safetensors
load = ABS.load
from_official = ABS.from_official

__all__ = ["ABS", "Inference", "InferenceOptions", "from_official", "load"]

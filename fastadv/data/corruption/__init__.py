"""Common corruptions of images: noise, blur, weather and digital losses, imported in the paper's order."""

# ruff: noqa: I001
from fastadv.data.corruption import noise as noise
from fastadv.data.corruption import blur as blur
from fastadv.data.corruption import weather as weather
from fastadv.data.corruption import digital as digital
from fastadv.data.corruption import jpeg as jpeg
from fastadv.data.corruption import spatter as spatter
from fastadv.data.corruption.card import CORRUPTIONS as CORRUPTIONS
from fastadv.data.corruption.card import SEVERITIES as SEVERITIES
from fastadv.data.corruption.card import named as named
from fastadv.data.corruption.sets import Corrupt as Corrupt
from fastadv.data.corruption.sets import Corrupted as Corrupted
from fastadv.data.corruption.sets import corrupted as corrupted

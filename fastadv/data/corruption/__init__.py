"""Common corruptions of images: noise, blur, weather and digital losses, imported in the paper's order."""

# ruff: noqa: F401, I001
from fastadv.data.corruption import noise, blur, weather, digital, jpeg, spatter
from fastadv.data.corruption.card import CORRUPTIONS as CORRUPTIONS
from fastadv.data.corruption.card import SEVERITIES as SEVERITIES
from fastadv.data.corruption.sets import Corrupt as Corrupt
from fastadv.data.corruption.sets import Corrupted as Corrupted
from fastadv.data.corruption.sets import corrupted as corrupted

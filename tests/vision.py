"""torchvision, which beside a CPU-only PyTorch is importable after fastadv alone."""

from fastadv._torchvision import datasets, models

__all__ = ["datasets", "models"]

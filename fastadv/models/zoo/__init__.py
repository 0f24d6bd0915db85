"""The zoo of RobustBench: its nets by name, with weights from the user's own files."""

import os

from torch import nn

from fastadv.models.zoo.entries import Entry, find, robustbench_entries
from fastadv.models.zoo.loading import load, locate

__all__ = ["Entry", "find", "robustbench", "robustbench_entries"]


def robustbench(name: str, weights: str | os.PathLike[str] | None = None) -> nn.Module:
    """Return an entry of RobustBench's zoo in eval mode, with its weights.

    The networks of `robustbench_entries()` are built here, equal to the zoo's own in logits and gradients.
    Nothing is downloaded.

        fa.models.robustbench("Carmon2019Unlabeled", weights="downloads/Carmon2019Unlabeled.pt")
        fa.models.robustbench("cifar10/L2/Rice2020Overfitting")            # from the cache

    Args:
        name: as in RobustBench, with DATASET/ or THREAT/ before it where several entries share the name.
        weights: the file, as the zoo ships it (a torch file) or as safetensors; or a folder that holds
            DATASET/THREAT/NAME.pt, as RobustBench's own `models/` does, or NAME.pt. None: the cache, which is
            the folder FASTADV_WEIGHTS, else fastadv/models in the user's cache.

    Returns:
        A module; x in [0, 1] to logits [B, K].

    Raises:
        InputError: the name is unknown, or several entries share it; the file is missing, holds the weights
            of another network, or weights that are not finite.
        CorruptFileError: the file cannot be read.

    Source:
        Croce et al. 2021, "RobustBench" (arXiv 2010.09670).
    """
    entry = find(name)
    return load(entry, locate(entry, weights)).eval()

"""One file for each library: its attacks as `Attack`s."""

from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import version

from bench.conduct.attack import Attack

# the name of each library: its module here, and its package
LIBRARIES = {
    "fastadv": ("ours", "fastadv"),
    "torchattacks": ("of_torchattacks", "torchattacks"),
    "foolbox": ("of_foolbox", "foolbox"),
    "ART": ("of_art", "adversarial-robustness-toolbox"),
    "adv-lib": ("of_adv_lib", "adv-lib"),
    "cleverhans": ("of_cleverhans", "cleverhans"),
}


def attacks(library: str) -> Sequence[Attack]:
    """The attacks of a library. Raises ImportError where it is not installed."""
    found: Sequence[Attack] = import_module(f"bench.conduct.libraries.{LIBRARIES[library][0]}").ATTACKS
    return found


def version_of(library: str) -> str:
    return version(LIBRARIES[library][1])

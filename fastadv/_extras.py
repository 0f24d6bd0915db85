"""Packages that some calls need and the base does not: each is asked for here, by the call that needs it."""

import importlib.util
from pathlib import Path
from typing import Any

from fastadv.errors import InputError, MissingExtraError

# package as it is imported: (extra of pyproject.toml that brings it, what needs it)
EXTRAS = {
    "matplotlib": ("plot", "figures need"),
    "torchvision": ("data", "ResNets and most data sets need"),
    "PIL": ("data", "image files need"),
    "jinja2": ("report", "reports need"),
    "typer": ("cli", "the command fastadv needs"),
    "rich": ("cli", "the command fastadv needs"),
}
# Names for pip; fastadv's own stands in no such command, since it is not ours on PyPI yet
PIP = {"PIL": "pillow", "art": "adversarial-robustness-toolbox"}


def lacks(package: str) -> str:
    """Return what a package that is missing is needed for and the command that installs it, "" otherwise."""
    if importlib.util.find_spec(package) is not None:
        return ""
    _, needs = EXTRAS.get(package, ("", "this needs"))
    return f"{needs} {package}, which is not installed: pip install {PIP.get(package, package)}"


def unfit(error: object) -> str:
    """Return what to do where torchvision does not import beside this torch."""
    cure = "install both with one command from pytorch.org"
    return f"torchvision does not import ({error}): it is built for another torch; {cure}"


def need(package: str) -> None:
    """Raise MissingExtraError, which names the command that helps, where a package is missing."""
    if lack := lacks(package):
        raise MissingExtraError(lack, name=package)


def own(what: str, name: str) -> Any:
    """Return what `package.module:function` names; InputError where there is no such function."""
    module_name, _, attribute = name.partition(":")
    if module_name.endswith(".py"):
        module = f"{Path(module_name).stem}:{attribute}"
        raise InputError(f"{what}: expected package.module:function, got {name!r}; write {module}")
    try:
        found = getattr(importlib.import_module(module_name), attribute, None)
    except MissingExtraError:
        raise
    except ImportError as error:
        raise InputError(f"{what} {name!r}: {error}; put its folder on PYTHONPATH or install it") from error
    if not callable(found):
        raise InputError(f"{what} {name!r}: module {module_name} has no function {attribute!r}")
    return found

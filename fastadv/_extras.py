"""Packages that some calls need and the base does not: each is asked for here, by the call that needs it."""

import importlib.util

from fastadv.errors import MissingExtraError

# package as it is imported: (extra of pyproject.toml that brings it, what needs it)
EXTRAS = {
    "matplotlib": ("plot", "figures need"),
    "torchvision": ("data", "ResNets and most data sets need"),
    "PIL": ("data", "image files need"),
    "jinja2": ("report", "reports need"),
    "typer": ("cli", "the command fastadv needs"),
    "rich": ("cli", "the command fastadv needs"),
}
# other packages, which nobody but their own adapter needs: what pip calls them
PEERS = {
    "art": "adversarial-robustness-toolbox",
    "foolbox": "foolbox",
    "timm": "timm",
    "torchattacks": "torchattacks",
}


def lacks(package: str) -> str:
    """Return what a package that is missing is needed for and the command that installs it, "" otherwise."""
    if importlib.util.find_spec(package) is not None:
        return ""
    extra, needs = EXTRAS[package]
    return f"{needs} {package}, which is not installed: pip install 'fastadv[{extra}]'"


def need(package: str) -> None:
    """Raise MissingExtraError, which names the command that helps, where a package is missing."""
    if told := lacks(package):
        raise MissingExtraError(told, name=package)


def need_peer(package: str) -> None:
    """Raise MissingExtraError, which names the command that helps, where another package is missing."""
    if importlib.util.find_spec(package) is None:
        raise MissingExtraError(
            f"this needs {package}, which is not installed: pip install {PEERS[package]}", name=package
        )

"""The zoo of RobustBench: its nets by name, with weights from the user's own files."""

import importlib
import json
import logging
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastadv.errors import InputError
from fastadv.files import user_cache
from fastadv.models._common import first_weights, state_accuracy
from fastadv.models.registry import create_from, factory
from fastadv.models.weights import check_fit, listing, read_plain
from fastadv.models.wrappers import Normalized

CLASSES = {"cifar10": 10, "cifar100": 100, "imagenet": 1000}
RADIUS = {"cifar10/Linf": 8 / 255, "cifar10/L2": 0.5, "cifar100/Linf": 8 / 255, "imagenet/Linf": 4 / 255}
BUFFERS = {"mu": (1, 3, 1, 1), "sigma": (1, 3, 1, 1)}
ENDINGS = (".pt", ".safetensors")
_log = logging.getLogger("fastadv")


@dataclass(frozen=True)
class Net:
    """A model with options, and how the zoo names its weights."""

    name: str
    create: str
    options: Mapping[str, Any]
    rename: tuple[tuple[str, str], ...]  # patterns over our names, and what the zoo has in their place
    unused: str | None = None  # a copy of `block1` in the file under this name, which the net never passes


@dataclass(frozen=True)
class Entry:
    """An entry of RobustBench's zoo."""

    dataset: str  # as in RobustBench, such as "cifar10"
    threat: str  # as in RobustBench, such as "Linf"
    name: str  # as in RobustBench, such as "Carmon2019Unlabeled"
    drive: str  # the name of the zoo's file at Google Drive, or its address elsewhere
    net: Net
    classes: int  # how many logits there are
    shape: tuple[int, ...]  # of one image
    # mean and deviation of each channel, by which it normalizes images in [0, 1]
    constants: tuple[list[float], list[float]] | None = None
    stored: bool = False  # whether its file holds them, as mu and sigma; these then count
    lenient: bool = False  # whether the zoo ignores what else the file holds
    nest: str | None = None  # the key of the state dict in the file
    preprocessing: str | None = None  # of the images, as data.load("imagenet:preprocessing=...") names it
    radius: float | None = None  # of the leaderboard, in the units of images in [0, 1]
    clean: float | None = None  # published clean accuracy in percent
    robust: float | None = None  # published accuracy under AutoAttack in percent
    best_known: float | None = None  # under all attacks that are known, in percent, where that is less

    @property
    def path(self) -> str:
        """DATASET/THREAT/NAME, where the zoo keeps the file."""
        return f"{self.dataset}/{self.threat}/{self.name}"

    @property
    def url(self) -> str:
        """Where RobustBench has the file from."""
        return self.drive if ":" in self.drive else f"https://drive.google.com/file/d/{self.drive}"


@cache
def robustbench_entries() -> tuple[Entry, ...]:
    """Return the entries of RobustBench's zoo known here: CIFAR in Linf and L2, ImageNet in Linf."""
    table = json.loads(files("fastadv.models").joinpath("zoo.json").read_text(encoding="utf-8"))
    nets = {
        name: Net(name, **{**row, "rename": tuple(map(tuple, table["names"][row["rename"]]))})
        for name, row in table["nets"].items()
    }
    listed = []
    for board, entries in table["entries"].items():
        dataset, threat = board.split("/")
        for name, row in entries.items():
            looked_up = {"net": nets[row["net"]], "constants": table["constants"].get(row.get("constants"))}
            size = int(row.get("preprocessing", "32")[-3:])  # with which the name of a preprocessing ends
            of_board = {"radius": RADIUS[board], "classes": CLASSES[dataset], "shape": (3, size, size)}
            listed.append(Entry(dataset, threat, name, **{**of_board, **row, **looked_up}))
    return tuple(listed)


def find(name: str) -> Entry:
    """Return the entry of that name, [DATASET/][THREAT/]NAME; InputError where none or several have it."""
    *boards, last = str(name).lower().split("/")
    known = robustbench_entries()
    named = [entry for entry in known if entry.name.lower() == last]
    matches = [entry for entry in named if {*boards} <= {entry.dataset, entry.threat.lower()}]
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise InputError(
            f"{name!r}: expected the name of one entry of RobustBench's zoo, got that of "
            f"{', '.join(entry.path for entry in matches)}; give one of these"
        )
    paths = {text.lower(): entry.path for entry in known for text in (entry.name, entry.path)}
    near = dict.fromkeys(paths[text] for text in get_close_matches(str(name).lower(), paths, 6, 0.5))
    raise InputError(
        f"{name!r}: expected the name of an entry of RobustBench's zoo for CIFAR or ImageNet, which "
        "fastadv.models.robustbench_entries() lists"
        + (f"; did you mean {' or '.join(repr(path) for path in [*near][:3])}?" if near else "")
    )


def weights_folder() -> Path:
    """Return the cache: the folder FASTADV_WEIGHTS, else fastadv/models in the user's cache."""
    named = os.environ.get("FASTADV_WEIGHTS")
    return Path(named).expanduser() if named else user_cache() / "models"


def locate(entry: Entry, weights: str | os.PathLike[str] | None) -> Path:
    """Return the file of weights: `weights`, in that folder, or in the cache; InputError if it is absent."""
    where = weights_folder() if weights is None else Path(weights).expanduser()
    if where.is_file():
        return where
    stems = (where / entry.path, where / entry.name)
    places = [stem.with_name(stem.name + ending) for stem in stems for ending in ENDINGS]
    for place in places:
        if place.is_file():
            return place
    raise InputError(
        f"{entry.path}: expected its weights in {places[0] if weights is None or where.is_dir() else where}, "
        f"got no such file; RobustBench has them from {entry.url}: put the file "
        "there, or give it as weights (--weights FILE)"
    )


def load(entry: Entry, path: Path) -> nn.Module:
    """Return the entry's net with the weights of a file; InputError where they are those of another net."""
    tensors = {
        name.removeprefix("module.").removeprefix("model."): tensor
        for name, tensor in read_plain(path, nest=entry.nest)[0].items()
    }
    make, foreign = factory(entry.net.create), ":" in entry.net.create
    sizes = {"shape": entry.shape, "classes": entry.classes, "seed": 0 if foreign else None}
    # neither drawn nor held: the file's tensors take the place of first weights; but Swin has other buffers
    with torch.device("cpu" if foreign else "meta"):
        model: Any = make(**sizes, **entry.net.options)
    model = model.model.model if foreign else model  # without the statistics of other weights
    state = model.state_dict()
    if state.keys() <= tensors.keys():  # as later versions of timm name them
        entry = replace(entry, net=replace(entry.net, rename=()))
    _check(entry, tensors, layout(entry, state), path)
    for name, empty in state.items():
        tensor = tensors.get(zoo_name(entry.net, name))
        missing = torch.zeros_like(empty, device="cpu")  # what old files lack, of a net on no device
        state[name] = missing if tensor is None else tensor.to(empty.dtype)
    model.load_state_dict(state, assign=True)
    if entry.constants is None:
        return model  # type: ignore[no-any-return]
    stored = [tensors[name].flatten().tolist() for name in BUFFERS if name in tensors]
    return Normalized(model, *(stored or entry.constants))


def conv_stem(net: str, widths: Sequence[int], strides: Sequence[int], **options: Any) -> nn.Module:
    """Return a network of timm behind a stem of convolutions, as Singh et al. 2023 (arXiv 2303.01870)."""
    model: Any = create_from("timm", net, **options)
    inside, norm = model.model.model, importlib.import_module("timm.layers").LayerNorm2d
    layers: list[nn.Module] = []
    with first_weights(options["seed"]):
        for before, width, stride in zip([3, *widths], widths, strides, strict=False):
            layers += [nn.Conv2d(before, width, 3, stride, 1), norm(width), nn.GELU()]
        if hasattr(inside, "patch_embed"):
            inside.patch_embed.proj = nn.Sequential(*layers, nn.Conv2d(width, inside.embed_dim, 1))
        else:
            inside.stem = nn.Sequential(*layers)
    return model  # type: ignore[no-any-return]


def zoo_name(net: Net, name: str) -> str:
    for pattern, replacement in net.rename:
        name = re.sub(pattern, replacement, name)
    return name


def layout(entry: Entry, state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Return the names and shapes of the zoo's file for a net with that state dict."""
    shapes = {zoo_name(entry.net, name): tuple(tensor.shape) for name, tensor in state.items()}
    if entry.net.unused is not None:
        parts = {name: shape for name, shape in shapes.items() if name.startswith("block1.")}
        shapes |= {name.replace("block1", entry.net.unused, 1): shape for name, shape in parts.items()}
    return shapes | (BUFFERS if entry.stored else {})


def _check(
    entry: Entry, tensors: Mapping[str, Tensor], wanted: Mapping[str, tuple[int, ...]], path: Path
) -> None:
    """Raise InputError unless the file has the wanted names, but for what old files lack, and is finite."""
    name, do = f"{entry.path} ({entry.net.name}, {entry.classes} classes)", "give the file of this entry"
    do += ", or the name of the entry that it belongs to"
    optional = {*BUFFERS} if entry.stored and not tensors.keys() & BUFFERS.keys() else ()
    foreign = check_fit(tensors, wanted, path, name, do, optional=optional, lenient=entry.lenient)
    if broken := {name for name in tensors.keys() & wanted.keys() if not tensors[name].isfinite().all()}:
        raise InputError(
            f"{path}: expected finite weights of {entry.path}, got NaN or infinity in {listing(broken)}; "
            "get the file again"
        )
    if foreign:
        _log.warning("%s: %s is left out, as in RobustBench", path, listing(foreign))


def robustbench(name: str, weights: str | os.PathLike[str] | None = None) -> nn.Module:
    """Return an entry of RobustBench's zoo in eval mode, with its weights.

    The networks of `robustbench_entries()` are built here, or by torchvision and timm, equal to the zoo's own
    in logits and gradients. Nothing is downloaded.

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
        MissingExtraError: torchvision or timm, which the network needs, is not installed.
        CorruptFileError: the file cannot be read.

    Source:
        Croce et al. 2021, "RobustBench" (arXiv 2010.09670).
    """
    entry = find(name)
    model = load(entry, locate(entry, weights)).eval()
    state_accuracy(model, entry.clean and entry.clean / 100)
    return model

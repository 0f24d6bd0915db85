"""A file of weights in parts, small enough to carry from one machine to another, and whole again."""

import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from fastadv.errors import InputError
from fastadv.runs.files import load_tensors, save_tensors

PART = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.safetensors")
LARGEST = 15 * 2**20  # bytes of the tensors of a part, unless a single one has more


def split_weights(path: Path, folder: Path, name: str, largest: int = LARGEST) -> None:
    """Write the weights in `path` as NAME-00001-of-00003.safetensors and so on, each with their card."""
    tensors, metadata = load_tensors(path)
    parts = list[dict[str, Tensor]]()
    for key, tensor in sorted(tensors.items(), key=lambda item: (-item[1].nbytes, item[0])):
        room = (part for part in parts if sum(t.nbytes for t in (tensor, *part.values())) <= largest)
        if (part := next(room, None)) is None:
            parts.append(part := {})
        part[key] = tensor
    for k, part in enumerate(parts, 1):
        save_tensors(folder / f"{name}-{k:05d}-of-{len(parts):05d}.safetensors", part, metadata)


def find_parts(folders: Sequence[Path]) -> dict[str, list[Path]]:
    """Return the parts of weights in folders, by name; InputError where one is missing or there twice."""
    found: dict[str, list[tuple[str, str, Path]]] = defaultdict(list)
    for path in (path for folder in folders for path in sorted(folder.glob("*.safetensors"))):
        if part := PART.fullmatch(path.name):
            found[part[1]].append((part[2], part[3], path))
    for name, parts in found.items():
        total = max(int(of) for _, of, _ in parts)
        if sorted((int(k), int(of)) for k, of, _ in parts) != [(k + 1, total) for k in range(total)]:
            listed = ", ".join(str(path) for *_, path in parts)
            raise InputError(f"folders: expected each of {total} parts of {name} once, got {listed}")
    return {name: [path for *_, path in sorted(parts)] for name, parts in found.items()}


def join_weights(parts: Sequence[Path], path: Path) -> None:
    """Write the weights of all parts as one file; InputError where they are not of one model."""
    tensors, cards = dict[str, Tensor](), list[dict[str, str]]()
    for part in parts:
        some, metadata = load_tensors(part)
        tensors |= some
        cards.append(metadata)
    if any(card != cards[0] for card in cards):
        raise InputError(f"{parts[0]}: expected parts of the same weights, got others beside it")
    save_tensors(path, tensors, cards[0])

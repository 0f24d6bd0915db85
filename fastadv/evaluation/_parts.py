"""What an evaluation has finished, attack by attack and batch by batch, in the folder of its run."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastadv.errors import InputError
from fastadv.evaluation._outcome import Part
from fastadv.runs import processes
from fastadv.runs.files import load_tensors, read_json, save_tensors, seal, write_json, writing
from fastadv.runs.folder import RunFolder
from fastadv.runs.identity import check_same

IDENTITY = "evaluation.json"


class Parts:
    """The parts of the evaluation `identity`. Without a folder nothing is kept."""

    def __init__(self, folder: Path | None = None, identity: Any = None) -> None:
        self._folder, self._identity = folder, identity
        self.seconds = 0.0  # that the parts this process read from the folder took when they were made

    @classmethod
    @contextmanager
    def opened(
        cls, run_dir: str | PathLike[str], resume: bool, config: Mapping[str, Any]
    ) -> Iterator["Parts"]:
        """The parts in a folder that belongs to the evaluation `config` alone.

        The first process holds it for all, and each writes what it finishes.

        Raises InputError where the folder holds an evaluation and `resume` is off, or another evaluation.
        """
        with ExitStack() as stack:

            def hold() -> Any:
                folder = stack.enter_context(RunFolder(run_dir))
                path = folder.path / IDENTITY
                if path.exists():
                    _check_resumed(folder.path, resume)
                    check_same(path, read_json(path), config)
                else:
                    with folder.result(IDENTITY):
                        write_json(path, config)
                return read_json(path)

            yield cls(Path(run_dir), processes.from_first(hold))

    @staticmethod
    def batch_size(run_dir: str | PathLike[str] | None, resume: bool) -> int | None:
        """That of the evaluation in a folder that is to go on; None where there is none.

        Raises InputError where the folder holds an evaluation and `resume` is off.
        """

        def read() -> int | None:
            path = Path(run_dir or "") / IDENTITY
            if run_dir is None or not path.exists():
                return None
            _check_resumed(path.parent, resume)
            return int(read_json(path)["batch_size"])

        return processes.from_first(read)

    @property
    def kept(self) -> bool:
        """Whether there is a folder."""
        return self._folder is not None

    def get(self, name: str, known: Mapping[str, Tensor], make: Callable[[], Part]) -> Part:
        """The part `name` with the tensors `known`: read if it is there, else made and written.

        A part that was written with another `known`, as by a randomized model, is made again, and so is one
        that another evaluation left.
        """
        of = seal([self._identity, name])
        if self._folder is not None:
            path = self._folder / f"part-{name}.safetensors"
            if path.exists():
                tensors, metadata = load_tensors(path)
                same = all(key in tensors and torch.equal(tensors[key], known[key]) for key in known)
                if same and metadata.get("of") == of:
                    self.seconds += float(tensors["seconds"])
                    return Part(tensors, json.loads(metadata["told"]))
        part = make()
        part.tensors = {**known, **part.tensors}
        if self._folder is not None:
            with writing(path):
                save_tensors(path, part.tensors, {"told": json.dumps(part.told), "of": of})
        return part


def _check_resumed(folder: Path, resume: bool) -> None:
    if not resume:
        raise InputError(
            f"run_dir: expected a new folder, got {folder} with an evaluation; "
            "pass resume=True or choose another"
        )

"""The options of `freeze`."""

from dataclasses import asdict, dataclass
from typing import Any

from fastadv._checks import check_count
from fastadv.engine.precision import PRECISIONS, Precision
from fastadv.engine.rewrites import checked_names
from fastadv.errors import InputError


@dataclass(frozen=True)
class Options:
    """The options of `freeze`; `follow`: a model in training, whose values each `Frozen.refresh` takes."""

    precision: Precision = "fp32"
    fold: bool = True
    compile: bool = False
    cuda_graph: bool = False
    eot: int = 1
    without: tuple[str, ...] = ()
    follow: bool = False

    def asked(self) -> dict[str, Any]:
        """Return the arguments of `freeze` that ask for them."""
        return {name: value for name, value in asdict(self).items() if name != "follow"}

    def describe(self) -> dict[str, Any]:
        """Return those that can change results, for the identity of a run; the later ones only if set."""
        always = {name: getattr(self, name) for name in ("precision", "fold", "compile", "eot")}
        return always | ({"without": list(self.without)} if self.without else {})

    def __post_init__(self) -> None:
        if not isinstance(self.precision, str) or self.precision not in PRECISIONS:
            raise InputError(
                f"freeze: expected precision {', '.join(map(repr, PRECISIONS))}, got {self.precision!r}"
            )
        for name in ("fold", "compile", "cuda_graph"):
            if not isinstance(getattr(self, name), bool):
                raise InputError(f"freeze: expected True or False for {name}, got {getattr(self, name)!r}")
        check_count("eot", self.eot, 1)
        object.__setattr__(self, "without", checked_names(self.without, "without"))
        if self.eot > 1 and self.cuda_graph:
            raise InputError(
                f"freeze: expected eot=1 with cuda_graph, got eot={self.eot}; a captured pass repeats random "
                "numbers that Python drew, so leave one of the two out"
            )

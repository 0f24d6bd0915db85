"""The values of a copy's tensors, taken from the model again and again while it trains."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from fastadv.engine.copying.closures import inside, reachable


class Values:
    """The parameters and buffers of a copy, beside those of the model from which they come."""

    def __init__(self, model: nn.Module, copied: nn.Module) -> None:
        """Take a model and a copy made `apart` from it."""
        self.model, self.copied = model, copied

    def take(self) -> dict[int, Tensor]:
        """Write the model's values into the copy, in its precision and layout; also those that it shares.

        So each tensor's version tells what was made of it, such as weights folded or transformed, to be old.
        Returns the model's tensors by the ids of the copy's.
        """
        # looked up each time, since a change of precision replaces buffers; by all their names, since it does
        # so one by one, and a `__deepcopy__` may part tied weights
        copied, origin = dict(_tensors(self.copied)), dict[int, Tensor]()
        with torch.inference_mode(False), torch.no_grad():
            for name, theirs in _tensors(self.model):
                own = copied[name]
                if id(own) not in origin:
                    origin[id(own)] = theirs
                    own.copy_(theirs)
        return origin


def _tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters(remove_duplicate=False)
    yield from module.named_buffers(remove_duplicate=False)


def registers_all(module: nn.Module) -> bool:
    """Return whether it leads to no parameter or module but its own, as one in a plain list would be."""
    own = {id(part) for part in (*module.modules(), *module.parameters())}
    kinds = (nn.Module, nn.Parameter)
    led = (each for part in reachable(module) for each in (part, *inside(part)))
    return all(id(part) in own for part in led if isinstance(part, kinds))

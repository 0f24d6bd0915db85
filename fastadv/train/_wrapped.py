"""Models that the caller wrapped for many processes: what `fit` trains of them, and what it cannot train."""

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from fastadv._torch import sharding
from fastadv.errors import InputError

_INSTEAD = "pass the module as it was before, as fit shares every batch among the processes itself"


def without_wrapper(model: nn.Module) -> nn.Module:
    """Return the module inside DistributedDataParallel, which has the same weights.

    Its own sum of gradients would come on top of that of `fit`, and it wants to see every weight used.
    Raises InputError for what is no module, for weights that are cut among processes, as FSDP does, and for a
    wrapper further inside.
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
    while isinstance(model, DistributedDataParallel):
        model = model.module
    sharded, cut = sharding()
    for name, module in model.named_modules():
        inside = f" in {name}" if name else ""
        if isinstance(module, DistributedDataParallel):
            raise InputError(
                f"model: expected DistributedDataParallel around the whole of it, got one{inside}; {_INSTEAD}"
            )
        if isinstance(module, sharded) or any(isinstance(each, cut) for each in module.parameters(False)):
            raise InputError(
                "model: expected all weights in each process, got weights that are cut among processes, as "
                f"by fully_shard or FSDP{inside}; {_INSTEAD}"
            )
    return model

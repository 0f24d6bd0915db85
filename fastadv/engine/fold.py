"""BatchNorm folded into the convolution or linear layer before it: one pass fewer over the activations."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from fastadv.engine.inside import inside

BATCH_NORMS = nn.modules.batchnorm._BatchNorm


class Unfoldable(Exception):
    """Why a module is searched as it is."""


class FoldedLinear(nn.Module):
    """A linear layer and its BatchNorm1d: one layer for x [B, D].

    On [B, C, D] the layer works along the last dimension and BatchNorm1d along the second, so both run.
    """

    def __init__(self, layer: nn.Linear, norm: nn.BatchNorm1d) -> None:
        super().__init__()
        self.layer, self.norm, self.folded = layer, norm, fuse_linear_bn_eval(layer, norm)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.folded(x) if x.ndim == 2 else self.norm(self.layer(x))
        return out


FOLDED_BY: dict[tuple[type, type], Callable[[Any, Any], nn.Module]] = {
    (nn.Conv1d, nn.BatchNorm1d): fuse_conv_bn_eval,
    (nn.Conv2d, nn.BatchNorm2d): fuse_conv_bn_eval,
    (nn.Conv3d, nn.BatchNorm3d): fuse_conv_bn_eval,
    (nn.Linear, nn.BatchNorm1d): FoldedLinear,
}


def estimates_gradients(module: nn.Module) -> bool:
    """Whether the module passes probes through its part `model`, which no trace can follow.

    It counts them in an int, `gradient_probes`.
    """
    return isinstance(getattr(module, "gradient_probes", None), int)


def has_hooks(module: nn.Module) -> bool:
    """Whether any part of the module carries a hook; tracing would run some of them and lose others."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return any(getattr(part, kind, None) for part in module.modules() for kind in kinds)


def trace(module: nn.Module) -> fx.Graph:
    """The graph of `module` by torch.fx. Raises Unfoldable where it would fail or leave something out."""
    if has_hooks(module):
        raise Unfoldable("the model has hooks")
    # a trace follows `forward` of the class, and nothing else
    called = isinstance(module, fx.GraphModule) or type(module).__call__ is nn.Module.__call__
    if "forward" in vars(module) or not called:
        raise Unfoldable("the model has a forward or __call__ of its own")
    tracer, before = fx.Tracer(), _random_states()
    try:
        with inside(module):
            graph = tracer.trace(module)
    except Exception as error:  # tracing runs code of the model, which may raise anything
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise Unfoldable(f"torch.fx cannot trace the model ({why})") from error
    finally:
        vars(tracer).clear()  # it holds itself, and all modules with it
    if any(not torch.equal(*pair) for pair in zip(before, _random_states(), strict=False)):
        raise Unfoldable("the model draws random numbers that do not depend on x, which a trace would keep")
    return graph


def _random_states() -> list[Tensor]:
    of_gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
    return [torch.get_rng_state(), *of_gpus]


def check_batch_norms(module: nn.Module) -> None:
    """Raises Unfoldable where there is nothing to fold."""
    if not any(isinstance(part, BATCH_NORMS) for part in module.modules()):
        raise Unfoldable("no BatchNorm")


def fold(module: nn.Module) -> tuple[nn.Module, int]:
    """`module`, a twin, as a traced module, and the number of BatchNorm layers that were folded.

    A pair is folded where the layer feeds the BatchNorm alone, and each of the two is called once and read
    nowhere else. `view` becomes `reshape`, since activations may be channels-last.

    Raises Unfoldable where there is nothing to fold or torch.fx cannot trace the module.
    """
    check_batch_norms(module)
    if estimates_gradients(module) and isinstance(module.model, nn.Module):
        module.model, folded = fold(module.model)
        return module, folded
    graph = trace(module)
    for node in graph.nodes:
        # torch.fx would wrap such a function once more, for another trace, which keeps the code for good, and
        # the frames of all callers with what they hold until the next garbage collection
        node.meta.pop("is_wrapped", None)
    traced = fx.GraphModule(module, graph)
    calls = Counter(node.target for node in graph.nodes if node.op == "call_module")
    read = {str(node.target).rpartition(".")[0] for node in graph.nodes if node.op == "get_attr"}
    folded = 0
    for node in list(graph.nodes):
        if node.op == "call_method" and node.target == "view" and not isinstance(node.args[1], torch.dtype):
            node.target = "reshape"
        before = node.args[0] if len(node.args) == 1 and not node.kwargs else None
        if not isinstance(before, fx.Node) or any(step.op != "call_module" for step in (before, node)):
            continue
        names = [str(step.target) for step in (before, node)]
        if len(before.users) > 1 or any(calls[name] > 1 or name in read for name in names):
            continue
        layer, norm = (traced.get_submodule(name) for name in names)
        fuse = FOLDED_BY.get((type(layer), type(norm)))
        if fuse is None or not _is_plain(layer, norm):
            continue
        parent, _, name = names[0].rpartition(".")
        setattr(traced.get_submodule(parent), name, fuse(layer, norm).requires_grad_(False))
        node.replace_all_uses_with(before)
        graph.erase_node(node)
        folded += 1
    traced.delete_all_unused_submodules()
    graph.lint()
    traced.recompile()
    graph.owning_module = None  # else the two would hold each other, with all weights, beyond their last user
    return traced, folded


def _is_plain(layer: nn.Module, norm: Any) -> bool:
    """Whether both run the forward of their class, the BatchNorm on its running statistics."""
    if any("forward" in vars(part) for part in (layer, norm)) or norm.training or norm.running_var is None:
        return False
    # torch fuses a linear layer with affine BatchNorm alone; other sizes mean that x is [B, C, D]
    return not isinstance(layer, nn.Linear) or (norm.affine and norm.num_features == layer.out_features)

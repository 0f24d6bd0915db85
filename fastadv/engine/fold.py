"""BatchNorm folded into the convolution or linear layer before it: one pass over the activations less for each pair."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

FOLDED_BY: dict[tuple[type, type], Callable[[Any, Any], nn.Module]] = {
    (nn.Conv1d, nn.BatchNorm1d): fuse_conv_bn_eval,
    (nn.Conv2d, nn.BatchNorm2d): fuse_conv_bn_eval,
    (nn.Conv3d, nn.BatchNorm3d): fuse_conv_bn_eval,
    (nn.Linear, nn.BatchNorm1d): fuse_linear_bn_eval,
}
BATCH_NORMS = nn.modules.batchnorm._BatchNorm


class Unfoldable(Exception):
    """Why a module is searched as it is."""


def has_hooks(module: nn.Module) -> bool:
    """Whether any part of the module carries a hook; tracing would run some of them and lose others."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return any(getattr(part, kind, None) for part in module.modules() for kind in kinds)


def fold(module: nn.Module) -> tuple[nn.Module, int]:
    """A traced form of `module` (a twin: eval mode, not the caller's) and the number of BatchNorm layers folded.

    A pair is folded where the layer feeds the BatchNorm alone and each of the two is called once and read
    nowhere else. `view` becomes `reshape`, since activations may be channels-last.

    Raises Unfoldable where there is nothing to fold or torch.fx cannot trace the module.
    """
    if not any(isinstance(part, BATCH_NORMS) for part in module.modules()):
        raise Unfoldable("no BatchNorm")
    if has_hooks(module):
        raise Unfoldable("the model has hooks")
    try:
        traced = fx.symbolic_trace(module)
    except Exception as error:
        raise Unfoldable(
            f"torch.fx cannot trace the model ({str(error).splitlines()[0] if str(error) else type(error).__name__})"
        ) from error
    graph = traced.graph
    calls = Counter(node.target for node in graph.nodes if node.op == "call_module")
    read = {str(node.target).rpartition(".")[0] for node in graph.nodes if node.op == "get_attr"}
    folded = 0
    for node in list(graph.nodes):
        if node.op == "call_method" and node.target == "view" and not isinstance(node.args[1], torch.dtype):
            node.target = "reshape"
        before = (
            node.args[0] if node.op == "call_module" and len(node.args) == 1 and not node.kwargs else None
        )
        if not isinstance(before, fx.Node) or before.op != "call_module" or len(before.users) > 1:
            continue
        layer, norm = traced.get_submodule(str(before.target)), traced.get_submodule(str(node.target))
        fuse = FOLDED_BY.get((type(layer), type(norm)))
        if fuse is None or norm.running_var is None or not norm.track_running_stats:
            continue
        if (
            calls[before.target] > 1
            or calls[node.target] > 1
            or {str(before.target), str(node.target)} & read
        ):
            continue
        if isinstance(layer, nn.Linear) and norm.weight is None:
            continue
        parent, _, name = str(before.target).rpartition(".")
        setattr(traced.get_submodule(parent), name, fuse(layer, norm).requires_grad_(False))
        node.replace_all_uses_with(before)
        graph.erase_node(node)
        folded += 1
    traced.delete_all_unused_submodules()
    graph.lint()
    traced.recompile()
    return traced, folded

"""The functions that a traced module calls."""

from collections.abc import Callable, Mapping
from inspect import signature
from typing import Any

from torch import fx

# what a node is and its target: a function with its signature, and what takes its arguments by place
Calls = Mapping[tuple[str, Any], tuple[Callable[..., Any], Callable[..., Any]]]


def replace_calls(traced: fx.GraphModule, calls: Calls) -> int:
    """Let a traced module call other functions, in place; how often it does."""
    count = 0
    for node in traced.graph.nodes:
        if (node.op, node.target) not in calls:
            continue
        named, own = calls[node.op, node.target]
        given = signature(named).bind(*node.args, **node.kwargs)
        given.apply_defaults()
        node.op, node.target, node.args, node.kwargs = "call_function", own, given.args, {}
        count += 1
    if count:
        traced.recompile()
    return count

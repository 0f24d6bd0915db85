"""Everything that freezing and attacking must leave as it was."""

import random
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

HOOKS = (
    "_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks", "_state_dict_hooks",
    "_load_state_dict_pre_hooks",
)  # fmt: skip


@dataclass
class State:
    """Of a model and of the process, as comparable objects and as tensors."""

    facts: dict[str, Any]
    tensors: dict[str, Tensor]
    options: dict[str, bool]

    @classmethod
    def of(cls, model: nn.Module, values: bool = True, randomness: bool = True) -> "State":
        """values: buffers' values count; randomness: so do the states of all generators."""
        parts = list(model.modules())
        python = [part for part in parts if not isinstance(part, torch.jit.ScriptModule)]
        facts = {
            "parts": [id(part) for part in python],  # those of scripts are made at each look
            "classes": [type(part) for part in parts],
            "modes": [part.training for part in parts],
            "attributes": [sorted(vars(part)) for part in python],
            "hooks": [[len(getattr(part, kind, ())) for kind in HOOKS] for part in python],
            "parameters": [
                (name, p.requires_grad, p.data_ptr(), p._version, p.stride(), p.grad is None)
                for name, p in model.named_parameters()
            ],
            "buffers": [
                (name, b.requires_grad, b.data_ptr(), b._version if values else None, b.stride())
                for name, b in model.named_buffers()
            ],
            "grad mode": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
            "threads": torch.get_num_threads(),
            "default dtype": torch.get_default_dtype(),
            "autocast": torch.is_autocast_enabled("cpu"),
            "python's generator": random.getstate() if randomness else None,
        }  # fmt: skip
        tensors = {name: p.detach().clone() for name, p in model.named_parameters()}
        if values:
            tensors |= {name: b.detach().clone() for name, b in model.named_buffers()}
        if randomness:
            tensors["torch's generator"] = torch.get_rng_state()
            tensors["numpy's generator"] = torch.from_numpy(np.random.get_state()[1].astype(np.int64))
        return cls(facts, tensors, {"values": values, "randomness": randomness})

    def check(self, model: nn.Module) -> None:
        now = State.of(model, **self.options)
        for name, fact in self.facts.items():
            assert now.facts[name] == fact, f"{name} changed"
        for name, tensor in self.tensors.items():
            assert torch.equal(now.tensors[name], tensor), f"{name} changed"

"""How many frames of the library lie between a user's call and his model."""

import torch
from torch import nn

import fastadv as fa
from tests.train.test_frames import frames

BY_EVALUATE = 6  # before the attack's public function, the wrapper of evaluate included


def test_evaluate_adds_few_frames_to_those_of_a_step_of_pgd() -> None:
    stacks = list[list[str]]()
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2)).eval()
    x, pgd = torch.linspace(0, 1, 12).reshape(3, 1, 2, 2), {"threat": fa.Linf(0.1)}
    y = net(x).argmax(1)
    net.register_forward_pre_hook(lambda *_: stacks.append(frames()))
    fa.attacks.pgd(net, x, y, **pgd)
    alone = min(len(stack) for stack in stacks if "pgd" in stack)
    stacks.clear()
    fa.evaluate(net, (x, y), "pgd", **pgd, freeze=False, indicators=False)
    assert min(len(stack) for stack in stacks if "pgd" in stack) - alone <= BY_EVALUATE

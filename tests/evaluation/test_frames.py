"""How many frames of the library lie between a user's call and his model."""

import sys
from pathlib import Path

import torch
from torch import nn

import fastadv as fa

HOME = str(Path(fa.__file__).parent)
BY_EVALUATE = 7  # before the attack's public function, the wrapper of evaluate included


def test_evaluate_adds_few_frames_to_those_of_a_step_of_pgd() -> None:
    depths = list[int]()

    def watch(*_: object) -> None:
        frame, depth, within = sys._getframe(), 0, False
        while frame is not None:
            code = frame.f_code
            depth += code.co_filename.startswith(HOME)
            within |= code.co_name == "pgd"
            frame = frame.f_back
        if within:
            depths.append(depth)

    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2)).eval()
    x, pgd = torch.linspace(0, 1, 12).reshape(3, 1, 2, 2), {"threat": fa.Linf(0.1)}
    y = net(x).argmax(1)
    net.register_forward_pre_hook(watch)
    fa.attacks.pgd(net, x, y, **pgd)
    alone = depths.copy()
    depths.clear()
    fa.evaluate(net, (x, y), "pgd", **pgd, freeze=False, indicators=False)
    assert alone
    assert min(depths) - min(alone) <= BY_EVALUATE

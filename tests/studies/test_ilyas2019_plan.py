"""What the pipeline is set to do: the paper's figures at the paper's scale, and what reaches training."""

import torch

import fastadv as fa
from fastadv.data.construct.paper import CIFAR10_PAPER
from fastadv.studies.ilyas2019 import plan
from fastadv.studies.ilyas2019.plan import KINDS, budget


def test_the_papers_scale_is_the_papers():
    paper = plan.SCALES["paper"]
    assert (paper.data, paper.images, paper.size) == ("cifar10", None, None)
    assert (paper.epochs, paper.batch_size, paper.precision) == (150, 128, "fp32")
    assert (paper.train_radius, paper.train_steps) == (0.5, 7)
    assert paper.radii == (0.25, 0.5)
    assert paper.sets == tuple(name for name, kind in KINDS.items() if not kind.near)
    for name in paper.sets:
        known = CIFAR10_PAPER[name.lower().removesuffix("_noise")]
        spent = budget(name, paper)
        assert (spent["steps"], spent["step_size"]) == (known["steps"], known["step_size"])
        # an inversion without a threat is free in the box
        assert spent.get("threat", fa.L2(torch.inf)).describe() == known["threat"].describe()
    assert paper.architecture.model == "resnet50"
    assert paper.architecture.options == {"normalize": "cifar10"}

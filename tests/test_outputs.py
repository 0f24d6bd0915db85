"""Outputs that a head squashes are told by clean logits, with the line that mends it; honest ones never."""

from collections.abc import Callable
from functools import cache, partial
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import hardsigmoid, logsigmoid, mse_loss, one_hot, relu6, softsign

import fastadv as fa
from fastadv.outputs import flag, squashed
from fastadv.rng import generators_kept
from tests.attacks.masking.nets import HONEST, honest
from tests.defenses import Defended, Pointwise

HEADS: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "softmax": (lambda z: z.softmax(1), "softmax"), "sigmoid": (torch.sigmoid, "sigmoid"),
    "hardsigmoid": (hardsigmoid, "sigmoid"), "tanh": (torch.tanh, "tanh"), "erf": (torch.erf, "tanh"),
    "algebraic": (lambda z: z / (1 + z * z).sqrt(), "tanh"), "softsign": (softsign, "softsign"),
    "scaled": (lambda z: torch.linspace(0.9, 1, z.shape[1]) * torch.tanh(z), "tanh"),
    "percent": (lambda z: 100 * torch.sigmoid(z), "clamp"), "relu6": (relu6, "clamp"),
    "clamp": (lambda z: z.clamp(-5, 5), "clamp"), "logsigmoid": (logsigmoid, "clamp"),
}  # fmt: skip
THREAT = fa.Linf(0.1)
TEST = fa.data.load("digits", "test", limit=150)


def behind(name: str, net: nn.Module) -> nn.Module:
    return Defended(net, after=Pointwise(HEADS[name][0])).eval()


@cache
def logits_of(name: str) -> Tensor:
    return honest(name)(TEST.x).detach()


@pytest.mark.parametrize("head", HEADS)
def test_every_head_that_bends_the_loss_is_told(head: str) -> None:
    outputs, kind = HEADS[head][0](logits_of("vit")), HEADS[head][1]
    for part in (outputs, outputs[:32], *[outputs[:8]] * (kind != "clamp")):
        assert squashed(part) == kind
    for dtype in (torch.bfloat16, torch.float16):  # converted, as a search sees them
        assert squashed(outputs.to(dtype).float()) == kind
    spoilt = torch.cat([outputs, torch.full((1, 10), torch.nan)])
    assert squashed(spoilt) == kind
    assert squashed(outputs[:7]) is None  # which is chance


@pytest.mark.parametrize("name", [name for name in HONEST if name != "abs"])
def test_honest_nets_are_not(name: str) -> None:
    z = logits_of(name)
    for outputs in (z, z.log_softmax(1), z / 30, torch.tanh(z / 100), z - z.min()):
        for part in (outputs, outputs[:32], outputs[:8], outputs[:, :5], outputs[:, :2]):
            assert squashed(part) is None


@pytest.mark.parametrize("classes", [2, 3, 5, 100])
@pytest.mark.parametrize("scale", [0.1, 1.0, 30.0])
def test_nor_are_logits_of_any_size(classes: int, scale: float) -> None:
    z = scale * torch.randn(200, classes, generator=torch.Generator().manual_seed(classes))
    for count in (1, 8, 32, 200):
        assert squashed(z[:count]) is None
        assert squashed(z[:count].log_softmax(1)) is None
    constant = torch.cat([z, torch.full((200, classes), -1e9)], 1)  # of classes that are never predicted
    assert squashed(constant) is None
    assert squashed(torch.zeros(20, classes)) is None
    assert squashed(z[:0]) is None


@pytest.mark.parametrize("head", ["softmax", "sigmoid", "tanh"])
def test_of_few_classes_known_ends_alone_are_told(head: str) -> None:
    few = logits_of("vit")[:, :2]
    assert squashed(HEADS[head][0](few)) == HEADS[head][1]
    assert squashed(HEADS["percent"][0](few)) is None  # as a recurrent net is bounded where it is sure


def trained(squares: bool) -> nn.Module:
    """A net whose outputs crowd at two values, of squared errors or smoothed labels, without a head."""
    data, widths = fa.data.load("digits", "train"), (64, 64, 10)
    with generators_kept(torch.device("cpu"), 0):
        layers = [each for a, b in pairwise(widths) for each in (nn.Linear(a, b), nn.GELU())]
        net = nn.Sequential(nn.Flatten(), *layers[:-1])
        optimizer = torch.optim.Adam(net.parameters(), 2e-3)
        smooth = partial(nn.functional.cross_entropy, label_smoothing=0.2)
        for _ in range(15):
            for rows in torch.randperm(len(data.x)).split(64):
                z, y = net(data.x[rows]), data.y[rows]
                loss = mse_loss(z, one_hot(y, 10).float()) if squares else smooth(z, y)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    return net.eval()


@pytest.mark.slow
@pytest.mark.parametrize("squares", [False, True])
def test_outputs_that_crowd_without_a_head_are_not_told(squares: bool) -> None:
    z = trained(squares)(TEST.x).detach()
    assert ((z - z.min()) / (z.max() - z.min()) < 0.4).double().mean() > (0.8 if squares else 0.5)
    for part in (z, z[:32], z[:8]):
        assert squashed(part) is None


@pytest.mark.slow
@pytest.mark.parametrize("head", ["softmax", "sigmoid", "tanh", "softsign", "clamp"])
def test_a_result_and_a_table_say_it_and_what_to_write(head: str) -> None:
    model = behind(head, honest("standard"))
    mend = "return the logits themselves" if head == "clamp" else f"give fa.models.logits(model, '{head}')"
    assert mend in flag(head)
    outs = [
        fa.attacks.fgsm(model, TEST.x, TEST.y, THREAT),
        fa.attacks.deepfool(model, TEST.x, TEST.y, fa.L2(torch.inf), steps=2),
        fa.attacks.autoattack(model, TEST.x[:40], TEST.y[:40], THREAT, version=["apgd-ce"]),
    ]
    for out in outs:
        assert flag(head) in out.flags
    table = fa.evaluate(model, TEST, "fgsm", threat=THREAT)
    assert flag(head) in table["fgsm"].flags
    assert "Do not trust" in table.verdict
    assert "bounded_outputs" in table.verdict
    if head != "clamp":  # float32 holds most of a tanh of logits up to 20 at its ends
        mended, left = fa.models.logits(model, head), (flag("clamp"),) * (head == "tanh")
        assert fa.attacks.fgsm(mended, TEST.x, TEST.y, THREAT).flags == left


def test_honest_results_have_no_flag() -> None:
    assert fa.attacks.fgsm(honest("standard"), TEST.x, TEST.y, THREAT).flags == ()

"""One row, and one output: a forward that squeezes, a logit and a probability."""

from functools import partial

import pytest
import torch
from torch import nn

import fastadv as fa
from fastadv.errors import InputError

X = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(1))


class Squeezes(nn.Module):
    """A CNN that drops dimensions of size 1 from its logits, or from features before another layer."""

    def __init__(self, where):
        super().__init__()
        torch.manual_seed(0)
        self.where, self.conv, self.head = where, nn.Conv2d(1, 8, 3), nn.Linear(8, 10)
        self.norm = nn.BatchNorm1d(8)

    def forward(self, x):
        h = self.conv(x).relu().mean((2, 3), keepdim=True)
        h = h.flatten(1) if self.where in ("nowhere", "logits") else h.squeeze()
        logits = self.head(self.norm(h) if self.where == "norm" else h)  # the norm takes no single row
        return {"logits": logits.squeeze, "softmax": partial(logits.log_softmax, -1)}.get(
            self.where, lambda: logits
        )()


ATTACKS = {
    "pgd": partial(fa.attacks.pgd, threat=fa.Linf(0.2), steps=10, loss="margin"),
    "pgd-60": partial(fa.attacks.pgd, threat=fa.Linf(0.2), steps=60, loss="margin"),
    "deepfool": partial(fa.attacks.deepfool, threat=fa.L2(4.0), steps=5),
    "square": partial(fa.attacks.square, threat=fa.Linf(0.2), queries=30),
    "boundary": partial(fa.attacks.boundary, threat=fa.L2(4.0), steps=5),
}


@pytest.mark.slow
@pytest.mark.parametrize("where", ["logits", "features", "norm", "softmax"])
def test_a_forward_that_squeezes_is_attacked_as_another(where, search_copy):
    model, plain = Squeezes(where).eval(), Squeezes("nowhere").eval()
    y = plain(X).argmax(1)
    for name, attack in ATTACKS.items():
        for rows, freeze in ((6, True), (1, True), (6, False), (1, False)):
            got, expected = (attack(each, X[:rows], y[:rows], freeze=freeze) for each in (model, plain))
            assert torch.equal(got.success, expected.success), (name, rows)
            assert (got.x_adv - expected.x_adv).abs().max() < 1e-4, (name, rows)
            assert got.forwards == expected.forwards or freeze
    assert fa.evaluate(model, [(X[k : k + 1], y[k : k + 1]) for k in range(3)], {"pgd": ATTACKS["pgd"]})


def test_a_norm_of_the_batch_is_not_given_a_row_twice():
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 3), nn.BatchNorm1d(3, track_running_stats=False)).eval()
    with pytest.raises(ValueError, match="more than 1 value"):
        fa.engine.Plain(net).verdict(X[:1])


@pytest.mark.parametrize("shape", [(6, 1), (6,), (1, 1), (1,), ()])
@pytest.mark.parametrize("bounded", [torch.sigmoid, torch.heaviside, torch.zeros_like, None])
def test_one_output_is_told_what_it_is(bounded, shape):
    def model(x):
        z = x.flatten(1).sum(1)
        z = (z, z) if bounded is torch.heaviside else (z,)
        return (3 + z[0] if bounded is None else bounded(*z).clamp(0, 1)).view(shape)

    x = X[: 6 if 6 in shape else 1]
    logit = r"return torch.cat\(\[torch.zeros_like\(z\), z\]"
    for road in (
        lambda: fa.attacks.fgsm(model, x, torch.zeros(len(x)).long(), fa.Linf(0.1)),
        lambda: fa.freeze(model)(x),
    ):
        with pytest.raises(InputError, match="at least two classes.*" + logit) as raised:
            road()
        assert ("torch.cat([1 - p, p], dim=1)" in str(raised.value)) is (bounded is not None)

"""bpda: values stay, gradients are those asked for, attacks reach what was hidden, and what is refused."""

import copy
import io
import pickle
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import fastadv as fa
from fastadv.engine.module import in_words, replaced
from fastadv.errors import InputError, NoGradientError
from fastadv.runs.identity import describe
from tests.defenses import Binarize, Defended, KWinners, NoGrad, Quantize
from tests.refusals import refuses
from tests.zoo.net import module

X = torch.rand(12, 1, 8, 8, generator=torch.Generator().manual_seed(1))
Y = torch.arange(12) % 3


class Net(nn.Module):
    """Calls `hide` twice, once on what a BatchNorm reads as well, and a ReLU that writes into its input."""

    def __init__(self, hide):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.norm = nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.second, self.last = nn.Conv2d(6, 6, 3, padding=1), nn.Linear(384, 3)
        self.hide, self.again, self.relu = hide, hide, nn.ReLU(inplace=True)
        nn.init.uniform_(self.norm.running_mean)
        self.eval()

    def forward(self, x, hide=None):
        hide = hide or self.hide
        h = self.first(x)
        h = self.relu(self.norm(h) + hide(h))
        return self.last(hide(self.relu(self.second(h))).flatten(1))


def by_hand(net, x, y, gradient):
    """The gradient by the sum g(h) + (m(h) - g(h)).detach(), in eager PyTorch."""
    leaf = x.clone().requires_grad_()
    logits = net(leaf, lambda h: gradient(h) + (net.hide(h.detach()) - gradient(h)).detach())
    return torch.autograd.grad(F.cross_entropy(logits, y, reduction="sum"), leaf)[0]


SMOOTH = nn.Conv2d(6, 6, 3, padding=1)
GRADIENTS = {"identity": ("identity", lambda h: h), "function": (torch.sin, torch.sin)}
GRADIENTS["network"] = SMOOTH, SMOOTH


@pytest.mark.parametrize(
    ("kind", "hide"), [("identity", Quantize(16)), ("function", NoGrad()), ("network", KWinners(0.7))]
)
def test_the_value_is_the_modules_and_the_gradient_that_of_the_other(kind, hide, search_copy):
    net, (substitute, part) = Net(hide).double(), GRADIENTS[kind]
    if kind == "network":
        substitute = part = copy.deepcopy(part).double()
    model = fa.models.bpda(net, {"hide": substitute})
    x = X.double()
    attached = model(x.clone().requires_grad_())
    assert attached.requires_grad
    assert torch.equal(model(x), net(x))
    assert torch.equal(attached, net(x))
    searched = fa.freeze(model).input_gradient(x, Y)[2]
    torch.testing.assert_close(searched, by_hand(net, x, Y, part), rtol=1e-9, atol=1e-12)


class Picks(nn.Module):
    """Multiply by a weight, and add a mask, as code that autograd refuses."""

    def forward(self, scale, x, *, mask):
        return torch.from_numpy(x.numpy() * scale) + mask.detach()


def test_modules_with_several_arguments_that_raise_under_autograd():
    def forward(self, x):
        return self.picks(2.0, x.flatten(1), mask=-x.flatten(1).square())[:, :5]

    calls = module(forward, picks=Picks())
    model = fa.models.bpda(calls, {"picks": lambda scale, x, *, mask: scale**2 * x + mask})
    weights = torch.rand(12, 5, generator=torch.Generator().manual_seed(0))
    leaf = X.clone().requires_grad_()
    (pulled,) = torch.autograd.grad(model(leaf), leaf, weights)
    torch.testing.assert_close(pulled.flatten(1)[:, :5], weights * (4 - 2 * X.flatten(1)[:, :5]))
    assert torch.equal(model(X), calls(X))
    first = fa.models.bpda(calls, {"picks": "identity"})
    torch.testing.assert_close(torch.autograd.grad(first(leaf), leaf, weights)[0].flatten(1)[:, :5], weights)


def test_the_model_and_the_substitute_are_left_as_they_are():
    net, substitute = Net(Quantize(16)).train(), nn.Conv2d(6, 6, 1)
    before = copy.deepcopy([net.state_dict(), {name: set(vars(part)) for name, part in net.named_modules()}])
    model = fa.models.bpda(net, {"hide": substitute})
    fa.freeze(model).input_gradient(X, Y)
    state, names = net.state_dict(), {name: set(vars(part)) for name, part in net.named_modules()}
    assert names == before[1]
    assert all(torch.equal(state[name], kept) for name, kept in before[0].items())
    assert net.training and substitute.training and not model.training  # noqa: PT018
    assert all(p.requires_grad and p.grad is None for p in (*net.parameters(), *substitute.parameters()))
    with torch.no_grad():
        net.last.bias += 1
    assert torch.equal(model(X), net.eval()(X))  # weights are shared


@pytest.mark.parametrize(("first", "then"), [("identity", "network"), ("network", "function")])
def test_another_gradient_takes_the_place_of_the_first(first, then):
    gradient, same = GRADIENTS[then]
    net = Net(Quantize(4))
    once = fa.models.bpda(net, {"hide": GRADIENTS[first][0]})
    twice, before = fa.models.bpda(once, {"hide": gradient}), replaced(once)
    leaf = X.clone().requires_grad_()
    pulled = torch.autograd.grad(F.cross_entropy(twice(leaf), Y, reduction="sum"), leaf)[0]
    torch.testing.assert_close(pulled, by_hand(net, X, Y, same))
    assert replaced(once) == before


def test_copies_states_and_descriptions():
    net = Net(Quantize(16))
    model = fa.models.bpda(net, {"hide": "identity"})
    assert model.state_dict().keys() == net.state_dict().keys()
    held = fa.models.bpda(net, {"hide": SMOOTH})
    held.load_state_dict(held.state_dict())
    assert {name for name in held.state_dict() if "bpda" in name} == {
        f"{place}.bpda.{kind}" for place in ("hide", "again") for kind in ("weight", "bias")
    }
    copied = copy.deepcopy(held)
    with torch.no_grad():
        copied.hide.bpda.weight.zero_()
        copied.hide.bpda.bias.zero_()
    assert SMOOTH.weight.any()
    through = [fa.freeze(one).input_gradient(X, Y)[2] for one in (held, copied)]
    assert not torch.allclose(*through)  # the copy has a substitute of its own
    for same in (copy.deepcopy(model), fa.models.bpda(net, {"h*e": "identity"})):
        assert describe(same) == describe(model)
    other = nn.Conv2d(6, 6, 3, padding=1)
    others = [model, held, *(fa.models.bpda(net, {"hide": one}) for one in (torch.sin, torch.cos, other))]
    assert len({str(describe(one)) for one in (net, *others)}) == 6


@pytest.mark.parametrize("gradient", ["identity", partial(F.hardtanh, min_val=-2.0), "network"])
def test_a_model_is_pickled_whole(gradient):
    other = nn.Conv2d(6, 6, 3, padding=1) if gradient == "network" else gradient
    model = fa.models.bpda(Net(Quantize()), {"hide": other})
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    for read in (pickle.loads(pickle.dumps(model)), torch.load(file, weights_only=False)):
        assert replaced(read) == replaced(model)
        assert read.hide.forward.__self__.module is read.hide is read.again
        assert torch.equal(read(X), model(X))
        gradients = [fa.freeze(one).input_gradient(X, Y)[2] for one in (read, model)]
        assert gradients[0].any()
        assert torch.equal(*gradients)


def test_patterns_take_the_outermost_and_the_last_word_counts():
    net = nn.Sequential(
        nn.Sequential(nn.Flatten(), Quantize(8)), nn.Sequential(Quantize(4), nn.Linear(64, 3))
    )
    one = fa.models.bpda(net, {"0*": torch.flatten, "1.?": lambda h: h[:, :3]})
    assert replaced(one) == {"0": "flatten", "1.0": "<lambda>", "1.1": "<lambda>"}
    two = fa.models.bpda(fa.models.bpda(net, {"*.1": "identity", "1.0": "identity"}), {"*.0": "identity"})
    names = ("0.0", "0.1", "1.0", "1.1")
    assert replaced(two) == dict.fromkeys(names, "identity")
    assert in_words(replaced(one)) == "BPDA: 0 (flatten), 1.0 (<lambda>), 1.1 (<lambda>)"
    assert replaced(fa.models.bpda(Net(Quantize()), {"again": "identity"})) == {"hide": "identity"}
    assert replaced(net) == replaced(lambda x: x) == {}


NET = Net(Quantize(16))


def test_a_function_that_runs_the_original_is_refused():
    model = fa.models.bpda(NET, {"hide": lambda h: NET.second(h)})
    for prepared in (fa.freeze, fa.engine.Plain):
        refuses(r"whose copy runs .* of the original", prepared(model).input_gradient, X, Y)
    with pytest.raises(InputError, match=r"whose copy runs .* of the original"):
        fa.attacks.pgd(fa.models.Normalized(model, [0.0], [1.0]), X, Y, fa.Linf(0.1), steps=2)


REFUSED = {
    "nothing": ({}, "expected gradients by the names of modules"),
    "no mapping": ("hide", "expected gradients by the names of modules"),
    "no name": ({3: "identity"}, "expected the name of a module or a pattern, got 3"),
    "no gradient": ({"hide": "straight"}, "expected 'identity', a function or a network"),
    "a class": ({"hide": nn.ReLU}, "a class is not one"),
    "no match": ({"hyde": "identity"}, "matches none; there are first, norm, .*; did you mean 'hide'[?]"),
    "two": ({"hide": "identity", "h*": torch.sin}, "one gradient for 'hide', got two, by 'hide' and 'h[*]'"),
    "shared": ({"hide": "identity", "again": torch.sin}, "one gradient for 'again', got two"),
}


@pytest.mark.parametrize(("gradients", "says"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused_at_once(gradients, says):
    refuses(says, fa.models.bpda, NET, gradients)


# outputs of the module, its gradient, and the sentence
PASSES = {
    "tuple": (lambda h: (h, h), "identity", "return one floating-point tensor, got tuple"),
    "integers": (lambda h: h.long(), torch.sin, "got a tensor of torch.int64"),
    "shape": (lambda h: h[:, :3], "identity", r"got \[12, 3\] in float32 for \[12, 64\] in float32"),
    "double": (lambda h: h.double(), "identity", "got .* in float64 for .* in float32"),
    "other shape": (lambda h: h, lambda h: h.sum(1), r"return \[12, 64\] in float32 .*got \[12\]"),
    "other dtype": (lambda h: h, lambda h: h.double(), r"in float32 as .*got \[12, 64\] in float64"),
    "other kind": (lambda h: h, lambda h: None, "got NoneType"),
    "flat": (lambda h: h, lambda h: h.detach(), "one that cuts the graph"),
    "written": (lambda h: h.zero_(), "identity", "writes into it; let its forward begin with"),
}


@pytest.mark.parametrize("case", PASSES)
def test_what_is_refused_in_a_pass(case):
    make, gradient, says = PASSES[case]
    net = nn.Sequential(nn.Flatten(), nn.Sequential(nn.Identity(), module(lambda self, h: make(h))))
    model = fa.models.bpda(net, {"1.1": gradient})
    with pytest.raises(NoGradientError if case == "flat" else InputError, match=f"'1.1'.*{says}"):
        model(2 * X.clone().requires_grad_())


def test_an_evaluation_that_goes_on_knows_what_was_replaced(tmp_path):
    net, data = Defended(Net(nn.Identity()), before=Binarize()), torch.utils.data.TensorDataset(X, Y)
    one, other = (fa.models.bpda(net, {"before": substitute}) for substitute in ("identity", torch.sin))
    fa.evaluate(one, data, run_dir=tmp_path / "run")
    assert fa.evaluate(one, data, run_dir=tmp_path / "run", resume=True).replaced == {"before": "identity"}
    refuses("model", fa.evaluate, other, data, run_dir=tmp_path / "run", resume=True)
    assert not fa.evaluate(net, data).to_dict()["bpda"]

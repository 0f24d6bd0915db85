"""The nets that engines are asked about: each is made anew, always the same, in the mode it was left in."""

import functools
import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from tests.zoo.net import module

SHAPE, CLASSES = (2, 8, 8), 5


def images(count: int = 6, seed: int = 0) -> tuple[Tensor, Tensor]:
    x = torch.rand(count, *SHAPE, generator=torch.Generator().manual_seed(seed))
    return x, torch.arange(count) % CLASSES


def answers(model: Callable[[Tensor], Tensor], x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Logits and the gradient of their cross-entropy, by autograd."""
    leaf = x.clone().requires_grad_()
    logits = model(leaf)
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    (gradient,) = torch.autograd.grad(F.cross_entropy(wide, y, reduction="sum"), leaf)
    return logits.detach(), gradient


def apart(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def convnet() -> nn.Sequential:
    """Two convolutions, each with a BatchNorm that has seen a batch, in training mode."""
    torch.manual_seed(0)
    first, second = (nn.Sequential(nn.Conv2d(c, 8, 3), nn.BatchNorm2d(8), nn.ELU()) for c in (2, 8))
    net = nn.Sequential(*first, *second, nn.Flatten(), nn.Linear(128, 5))
    net(torch.rand(32, 2, 8, 8))
    return net


class Net(nn.Module):
    """BatchNorm with statistics unlike those of any batch, and dropout, so that training mode shows."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.first, self.norm, self.drop = nn.Linear(128, 7), nn.BatchNorm1d(7), nn.Dropout(0.5)
        self.last, self.scale = nn.Linear(7, CLASSES), 1.0
        self.norm.running_mean.uniform_(-0.5, 0.5)
        self.norm.running_var.uniform_(0.01, 0.3)

    def features(self, x: Tensor) -> Tensor:
        return self.drop(nn.functional.leaky_relu(self.norm(self.first(x.flatten(1)))))

    def forward(self, x: Tensor, sign: int = 1) -> Tensor:
        return sign * self.scale * self.last(self.features(x))

    def negated(self, x: Tensor) -> Tensor:
        return -self(x)


class Merges(nn.Linear):
    """Merges a second weight into its own in eval mode, and takes it out again in training mode."""

    def __init__(self, *sizes: int) -> None:
        super().__init__(*sizes)
        self.more, self.merged = nn.Parameter(torch.full((sizes[1], sizes[0]), 0.5)), False

    def train(self, mode: bool = True) -> "Merges":
        super().train(mode)
        if self.merged is mode:
            with torch.no_grad():
                self.weight.add_(self.more, alpha=-1 if mode else 1)
            self.merged = not mode
        return self

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight if self.merged else self.weight + self.more
        return nn.functional.linear(x, weight, self.bias)


class Stubborn(nn.Sequential):
    """Keeps its first BatchNorm in eval mode while it trains, as fine-tuned nets do."""

    def train(self, mode: bool = True) -> "Stubborn":
        super().train(mode)
        self[1].eval()
        return self


def mixed() -> nn.Module:
    net = convnet().append(nn.Dropout(0.5)).eval()
    net[1].train()
    net[-1].train()
    return net


def features() -> nn.Module:
    net, stored = convnet(), dict[str, Tensor]()
    net[0].register_forward_hook(lambda part, args, out: stored.update(first=out))
    net[1].register_forward_pre_hook(lambda part, args: (stored["first"],))
    net(images(6, 3)[0])  # whose features it holds now
    return net


def changed(change: Callable[[Net], object]) -> Callable[[], Net]:
    """A net with a forward, or attributes, of its own."""

    def build() -> Net:
        net = Net()
        change(net)
        return net

    return build


def by_parent(net: Net) -> None:
    net.last.parents = [net]
    net.last.forward = MethodType(
        lambda self, x: self.parents[0].norm(x)[:, :5] @ self.weight[:, :5], net.last
    )


def by_unregistered(net: Net) -> None:
    net.others = [Net(seed=6).eval()]
    net.forward = MethodType(lambda self, x: self.others[0](x) + self.last.bias, net)


def by_activations(net: Net) -> None:
    """As networks keep whose features a loss reads: deepcopy refuses tensors that have a graph."""
    net.kept = net.first(images()[0].flatten(1))
    net.others = [net.kept, {"made": (net.kept,)}]


def by_swallowed(net: Net) -> None:
    def call(x: Tensor) -> Tensor:
        try:
            return net.last(net.features(x))
        except Exception:
            return x.flatten(1)[:, :CLASSES]

    net.forward = call


class Guarded(Net):
    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()


class Refusing(Net):
    def __deepcopy__(self, memo: object) -> "Refusing":
        raise NotImplementedError("one of a kind")


class Itself(Net):
    def __deepcopy__(self, memo: object) -> "Itself":
        return self


class Fresh(nn.Linear):
    def __deepcopy__(self, memo: object) -> "Fresh":
        with torch.random.fork_rng(devices=[]):
            twin = Fresh(self.in_features, self.out_features)
        twin.load_state_dict(self.state_dict())
        return twin


class Reduced(nn.Linear):
    def __deepcopy__(self, memo: object) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            return nn.Linear(self.in_features, self.out_features)


def flat(norm: nn.Module, kind: type[nn.Linear]) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), norm, kind(128, CLASSES))


class Counting(Net):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("passes", torch.zeros(()))

    def forward(self, x: Tensor, sign: int = 1) -> Tensor:
        self.passes += 1
        return super().forward(x, sign)


class OfTheBatch(nn.BatchNorm1d):
    """Takes statistics of the batch in any mode, and keeps their running mean."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.batch_norm(x, self.running_mean, self.running_var, training=True)


class Reuses(Net):
    """Writes its answer into the same memory each time, as compiled models may."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("answer", torch.zeros(64, CLASSES), persistent=False)

    def forward(self, x: Tensor, sign: int = 1) -> Tensor:
        logits = super().forward(x, sign)
        return logits if logits.requires_grad else self.answer[: len(x)].copy_(logits)


class AsCuDNN(torch.autograd.Function):
    """Refuses to differentiate a recurrent layer in eval mode, as cuDNN does."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, layer: nn.Module) -> Tensor:
        ctx.layer = layer
        return value.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        if not ctx.layer.training and torch.backends.cudnn.enabled:
            raise RuntimeError("cudnn RNN backward can only be called in training mode")
        return gradient, None


def recurrent(kind: type[nn.Module], **options: Any) -> nn.Module:
    torch.manual_seed(0)
    layers = nn.ModuleList([kind(8, 6, batch_first=True, **options)])
    layers[0].register_forward_hook(lambda layer, x, out: AsCuDNN.apply(out[0], layer))
    return module(
        lambda self, x: self.head(self.layers[0](x[:, 0])[:, -1]), layers=layers, head=nn.Linear(6, CLASSES)
    )


class Room(torch.autograd.Function):
    """Leaves x as it is; its backward has memory for three rows."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        if len(gradient) > 3:
            raise MemoryError
        return gradient


class Squeezes(nn.Module):
    """Drops dimensions of size 1 from its logits, or from features before another layer."""

    def __init__(self, where: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.where, self.conv, self.head = where, nn.Conv2d(2, 8, 3), nn.Linear(8, CLASSES)
        self.norm = nn.BatchNorm1d(8)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv(x).relu().mean((2, 3), keepdim=True)
        h = h.flatten(1) if self.where == "logits" else h.squeeze()
        logits = self.head(self.norm(h) if self.where == "norm" else h)  # the norm takes no single row
        return logits.squeeze() if self.where == "logits" else logits


def around(
    run: Callable[[nn.Module, Tensor], Tensor], net: Callable[[], nn.Module] = Net
) -> Callable[[], nn.Module]:
    return lambda: module(lambda self, x: run(self.net, x), net=net())


def darkens(net: nn.Module, x: Tensor) -> Tensor:
    x -= 0.4
    return net(x)


def passed(net: nn.Module, x: Tensor) -> Tensor:
    return net(x)  # type: ignore[no-any-return]


def dense(net: nn.Module, x: Tensor) -> Tensor:
    """As a kernel that takes one layout alone."""
    for layer in net.children():
        x = layer(x)
        if x.ndim == 4 and not x.is_contiguous():
            raise RuntimeError("dense activations alone\nmany lines more")
    return x


def full(error: Exception) -> Callable[[nn.Module, Tensor], Tensor]:
    """Run a net with memory for four rows, half as many with a gradient."""

    def run(net: nn.Module, x: Tensor) -> Tensor:
        if len(x) > (2 if x.requires_grad else 4):
            raise error
        return passed(net, x)

    return run


def attending(norm: Any) -> nn.Module:
    """Attention over the pixels of a convolution that a normalization follows."""

    def forward(self: Any, x: Tensor) -> Tensor:
        tokens = self.norm(self.conv(x)).flatten(2).transpose(1, 2)
        return self.fc(F.scaled_dot_product_attention(tokens, tokens, tokens).mean(1))  # type: ignore[no-any-return]

    torch.manual_seed(0)
    net = module(forward, conv=nn.Conv2d(2, 32, 3, padding=1), norm=norm(32), fc=nn.Linear(32, CLASSES))
    if norm is nn.BatchNorm2d:
        net.norm.running_mean.uniform_(-0.2, 0.2)
        net.norm.running_var.uniform_(0.2, 1)
    return net


def left_training() -> nn.Module:
    """A defense whose `eval`, of the instance, does nothing."""
    net = convnet()
    net.eval = lambda: net  # type: ignore[method-assign]
    return net


def function_of(net: nn.Module) -> Callable[[Tensor], Tensor]:
    return functools.partial(passed, net)


def traced() -> nn.Module:
    return torch.jit.trace(Net().eval(), images()[0]).train()  # type: ignore[no-any-return, no-untyped-call]


@dataclass(frozen=True)
class Case:
    """A model, and what is known of it.

    fell: why a Frozen answers by the model as given; "" where it has a copy.
    note: what a Frozen says of it.
    counts: whether a hook on the module sees each pass.
    writes: whether a forward writes into buffers, or `eval` into weights.
    mixes: whether rows of a batch change each other's logits.
    follows: whether a graph outlives the call, at whose end this model changes its weights.
    whole: whether a batch passes at once, as a loss of the caller's needs.
    right: builds what it answers as, where that is not itself in eval mode.
    """

    build: Callable[[], Any]
    fell: str = ""
    counts: bool = True
    writes: bool = False
    mixes: bool = False
    follows: bool = True
    whole: bool = True
    right: Callable[[], Any] | None = None
    note: str = ""


OUT_OF_MEMORY = RuntimeError("[enforce fail] . DefaultCPUAllocator: can't allocate memory"), MemoryError()
SQUEEZED = "logits", "features", "norm"
STRAY = "of the original"
CASES: dict[str, Case] = {
    "in training mode": Case(convnet, note="folded 2 BatchNorm"),
    "in eval mode": Case(lambda: convnet().eval()),
    "in mixed modes": Case(mixed),
    "a train of its own": Case(lambda: Stubborn(*convnet()).train()),
    "eval by itself": Case(lambda: nn.Sequential(Stubborn(*convnet()), nn.Dropout(0.5)).train()),
    "a hook that keeps": Case(features),
    "a forward by a partial": Case(
        changed(lambda net: setattr(net, "forward", functools.partial(net.forward, sign=-1)))
    ),
    "a forward by the parent": Case(changed(by_parent)),
    "unregistered parts": Case(changed(by_unregistered)),
    "activations kept": Case(changed(by_activations)),
    "a closure": Case(
        changed(lambda net: setattr(net, "forward", lambda x: 2 * net.last(net.features(x)))), STRAY
    ),
    "a hook that runs it": Case(
        changed(lambda net: net.last.register_forward_hook(
            lambda part, args, out: out + net.norm(net.first(images()[0][:1].flatten(1)))[:, :5]
        )), STRAY,
    ),
    "an error swallowed": Case(changed(by_swallowed), STRAY),
    "a lock": Case(Guarded, "pickle"),
    "itself as a copy": Case(Itself, "shares parts"),
    "an eval that writes": Case(lambda: convnet().append(Merges(5, 5)), writes=True, follows=False),
    "a fresh copy": Case(lambda: flat(nn.BatchNorm1d(128), Fresh)),
    "a copy of less": Case(lambda: flat(nn.BatchNorm1d(128), Reduced), "by more than rounding"),
    "a counter": Case(Counting, writes=True),
    "one memory for answers": Case(Reuses, writes=True),
    "logits that lie in x": Case(lambda: module(lambda self, x: x.flatten(1)[:, :CLASSES])),
    "x written into": Case(around(darkens, convnet), note="given copies of x, into which the model writes"),
    "statistics of the batch": Case(lambda: flat(OfTheBatch(128), nn.Linear), writes=True, mixes=True),
    "a checkpoint": Case(around(functools.partial(checkpoint, use_reentrant=False))),
    "an LSTM": Case(lambda: recurrent(nn.LSTM, num_layers=2, dropout=0.5)),
    **{f"squeezed {where}": Case(lambda where=where: Squeezes(where)) for where in SQUEEZED},
    **{
        f"{type(error).__name__} with many rows": Case(
            around(full(error), convnet), counts=False, follows=False, whole=False,
            right=around(passed, convnet),
        )
        for error in OUT_OF_MEMORY
    },
    "few rows on the way back": Case(
        around(lambda net, x: net(Room.apply(x)), convnet), counts=False, follows=False, whole=False,
        right=around(passed, convnet),
    ),
    "attention after BatchNorm": Case(lambda: attending(nn.BatchNorm2d), note="folded 1 BatchNorm"),
    "attention after InstanceNorm": Case(lambda: attending(nn.InstanceNorm2d)),
    "a function of attention": Case(lambda: function_of(attending(nn.BatchNorm2d).eval()), counts=False),
    "a layout": Case(around(dense, convnet), "dense activations alone"),
    "an eval that does nothing": Case(
        left_training, writes=True, mixes=True,
        note="searched as it is: a BatchNorm takes its statistics from the batch",
    ),
    "a script": Case(lambda: torch.jit.script(Net()), counts=False),
    "a trace": Case(traced, counts=False),
    "a method": Case(lambda: Net().negated),
    "a partial of its forward": Case(
        lambda: functools.partial(functools.partial(Net().forward), sign=-1), counts=False
    ),
}  # fmt: skip

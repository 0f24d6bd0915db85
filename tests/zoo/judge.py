"""When two gradients are the same: by rounding, but for kinks, and by direction in a coarser format."""

import contextlib
import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Sums of a thousand products are wrong by some 30 roundings of half an `eps`, Winograd's tiles of 4 by ten
# times as much (Lavin and Gray 2016), and ten layers, forth and back, by the root of twenty times that: 670.
ROUNDINGS = 800
# Relative to the largest entry: moves of x as small as the rounding of activations, and how many are tried.
MOVES = (1e-6, 1e-6, 1e-6, 1e-6, 5e-6, 5e-6, 5e-6, 5e-6)


@dataclass(frozen=True)
class Answer:
    """What `input_gradient` gives: loss [B], logits [B, K], gradient like x."""

    loss: Tensor
    logits: Tensor
    gradient: Tensor


def eager(model: nn.Module, x: Tensor, y: Tensor) -> Answer:
    """Plain PyTorch's; nothing of the model is changed, but for what its forward changes."""
    leaf = x.clone().requires_grad_()
    weights = {weight: weight.grad for weight in model.parameters()}
    logits = model(leaf.clone())  # a model may write into what it is given
    loss = F.cross_entropy(logits, y, reduction="none")
    loss.sum().backward()  # checkpoints with reentry refuse `torch.autograd.grad`
    for weight, gradient in weights.items():
        weight.grad = gradient
    assert leaf.grad is not None
    return Answer(loss.detach(), logits.detach().clone(), leaf.grad)


def apart(answer: Answer, wanted: Answer) -> Tensor:
    """[B] how far a row of `found` is off: its gradient by length, its logits by the spread of all."""
    spread = (wanted.logits - wanted.logits.mean(1, keepdim=True)).abs().amax().double()
    logits = (answer.logits - wanted.logits).double().abs().amax(1) / spread
    off = (answer.gradient - wanted.gradient).double().flatten(1).norm(dim=1)
    gradients = torch.where(off == 0, 0.0, off / wanted.gradient.double().flatten(1).norm(dim=1))
    return torch.maximum(logits, gradients).nan_to_num(torch.inf)


def check_rows(model: nn.Module, x: Tensor, y: Tensor, answer: Answer) -> None:
    """Each row is eager PyTorch's but for rounding, or lies on a kink of the model.

    There the eager gradient itself jumps at least half as far when x moves by about its rounding. A row that
    is nearer to the gradient in float64 than eager's is right, too (EfficientNet-B0: eager is off by 5%).
    """
    wanted = eager(model, x, y)
    assert answer.gradient.shape == x.shape
    assert answer.gradient.dtype is x.dtype
    distance = apart(answer, wanted)
    wrong = distance > ROUNDINGS * torch.finfo(x.dtype).eps
    if not wrong.any():
        return
    draw, jump = torch.Generator().manual_seed(0), torch.zeros(len(x), dtype=torch.float64)
    for move in MOVES:
        noise = torch.rand(x.shape, generator=draw, dtype=x.dtype) * 2 - 1
        size = move * torch.finfo(x.dtype).eps / torch.finfo(torch.float32).eps
        jump = jump.maximum(apart(eager(model, x + noise * size * x.abs().amax(), y), wanted))
    wrong &= ~(2 * jump >= distance)
    if not wrong.any():
        return
    exact = eager(copy.deepcopy(model).double(), x.double(), y)
    wrong &= apart(answer, exact) > apart(wanted, exact)
    assert not wrong.any(), (
        f"{int(wrong.sum())} of {len(x)} rows are apart by {float(distance[wrong].min()):.2g} to "
        f"{float(distance[wrong].max()):.2g}; the eager gradient jumps by {float(jump[wrong].max()):.2g}"
    )


def turned(answer: Tensor, wanted: Tensor) -> tuple[float, float]:
    """(mean angle, mean ratio of lengths as a logarithm) of the rows of two gradients."""
    answer, wanted = answer.double().flatten(1), wanted.double().flatten(1)
    angle = F.cosine_similarity(answer, wanted, dim=1, eps=1e-300).clamp(-1, 1).acos()
    length = (answer.norm(dim=1) / wanted.norm(dim=1)).log().abs()
    assert length.isfinite().all(), "a gradient vanishes in one format alone"
    return float(angle.mean()), float(length.mean())


@torch.no_grad()
def coarsen(model: nn.Module) -> nn.Module:
    """The model itself, its weights those that bfloat16 can hold."""
    for weight in model.parameters():
        weight.copy_(weight.bfloat16())
    return model


def check_directions(build: Callable[[], nn.Module], x: Tensor, y: Tensor, answer: Answer) -> None:
    """Gradients in bfloat16 point where they should, as far as rounding lets them, and are as long.

    The yardsticks are eager PyTorch's in that format, where the model can be cast, and what comes of
    rounding weights and x alone. Activations and their gradients are rounded besides: three times either,
    and a little for nets without weights to speak of. What turns a gradient by an angle may lengthen it by
    as much.
    """
    wanted = eager(build(), x, y)
    yardsticks = [eager(coarsen(build()), x.bfloat16().to(x.dtype), y)]
    with contextlib.suppress(RuntimeError):  # tensors of its own in float32
        yardsticks.append(eager(build().bfloat16(), x.bfloat16(), y))
    angle, length = turned(answer.gradient, wanted.gradient)
    turns = [turned(coarse.gradient, wanted.gradient) for coarse in yardsticks]
    allowed, longer = max(turn for turn, _ in turns), max(length for _, length in turns)
    assert angle <= 3 * allowed + 0.05, f"turned by {angle:.3f}, eager by {allowed:.3f}"
    assert length <= 3 * max(longer, allowed) + 0.05, f"longer by {length:.3f}, eager by {longer:.3f}"

"""In one layout torch's gradient of a single image through BatchNorm is wrong on a CPU. This is plain torch.

The report to PyTorch is in examples/7_single_image_gradient.md.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

torch.manual_seed(0)
print(torch.__version__)


def cosine(a: Tensor, b: Tensor) -> float:
    return F.cosine_similarity(a.double().flatten(), b.double().flatten(), dim=0).item()


# the operator: the same values of the gradient of the output, in two layouts
norm = nn.BatchNorm2d(32).eval()
x, gradient = torch.rand(1, 32, 12, 12, requires_grad=True), torch.randn(1, 32, 12, 12)
odd = gradient.flatten(2).transpose(1, 2).contiguous().transpose(1, 2).view(1, 32, 12, 12)
print("equal values:", torch.equal(gradient, odd), "with strides", gradient.stride(), "and", odd.stride())
out = norm(x)
(right,) = torch.autograd.grad(out, x, gradient, retain_graph=True)
(wrong,) = torch.autograd.grad(out, x, odd)
print(f"cosine of the two gradients of the input: {cosine(right, wrong):.3f}")


# a network: attention over the pixels behind a normalization, as in LeViT and XCiT
class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 32, 3, padding=1), nn.BatchNorm2d(32)
        self.head = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.norm(self.stem(x)).flatten(2).transpose(1, 2)
        return self.head(F.scaled_dot_product_attention(tokens, tokens, tokens).mean(1))


def loss(x: Tensor) -> Tensor:
    return F.cross_entropy(net(x), torch.zeros(len(x), dtype=torch.long), reduction="sum")


def input_gradient(x: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    return torch.autograd.grad(loss(x), x)[0]


net = Attention().eval().double()  # double, so that difference quotients are exact to many digits
x = torch.rand(1, 3, 12, 12, dtype=torch.double)
alone, in_a_pair = input_gradient(x), input_gradient(torch.cat([x, x]))[:1]
step, size = torch.randn_like(x), 1e-5
with torch.no_grad():
    quotient = ((loss(x + size * step) - loss(x - size * step)) / (2 * size)).item()
print(f"cosine of the gradient of an image alone with that in a pair: {cosine(alone, in_a_pair):.3f}")
for name, found in {"alone": alone, "in a pair": in_a_pair}.items():
    print(f"derivative along a random direction, {name}: {(found * step).sum().item():.6f}")
print(f"the same as a difference quotient: {quotient:.6f}")

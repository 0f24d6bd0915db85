"""Your own net and loss: a targeted attack with a budget for each sample, and the gradient by itself."""

import torch
from torch import nn

import fastadv as fa

train_set, test_set = fa.data.load("digits", "train"), fa.data.load("digits", "test")
net = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
model = fa.models.Normalized(net, mean=0.3, std=0.4)  # images stay in [0, 1]: normalize inside
fa.train.fit(model, train_set, fa.train.Standard(), epochs=15, optimizer="adam", learning_rate=3e-3)


def towards(logits: torch.Tensor, y: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """How much likelier the target is than the label, for each sample; attacks maximize it."""
    return (logits.gather(1, targets[:, None]) - logits.gather(1, y[:, None]))[:, 0]


x, y = test_set.x[:100], test_set.y[:100]
radius = 0.3 * x.flatten(1).norm(dim=1)  # 30% of each image's length
out = fa.attacks.pgd(model, x, y, fa.L2(radius), steps=30, targets=(y + 1) % 10, loss=towards)
print(f"read as the next digit: {out.success.float().mean():.0%}")

# computes no weight gradient, and leaves the model as it is
loss, logits, gradient = fa.freeze(model).input_gradient(x, y, loss="margin")
print(f"margin {loss.mean():.2f}, gradient of shape {list(gradient.shape)}")

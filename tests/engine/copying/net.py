"""What is copied in tests."""

import torch
from torch import Tensor, nn

X = torch.rand(6, 5, generator=torch.Generator().manual_seed(1))


class Net(nn.Module):
    """BatchNorm with statistics unlike those of any batch, and dropout, so that training mode shows."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.first, self.norm, self.drop = nn.Linear(5, 7), nn.BatchNorm1d(7), nn.Dropout(0.5)
        self.last, self.scale = nn.Linear(7, 3), 1.0
        self.norm.running_mean.uniform_(2, 5)
        self.norm.running_var.uniform_(0.01, 0.3)

    def forward(self, x: Tensor, sign: int = 1) -> Tensor:
        return sign * self.scale * self.last(self.drop(nn.functional.leaky_relu(self.norm(self.first(x)))))

    def negated(self, x: Tensor) -> Tensor:
        return -self(x)

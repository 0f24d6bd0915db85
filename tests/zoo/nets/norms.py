"""BatchNorm after a convolution or a linear layer: where it may be folded, and where it only looks so."""

from typing import Any

import torch
from torch import Tensor, nn

from ..net import block, head, module, net


def convolution(inputs: int = 3, outputs: int = 16) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1)


@net()
def residual() -> nn.Module:
    def forward(self: Any, x: Tensor) -> Any:
        x = self.stem(x)
        return self.head(torch.relu(x + self.last(self.first(x))))

    return module(forward, stem=block(), first=block(16), last=block(16)[:2], head=head())


@net()
def norm_before_convolution() -> nn.Module:
    return nn.Sequential(nn.BatchNorm2d(3), convolution(), nn.ReLU(), nn.BatchNorm2d(16), head())


@net()
def skip_from_before_the_norm() -> nn.Module:
    def forward(self: Any, x: Tensor) -> Any:
        read = self.convolution(x)
        return self.head(torch.relu(self.norm(read)) + read)

    return module(forward, convolution=convolution(), norm=nn.BatchNorm2d(16), head=head())


@net()
def two_norms_of_one_convolution() -> nn.Module:
    def forward(self: Any, x: Tensor) -> Any:
        read = self.convolution(x)
        return self.head(torch.relu(self.norm(read)) * self.other(read))

    return module(
        forward, convolution=convolution(), norm=nn.BatchNorm2d(16), other=nn.BatchNorm2d(16), head=head()
    )


@net()
def two_norms_of_two_calls() -> nn.Module:
    def forward(self: Any, x: Tensor) -> Any:
        return self.head(torch.relu(self.norm(self.convolution(x))) * self.other(self.convolution(x)))

    return module(
        forward, convolution=convolution(), norm=nn.BatchNorm2d(16), other=nn.BatchNorm2d(16), head=head()
    )


@net()
def one_norm_of_two_convolutions() -> nn.Module:
    def forward(self: Any, x: Tensor) -> Any:
        x = torch.relu(self.norm(self.first(x)))
        return self.head(torch.relu(self.norm(self.last(x))))

    return module(forward, first=convolution(), last=convolution(16), norm=nn.BatchNorm2d(16), head=head())


@net()
def one_block_twice() -> nn.Module:
    shared = block(16)
    return nn.Sequential(block(), shared, shared, head())


@net()
def read_by_large_batches_alone() -> nn.Module:
    def forward(self: Any, x: Tensor) -> Any:
        read = self.convolution(x)
        out = torch.relu(self.norm(read))
        return self.head(out + read if len(x) > 8 else out)

    return module(forward, convolution=convolution(), norm=nn.BatchNorm2d(16), head=head())


@net()
def read_by_bright_images_alone() -> nn.Module:
    def forward(self: Any, x: Tensor) -> Any:
        read = self.convolution(x)
        out = torch.relu(self.norm(read))
        return self.head(out + read if x.max() > 0.6 else out)

    return module(forward, convolution=convolution(), norm=nn.BatchNorm2d(16), head=head())


@net()
def norm_of_large_batches_alone() -> nn.Module:
    def forward(self: Any, x: Tensor) -> Any:
        read = self.convolution(x)
        return self.head(torch.relu(self.norm(read) if len(x) > 8 else read))

    return module(forward, convolution=convolution(), norm=nn.BatchNorm2d(16), head=head())


@net()
def in_place_before_the_norm() -> nn.Module:
    def forward(self: Any, x: Tensor) -> Any:
        read = self.convolution(x)
        read.mul_(1.5).add_(0.1)
        return self.head(torch.relu(self.norm(read)))

    return module(forward, convolution=convolution(), norm=nn.BatchNorm2d(16), head=head())


@net()
def activation_in_place_before_the_norm() -> nn.Module:
    return nn.Sequential(convolution(), nn.ReLU(inplace=True), nn.BatchNorm2d(16), head())


@net()
def in_place_on_what_the_norm_gave() -> nn.Module:
    def forward(self: Any, x: Tensor) -> Any:
        read = self.convolution(x)
        out = self.norm(read)
        out.mul_(0.5).clamp_(-1, 1)
        return self.head(out + read)

    return module(forward, convolution=convolution(), norm=nn.BatchNorm2d(16), head=head())


@net()
def half_of_the_channels_elsewhere() -> nn.Module:
    def forward(self: Any, x: Tensor) -> Any:
        read = self.convolution(x)
        return self.head(torch.cat([torch.relu(self.norm(read[:, :16])), read[:, 16:]], 1))

    return module(forward, convolution=convolution(3, 32), norm=nn.BatchNorm2d(16), head=head(32 * 64))


@net()
def hook_between() -> nn.Module:
    made = nn.Sequential(block(), block(16), head())
    made[1][0].register_forward_hook(lambda part, inputs, out: out * 1.5)
    return made


@net()
def hook_before_the_norm() -> nn.Module:
    made = nn.Sequential(block(), block(16), head())
    made[1][1].register_forward_pre_hook(lambda part, inputs: (inputs[0] + 0.2,))
    return made


@net()
def hook_that_reads_what_the_norm_is_given() -> nn.Module:
    made = nn.Sequential(block(), block(16), head())
    made[1][1].register_forward_hook(lambda part, inputs, out: out + 0.3 * inputs[0])
    return made


@net()
def hook_that_keeps_activations() -> nn.Module:
    def forward(self: Any, x: Tensor) -> Any:
        out = self.net(x)
        return self.head(out + 0.5 * self.kept.pop())

    made = module(forward, net=block(), head=head(), kept=[])
    made.net[0].register_forward_hook(lambda part, inputs, out: made.kept.append(out))
    return made


@net()
def weights_read_elsewhere() -> nn.Module:
    def forward(self: Any, x: Tensor) -> Any:
        out = torch.relu(self.norm(self.convolution(x)))
        return self.head(out) * self.convolution.weight.abs().mean() * self.norm.running_var.mean()

    return module(forward, convolution=convolution(), norm=nn.BatchNorm2d(16), head=head())


@net()
def tied_weights_with_one_norm() -> nn.Module:
    def forward(self: Any, x: Tensor) -> Any:
        x = torch.relu(self.norm(self.first(self.stem(x))))
        return self.head(torch.relu(self.last(x)))

    made = module(
        forward,
        stem=block(),
        first=convolution(16),
        last=convolution(16),
        norm=nn.BatchNorm2d(16),
        head=head(),
    )
    made.last.weight = made.first.weight
    return made

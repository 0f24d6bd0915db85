"""The K variational autoencoders of ABS while they train: grouped convolutions, a group a class."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastadv.models._common import first_weights
from fastadv.models.abs.decoder import NORM, DecoderShape, fold_batch_norm


def encoder_layers(size: int, width: int, latents: int) -> list[tuple[int, int, int]]:
    """Return (channels, kernel, stride) a layer: the paper's for 28x28 (Schott et al. 2018, appendix)."""
    layers = (
        [(2 * width, 5, 1), (2 * width, 4, 2), (4 * width, 3, 2)]
        if size >= 16
        else [(2 * width, 3, 1), (4 * width, 4, 2)]
    )
    for _, kernel, stride in layers:
        size = (size - kernel) // stride + 1
    return [*layers, (2 * latents, size, 1)]


class VAEs(nn.Module):
    """Encoder and decoder of every class side by side; those of class k see column k of the batch alone."""

    def __init__(self, shape: DecoderShape, classes: int, width: int, seed: int) -> None:
        super().__init__()
        self.shape, self.classes, self.width = shape, classes, width
        self.encoder, self.decoder = nn.ModuleList(), nn.ModuleList()
        channels = shape.channels[-1]
        with first_weights(seed):
            for wide, kernel, stride in encoder_layers(shape.size, width, shape.channels[0]):
                self.encoder.append(
                    nn.Conv2d(classes * channels, classes * wide, kernel, stride, groups=classes, bias=False)
                )
                channels = wide
            for i, (kernel, stride) in enumerate(zip(shape.kernels, shape.strides, strict=True)):
                inputs, outputs = classes * shape.channels[i], classes * shape.channels[i + 1]
                self.decoder.append(
                    nn.ConvTranspose2d(inputs, outputs, kernel, stride, groups=classes, bias=False)
                )
        self.code_bias = nn.Parameter(torch.zeros(classes, 2, shape.channels[0]))
        self.image_bias = nn.Parameter(torch.zeros(classes, shape.channels[-1]))
        self.encoder_norms = nn.ModuleList(
            nn.BatchNorm2d(classes * wide) for wide, _, _ in encoder_layers(shape.size, width, 1)[:-1]
        )
        self.decoder_norms = nn.ModuleList(nn.BatchNorm2d(classes * wide) for wide in shape.channels[1:-1])

    def forward(self, x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the image, mean and log variance [n, K, ...] of x [n, K, C, H, W]; the noise is normal."""
        # On CPUs, grouped convolutions are a tenth faster in this layout.
        h = x.flatten(1, 2).contiguous(memory_format=torch.channels_last)
        for convolve, norm in zip(self.encoder, self.encoder_norms, strict=False):
            h = F.elu(norm(convolve(h)))
        code = self.encoder[-1](h).reshape(len(x), self.classes, 2, -1) + self.code_bias
        mean, log_variance = code.unbind(2)
        h = (mean + (log_variance / 2).exp() * noise).reshape(len(x), -1, 1, 1)
        for convolve, norm in zip(self.decoder, self.decoder_norms, strict=False):
            h = F.elu(norm(convolve(h)))
        with torch.autocast(x.device.type, enabled=False):  # pixels need more than bfloat16's eight bits
            image = (
                self.decoder[-1](h.float()).unflatten(1, (self.classes, -1))
                + self.image_bias[:, :, None, None]
            )
        return image.sigmoid(), mean.float(), log_variance.float()

    def decoders(self) -> tuple[list[Tensor], list[Tensor]]:
        """Return (weights, biases) as ABS takes them, BatchNorm's running statistics folded in."""
        state = {name: value.detach() for name, value in self.state_dict().items()}

        def stacked(name: str) -> Tensor:
            whole: Tensor = state[name]
            return whole.reshape(self.classes, -1, *whole.shape[1:])

        weights, biases = [], []
        for i in range(len(self.decoder)):
            weight, bias = stacked(f"decoder.{i}.weight").clone(), self.image_bias.detach().clone()
            if i < len(self.decoder_norms):
                norm = [stacked(f"decoder_norms.{i}.{part}") for part in NORM]
                weight, bias = fold_batch_norm(weight, torch.zeros_like(norm[0]), *norm)
            weights.append(weight)
            biases.append(bias)
        return weights, biases


def losses(x: Tensor, image: Tensor, mean: Tensor, log_variance: Tensor, beta: float) -> Tensor:
    """Return ||G(z) - x||^2 + beta KL(q(z|x) || N(0, 1)), [n, K]."""
    divergence = (mean.square() + log_variance.exp() - 1 - log_variance).sum(2) / 2
    return (image - x).flatten(2).square().sum(2) + beta * divergence

"""The K decoders of ABS as stacked weights, all classes at once, and the K autoencoders that train them."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastadv._checks import check_count
from fastadv.errors import InputError
from fastadv.models._common import first_weights
from fastadv.ops.latent_decode import chain_size, forward, latent_decode

# Added to BatchNorm's variance; torch's default.
NORM_FLOOR = 1e-5
# BatchNorm's tensors, in the order of `fold_batch_norm`'s arguments.
NORM = ("weight", "bias", "running_mean", "running_var")


@dataclass(frozen=True)
class DecoderShape:
    """Unpadded transposed convolutions, ELU between them and a sigmoid at the end, from 1x1."""

    channels: tuple[int, ...] = (8, 32, 16, 16, 1)
    kernels: tuple[int, ...] = (4, 5, 5, 4)
    strides: tuple[int, ...] = (1, 2, 2, 1)

    def __post_init__(self) -> None:
        numbers = (*self.channels, *self.kernels, *self.strides)
        positive = all(isinstance(number, int) and number >= 1 for number in numbers)
        if not positive or not len(self.kernels) == len(self.strides) == len(self.channels) - 1 >= 1:
            raise InputError(
                "decoder: expected n + 1 channels for n kernels and n strides, all positive integers, "
                f"got {self}"
            )

    @property
    def size(self) -> int:
        return chain_size(self.kernels, self.strides)

    @property
    def image(self) -> tuple[int, int, int]:
        return self.channels[-1], self.size, self.size

    @property
    def values(self) -> int:
        return self.channels[-1] * self.size**2

    @classmethod
    def for_images(cls, shape: Sequence[int], latents: int = 8, width: int = 16) -> "DecoderShape":
        """Choose the paper's shape for 28x28 images, and a similar one for another size."""
        check_count("latents", latents, 1)
        check_count("width", width, 1)
        channels, rows, columns = shape
        if rows != columns or rows < 8:
            raise InputError(
                f"images: expected square ones of 8x8 or more, got {tuple(shape)}; "
                "give a DecoderShape of your own"
            )
        layers = (latents, 2 * width, width, width, channels)
        for last in (4, 3, 5, 2, 1):
            # sizes: first, then 2 first + 3, then 2 (2 first + 3) + 3, then that + last - 1
            first, rest = divmod(rows - last + 1 - 9, 4)
            if first >= 1 and rest == 0:
                return cls(layers, (first, 5, 5, last), (1, 2, 2, 1))
        return cls((latents, 2 * width, width, channels), (3, 3, rows - 4), (1, 1, 1))


def fold_batch_norm(
    weight: Tensor, bias: Tensor, scale: Tensor, shift: Tensor, mean: Tensor, variance: Tensor
) -> tuple[Tensor, Tensor]:
    """Weight [K, cin, cout, k, k] and bias [K, cout] of a layer, with the BatchNorm after it folded in."""
    factor = scale / (variance + NORM_FLOOR).sqrt()
    return weight * factor[:, None, :, None, None], (bias - mean) * factor + shift


class Decoders(nn.Module):
    """One decoder for each class, with BatchNorm folded in; layers must fit and be finite (InputError)."""

    def __init__(self, weights: Sequence[Tensor], biases: Sequence[Tensor], strides: Sequence[int]) -> None:
        super().__init__()
        self.shape = shape_of(weights, biases, strides)
        self.classes = len(weights[0])
        for i, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
            self.register_buffer(f"weight_{i}", weight.detach().float().contiguous())
            self.register_buffer(f"bias_{i}", bias.detach().float().contiguous())

    @property
    def weights(self) -> list[Tensor]:
        return [getattr(self, f"weight_{i}") for i in range(len(self.shape.kernels))]

    @property
    def biases(self) -> list[Tensor]:
        return [getattr(self, f"bias_{i}") for i in range(len(self.shape.kernels))]

    @property
    def latents(self) -> int:
        return self.shape.channels[0]

    @property
    def dtype(self) -> torch.dtype:
        return self.weights[0].dtype

    def forward(self, latents: Tensor) -> Tensor:
        if latents.ndim != 3 or latents.shape[1:] != (self.classes, self.latents):
            raise InputError(
                f"latents: expected [B, {self.classes}, {self.latents}], got {tuple(latents.shape)}"
            )
        return decode(latents.to(self.dtype), self.weights, self.biases, self.shape.strides)


def decode(
    latents: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor], strides: Sequence[int]
) -> Tensor:
    """Return images [B, K, C, H, W] in (0, 1) of latents [B, K, L], differentiable any number of times."""
    if not (torch.is_grad_enabled() and latents.requires_grad):
        return latent_decode(latents.transpose(0, 1), weights, biases, strides).transpose(0, 1)
    with torch.autocast(latents.device.type, enabled=False):  # precision is the model's choice alone
        images = forward(latents, weights, biases, strides)[-1]
    return images.reshape(*latents.shape[:2], -1, *images.shape[2:])


def shape_of(weights: Sequence[Tensor], biases: Sequence[Tensor], strides: Sequence[int]) -> DecoderShape:
    """Return the shape of decoders with these layers, weights [K, cin, cout, k, k] and biases [K, cout]."""
    fits = len(weights) == len(biases) == len(strides) >= 1 and all(
        w.ndim == 5 and w.shape[3] == w.shape[4] and b.shape == (w.shape[0], w.shape[2])
        for w, b in zip(weights, biases, strict=True)
    )
    fits = fits and {len(w) for w in weights} == {max(2, len(weights[0]))}
    if not (fits and all(one.shape[2] == after.shape[1] for one, after in pairwise(weights))):
        shapes = [[tuple(part.shape) for part in parts] for parts in (weights, biases)]
        raise InputError(
            "decoder: expected as many weights [K, cin, cout, k, k] as biases [K, cout] and strides, of two "
            "classes or more, each layer to take the channels that the one before gives, got weights "
            f"{shapes[0]}, biases {shapes[1]} and strides {list(strides)}"
        )
    if not all(bool(part.isfinite().all()) for part in (*weights, *biases)):
        raise InputError(
            "decoder: expected finite weights, got NaN or infinite ones; train again, or read a whole file"
        )
    channels = (*(w.shape[1] for w in weights), weights[-1].shape[2])
    return DecoderShape(channels, tuple(w.shape[3] for w in weights), tuple(strides))


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
            for outputs, kernel, stride in encoder_layers(shape.size, width, shape.channels[0]):
                sizes = classes * channels, classes * outputs, kernel, stride
                self.encoder.append(nn.Conv2d(*sizes, groups=classes, bias=False))
                channels = outputs
            for (inner, outer), kernel, stride in zip(
                pairwise(shape.channels), shape.kernels, shape.strides, strict=True
            ):
                sizes = classes * inner, classes * outer, kernel, stride
                self.decoder.append(nn.ConvTranspose2d(*sizes, groups=classes, bias=False))
        self.code_bias = nn.Parameter(torch.zeros(classes, 2, shape.channels[0]))
        self.image_bias = nn.Parameter(torch.zeros(classes, shape.channels[-1]))
        self.encoder_norms = nn.ModuleList(
            nn.BatchNorm2d(classes * outputs) for outputs, _, _ in encoder_layers(shape.size, width, 1)[:-1]
        )
        self.decoder_norms = nn.ModuleList(
            nn.BatchNorm2d(classes * outputs) for outputs in shape.channels[1:-1]
        )

    def forward(self, x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the image, mean and log variance [n, K, ...] of x [n, K, C, H, W]; the noise is normal."""
        # Grouped convolutions are a tenth faster in this layout on CPUs.
        h = x.flatten(1, 2).contiguous(memory_format=torch.channels_last)
        for convolve, norm in zip(self.encoder, self.encoder_norms, strict=False):
            h = F.elu(norm(convolve(h)))
        code = self.encoder[-1](h).reshape(len(x), self.classes, 2, -1) + self.code_bias
        mean, log_variance = code.unbind(2)
        h = (mean + (log_variance / 2).exp() * noise).reshape(len(x), -1, 1, 1)
        for convolve, norm in zip(self.decoder, self.decoder_norms, strict=False):
            h = F.elu(norm(convolve(h)))
        with torch.autocast(x.device.type, enabled=False):  # pixels need more than bfloat16's eight bits
            image = self.decoder[-1](h.float()).unflatten(1, (self.classes, -1))
            image = image + self.image_bias[:, :, None, None]
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

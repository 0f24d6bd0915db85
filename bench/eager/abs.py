"""Analysis by Synthesis in eager torch: the latent descent, the whole of inference, and training."""

import torch
from torch import Tensor
from torch.nn import functional as F

import fastadv as fa
from fastadv.models.abs.decoder import DecoderShape
from fastadv.models.abs.vae import VAEs, losses
from fastadv.ops._decoders import forward

CHUNK = 250  # images that inference holds at once, as ABS does


def descent(
    x: Tensor, z: Tensor, weights: list[Tensor], biases: list[Tensor], strides: list[int], steps: int
) -> Tensor:
    """Fit latents as the authors' code: autograd through one decoder after the other, one Adam for all."""
    point = z.clone().requires_grad_()
    optimizer = torch.optim.Adam([point], lr=0.05)
    for step in range(steps):
        misfits = []
        for k in range(z.shape[1]):
            out = point[:, k, :, None, None]
            for layer, (weight, bias, stride) in enumerate(zip(weights, biases, strides, strict=True)):
                out = F.conv_transpose2d(out, weight[k], bias[k], stride=stride)
                out = F.elu(out) if layer < len(weights) - 1 else out.sigmoid()
            misfits.append((out - x).square().flatten(1).sum(1) + point[:, k].square().sum(1) / 2)
        loss = torch.stack(misfits, dim=1) / x[0].numel()
        if step < steps - 1:
            optimizer.zero_grad()
            loss.sum().backward()
            optimizer.step()
            with torch.no_grad():
                point.mul_((5.0 / point.norm(dim=2, keepdim=True)).clamp(max=1))
    return loss.detach()


def inference(net: "fa.models.ABS", x: Tensor, prior: Tensor, square: Tensor, bias: Tensor) -> Tensor:
    """Run ABS in plain torch on all classes and many images: a matrix product, autograd and Adam."""
    found, strides, size = [], net.shape.strides, x[0].numel()
    for part in x.split(CHUNK):
        rows = part.flatten(1)
        nearest = [(square[k] + bias - 2 * rows @ prior[k].T).argmin(1) for k in range(len(prior))]
        z = net.prior_latents[torch.stack(nearest, dim=1)].requires_grad_()
        optimizer = torch.optim.Adam([z], lr=net.options.step_size)
        for step in range(net.options.steps):
            images = forward(z, net.weights, net.biases, strides)[-1].view(len(z), len(prior), -1)
            misfit = (images - rows[:, None]).square().sum(2)
            loss = (misfit + net.options.beta / 2 * z.square().sum(2)) / size
            if step < net.options.steps - 1:
                optimizer.zero_grad()
                loss.sum().backward()
                optimizer.step()
                with torch.no_grad():
                    z.mul_((net.options.max_norm / z.norm(dim=2, keepdim=True)).clamp(max=1))
        found.append(loss.detach())
    return torch.cat(found)


def training(
    data: "fa.data.ImageSet", shape: DecoderShape, width: int, batch: int, learning_rate: float
) -> float:
    """Train the same networks for an epoch, one class after the other. Returns the mean loss."""
    found, classes = [], len(data.classes)
    for k in range(classes):
        net = VAEs(shape, 1, width, seed=k).train()
        optimizer = torch.optim.Adam(net.parameters(), lr=learning_rate)
        for x in data.x[data.y == k].split(batch // classes):
            x = x[:, None]
            image, mean, log_variance = net(x, torch.randn(len(x), 1, shape.channels[0]))
            loss = losses(x, image, mean, log_variance, shape.values / 784).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            found.append(loss.item())
    return sum(found) / len(found)

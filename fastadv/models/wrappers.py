"""Models around a model: its images are normalized, set to 0 and 1, or noisy; its features are read."""

import threading
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from fastadv import rng
from fastadv._checks import check_choice, check_count, check_number, check_seed
from fastadv.engine.copy import copied
from fastadv.engine.first_pass import FirstPass
from fastadv.engine.module import unwrap
from fastadv.errors import InputError
from fastadv.losses import Loss, log_confidence, log_mean
from fastadv.models._common import Numbers, centered, register_statistics

torch.fx.wrap("centered")

# Mean and standard deviation of the training pixels in [0, 1], for red, green and blue. CIFAR: as in the code
# of Gowal et al. 2020 and Wang et al. 2023. The deviation (0.2023, 0.1994, 0.2010) of other code is the mean
# over single images; weights that were trained with it need it. ImageNet: torchvision's presets.
STATISTICS = {
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}


class Normalized(nn.Module):
    """A model of normalized images that takes plain ones: model((x - mean) / std), channel by channel.

    Called with x [B, C, ...] in the box, images, series or volumes, it returns logits [B, K].

    Args:
        model: of normalized images.
        mean: a number, or one for each channel, in the units of x: `*STATISTICS["cifar10"]` gives mean and
            std for images in [0, 1].
        std: a number > 0, or one for each channel, in the units of x.

    Raises:
        InputError: std <= 0, values are not finite, or lengths differ.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: nn.Module, mean: Numbers, std: Numbers) -> None:
        super().__init__()
        register_statistics(self, mean, std)
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model(centered(x, self.mean, self.std))
        return logits

    def log_confidence(self, logits: Tensor) -> Tensor:
        """Return the log probabilities as the model inside means its logits."""
        return log_confidence(self.model, logits)


# The threshold of the binary networks of Schott et al. 2018
THRESHOLD = 0.5


def binarize(x: Tensor, threshold: float) -> Tensor:
    """Return 1 where x >= threshold, else 0, with the gradient of x itself; NaN stays NaN."""
    return (x >= threshold).to(x.dtype) + (x - x.detach())


class Binarized(nn.Module):
    """A model of binarized images: model(b) with b = 1 where x >= threshold, else 0.

    Called with x [B, ...] in the box, it returns logits [B, K]. The gradient at x is that of the model at b:
    the true gradient is zero, so the straight-through one replaces it. Of a pixel only the side of
    `input_threshold` counts: a changed one can go back to its value in x, or to the threshold, and the
    decision stays.

    Args:
        model: of binary images.
        threshold: a finite number.

    Raises:
        InputError: the threshold is not a finite number.

    Source:
        Bengio et al. 2013 (arXiv 1308.3432); Schott et al. 2018 (arXiv 1805.09190), who attack Binary CNN and
        Binary ABS with it.
    """

    def __init__(self, model: nn.Module, threshold: float = THRESHOLD) -> None:
        super().__init__()
        self.model = model
        self.input_threshold = check_number("threshold", threshold)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model(binarize(x, self.input_threshold))
        return logits

    def log_confidence(self, logits: Tensor) -> Tensor:
        """Return the log probabilities as the model inside means its logits."""
        return log_confidence(self.model, logits)


class Smoothed(nn.Module):
    """A model under Gaussian noise: the log of its mean probabilities over `noises` noisy copies of x.

    Called with x [B, ...], it returns logits [B, K], whose cross-entropy is -log of the mean probability, so
    every attack on it attacks the smoothed model. The noises are the same in each call and for each sample,
    so the logits are a function of x, and a pass costs `noises` passes of the model inside. An attack may
    come to fit these noises: ask whether its examples also fool a `Smoothed` with another seed. It certifies
    nothing: `fastadv.certify` does, by votes over fresh noise.

    Args:
        model: x [B, ...] to logits [B, K].
        sigma: the standard deviation of the noise in each coordinate, in input units, > 0. Noisy copies are
            not clamped to the box.
        noises: copies of each sample, >= 1.
        seed: of the noises.

    Raises:
        InputError: sigma or another number is out of range.

    Example:
        >>> import fastadv as fa
        >>> digits = fa.data.load("digits", "test", limit=8)
        >>> model = fa.models.create("small_cnn", shape=digits.shape, classes=10, width=8)
        >>> smoothed = fa.models.Smoothed(model, sigma=0.25)
        >>> tuple(fa.attacks.pgd(smoothed, digits.x, digits.y, fa.L2(0.5), steps=2).x_adv.shape)
        (8, 1, 8, 8)

    Source:
        Salman et al. 2019 (arXiv 1906.04584), section 2.2, the attack on the smoothed classifier.
    """

    def __init__(self, model: nn.Module, sigma: float, noises: int = 16, seed: int = 0) -> None:
        super().__init__()
        if (number := check_number("sigma", sigma)) <= 0:
            raise InputError(f"sigma: expected a number > 0, got {sigma!r}")
        self.model, self.sigma = model, number
        self.noises, self.seed = check_count("noises", noises, 1), check_seed(seed)

    def forward(self, x: Tensor) -> Tensor:
        ids = torch.arange(self.noises, device=x.device)
        noise = rng.normal(x.shape[1:].numel(), rng.derive(self.seed, "smoothed"), ids).to(x)
        passes = [self.model(x + self.sigma * draw.view(x.shape[1:])) for draw in noise]
        return log_mean(torch.stack(passes))


class Ensemble(nn.Module):
    """Several classifiers as one, to attack them at once or to find what transfers to others.

    Called with x [B, ...], it returns logits [B, K], whose largest is its prediction:

    - of="logits": the mean of the logits of the nets;
    - of="probabilities": the log of the mean of their softmaxes;
    - of="loss": the mean of their log softmaxes. It predicts as "logits" does, and its `loss` is the mean of
      the cross-entropies of the nets, which no mean of logits tells. Pass it on: a loss by name is that of
      the mean logits.

    Args:
        nets: one or more modules with the same classes.
        of: what is averaged; nets of one logit take "logits" alone.

    Raises:
        InputError: there are no nets, one is no module, `of` is another word, or in a pass classes differ or
            there is one logit, which has no softmax.

    Example:
        >>> import fastadv as fa
        >>> digits = fa.data.load("digits", "test", limit=8)
        >>> nets = [fa.models.create(name, shape=digits.shape) for name in ("softmax", "small_cnn")]
        >>> both = fa.models.Ensemble(nets, of="loss")
        >>> tuple(fa.attacks.mim(both, digits.x, digits.y, fa.Linf(0.2), loss=both.loss).x_adv.shape)
        (8, 1, 8, 8)

    Source:
        Dong et al. 2018, "Boosting Adversarial Attacks with Momentum" (arXiv 1710.06081), section 3.3.
    """

    def __init__(self, nets: Sequence[nn.Module], of: str = "logits") -> None:
        super().__init__()
        several = isinstance(nets, Sequence | nn.ModuleList) and len(nets) > 0
        if not several or not all(isinstance(net, nn.Module) for net in nets):
            raise InputError(f"nets: expected a list of one or more modules, got {nets!r}")
        self.nets = nn.ModuleList(nets)
        self.of = check_choice("of", of, ("logits", "probabilities", "loss"))

    @property
    def loss(self) -> Loss:
        """The cross-entropy that the ensemble stands for, as `loss=` of an attack."""
        return _mean_cross_entropy if self.of == "loss" else "ce"

    def forward(self, x: Tensor) -> Tensor:
        logits = [net(x) for net in self.nets]
        try:
            passes = torch.stack(logits)
        except RuntimeError as error:
            got = ", ".join(str(list(one.shape)) for one in logits)
            raise InputError(f"nets: expected logits [B, K] alike, got {got}; map the classes") from error
        if self.of != "logits" and passes.shape[2:] in ((), (1,)):
            raise InputError(
                f'of: expected "logits" for nets of one logit, got {self.of!r}; pass of="logits"'
            )
        if self.of == "probabilities":
            return log_mean(passes)
        return (passes.log_softmax(2) if self.of == "loss" else passes).mean(0)


def _mean_cross_entropy(logits: Tensor, y: Tensor, targets: Tensor | None) -> Tensor:
    """Return [B], of mean log probabilities the cross-entropy, negated for targets."""
    at_label = logits.gather(1, (y if targets is None else targets)[:, None]).squeeze(1)
    return -at_label if targets is None else at_label


def representation(
    model: nn.Module, module: str | nn.Module | Callable[[Tensor], Tensor] | None = None
) -> nn.Module:
    """Return a module in eval mode that maps x to features, sharing the model's parameters.

    The result can be frozen like any model. It runs the whole model, and takes the features as they pass.

    Args:
        model: the classifier; it is not changed.
        module: where the features are. None: the input of the last nn.Linear that runs. A name or a
            submodule: its output. A function: its value at x.

    Returns:
        A module; x [B, ...] to features [B, F].

    Raises:
        InputError: there is no such module, no nn.Linear, or it does not run.

    Source:
        Ilyas et al. 2019 (arXiv 1905.02175), section 3.1.
    """
    if module is not None and not isinstance(module, str | nn.Module):
        return _Function(module)
    model = unwrap(model)
    parts = dict(model.named_modules())
    name = module if isinstance(module, str) else next((n for n in parts if parts[n] is module), None)
    if module is not None and name not in parts:
        got = f"{name!r}" if isinstance(module, str) else "another module"
        raise InputError(
            f"representation: expected a submodule of the model or its name, got {got}; see "
            "model.named_modules()"
        )
    if module is None and not any(isinstance(part, nn.Linear) for part in parts.values()):
        raise InputError(
            "representation: expected a model with an nn.Linear, got none; name a module whose output to use"
        )
    return _Watched(copied(model, buffers=True), name).eval()


class _Function(nn.Module):
    """Features given by a function of x; a module given as one is not registered, and stays the caller's."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self._function, self._passed = function, set[bool]()

    def forward(self, x: Tensor) -> Tensor:
        follows = torch.is_grad_enabled()
        # a module in training mode, which nobody sets to eval, is refused
        with nullcontext() if follows in self._passed else FirstPass(self._function):
            features = self._function(x).flatten(1)
        self._passed.add(follows)
        return features


class _Passing(threading.local):
    """What passes in the pass of this thread; None outside one."""

    values: list[Tensor] | None = None

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return _Passing, ()


class _Watched(nn.Module):
    """The whole model is run, and the features are read as they pass."""

    def __init__(self, model: nn.Module, name: str | None) -> None:
        super().__init__()
        self.model, self.name, self._passing = model, name, _Passing()
        if name is None:
            for part in model.modules():
                if isinstance(part, nn.Linear):
                    part.register_forward_pre_hook(self._read)
        else:
            model.get_submodule(name).register_forward_hook(self._read)

    def _read(self, part: nn.Module, args: tuple[Any, ...], output: Tensor | None = None) -> None:
        if self._passing.values is not None:
            self._passing.values.append(args[0] if output is None else output)

    def forward(self, x: Tensor) -> Tensor:
        self._passing.values = []
        try:
            self.model(x)
            seen = self._passing.values
        finally:
            self._passing.values = None
        if not seen:
            raise InputError(
                f"representation: expected {self.name or 'an nn.Linear'} to run in forward, it did not; "
                "name another module"
            )
        return seen[-1].flatten(1)

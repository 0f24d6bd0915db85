"""How useful the features of a network are, with and without an adversary."""

import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from fastadv._checks import check_count
from fastadv.attacks import Criterion, Status
from fastadv.attacks.core.problem import check_threat
from fastadv.data._batches import batches
from fastadv.data.sampling import first_samples
from fastadv.engine import Prepared, prepare
from fastadv.engine.module import device_of
from fastadv.errors import InputError
from fastadv.models.representation import representation
from fastadv.progress import Progress, check_progress, shown
from fastadv.threat import Threat
from papers.ilyas2019.usefulness.result import ClassMeans, Usefulness

FLAT = 1e-4  # a feature that is linear in x is so to this share of its terms


class Chosen(nn.Module):
    """Some columns of a representation, at least two, as a model that attacks can read."""

    columns: Tensor

    def __init__(self, representation: nn.Module, columns: Tensor) -> None:
        super().__init__()
        self.representation = representation
        # an engine serves models of two outputs or more
        self.register_buffer("columns", columns if len(columns) > 1 else columns.repeat(2), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        values: Tensor = self.representation(x)
        return values[:, self.columns]


class Never(Criterion):
    """Nothing is a success: an attack goes on to the strongest point it can find."""

    def met(self, logits: Tensor, y: Tensor, targets: Tensor | None) -> Tensor:
        return torch.zeros(len(logits), dtype=torch.bool, device=logits.device)


def downwards(features: Tensor, y: Tensor, targets: Tensor | None) -> Tensor:
    return -features.gather(1, y[:, None]).squeeze(1)


def upwards(features: Tensor, y: Tensor, targets: Tensor | None) -> Tensor:
    return -downwards(features, y, targets)


class Attacked:
    """Extremes by an attack on every feature of every sample, once downwards and once upwards."""

    def __init__(
        self, frozen: Prepared, columns: Tensor, width: int, threat: Threat, attack: Any, batch_size: int
    ) -> None:
        _check_attack(attack)
        self.frozen, self.columns, self.width = frozen, columns, width
        self.threat, self.attack, self.batch_size = threat, attack, batch_size
        self.failed = 0

    def __call__(self, x: Tensor, ids: Tensor, clean: Tensor) -> tuple[Tensor, Tensor]:
        """Return (least, greatest) for samples x [n, ...] with features `clean`, all float64 [n, F]."""
        least, greatest = clean.clone(), clean.clone()
        for sample, feature in _pairs(clean, self.batch_size):
            # a pair draws the same random start, whichever features are asked for
            keys = ids[sample] * self.width + self.columns[feature]
            down, up = (self._reached(x[sample], feature, keys, loss) for loss in (downwards, upwards))
            # x itself is in the ball, too
            least[sample, feature] = least[sample, feature].minimum(down)
            greatest[sample, feature] = greatest[sample, feature].maximum(up)
        return least, greatest

    def _reached(self, x: Tensor, feature: Tensor, ids: Tensor, loss: Callable[..., Tensor]) -> Tensor:
        out = self.attack(self.frozen, x, feature, threat=self.threat, loss=loss, criterion=Never(), ids=ids)
        self.failed += int((out.status == Status.FAILED).sum())
        return self.frozen.verdict(out.x_adv).double().gather(1, feature[:, None]).squeeze(1)


class Exact:
    """Extremes of features that are linear in x, in closed form."""

    failed = 0

    def __init__(self, frozen: Prepared, x: Tensor, features: int, threat: Threat, batch_size: int) -> None:
        self.frozen, self.threat, self.batch_size = frozen, threat, batch_size
        outputs = frozen.verdict(x[:1]).shape[1]
        rows = torch.eye(outputs, device=x.device, dtype=frozen.dtype or x.dtype)[:features]
        self.weight = frozen.jacobian(x[:1].to(rows.dtype), rows[None])[1][0].double()
        # of the model as given: what searches may have other values
        self.offset = frozen.verdict(x[:1])[0, :features].double() - self._products(x[:1])[0]

    def __call__(self, x: Tensor, ids: Tensor, clean: Tensor) -> tuple[Tensor, Tensor]:
        """Return as `Attacked`. InputError where a feature is not linear at x or at its mirror image."""
        for point in (x, -x):
            expected = self._products(point) + self.offset
            size = self._products(point.abs(), self.weight.abs()) + self.offset.abs()
            got = self.frozen.verdict(point).double()[:, : len(self.weight)]
            if bool(((got - expected).abs() > FLAT * size).any()):
                raise InputError(
                    "attack: expected an attack of fastadv.attacks for features that are not linear in x, "
                    "got None; for example partial(fa.attacks.pgd, steps=20)"
                )
        down, up = torch.empty_like(clean), torch.empty_like(clean)
        for sample, feature in _pairs(clean, self.batch_size):
            weight, points = self.weight[feature], x[sample].double()
            down[sample, feature] = self.threat.support(-weight, points)
            up[sample, feature] = self.threat.support(weight, points)
        return clean - down, clean + up

    def _products(self, x: Tensor, weight: Tensor | None = None) -> Tensor:
        weight = self.weight if weight is None else weight
        return x.double().flatten(1) @ weight.flatten(1).T


def _pairs(values: Tensor, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (row, column) of all elements of values [n, F], so many at once."""
    for part in torch.split(torch.arange(values.numel(), device=values.device), batch_size):
        yield part // values.shape[1], part % values.shape[1]


def _check_attack(attack: Any) -> None:
    try:
        takes = inspect.signature(attack).parameters
    except (TypeError, ValueError):
        takes = {}  # type: ignore[assignment]
    if not {"loss", "criterion", "ids"} <= set(takes):
        raise InputError(
            "attack: expected an attack that takes loss, criterion and ids, as fa.attacks.pgd, apgd, bim, "
            f"mim and fgsm do, got {attack!r}; for example partial(fa.attacks.pgd, steps=20)"
        )


Module = str | nn.Module | Callable[[Tensor], Tensor] | None


def usefulness(
    model: nn.Module,
    dataset: Dataset[Any],
    threat: Threat,
    attack: Callable[..., Any] | None = None,
    *,
    module: Module = None,
    features: Sequence[int] | Tensor | None = None,
    limit: int | None = None,
    batch_size: int = 256,
    progress: Progress = False,
) -> Usefulness:
    """Measure E[y f(x)] and E[inf y f(x + delta)] of each feature f for each class against the rest.

    With y = 1 for samples of the class and -1 for all others, and f shifted and scaled to mean 0 and variance
    1 over the samples measured, a feature is rho-useful if E[y f(x)] >= rho > 0, and gamma-robustly useful if
    E[inf y f(x + delta)] >= gamma > 0, where delta runs through the threat's ball in its box. Of f and -f,
    the one with E[y f(x)] >= 0 is taken. Where a class has the share p of the samples, rho is at most 2
    sqrt(p (1 - p)): 0.6 with ten equal classes.

    A class only decides the sign with which it reads a feature. So each feature of each sample is attacked
    twice, for its least and its greatest value, whatever the number of classes: 2 N F attacks, all of which
    share batches.

    Args:
        model: a classifier; it is not changed, and used in eval mode.
        dataset: map-style data set of (image in the box, label), with samples of every class.
        threat: one radius for all samples.
        attack: called as attack(model, x, y, threat=, loss=, criterion=, ids=), as the attacks of
            `fastadv.attacks` that take a loss: `partial(fa.attacks.pgd, steps=20)`. What it finds bounds
            gamma from above. None: the exact extremes in closed form, for features that are linear in x.
        module: where the features are: None for the input of the last linear layer, a name or a submodule for
            its output, or a function of x, as in `fastadv.models.representation`.
        features: the numbers of those to measure; None for all. Results do not depend on which others are
            measured.
        limit: measure on this many samples, as `fa.evaluate` takes them; None takes all.
        batch_size: samples, and attacked features of samples, that pass the model at once. It changes nothing
            but rounding and memory.
        progress: True shows a bar on stderr; a function is called with (samples done, samples).

    Returns:
        A `Usefulness`.

    Raises:
        InputError: features are not finite [B, F], there is a radius for each sample, a class has no samples,
            the attack takes no loss, or attack is None and a feature is not linear.

    Example:
        >>> import fastadv as fa
        >>> from papers.ilyas2019.usefulness import usefulness
        >>> digits = fa.data.load("digits", "test", limit=50)
        >>> model = fa.models.create("softmax", shape=digits.shape, classes=10)
        >>> useful = usefulness(model, digits, fa.L2(0.25))  # of the 64 pixels
        >>> tuple(useful.rho.shape), useful.exact
        ((64, 10), True)

    Source:
        Ilyas et al. 2019 (arXiv 1905.02175), section 2.
    """
    check_threat(threat)
    threat.check_one_radius()
    check_count("batch_size", batch_size, 1)
    chosen = first_samples(dataset, limit, tell=True)
    check_progress(progress)
    first = next(batches(dataset, 2, box=threat.box))[0]
    width, columns, frozen, classes = _features(model, module, features, first)
    names = tuple(map(str, getattr(dataset, "classes", range(classes))))
    if len(names) != classes:
        raise InputError(f"model: expected logits for the {len(names)} classes of the data, got {classes}")
    labels = getattr(dataset, "labels", None)
    if isinstance(labels, Tensor):
        _check_classes(labels[chosen.to(labels.device)].bincount(minlength=classes), names)
    search: Attacked | Exact | None = None
    sums = [ClassMeans(classes, len(columns), columns.device) for _ in range(3)]
    largest = torch.zeros(len(columns), dtype=torch.float64, device=columns.device)
    done = 0
    with shown(progress, "measuring features") as tick:
        for x, y, ids in batches(dataset, batch_size, chosen, box=threat.box):
            x, y, ids = (part.to(columns.device) for part in (x, y, ids))
            clean = frozen.verdict(x).double()[:, : len(columns)]
            if not bool(clean.isfinite().all()):
                bad = ids[~clean.isfinite().all(1)].tolist()
                raise InputError(f"model: expected finite features, got others for samples {bad[:5]}")
            if search is None:
                search = (
                    Exact(frozen, x, len(columns), threat, batch_size)
                    if attack is None
                    else Attacked(frozen, columns, width, threat, attack, batch_size)
                )
            for total, values in zip(sums, (clean, *search(x, ids, clean)), strict=True):
                total.add(values, y)
            largest = largest.maximum(clean.abs().amax(0))
            done += len(x)
            if tick is not None:
                tick(done, len(chosen))
    assert search is not None
    _check_classes(sums[0].count.flatten(), names)
    resolution = torch.finfo(frozen.dtype or torch.float32).eps
    return Usefulness._of(
        *sums,
        constant=sums[0].overall()[1] <= 4 * resolution * largest,
        features=columns,
        classes=names,
        threat=threat,
        exact=attack is None,
        failed=search.failed,
        forwards=frozen.forwards,
        backwards=frozen.backwards,
    )


def _features(
    model: nn.Module, module: Module, features: Sequence[int] | Tensor | None, x: Tensor
) -> tuple[int, Tensor, Prepared, int]:
    """Return how many features there are, the chosen ones [F], these as a model, and its classes."""
    if not isinstance(model, nn.Module):
        raise InputError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
    device = device_of(model) or torch.device("cpu")
    x = x.to(device)
    cut = representation(model, module)
    whole = prepare(model, freeze=True)
    found = cut(x.to(whole.dtype or x.dtype))  # flat for each image
    if len(found) != len(x):
        raise InputError(
            f"module: expected features [B, F] for B = {len(x)} images, got {list(found.shape)}; name another"
        )
    width = found.shape[1]
    columns = torch.as_tensor(range(width) if features is None else features, device="cpu")
    if columns.ndim != 1 or not len(columns) or columns.is_floating_point() or columns.dtype == torch.bool:
        raise InputError(f"features: expected a list of feature numbers, got {features!r}")
    if int(columns.min()) < 0 or int(columns.max()) >= width or len(set(columns.tolist())) < len(columns):
        raise InputError(
            f"features: expected different numbers from 0 to {width - 1}, got {columns.tolist()}"
        )
    columns = columns.long().to(device)
    return width, columns, prepare(Chosen(cut, columns), freeze=True), whole.verdict(x).shape[1]


def _check_classes(counts: Tensor, names: Sequence[str]) -> None:
    if len(counts) > len(names):
        raise InputError(f"dataset: expected labels from 0 to {len(names) - 1}, got {len(counts) - 1}")
    empty = [name for name, count in zip(names, counts.tolist(), strict=True) if count == 0]
    if empty:
        raise InputError(
            f"dataset: expected samples of every class, got none of {', '.join(empty)}; measure on more"
        )

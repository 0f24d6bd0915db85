"""Aligned: an image encoder made robust around embeddings that stay: its first ones, or those of texts."""

from dataclasses import dataclass
from typing import ClassVar
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn
from torch.func import functional_call

from fastadv._checks import check_choice
from fastadv._torch import parts_of
from fastadv.attacks.core.criterion import Criterion
from fastadv.engine.arguments import Outputs, checked_outputs
from fastadv.engine.mode import InEval
from fastadv.errors import InputError
from fastadv.losses import Loss
from fastadv.threat import Threat
from fastadv.train.recipes import _common
from fastadv.train.recipes._followers import follower
from fastadv.train.recipes.adversarial import PGDTraining
from fastadv.train.recipes.base import OwnStep, Step, checked


class Embedding(nn.Module):
    """The `embed` of a model as a module."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model.embed(x)  # type: ignore[operator, no-any-return]


# Runs know a follower by its module, so each model has one module as long as a run holds it
_embeddings: WeakValueDictionary[int, Embedding] = WeakValueDictionary()


def encoder_of(model: nn.Module) -> nn.Module:
    """Return what makes embeddings: the `embed` of a model that has one, or the model."""
    embed = getattr(model, "embed", None)
    if not callable(embed) or isinstance(embed, nn.Module):  # a part of that name is no method
        return model
    return _embeddings.setdefault(id(model), Embedding(model))


def check_embeddings(outputs: Tensor, size: int, width: int | None = None) -> Tensor:
    """Return embeddings in float32 or float64; InputError unless they are [B, D], of that width D > 1."""
    rows = checked_outputs(outputs, size)
    if outputs.shape == (size, width or rows.shape[1]):
        return rows
    raise InputError(
        f"model: expected embeddings [B, D] with B = {size} and D {f'= {width}' if width else '> 1'}, got "
        f"{tuple(outputs.shape)}; return one vector an image"
    )


def squared(embeddings: Tensor, aims: Tensor, targets: Tensor | None = None) -> Tensor:
    """Return [B], the squared L2 distance to the aims [B, D]."""
    return (embeddings - aims).square().sum(1)


class Unlabeled(Criterion):
    """Training on embeddings [B, D], which reads no labels."""

    outputs: ClassVar[Outputs] = "any"

    def labels(self, name: str, y: object, size: int, device: torch.device) -> Tensor:
        return torch.empty(size, 0, device=device)

    def check(self, outputs: Tensor, y: Tensor, targets: Tensor | None) -> None:
        check_embeddings(outputs, len(outputs))


@dataclass(frozen=True)
class Aligned(OwnStep):
    """Train an image encoder, as CLIP's, to embed attacked images like clean ones (FARE, TeCoA).

    "frozen" minimizes the mean of ‖φ(x_adv) - φ₀(x)‖², where φ₀ is the encoder as it was when training
    began, in eval mode, at the augmented image: FARE. x_adv maximizes the same distance: the last of `steps`
    projected steps from a uniform start, keyed by (seed, id), with φ in eval mode. No label is read and no
    embedding is normalized, so the encoder still fits whatever was trained on its embeddings. A model with an
    `embed`, as `fa.models.zero_shot` returns, trains that, and is tested as the classifier that it is.
    "texts" minimizes the cross-entropy of such a classifier at points that maximize it: TeCoA. Its texts and
    its temperature stay as they are. Steps of the authors' code have a momentum of 0.9. NaN in the gradient
    of an image leaves that image where it was; in the gradients of weights it ends `fit`.

    Args:
        threat: Linf, L2, L1 or L0 with one finite radius, in input units.
        to: "frozen" or "texts".
        steps: projected steps, >= 1; 10 as in both papers' settings for CLIP.
        step_size: in input units; None is 2.5 · radius / steps, 1/255 at a radius of 4/255.
        loss: of "texts", as in `Standard`, which the attack ascends, too.

    Raises:
        InputError: a value cannot work. At the first use: outputs are not [B, D], or "texts" has no texts.

    Example:
        >>> import fastadv as fa
        >>> x = fa.data.load("digits", limit=64).x  # FARE takes images alone
        >>> encoder = fa.models.create("softmax", shape=(1, 8, 8), classes=10)  # its logits as embeddings
        >>> recipe = fa.train.Aligned(fa.Linf(0.1), steps=3)
        >>> reports = fa.train.fit(encoder, (x, None), recipe, epochs=4, batch_size=16, optimizer="adamw")
        >>> reports[-1].loss < reports[0].loss
        True

    Source:
        Schlarmann et al. 2024 (arXiv 2402.12336), equations 3 and 4; Mao et al. 2023 (arXiv 2212.07016).
    """

    threat: Threat
    to: str = "frozen"
    steps: int = 10
    step_size: float | None = None
    loss: Loss = "ce"

    def __post_init__(self) -> None:
        check_choice("to", self.to, ("frozen", "texts"))
        _common.check_steps(self.threat, self.steps, self.step_size)
        _common.check_finite(self.threat, "a start drawn from the ball")
        _common.check_objective(0.0, self.loss)
        if self.to == "frozen" and self.loss != "ce":
            raise InputError(f"loss: expected none for to='frozen', got {self.loss!r}; leave it out")

    @property
    def train_criterion(self) -> Criterion | None:
        """What takes the labels of the training set in the place of classes."""
        return Unlabeled() if self.to == "frozen" else None

    def check_model(self, model: nn.Module, tested: bool = False) -> None:
        """Raise InputError unless the model can be trained so; `tested`: its accuracy is measured, too."""
        embeds, texts = encoder_of(model) is not model, getattr(model, "texts", None)
        if self.to == "texts" and not (embeds and isinstance(texts, Tensor) and not texts.requires_grad):
            raise InputError(
                "model: expected a zero-shot classifier with `embed` and fixed `texts` for to='texts', got "
                f"{type(model).__name__}; make one by fa.models.zero_shot, or take to='frozen'"
            )
        if tested and not embeds:
            raise InputError(
                f"test_set: expected None for {type(model).__name__}, whose embeddings have no accuracy, got "
                "a set; pass the classifier of fa.models.zero_shot in its place, or leave it out"
            )

    def step(self, at: Step) -> Tensor:
        self.check_model(at.model)
        checked(self, at.model, at.x, at.y)
        with at.autocast():
            if self.to == "frozen":
                loss = self._from_frozen(at)
            else:
                recipe = PGDTraining(self.threat, self.steps, self.step_size, loss=self.loss)
                loss = recipe(at.model, at.x, at.y, ids=at.ids, seed=at.seed)
        at.backward(loss)
        at.descend()
        return loss.detach()

    def _from_frozen(self, at: Step) -> Tensor:
        net, layout = encoder_of(at.model), torch.contiguous_format
        if not at.state:  # laid out as in a checkpoint, since sums round by the layout
            held = (*net.named_parameters(), *net.named_buffers())
            at.state.update({name: tensor.detach().clone(memory_format=layout) for name, tensor in held})
        with torch.no_grad(), InEval(parts_of(net)):
            aims = check_embeddings(functional_call(net, at.state, (at.x,)), len(at.x))
        begin = self.threat.random_start(at.x, seed=at.seed, ids=at.ids)
        search, steps = follower(net, "any"), (self.steps, self.step_size)
        x_adv = _common.ascent(search, at.x, aims, self.threat, *steps, loss=squared, start=begin)
        return squared(check_embeddings(net(x_adv), len(at.x), aims.shape[1]), aims).mean()

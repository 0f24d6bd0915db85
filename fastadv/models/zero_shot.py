"""CLIP and its relatives as classifiers of images in [0, 1] by texts."""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, normalize

from fastadv._checks import check_count, warn
from fastadv._torch import parts_of
from fastadv.engine.guard import HALVES
from fastadv.engine.mode import InEval
from fastadv.engine.precision import no_autocast
from fastadv.errors import InputError
from fastadv.models.processor import Processing, Processor, constants, processing_of


class ZeroShot(nn.Module):
    """A classifier of images in [0, 1] by texts: logits are scale * cos(embed(x), texts) + bias, [B, K]."""

    texts: Tensor
    scale: Tensor
    bias: Tensor

    def __init__(
        self,
        encoder: nn.Module,
        texts: Tensor,
        classes: Sequence[str],
        scale: float = 100.0,
        bias: float = 0.0,
        processor: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.encoder, self.processor, self.classes = encoder, processor or nn.Identity(), tuple(classes)
        self.register_buffer("texts", _unit(texts.detach()))
        for name, value in (("scale", scale), ("bias", bias)):
            self.register_buffer(name, self.texts.new_tensor(value))

    def embed(self, x: Tensor) -> Tensor:
        """Return the embeddings [B, D] of images in [0, 1], not of unit length."""
        processed = self.processor(x)
        embedding: Tensor = self.encoder(processed.to(_half(self.encoder) or processed.dtype))
        return embedding

    def forward(self, x: Tensor) -> Tensor:
        rows = _unit(self.embed(x))
        with no_autocast(x.device.type):  # in which near cosines would tie
            return self.scale * linear(rows, self.texts.to(rows.dtype)) + self.bias


def zero_shot(
    model: Any,
    tokenizer: Any,
    classes: Any,
    templates: Sequence[str | Callable[[str], str]] = ("a photo of a {}.",),
    size: int | str | None = None,
) -> ZeroShot:
    """Return a model of two towers, such as CLIP, as a classifier of images in [0, 1] by class names.

    Logits are the model's own: exp(logit_scale) times the cosine, plus SigLIP's logit_bias. A class is the
    mean of the unit embeddings of its name in all templates. The text tower runs once and is not held.

        zero_shot(open_clip.create_model(name, "openai"), open_clip.get_tokenizer(name), names)
        zero_shot(CLIPModel.from_pretrained(name), AutoProcessor.from_pretrained(name), names)

    Args:
        model: of open_clip, or CLIPModel, SiglipModel and their like of Hugging Face.
        tokenizer: the model's; for Hugging Face its processor, which holds `tokenizer` and `image_processor`.
        classes: K names, or a data set whose `classes` are names.
        templates: texts with {} for the name, or functions of it, as open_clip.OPENAI_IMAGENET_TEMPLATES.
        size: None: images have the model's size, and the threat is there. "native": they have any, and the
            processor's resize and crop run inside. A number: they are resized inside to that size, bicubic
            without antialias and clamp, as RobustVLM does with CIFAR at 32.

    Returns:
        A module with `embed(x)`, `texts` [K, D] and `classes`. Training it trains the model's image tower.

    Raises:
        InputError: an argument is not as said, the tokenizer is another model's, or lacks mean and deviation.

    Source:
        Radford et al. 2021 (arXiv 2103.00020), section 3.1; sizes, Schlarmann et al. 2024 (arXiv 2402.12336).
    """
    towers, names = _towers(model), _names(classes)
    if not (isinstance(templates, Sequence) and all(callable(t) or "{}" in str(t) for t in templates or ".")):
        raise InputError(f'templates: expected texts with {{}}, as ["a photo of a {{}}."], got {templates!r}')
    texts = [one(name) if callable(one) else one.replace("{}", name) for name in names for one in templates]
    processor, tokens = Processor(_processing(model, tokenizer, size)), _tokens(towers, tokenizer, texts)
    rows = [*map(tuple, tokens["input_ids"][:: len(templates)].tolist())]
    times = Counter(rows)
    if alike := [name for name, row in zip(names, rows, strict=True) if times[row] > 1]:
        warn(
            f"classes: expected names that differ for the tokenizer, got {', '.join(alike[:6])} alike; their "
            "logits tie: images of all but the first are wrong, and margins between them have no gradient"
        )
    if dtype := _half(towers.encoder):
        warn(f"model: expected float32, got {dtype}, in which near cosines tie or swap; use model.float()")
    embeddings = _encoded(model, towers, tokens).reshape(len(names), len(templates), -1).mean(dim=1)
    scale, bias = model.logit_scale.float().exp().item(), getattr(model, "logit_bias", None)
    bias = 0.0 if bias is None else bias.item()
    return ZeroShot(towers.encoder, embeddings, names, scale, bias, processor.to(embeddings.device))


class _Embedding(nn.Module):
    """The embedding in what a tower returns: `pooler_output`, the first of CoCa's two, or all of it."""

    def forward(self, output: Any) -> Any:
        pooled = output["pooler_output"] if isinstance(output, Mapping) else output
        return pooled[0] if isinstance(pooled, tuple) else pooled


class _Towers(NamedTuple):
    encoder: nn.Module
    encode_text: Callable[..., Any]
    vocabulary: int
    length: int  # tokens of a text
    fixed: bool  # whether each has so many; else at most, 0: any number
    options: dict[str, Any]  # of the tokenizer


def _towers(model: Any) -> _Towers:
    scaled = hasattr(model, "logit_scale")
    if scaled and hasattr(model, "get_text_features") and hasattr(model, "vision_model"):
        projection = getattr(model, "visual_projection", nn.Identity())
        encoder, text = nn.Sequential(model.vision_model, _Embedding(), projection), model.config.text_config
        length = text.max_position_embeddings
        # SigLIP was trained on padded texts, and CLIP masks what is padded
        padded = {"padding": "max_length", "max_length": length, "truncation": True, "return_tensors": "pt"}
        return _Towers(encoder, model.get_text_features, text.vocab_size, length, True, padded)
    if scaled and hasattr(model, "encode_text") and hasattr(model, "visual"):
        encoder, text = nn.Sequential(model.visual, _Embedding()), getattr(model, "text", model)
        # a text tower of Hugging Face in open_clip states what it could take; its tokenizer pads to less
        fixed = not hasattr(text, "config")
        return _Towers(encoder, model.encode_text, text.vocab_size, text.context_length, fixed, {})
    raise InputError(
        "model: expected an image and a text tower, as open_clip's CLIP or Hugging Face's CLIPModel has, got "
        f"{type(model).__name__}; give the whole model"
    )


def _names(classes: Any) -> tuple[str, ...]:
    names = getattr(classes, "classes", classes)
    several = isinstance(names, Sequence) and not isinstance(names, str) and len(names) > 1
    if not several or not all(isinstance(name, str) and not re.match(r"n\d{8}$", name) for name in names):
        raise InputError(f'classes: expected two or more names, such as ("cat", "dog"), got {names!r:.60}')
    return tuple(names)


def _processing(model: Any, tokenizer: Any, size: Any) -> Processing:
    carried = getattr(getattr(model, "visual", None), "preprocess_cfg", None)
    if not (stated := getattr(tokenizer, "image_processor", carried)):
        raise InputError(
            "tokenizer: expected a processor, which has mean and deviation of images, got one without; give "
            "AutoProcessor.from_pretrained(name), or any object that has tokenizer and image_processor"
        )
    if size == "native":
        return processing_of(stated)
    mean, std = map(tuple, constants(stated))
    if size is None:
        return Processing(mean, std)
    side = check_count('size, unless None or "native"', size, 1)
    return Processing(mean, std, (side,), interpolation="bicubic", antialias=False)


def _tokens(towers: _Towers, tokenizer: Any, texts: list[str]) -> dict[str, Tensor]:
    """Return what the text tower takes, [N, length] each."""
    inner = tokenizer.tokenizer if hasattr(tokenizer, "image_processor") else tokenizer
    try:
        output = inner(texts, **towers.options)
    except Exception as error:  # tokenizers raise anything
        output = f"the error {error}"
    tokens = dict(output) if isinstance(output, Mapping) else {"input_ids": output}
    ids, length = tokens.get("input_ids"), towers.length
    if not towers.fixed and isinstance(ids, Tensor):
        length = min(ids.shape[-1], length or ids.shape[-1])
    shape = [len(texts), length]
    if not isinstance(ids, Tensor) or list(ids.shape) != shape or int(ids.max()) >= towers.vocabulary:
        got = f"{list(ids.shape)} up to {int(ids.max())}" if isinstance(ids, Tensor) else str(output)[:200]
        raise InputError(
            f"tokenizer: expected the model's, whose ids are {shape} below {towers.vocabulary}, got {got}; "
            "give open_clip.get_tokenizer(name) or AutoProcessor.from_pretrained(name) of the same name"
        )
    return {name: tokens[name] for name in ("input_ids", "attention_mask") if name in tokens}


def _encoded(model: nn.Module, towers: _Towers, tokens: Mapping[str, Tensor]) -> Tensor:
    """Return the embeddings [N, D] of texts, each of length 1."""
    device, rows = next(model.parameters()).device, list[Tensor]()
    with InEval(parts_of(model)), torch.no_grad():
        for start in range(0, len(tokens["input_ids"]), 256):
            part = {name: ids[start : start + 256].to(device) for name, ids in tokens.items()}
            rows.append(_unit(_Embedding()(towers.encode_text(part.pop("input_ids"), **part))))
    return torch.cat(rows)


def _unit(rows: Tensor) -> Tensor:
    """Return rows of length 1, in float32 at least."""
    return normalize(rows.to(torch.promote_types(rows.dtype, torch.float32)), dim=-1)


def _half(model: nn.Module) -> torch.dtype | None:
    return next((weight.dtype for weight in model.parameters() if weight.dtype in HALVES), None)

"""Two towers as a classifier: logits by hand, texts that pass once, sizes, and what is refused."""

import gc
import weakref
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn.functional import interpolate

import fastadv as fa
from fastadv.errors import InputError
from fastadv.models import zero_shot

NAMES = ("cat", "dog", "tall owl")
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.2, 0.3)
X = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def letters(texts, length=24):
    return torch.tensor([[*map(ord, text.ljust(length)[:length])] for text in texts])


class Text(nn.Module):
    vocab_size, context_length = 128, 24

    def __init__(self):
        super().__init__()
        self.letters, self.modes = nn.Embedding(128, 5), []

    def forward(self, ids):
        self.modes.append((self.training, torch.is_grad_enabled()))
        return self.letters(ids).cumsum(1).tanh().sum(1)


class Towers(nn.Module):
    """Named as in open_clip; images have 8 x 8 pixels."""

    def __init__(self, bias=None):
        super().__init__()
        torch.manual_seed(0)
        self.visual, self.text = nn.Sequential(nn.Conv2d(3, 5, 8), nn.Flatten()), Text()
        self.visual.preprocess_cfg = {"mean": MEAN, "std": STD}
        self.logit_scale, self.logit_bias = nn.Parameter(torch.tensor(2.0)), bias

    def encode_text(self, ids):
        return self.text(ids)


@pytest.mark.parametrize("bias", [None, torch.tensor([-3.0])])
def test_logits_are_the_models_own(bias):
    model, rows = Towers(bias), []
    images = model.visual((X - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None])
    for name in NAMES:
        texts = model.text(letters([f"a {name}.", f"no {name}, no {name}", name]))
        rows.append(sum(text / text.norm() for text in texts))
    cosines = torch.cosine_similarity(images[:, None], torch.stack(rows), dim=2)
    wanted = model.logit_scale.exp() * cosines + (bias or 0)
    classifier = zero_shot(model, letters, NAMES, ("a {}.", "no {}, no {}", lambda name: name))
    torch.testing.assert_close(classifier(X), wanted)
    torch.testing.assert_close(classifier.double()(X.double()).float(), wanted)
    torch.testing.assert_close(classifier.bfloat16()(X), wanted, rtol=0, atol=0.2)


def test_texts_pass_once_in_eval_mode_and_their_tower_is_not_held():
    model, templates, names = Towers().train(), ("a {}", "the {}"), [*map(str, range(200))]
    text, weights = weakref.ref(model.text), [*model.visual.parameters()]
    classifier, few = (zero_shot(model, letters, some, templates) for some in (names, names[150:152]))
    torch.testing.assert_close(classifier.texts[150:152], few.texts)
    assert model.text.modes == [(False, False)] * 3  # two for 400 texts
    assert all(part.training for part in model.modules())
    assert [*map(id, classifier.parameters())] == [*map(id, weights)]
    del model
    gc.collect()
    assert text() is None


def test_sizes():
    """A number is RobustVLM's resize, without antialias and clamp; "native" the processor's own."""
    images = {"image_mean": MEAN, "image_std": STD, "resample": 3, "size": {"shortest_edge": 8}}
    model, processor = Towers(), SimpleNamespace(tokenizer=letters, image_processor=images)
    plain, small = zero_shot(model, letters, NAMES), (X[..., :5, :5] > 0.5).float()
    inside = interpolate(small, (8, 8), mode="bicubic")
    assert inside.max() > 1
    torch.testing.assert_close(zero_shot(model, letters, NAMES, size=8)(small), plain(inside))
    inside = small
    for sides in ((5, 8), (8, 8)):  # PIL clamps after each
        inside = interpolate(inside, sides, mode="bicubic", antialias=True).clamp(0, 1)
    torch.testing.assert_close(zero_shot(model, processor, NAMES, size="native")(small), plain(inside))


def test_names_that_are_alike_are_told():
    images = fa.data.ImageSet(X, torch.tensor([0, 1, 2, 0]), ("Cat", "dog", "cat"), "animals")
    lower, templates = lambda texts: letters([*map(str.lower, texts)]), ("a {}", "the {}")
    with pytest.warns(UserWarning, match="got Cat, cat alike; their logits tie"):
        logits = zero_shot(Towers(), lower, images, templates)(X)
    assert torch.equal(logits[:, 0], logits[:, 2])


REFUSED = {
    "two or more names.* got 'cat'": {"classes": "cat"},
    r"two or more names.* got \['cat'\]": {"classes": ["cat"]},
    r"two or more names.* got \('n01440764'": {"classes": ("n01440764", "n01443537")},
    r"texts with {}.* got \['a photo'\]": {"templates": ["a photo"]},
    "texts with {}.* got 'a {}'": {"templates": "a {}"},
    r"texts with {}.* got \[1\]": {"templates": [1]},
    r"\[3, 24\] below 128, got \[3, 24\] up to 128": {"tokenizer": lambda texts: letters(texts) + 9},
    r"the model's.* got \[3, 77\]": {"tokenizer": lambda texts: letters(texts, 77)},
    "the model's.* got the error 'NoneType'": {"tokenizer": None},
    "the model's.* got {'input_ids'": {"tokenizer": lambda texts: {"input_ids": [[1]]}},
    "an image and a text tower.* got Sequential": {"model": Towers().visual},
    "an image and a text tower.* got SimpleNamespace": {"model": SimpleNamespace(visual=0, encode_text=0)},
    "an integer >= 1, got 'nativ'": {"size": "nativ"},
    "a processor, which has mean and": {"tokenizer": SimpleNamespace(tokenizer=0, image_processor=None)},
}


@pytest.mark.parametrize("message", REFUSED)
def test_wrong_arguments(message):
    with pytest.raises(InputError, match=f"expected.*{message}"):
        zero_shot(**{"model": Towers(), "tokenizer": letters, "classes": NAMES} | REFUSED[message])


def test_cosines_keep_their_precision_under_autocast():
    model = zero_shot(Towers(), letters, NAMES)
    with torch.autocast("cpu", torch.bfloat16):
        cosines = torch.cosine_similarity(model.embed(X).float()[:, None], model.texts, dim=2)
        torch.testing.assert_close(model(X), model.scale * cosines)


class Masked(Towers):
    """Named as Hugging Face's CLIP; its text tower reads what the mask leaves."""

    def __init__(self):
        super().__init__()
        self.vision_model, self.encode_text = self.visual, None
        self.config = SimpleNamespace(text_config=SimpleNamespace(max_position_embeddings=24, vocab_size=128))

    def get_text_features(self, input_ids, attention_mask=None):
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        return (self.text.letters(input_ids).tanh() * mask[..., None]).sum(1)


def test_the_mask_of_padded_texts_reaches_the_text_tower():
    def tokenizer(texts, **options):
        ids = letters(texts, options["max_length"])
        return {"input_ids": ids, "attention_mask": (ids != ord(" ")).long()}

    model, names = Masked(), ("a", "longer", "longest")
    processor = SimpleNamespace(tokenizer=tokenizer, image_processor={"image_mean": MEAN, "image_std": STD})
    whole = [model.get_text_features(letters([name], len(name)))[0] for name in names]
    wanted = torch.nn.functional.normalize(torch.stack(whole), dim=1)
    torch.testing.assert_close(zero_shot(model, processor, names, ("{}",)).texts, wanted)


def test_a_text_tower_of_hugging_face_in_open_clip_may_be_padded_to_less_than_it_could_take():
    model, wanted = Towers(), zero_shot(Towers(), letters, NAMES)(X)
    model.text.config = SimpleNamespace()
    for model.text.context_length in (514, 0, 24):
        assert torch.equal(zero_shot(model, letters, NAMES)(X), wanted)
    model.text.context_length = 20
    with pytest.raises(InputError, match=r"ids are \[\d+, 20\]"):
        zero_shot(model, letters, NAMES)

"""CLIP, SigLIP and CoCa of open_clip and Hugging Face with random weights, as classifiers by texts."""

import json
from functools import partial

import pytest
import torch

import fastadv as fa
import tests.vision  # noqa: F401  open_clip and transformers import torchvision
from fastadv.errors import InputError
from fastadv.models import zero_shot

open_clip = pytest.importorskip("open_clip", reason="pip install 'fastadv[zoo]'")
transformers = pytest.importorskip("transformers", reason="pip install 'fastadv[zoo]'")

NAMES, TEMPLATES = ("cat", "dog", "tall owl", "cod", "hen"), open_clip.OPENAI_IMAGENET_TEMPLATES[:3]
X, Y = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0)), torch.arange(4)
IMAGE = {"image_size": 32, "patch_size": 8, "layers": 2, "width": 32, "head_width": 16}
TEXT = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
TWO = {"output_tokens": True}  # results of a tower
OPEN_CLIP = {
    "clip": {},
    "biased": {"custom_text": True, "init_logit_bias": -10.0},
    "coca": {"custom_text": True, "vision_cfg": IMAGE | TWO, "text_cfg": TEXT | TWO, "multimodal_cfg": TEXT},
}
LETTERS = [letter + end for letter in "abcdefghijklmnoprstw." for end in ("", "</w>")]
VOCABULARY = ["<|startoftext|>", "<|endoftext|>", *LETTERS]
SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
IDS = {"vocab_size": len(VOCABULARY), "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
HUGGING_FACE = {
    "text_config": SMALL | IDS | {"max_position_embeddings": 32, "projection_size": 32},
    "vision_config": SMALL | {"image_size": 32, "patch_size": 8},
}
pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True, scope="module")
def _configurations(tmp_path_factory):
    folder, every = tmp_path_factory.mktemp("open_clip"), {"vision_cfg": IMAGE, "text_cfg": TEXT}
    for name, configuration in OPEN_CLIP.items():
        (folder / f"small-{name}.json").write_text(json.dumps(every | {"embed_dim": 16} | configuration))
    open_clip.add_model_config(folder)


def towers(kind, **options):
    torch.manual_seed(0)
    if kind in OPEN_CLIP:
        return open_clip.create_model(f"small-{kind}", **options), open_clip.get_tokenizer(f"small-{kind}")
    tokenizer = transformers.CLIPTokenizer({name: number for number, name in enumerate(VOCABULARY)}, [])
    images = transformers.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=32)
    model = getattr(transformers, f"{kind}Model")(getattr(transformers, f"{kind}Config")(**HUGGING_FACE))
    return model, transformers.CLIPProcessor(image_processor=images, tokenizer=tokenizer)


@torch.no_grad()
def by_hand(model, tokenizer, x):
    mean, std = open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD
    pixels = (x - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    if hasattr(model.eval(), "visual"):
        texts = open_clip.build_zero_shot_classifier(model, tokenizer, NAMES, TEMPLATES)
        logits = model.logit_scale.exp() * model.encode_image(pixels, normalize=True) @ texts
        return logits if model.logit_bias is None else logits + model.logit_bias
    texts = [TEMPLATES[0](name) for name in NAMES]
    tokens = tokenizer(text=texts, padding="max_length", max_length=32, return_tensors="pt")
    return model(pixel_values=pixels, **tokens).logits_per_image


@pytest.mark.parametrize("kind", [*OPEN_CLIP, "CLIP", "Siglip"])
def test_attacks_and_training_see_the_whole_model(kind):
    model, tokenizer = towers(kind)
    classifier = zero_shot(model, tokenizer, NAMES, TEMPLATES if kind in OPEN_CLIP else TEMPLATES[:1]).eval()
    wanted, frozen, threat = by_hand(model, tokenizer, X), fa.freeze(classifier), fa.Linf(0.1)
    y = wanted.argmax(1)
    for prepared in (classifier, frozen):
        torch.testing.assert_close(prepared(X), wanted, rtol=1e-5, atol=1e-5)
        for attack in (fa.attacks.pgd, partial(fa.attacks.autoattack, version="quick")):
            out = attack(prepared, X, y, threat)
            assert torch.equal(out.success, by_hand(model, tokenizer, out.x_adv).argmax(1) != y)
            assert out.success.any()
    assert not any("fell back" in note for note in frozen.notes)
    assert fa.evaluate(classifier, (X, y), "pgd", threat=threat).clean_accuracy == 1
    before = {name: tensor.clone() for name, tensor in classifier.state_dict().items()}
    ball, aligned = fa.Linf(0.03), fa.train.Aligned
    for recipe in (fa.train.PGDTraining(ball, steps=2), aligned(ball, steps=2), aligned(ball, "texts", 2)):
        fa.train.fit(classifier, (X, Y), recipe, epochs=1)
    after = classifier.eval().state_dict()
    assert {name.split(".")[0] for name in after if not after[name].equal(before[name])} == {"encoder"}
    torch.testing.assert_close(classifier(X), by_hand(model, tokenizer, X), rtol=1e-5, atol=1e-5)
    assert zero_shot(model, tokenizer, NAMES, size="native")(torch.rand(2, 3, 48, 40)).shape == (2, 5)
    assert zero_shot(model, tokenizer, ("owl " * 40, "cod"))(X).shape == (4, 2)  # longer than a text may be
    with pytest.raises(InputError, match=r"takes texts, too; fastadv.models.zero_shot\(model, tokenizer"):
        fa.evaluate(model, (X, y), "pgd", threat=threat)


@pytest.mark.parametrize("kind", ["clip", "CLIP"])
@pytest.mark.parametrize(("precision", "dtype"), [("fp16", torch.float16), ("bf16", torch.bfloat16)])
def test_half_precision_is_told_and_works(kind, precision, dtype):
    model, tokenizer = towers(kind, precision=precision)  # open_clip keeps some weights in float32
    model = model if kind in OPEN_CLIP else model.to(dtype)
    with pytest.warns(UserWarning, match=f"got {dtype}, in which near cosines tie or swap"):
        logits = (classifier := zero_shot(model, tokenizer, NAMES).eval())(X)
    torch.testing.assert_close(logits, zero_shot(*towers(kind), NAMES).eval()(X), rtol=0, atol=0.3)
    assert fa.attacks.pgd(classifier, X, logits.argmax(1), fa.Linf(0.2), steps=10).success.any()

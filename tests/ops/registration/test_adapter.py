"""Op signatures: one order of arguments everywhere, and what the C++ boundary refuses."""

import inspect
import re
from pathlib import Path

import numpy as np
import pytest
import torch

import fastadv.ops  # noqa: F401  (fills CARDS)
from fastadv.ops.registration.adapter import Signature, in_place_schema
from fastadv.ops.registration.library import CARDS, cpu_launcher, extension, results_of

CSRC = Path(__file__).resolve().parents[3] / "csrc"
built = pytest.mark.skipif(extension is None, reason="no extension built")


def test_a_signature_says_what_the_schema_says():
    signature = Signature.of(
        "(Tensor(a!) x, Tensor[] parts, int[] sizes, str kind, Tensor? rows=None) -> (Tensor, Tensor)"
    )
    assert signature.names == ("x", "parts", "sizes", "kind", "rows")
    assert (signature.tensors, signature.lists, signature.optional) == ((0,), (1,), (4,))
    assert (signature.written, signature.results) == ((0,), 2)
    assert signature.defaults[4] is None


def test_the_in_place_twin_writes_its_first_argument_alone():
    schema = in_place_schema("(Tensor x_adv, Tensor x, float radius) -> Tensor")
    assert schema == "(Tensor(a!) x_adv, Tensor x, float radius) -> ()"


@pytest.mark.parametrize("name", CARDS)
def test_arguments_have_one_order(name):
    card = CARDS[name]
    assert tuple(inspect.signature(card.reference).parameters) == card.signature.names
    own = tuple(inspect.signature(card.fake).parameters)
    plain = [p for p in own if p not in ("args", "rest")]
    assert tuple(plain) == card.signature.names[: len(plain)]


@pytest.mark.parametrize("name", [n for n, c in CARDS.items() if c.triton])
def test_triton_takes_the_same_order(name):
    pytest.importorskip("triton")
    card = CARDS[name]
    module = __import__(f"fastadv.ops.triton.{card.stem}", fromlist=["launch"])
    names = tuple(inspect.signature(module.launch).parameters)
    assert names[card.signature.results :] == card.signature.names


@built
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.int32, torch.uint8])
def test_element_types_are_checked(dtype):
    x = torch.zeros(2, 4, dtype=dtype)
    with pytest.raises(TypeError, match="expected an array of float32, or bfloat16 as int16, got"):
        extension.linf_step(*[x.numpy()] * 4, 0.1, 0.1, 0.0, 1.0, None, None)


@built
def test_two_bytes_are_not_always_bfloat16():
    bits = np.zeros((2, 4), np.uint16)
    with pytest.raises(TypeError, match="got uint16"):
        extension.project_l2(bits, bits, bits, 1.0, 0.0, 1.0, None)
    swapped = np.zeros((2, 4), ">f4")
    with pytest.raises(TypeError, match="got >f4"):
        extension.project_l2(swapped, swapped, swapped, 1.0, 0.0, 1.0, None)


def float32(*shape):
    return np.zeros(shape, np.float32)


def int64(*shape):
    return np.zeros(shape, np.int64)


@built
@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (
            lambda c: c.project_l2(float32(2, 4), float32(2, 4), float32(2, 3), 1.0, 0.0, 1.0, None),
            ValueError,
            "shapes",
        ),
        (
            lambda c: c.project_l2(float32(2, 4), float32(2, 4), float32(4, 2).T, 1.0, 0.0, 1.0, None),
            ValueError,
            "layouts",
        ),
        (
            lambda c: c.project_l2(
                float32(2, 4), float32(2, 4).astype(float), float32(2, 4), 1.0, 0.0, 1.0, None
            ),
            TypeError,
            "float64",
        ),
        (
            lambda c: c.project_l2(*[float32(2, 4)] * 3, 1.0, 0.0, 1.0, float32(2)),
            TypeError,
            "float64, got float32",
        ),
        (
            lambda c: c.project_l2(*[float32(2, 4)] * 3, 1.0, 0.0, 1.0, np.zeros(3)),
            ValueError,
            "2 elements, got 3",
        ),
        (
            lambda c: c.random_start(
                float32(2, 4), float32(2, 4), np.zeros(2, np.int32), "l2", 1.0, 0.0, 1.0, 0, 0, None
            ),
            TypeError,
            "int64, got int32",
        ),
        (
            lambda c: c.random_start(float32(2, 4), float32(2, 4), int64(2), "l7", 1.0, 0.0, 1.0, 0, 0, None),
            ValueError,
            "unknown name: l7",
        ),
        (
            lambda c: c.logit_loss(np.zeros(2), float32(2, 4), float32(2, 4), int64(2), "ce", None, False),
            TypeError,
            "float32, got float64",
        ),
        (
            lambda c: c.keep_best(
                float32(2, 4), float32(2), np.zeros(2, np.uint8), float32(2, 4), float32(2), np.zeros(2, bool)
            ),
            TypeError,
            "bool, got uint8",
        ),
        (lambda c: c.philox(float32(2, 4), int64(2), 4, "bits", 0, 0), TypeError, "int64, got float32"),
        (lambda c: c.philox(float32(2, 4), int64(2), 5, "normal", 0, 0), ValueError, "count"),
        (
            lambda c: c.nearest_prototype(
                float32(2, 1), int64(2, 1), float32(2, 4), np.zeros((1, 3, 4)), float32(1, 3)
            ),
            TypeError,
            "float32, got float64",
        ),
        (
            lambda c: c.nearest_prototype(
                float32(2, 1), int64(2, 1), float32(2, 4), float32(1, 3, 5), float32(1, 3)
            ),
            ValueError,
            "dense prototypes",
        ),
        (
            lambda c: c.nearest_prototype(
                float32(2, 1), int64(2, 1), float32(2, 4), float32(1, 3, 8)[..., ::2], float32(1, 3)
            ),
            ValueError,
            "dense prototypes",
        ),
        (
            lambda c: c.nearest_prototype(
                float32(2, 1), np.zeros((2, 1), np.int32), float32(2, 4), float32(1, 3, 4), float32(1, 3)
            ),
            TypeError,
            "int64, got int32",
        ),
        (
            lambda c: c.nearest_prototype(
                float32(1, 1), int64(2, 1), float32(2, 4), float32(1, 3, 4), float32(1, 3)
            ),
            ValueError,
            "2 elements, got 1",
        ),
        (
            lambda c: c.latent_decode(
                float32(1, 1, 1, 2, 2), float32(1, 1, 3), [np.zeros((1, 3, 1, 2, 2))], [float32(1, 1)], [1]
            ),
            TypeError,
            "float32, got float64",
        ),
        (
            lambda c: c.latent_decode(
                float32(1, 1, 1, 2, 2), float32(1, 1, 3), [float32(1, 3, 1, 2, 2)], [], [1]
            ),
            ValueError,
            "each layer",
        ),
    ],
)
def test_what_cannot_be_is_refused(call, error, text):
    with pytest.raises(error, match=text):
        call(extension)


@built
@pytest.mark.parametrize("name", CARDS)
def test_results_are_written_and_inputs_are_only_read(name):
    """Read-only inputs are enough; a read-only result is refused."""
    card = CARDS[name]
    args = next(a for a in card.samples(torch.device("cpu"), card.dtypes[0]) if a[0].numel())
    results, seen = results_of(card, args), []
    real = getattr(extension, card.stem)

    class Spy:
        pass

    spy = Spy()
    setattr(spy, card.stem, lambda *views: seen.extend(views))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fastadv.ops.registration.library.extension", spy)
        cpu_launcher(card)(*results, *args)
    writes = {*range(len(results)), *(len(results) + i for i in card.signature.written)}
    for place, view in enumerate(seen):
        if isinstance(view, np.ndarray) and place not in writes:
            view.flags.writeable = False
    real(*seen)
    for place in writes:
        locked = seen[place].copy()
        locked.flags.writeable = False
        with pytest.raises(ValueError, match="not writeable"):
            real(*seen[:place], locked, *seen[place + 1 :])


def test_the_processor_is_asked_for_every_feature_the_sources_are_compiled_for():
    checks = (CSRC / "isa.h").read_text()

    def asked(isa):
        body = checks.split(f"inline bool has_{isa}()")[1].split("}")[0]
        names = set(re.findall(r'__builtin_cpu_supports\("(\w+)"\)', body))
        return names.union(*(asked(other) for other in re.findall(r"has_(\w+)\(\)", body)))

    for isa in ("avx2", "avx512", "avx512bf16"):
        source = (CSRC / f"isa_{isa}.cpp").read_text()
        for target in re.findall(r'target\("([^"]+)"\)', source):
            compiled = {feature for feature in target.split(",") if "=" not in feature} - {
                "prefer-vector-width"
            }
            assert compiled == asked(isa), isa

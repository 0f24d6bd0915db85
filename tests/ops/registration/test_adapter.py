"""Op signatures: one order of arguments everywhere, and what the C++ boundary refuses."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch

import fastadv.ops  # noqa: F401  (fills CARDS)
from fastadv.ops.registration.library import extension

CSRC = Path(__file__).resolve().parents[3] / "csrc"
built = pytest.mark.skipif(extension is None, reason="no extension built")


@built
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.int32, torch.uint8, torch.int16])
def test_element_types_are_checked(dtype):
    """Two bytes are not always bfloat16."""
    with pytest.raises(TypeError, match=f"expected a tensor of float32 or bfloat16, got {dtype}"):
        extension.project_l2(*[torch.zeros((2, 4), dtype=dtype)] * 3, 1.0, 0.0, 1.0, None)


@built
def test_only_tensors_are_read():
    with pytest.raises(AttributeError, match="is_contiguous"):
        extension.project_l2(*[np.zeros((2, 4), np.float32)] * 3, 1.0, 0.0, 1.0, None)
    x = torch.full([1] * 40 + [2], 0.5)
    extension.project_l2(x, x, torch.zeros_like(x), 0.5, 0.0, 1.0, None)
    assert x.flatten().tolist() == pytest.approx([0.125**0.5] * 2)


def float32(*shape):
    return torch.zeros(shape)


def int64(*shape):
    return torch.zeros(shape, dtype=torch.int64)


def float64(*shape):
    return torch.zeros(shape, dtype=torch.float64)


F, ROWS = float32(2, 4), (1.0, 0.0, 1.0)
START = (*ROWS, 0, 0, None)


@built
@pytest.mark.parametrize(
    ("name", "args", "error", "text"),
    [
        ("project_l2", (F, F, float32(2, 3), *ROWS, None), ValueError, "shapes"),
        ("project_l2", (F, F, float32(4, 2).T, *ROWS, None), ValueError, "layouts"),
        ("project_l2", (F, F, F, *ROWS, float32(2)), TypeError, "float64, got torch.float32"),
        ("project_l2", (F, F, F, *ROWS, float64(3)), ValueError, "2 elements, got 3"),
        ("random_start", (F, F, int64(2), "l7", *START), ValueError, "unknown name: l7"),
        ("logit_loss", (float64(2), F, F, int64(2), "ce", None, False), TypeError, "got torch.float64"),
        (
            "keep_best", (F, float32(2), int64(2).byte(), F, float32(2), int64(2).bool()),
            TypeError, "bool, got torch.uint8",
        ),
        ("philox", (F, int64(2), 5, "normal", 0, 0, 1), ValueError, "count"),
        *(
            ("nearest_prototype", (distance, index, F, bank, float32(1, 3)), error, text)
            for distance, index, bank, error, text in (
                (float32(2, 1), int64(2, 1), float32(1, 3, 8)[..., ::2], ValueError, "dense prototypes"),
                (float32(1, 1), int64(2, 1), float32(1, 3, 4), ValueError, "2 elements, got 1"),
            )
        ),
        (
            "latent_decode",
            (float32(1, 1, 1, 2, 2), float32(1, 1, 3), [float32(1, 3, 1, 2, 2)], [], [1]),
            ValueError, "each layer",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(name, args, error, text):
    with pytest.raises(error, match=text):
        getattr(extension, name)(*args)


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

"""What is no classifier, batch, label, direction, output or option is refused in words, by both engines."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import fastadv as fa
from fastadv.engine import Plain, freeze, prepare
from fastadv.engine.mapped import Mapped
from fastadv.engine.prepared import Prepared
from fastadv.errors import InputError
from tests.engine.nets import Guarded, Itself, Merges, Refusing, around, convnet, images
from tests.refusals import refuses

pytestmark = pytest.mark.usefixtures("search_copy")
X, Y = images()
ROWS = torch.randn(6, 3, 5, generator=torch.Generator().manual_seed(2))
THREAT, NET = fa.Linf(0.1), convnet().eval()
Ask = Callable[[Any], object]


class Towers(nn.Linear):
    def forward(self, x: Tensor, text: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x.flatten(1))


def light(x: Tensor, t: Tensor) -> Tensor:
    return (x + t.view(-1, 1, 1, 1)).clamp(0, 1)


def mapped(asked: Prepared) -> Mapped:
    still = lambda x: x.new_zeros(len(x), 1)  # noqa: E731
    return Mapped(
        asked, fa.Through(light, fa.Linf(0.3, box=(-1, 1)), still=still), X[:3], torch.tensor([3, 70, 41])
    )


# what an engine of NET is asked, and what it says
DIRECTIONS = r"directions: expected a floating tensor \[B, C, K\]"
ASKED: dict[str, tuple[str, Ask]] = {
    **{
        f"x: {kind}": (f"x: expected .*{says}", lambda asked, x=x: asked(x()))
        for kind, (says, x) in {
            "integers": ("a floating tensor", X.long), "a number": ("a floating", lambda: torch.tensor(0.5)),
            "numpy": ("a floating tensor", X.numpy), "None": ("a floating tensor", lambda: None),
            "text": ("a floating tensor", lambda: "x"), "meta": ("where the model is", lambda: X.to("meta")),
            "sparse": ("sparse_coo", X.to_sparse), "mkldnn": ("mkldnn", X.to_mkldnn),
            "nested": ("nested", lambda: torch.nested.nested_tensor([*X])),
        }.items()
    },
    "x of a verdict": ("x: expected a floating", lambda asked: asked.verdict(X.long())),
    "x of a gradient": ("x: expected a floating", lambda asked: asked.input_gradient(X.long(), Y)),
    "labels": ("y: expected a tensor", lambda asked: asked.input_gradient(X, [0] * 6)),
    "targets": ("targets: expected a tensor", lambda asked: asked.input_gradient(X, Y, "ce", [0] * 6)),
    "neither": ("labels or targets", lambda asked: asked.input_gradient(X, None)),
    **{
        f"directions: {kind}": (DIRECTIONS, lambda asked, rows=rows: asked.jacobian(X, rows))
        for kind, rows in {
            "rank": ROWS[:, 0], "samples": ROWS[:5], "classes": ROWS[:, :, :4], "integers": ROWS.long(),
            "device": ROWS.to("meta"), "list": ROWS.tolist(), "none": None,
            "by logits": lambda logits: ROWS[:, 0], "device, by logits": lambda logits: ROWS.to("meta"),
        }.items()
    },
    "rows of a map": ("rows: expected one for each of", lambda asked: mapped(asked)(torch.rand(4, 1))),
    "other rows of a map": ("rows: expected one for each of", lambda asked: mapped(asked)(ROWS, Y[:3])),
    "few rows of a map": ("rows: expected one for each of", lambda asked: mapped(asked)(torch.rand(2, 1))),
    "ids of a map": ("ids: expected some of the batch", lambda asked: mapped(asked).of(ROWS, Y[3:5])),
}  # fmt: skip


@pytest.mark.parametrize("engine", [Plain, freeze])
@pytest.mark.parametrize("what", ASKED)
def test_a_question_that_makes_no_sense(what: str, engine: Callable[[nn.Module], Prepared]) -> None:
    says, ask = ASKED[what]
    refuses(says, ask, engine(NET))


# what a model returns for X, as what, and what is said of it
OUTPUTS: dict[str, tuple[object, str, str]] = {
    "one class": (X.flatten(1)[:, :1], "classes", "two classes"),
    "images": (X, "classes", r"\[B, K\]"),
    "integers": (X.flatten(1).long(), "classes", "floating"),
    "a tuple": ((X.flatten(1),), "classes", "got tuple"),
    "few rows": (X.flatten(1)[:4], "classes", r"got torch.float32 \(4,"),
    "boxes": ([{"boxes": X, "labels": X}], "any", "boxes; detectors are not attacked"),
    "out": ({"out": X}, "any", 'returns the tensor "out"'),
    "logits": ({"logits": X}, "any", "adapt"),
    "any integers": (X.long(), "any", "int64"),
    "any few rows": (X[:2], "any", r"\(2, 2, 8, 8\)"),
    "several for one": (X.flatten(1), "logit", r"one logit for each of 6 samples.*labels \[B, K\]"),
    "positions": (X, "classes", "Share"),
}


@pytest.mark.parametrize("what", OUTPUTS)
def test_outputs_that_are_none(what: str) -> None:
    given, kind, says = OUTPUTS[what]
    for frozen in (False, True):
        refuses(says, prepare(lambda x: given, outputs=kind, freeze=frozen), X)  # type: ignore[arg-type]


@pytest.mark.parametrize("rows", [6, 1])
@pytest.mark.parametrize("bounded", [torch.sigmoid, torch.zeros_like, None])
def test_one_output_of_classes_is_told_what_it_is(bounded: Any, rows: int) -> None:
    def outputs(x: Tensor, shape: tuple[int, ...]) -> Tensor:
        z = x.flatten(1).sum(1)
        return (3 + z if bounded is None else bounded(z).clamp(0, 1)).view(shape)

    logit = r"at least two classes.*return torch.cat\(\[torch.zeros_like\(z\), z\]"
    for shape in ((rows, 1), (rows,), *[()] * (rows == 1)):
        model = partial(outputs, shape=shape)
        refuses(logit, fa.attacks.fgsm, model, X[:rows], Y[:rows], THREAT)
        with pytest.raises(InputError, match=logit) as raised:
            freeze(model)(X[:rows])
        assert ("torch.cat([1 - p, p], dim=1)" in str(raised.value)) is (bounded is not None)


CUT = "cuts the graph"
EXTRA = r"images alone, .* argument: 'text'; hold the rest in a torch"
NETS = {c: nn.Sequential(nn.Conv2d(c, 3, 8), nn.Flatten()).eval() for c in (1, 3)}
CALLS: dict[str, tuple[str, Callable[[], object]]] = {
    "colors": (
        r"images of 1 channel, .* got 3; .* channels=1 .*, or pass x.mean\(1, keepdim=True\)$",
        lambda: fa.evaluate(NETS[1], (torch.rand(6, 3, 8, 8), Y)),
    ),
    "gray images": (
        r"images of 3 channels, .* got 1; .* pass x.expand", lambda: freeze(NETS[3])(torch.rand(6, 1, 8, 8))
    ),
    "a number": ("function of x", lambda: freeze(3)),  # type: ignore[arg-type]
    "a class": ("got the class Linear; make one", lambda: Plain(nn.Linear)),
    "a lazy module": ("initialized parameters", lambda: Plain(nn.LazyLinear(5))),
    "a cut graph": (CUT, lambda: freeze(lambda x: NET(x.detach())).input_gradient(X, Y)),
    "a reentrant checkpoint": (
        "use_reentrant=False",
        lambda: fa.attacks.fgsm(around(partial(checkpoint, use_reentrant=True))().eval(), X, Y, THREAT),
    ),
    "two towers": (EXTRA, lambda: fa.attacks.bim(Towers(128, 4), X, Y, THREAT)),
    "two towers, evaluated": (EXTRA, lambda: fa.evaluate(Towers(128, 4), (X, Y))),
    "half a function": (
        r"a module for 'bf16', .*got function; leave the precision", lambda: freeze(lambda x: NET(x), "bf16")
    ),
    "freeze": ("freeze: expected True or False", lambda: prepare(NET, freeze="yes")),  # type: ignore[arg-type]
}  # fmt: skip


@pytest.mark.parametrize("what", CALLS)
def test_a_call_that_makes_no_sense(what: str) -> None:
    says, call = CALLS[what]
    refuses(says, call)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        *(({"precision": name}, "expected one of fp32, bf16") for name in ("tf32", "auto", "fp16", 16)),
        ({"compile": 1}, "compile: expected"), ({"cuda_graph": "yes"}, "cuda_graph: expected"),
        ({"cuda_graph": True}, "CUDA"),
    ],
    ids=str,
)  # fmt: skip
def test_options_that_do_not_exist_or_not_here(options: dict[str, Any], says: str) -> None:
    for model in (NET, freeze(NET)):
        refuses(says, freeze, model, **options)


@pytest.mark.parametrize(
    ("kind", "why"), [(Guarded, "pickle"), (Refusing, "one of a kind"), (Itself, "shares parts")]
)
def test_what_is_nothing_but_a_copy(kind: Any, why: str) -> None:
    model = kind()
    for tool in (
        partial(fa.models.bpda, model, {"drop": "identity"}),
        partial(fa.models.representation, model),
    ):
        refuses(rf"copy\.deepcopy can copy, got {kind.__name__} .*{why}", tool)
    assert model.training
    merges = nn.Sequential(nn.Flatten(), nn.Linear(128, 7), Merges(7, 3)).train()
    refuses(r"eval\(\) changes its weights", fa.models.representation, merges)
    assert fa.models.representation(merges.eval())(X).shape == (6, 7)

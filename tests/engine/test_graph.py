"""Gradients replayed from graphs, recorded on a CPU, and captured where there is a GPU."""

import pytest
import torch
from torch import Tensor, nn

from fastadv.engine import Frozen, freeze, graph
from fastadv.engine.copying.inside import CheckedModel
from fastadv.engine.form import Form
from fastadv.engine.graph import Graphs, padded
from fastadv.engine.pipeline import CAPTURED, Notes
from fastadv.engine.precision import Options
from fastadv.engine.search_copy import SearchCopy
from fastadv.errors import InputError
from fastadv.ops import _graphs
from tests import recorded
from tests.engine.nets import convnet


def graphed(model: nn.Module) -> Frozen:
    frozen = freeze(model)
    frozen.search.graphs = Graphs()
    return frozen


@pytest.fixture
def recording(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_graphs, "capture", recorded.capture)


def test_padding_repeats_rows_in_their_layout() -> None:
    x = torch.rand(3, 2, 4, 4).contiguous(memory_format=torch.channels_last)
    more = padded(x, 8)
    assert more.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(more, torch.cat([x, x, x[:2]]))
    assert padded(x.contiguous(), 3).is_contiguous()
    assert padded(x, 3).data_ptr() != x.data_ptr()


@pytest.mark.slow
@pytest.mark.usefixtures("recording", "asked_alone")
def test_replays_are_the_gradient() -> None:
    model = convnet().eval()
    plain, replayed = freeze(model), graphed(model)
    kept = []
    for call, size in enumerate((7, 8, 3, 7, 7, 8, 3, 3)):
        x, y = torch.rand(size, 2, 8, 8), torch.arange(call, call + size) % 5
        targets = y if call % 2 else None
        for loss, direction in (("ce", False), ("ce", True), ("margin", False)):
            given = x, y if targets is None else None, loss, targets, direction
            found, wanted = replayed.input_gradient(*given), plain.input_gradient(*given)  # type: ignore[arg-type]
            torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-7)
            kept.append((found, [part.clone() for part in found]))
    # what was given out is the caller's: later calls leave it alone
    assert all(torch.equal(a, b) for found, then in kept for a, b in zip(found, then, strict=True))
    assert (replayed.forwards, replayed.backwards) == (plain.forwards, plain.backwards)


@pytest.mark.usefixtures("recording")
def test_an_empty_batch_needs_no_graph() -> None:
    frozen = graphed(convnet().eval())
    assert frozen.input_gradient(torch.rand(0, 2, 8, 8), torch.zeros(0).long())[2].shape == (0, 2, 8, 8)
    assert frozen.search.graphs is not None
    assert len(frozen.search.graphs) == 0


def test_a_step_is_told_from_what_comes_after(recording: None) -> None:
    graphs, seen = Graphs(), []

    def make(rows: dict[str, Tensor]):  # type: ignore[no-untyped-def]
        return lambda: seen.append(graphs.aside)

    graphs("key", {"x": torch.rand(3, 2)}, make, ())
    assert (seen, graphs.aside) == ([True], False)

    def fails(rows: dict[str, Tensor]):  # type: ignore[no-untyped-def]
        return lambda: 1 / 0

    with pytest.raises(ZeroDivisionError):
        graphs("other", {"x": torch.rand(3, 2)}, fails, ())
    assert not graphs.aside
    with graphs.set_aside():
        graphs("key", {"x": torch.rand(3, 2)}, lambda rows: lambda: None, ())
        assert graphs.aside


def test_what_was_captured_goes_with_its_twin(recording: None) -> None:
    """The first batch has no finite logits, so it is not checked; the second replaces the twin."""
    frozen, x, y = freeze(convnet().eval(), "bf16"), torch.rand(3, 2, 8, 8), torch.arange(3)
    frozen.search.graphs = Graphs()
    for _ in range(2):
        assert frozen.input_gradient(x * torch.nan, y)[1].isnan().all()
    plain = freeze(convnet().eval(), "bf16")
    for _ in range(3):
        for one, other in zip(frozen.input_gradient(x, y), plain.input_gradient(x, y), strict=True):
            assert torch.equal(one, other)


@pytest.mark.usefixtures("recording")
def test_calls_of_another_kind_have_a_graph_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    graphs, x = Graphs(), torch.rand(9, 2, 4, 4)
    kinds = [
        ("key", {"x": x}),
        ("other", {"x": x}),
        ("key", {"z": x}),
        ("key", {"x": x[:8]}),
        ("key", {"x": x[:, :1]}),
        ("key", {"x": x.double()}),
        ("key", {"x": x.contiguous(memory_format=torch.channels_last)}),
    ]
    alike = "key", {"x": torch.rand(10, 2, 4, 4)}
    for call in (*kinds, *kinds, alike):
        graphs(*call, lambda rows: lambda: None, ())
    assert len(graphs) == len(kinds)
    monkeypatch.setattr(graph, "stream_of", lambda device: "another")
    graphs(*alike, lambda rows: lambda: None, ())
    assert len(graphs) == len(kinds) + 1


@pytest.mark.usefixtures("recording")
def test_the_memory_of_rows_and_of_the_capture_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    graphs, reserved = Graphs(), iter((100, 164))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: next(reserved))
    for taken in (3 * 2 * 4, 3 * 2 * 4 + 64):
        graphs("key", {"x": torch.rand(3, 2)}, lambda rows: lambda: None, ())
        assert graphs._kept.bytes == taken


@pytest.mark.usefixtures("recording")
@pytest.mark.parametrize("size", [(), (1,), (2,), (5,)])
def test_labels_of_another_shape_are_refused(size: tuple[int, ...]) -> None:
    frozen, x = graphed(convnet().eval()), torch.rand(3, 2, 8, 8)
    for _ in range(3):
        with pytest.raises(InputError):
            frozen.input_gradient(x, torch.zeros(size).long())
        with pytest.raises(InputError):
            frozen.input_gradient(x, None, targets=torch.zeros(size).long())
    assert frozen.search.graphs is not None


@pytest.mark.usefixtures("recording")
def test_nothing_is_captured_that_the_check_may_change() -> None:
    frozen, x, y = graphed(convnet().eval()), torch.rand(3, 2, 8, 8), torch.arange(3)
    made = []
    for given in (x * torch.nan, x * torch.nan, x, x):
        frozen.input_gradient(given, y)
        assert frozen.search.graphs is not None
        made.append(len(frozen.search.graphs))
    assert made == [0, 0, 0, 1]


def test_samples_that_mix_are_not_padded() -> None:
    """Their statistics are those of the batch, which spare rows would change."""
    for running, kept in ((True, True), (False, False)):
        model = nn.Sequential(nn.BatchNorm2d(2, track_running_stats=running), nn.Flatten()).eval()
        notes = Notes((CAPTURED,))
        options = Options(cuda_graph=True)
        form = Form(model, torch.float32)
        twin = SearchCopy(form, CheckedModel(model), notes, source=model, options=options, as_given=form)
        assert (twin.graphs is not None, CAPTURED in notes.texts) == (kept, kept)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU")
def test_on_a_gpu_replays_are_the_gradient() -> None:
    model = convnet().eval().cuda()
    plain, replayed = freeze(model), freeze(model, cuda_graph=True)
    for size in (7, 8, 3, 7, 8, 3):
        x, y = torch.rand(size, 2, 8, 8, device="cuda"), torch.arange(size, device="cuda") % 5
        for expected, actual in zip(plain.input_gradient(x, y), replayed.input_gradient(x, y), strict=True):
            torch.testing.assert_close(actual, expected)
    assert replayed.search.graphs is not None


def test_what_a_graph_replays_is_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    frozen, x, y = graphed(convnet().eval()), torch.rand(3, 2, 8, 8), torch.tensor([0, 1, 2])
    plain = frozen.input_gradient(x, y)
    monkeypatch.setattr(frozen.search, "replayed", lambda run: tuple(2 * part for part in plain))
    for got, part in zip(frozen.input_gradient(x, y), plain, strict=True):
        torch.testing.assert_close(got, 2 * part)

"""Functions that a model holds, and threads that share a classifier: answers and state stay the model's."""

import threading

import pytest
import torch
from torch import Tensor, nn

import fastadv as fa
from fastadv.engine import Plain

X, OTHER = torch.rand(2, 6, 5, generator=torch.Generator().manual_seed(1))
Y = torch.arange(6) % 3


class Features(nn.Module):
    """Reads what a hook of its own has stored, as extractors of features do."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last, self.features = nn.Linear(5, 7), nn.Linear(7, 3), dict[str, Tensor]()
        self.first.register_forward_hook(lambda part, args, result: self.features.update(first=result))

    def forward(self, x: Tensor) -> Tensor:
        self.first(x)
        return self.last(self.features["first"].relu())


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("prepare", [Plain, fa.freeze])
def test_a_hook_that_stores_features(prepare, training: bool) -> None:
    model = Features()
    expected = model(X).detach()
    model(OTHER)  # whose features it holds now
    made = prepare(model.train(training))
    torch.testing.assert_close(made.verdict(X), expected)
    torch.testing.assert_close(made.input_gradient(X, Y)[1], expected)


class Round(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x * 16).round() / 16


def test_bpda_of_a_model_whose_forward_is_wrapped() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(Round(), nn.Linear(5, 3)).eval()
    expected = Plain(fa.models.bpda(model, {"0": "identity"})).input_gradient(X, Y)[2]
    inner = model.forward
    model.forward = lambda x: inner(x)
    gradient = Plain(fa.models.bpda(model, {"0": "identity"})).input_gradient(X, Y)[2]
    torch.testing.assert_close(gradient, expected)


class Counting(nn.Module):
    """Counts its passes; the second begins before the first ends, and ends after that."""

    def __init__(self) -> None:
        super().__init__()
        self.last, self.passes = nn.Linear(5, 3), 0

    def forward(self, x: Tensor) -> Tensor:
        BEGUN.append(x)
        if len(BEGUN) == 1:
            SECOND.wait(5)
        elif len(BEGUN) == 2:
            SECOND.set()
            FIRST.wait(5)
        self.passes += 1
        return self.last(x)


BEGUN, FIRST, SECOND = list[Tensor](), threading.Event(), threading.Event()


def test_first_passes_of_threads_that_overlap_stay_in_the_copy() -> None:
    model = Counting().eval()
    plain = Plain(model)

    def ask() -> None:
        plain.input_gradient(X, Y)
        FIRST.set()

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    plain.input_gradient(X, Y)
    assert model.passes == 0

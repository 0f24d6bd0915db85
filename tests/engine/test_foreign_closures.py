"""Functions that a model holds, and threads that share a classifier: answers and state stay the model's."""

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
    prepared = prepare(model.train(training))
    torch.testing.assert_close(prepared.verdict(X), expected)
    torch.testing.assert_close(prepared.input_gradient(X, Y)[1], expected)


class Round(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x * 16).round() / 16


def test_bpda_of_a_model_whose_forward_is_wrapped_is_refused() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(Round(), nn.Linear(5, 3)).eval()
    inner = model.forward
    model.forward = lambda x: inner(x)
    copied = fa.models.bpda(model, {"0": "identity"})
    with pytest.raises(fa.InputError, match="runs Round of the original"):
        Plain(copied).input_gradient(X, Y)

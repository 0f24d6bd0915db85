"""FARE and TeCoA train an image encoder on eight digits: is it robust, and does it still read all ten?"""

import time
from copy import deepcopy

import torch
from torch import nn
from torch.nn.functional import cosine_similarity, normalize

import fastadv as fa

THREAT = fa.Linf(0.1)


class TwoTowers(nn.Module):
    """A small CLIP: an image encoder, and ten unit vectors in the place of embedded texts."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(512, 256),
            nn.ReLU(),
            nn.Linear(256, 32),
        )
        self.register_buffer("texts", normalize(torch.randn(10, 32)))

    def embed(self, x: torch.Tensor) -> torch.Tensor:
        return self.encoder(x)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 20 * normalize(self.embed(x)) @ self.texts.T


def shares(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> str:
    """Return the clean accuracy and that under AutoAttack quick, with their 95% intervals."""
    out = fa.attacks.autoattack(model, x, y, THREAT, version="quick")
    text = []
    for name, share in (("clean", out.clean_accuracy), ("robust", out.robust_accuracy)):
        ends = fa.evaluation.clopper_pearson(round(share * len(y)), len(y))
        text.append(f"{name} {share:.1%} ({ends.low:.0%} to {ends.high:.0%})")
    return ", ".join(text)


train_set, test_set = fa.data.load("digits", "train"), fa.data.load("digits", "test")
few, seen = train_set.y < 8, test_set.y < 8
torch.manual_seed(0)
first = TwoTowers()
fa.train.fit(first, train_set, "standard", epochs=15, optimizer="adamw", learning_rate=3e-3)
nets = {"as trained": first, "frozen": deepcopy(first), "texts": deepcopy(first)}
for to, model in nets.items():
    started = time.perf_counter()
    if model is not first:
        recipe, images = fa.train.Aligned(THREAT, to), (train_set.x[few], train_set.y[few])
        fa.train.fit(model, images, recipe, epochs=10, optimizer="adamw", learning_rate=1e-3, batch_size=64)
    seconds = time.perf_counter() - started
    with torch.no_grad():
        cosine = cosine_similarity(model.embed(test_set.x), first.embed(test_set.x)).mean()
    print(f"{to}, {seconds:.0f} s: cosine to the first embeddings {cosine:.3f}")
    for name, rows in (("0 to 7", seen), ("8 and 9", ~seen)):
        print(f"  {name}: {shares(model, test_set.x[rows], test_set.y[rows])}")

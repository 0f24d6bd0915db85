"""Accuracy under attack by batches; with Lightning where it is installed."""

import importlib
from functools import partial
from types import SimpleNamespace

import pytest
import torch

import fastadv as fa
from fastadv.evaluation import metrics
from tests.adapters.nets import problem

ATTACK = partial(fa.attacks.fgsm, threat=fa.Linf(0.02))


def test_batches_add_up() -> None:
    model, x, y = problem(20)
    metric = fa.evaluation.RobustAccuracy(ATTACK)
    for rows in (slice(0, 7), slice(7, 20)):
        metric.update(model, x[rows], y[rows])
    whole = (~ATTACK(model, x, y).success).float().mean()
    assert 0 < whole < 1
    torch.testing.assert_close(metric.compute(), whole)
    metric.reset()
    with pytest.raises(fa.InputError, match="call update first"):
        metric.compute()
    with pytest.raises(fa.InputError, match="attack: expected a function"):
        fa.evaluation.RobustAccuracy("pgd")


def test_samples_have_numbers_of_their_own_in_each_process(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x, y = problem(10)
    seen: list[list[int]] = []

    def attack(*given: object, ids: torch.Tensor) -> fa.attacks.AttackResult:
        seen[-1] += ids.tolist()
        return ATTACK(*given, ids=ids)

    for rank in range(3):
        monkeypatch.setattr(metrics, "processes", SimpleNamespace(world=lambda: 3, rank=lambda r=rank: r))
        metric = fa.evaluation.RobustAccuracy(attack)
        seen.append([])
        for rows in (slice(0, 7), slice(7, 10)):
            metric.update(model, x[rows], y[rows])
    assert sorted(number for each in seen for number in each) == list(range(30))
    assert seen[1] == list(range(1, 30, 3))


@pytest.mark.slow
def test_the_callback_logs_it(tmp_path) -> None:  # type: ignore[no-untyped-def]
    importlib.import_module("fastadv._torchvision")  # which Lightning imports, too
    lightning = pytest.importorskip("lightning", reason="lightning is not installed")
    from fastadv.train.lightning import RobustAccuracyCallback

    model, x, y = problem(20)

    class Module(lightning.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def validation_step(self, batch: object, index: int) -> None:
            """Nothing beside the callback."""

    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=8)
    trainer = lightning.Trainer(
        logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        accelerator="cpu", default_root_dir=tmp_path, callbacks=[RobustAccuracyCallback(ATTACK)],
    )  # fmt: skip
    (told,) = trainer.validate(Module(), loader, verbose=False)
    whole = (~ATTACK(model, x, y).success).float().mean().item()
    assert told["robust_accuracy"] == pytest.approx(whole)

"""The moving average of weights: its value, its accuracies, its file, and that it resumes."""

from functools import partial

import pytest
import torch
from torch import nn

import fastadv as fa
from fastadv.train import Optimization, Standard
from fastadv.train._steps import MovingAverage

from .nets import images, net, run

DECAY = 0.6
ATTACKS = {"fgsm": partial(fa.attacks.fgsm, threat=fa.Linf(0.05))}


assert_same = partial(torch.testing.assert_close, rtol=0, atol=0)


@pytest.mark.slow
def test_it_is_the_weighted_mean_of_the_weights_after_each_batch(tmp_path):
    model, history = net(), []
    model[0].bias.requires_grad_(False)

    def note(done, total):
        history.append({name: value.double().clone() for name, value in model.state_dict().items()})

    start = {name: value.double() for name, value in model.state_dict().items()}
    options = {"epochs": 2, "batch_size": 8}
    epochs = fa.train.epochs(
        model, images(), Standard(), optimization=Optimization(ema=DECAY), progress=note, **options
    )
    reports = list(epochs)
    averaged = epochs.averaged()
    for name, weight in model.named_parameters():
        wanted = start[name]
        for n, state in enumerate(history, 1):
            decay = min(DECAY, (1 + n) / (10 + n))
            wanted = decay * wanted + (1 - decay) * state[name]
        torch.testing.assert_close(averaged[name].double(), wanted, rtol=1e-5, atol=1e-6)
        assert torch.equal(averaged[name], weight) == (not weight.requires_grad)
    for name, buffer in model.named_buffers():
        assert torch.equal(averaged[name], buffer)
    assert_same(model.state_dict(), {k: v.to(model.state_dict()[k]) for k, v in history[-1].items()})
    assert reports[0].ema_clean_accuracy is None


@pytest.mark.slow
def test_it_is_tested_and_kept_beside_the_model(tmp_path):
    test_set = images(40, seed=9)
    options = {"test_set": test_set, "test_attacks": ATTACKS, "ema": DECAY, "epochs": 2}
    model, past = run(tmp_path, **options)
    averaged, about = fa.models.read_weights(tmp_path / "ema.safetensors")
    last, _ = fa.models.read_weights(tmp_path / "model.safetensors")
    assert_same(last, dict(model.state_dict()))
    assert not torch.equal(averaged["5.weight"], last["5.weight"])
    assert fa.train.report.best(past) is past[-1]
    assert_same(fa.models.read_weights(tmp_path / "best.safetensors")[0], averaged)
    twin = net()
    fa.models.load_weights(twin, tmp_path / "ema.safetensors")
    table = fa.evaluate(twin, test_set, ATTACKS)
    assert past[-1].ema_clean_accuracy == table.clean_accuracy
    assert past[-1].ema_robust_accuracy == {"fgsm": table["fgsm"].robust_accuracy}
    assert about["config"]["ema"] == DECAY
    assert about["measured"]["weights"] == "ema"
    assert about["measured"]["ema_clean_accuracy"] == table.clean_accuracy


def test_weights_in_half_precision_are_averaged_in_single():
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).bfloat16()
    average = MovingAverage(model, 0.999)
    before = model[1].weight.detach().float()
    with torch.no_grad():
        model[1].weight.add_(1.0)
    average.update(100_000)
    wanted = 0.999 * before + 0.001 * model[1].weight.float()
    torch.testing.assert_close(average.weights["1.weight"], wanted, rtol=1e-6, atol=1e-7)

"""fit trains to the end, epochs one by one; options stand in their objects."""

import inspect
import json
from dataclasses import asdict, fields
from functools import partial

import pytest
import torch

import fastadv as fa
from fastadv.errors import InputError
from fastadv.runs import checkpoint
from fastadv.runs.folder import RunFolder
from fastadv.train import Ending, Execution, Measuring, Optimization, PGDTraining, Standard, epochs, fit
from fastadv.train.fit import GROUPS

from .nets import images, net, timeless

OPTIONS = {"epochs": 2, "batch_size": 10}


@pytest.mark.slow
def test_fit_is_epochs_to_their_end(tmp_path):
    model, other = net(), net()
    past = fit(model, images(), Standard(), run_dir=tmp_path, **OPTIONS)
    assert isinstance(past, list)
    assert timeless(past) == timeless(epochs(other, images(), Standard(), **OPTIONS))
    assert all(map(torch.equal, model.state_dict().values(), other.state_dict().values()))
    assert fa.train.reports(tmp_path) == past
    assert fit(net(), images(), Standard(), run_dir=tmp_path, resume=True, **OPTIONS) == []
    assert fa.train.run is fit
    assert inspect.signature(fit).parameters == inspect.signature(epochs).parameters
    for call in (fit, epochs):
        with pytest.raises(InputError, match="epochs"):
            call(net(), images(), Standard(), epochs=0)


def test_an_epoch_is_trained_when_its_report_is_asked_for(tmp_path):
    model = net()
    before = model[5].weight.clone()
    training = epochs(model, images(), Standard(), run_dir=tmp_path, **OPTIONS)
    assert torch.equal(model[5].weight, before)
    assert next(training).epoch == 1
    assert not torch.equal(model[5].weight, before)
    training.close()
    RunFolder(tmp_path).close()
    assert list(training) == []


@pytest.mark.parametrize("call", [fit, epochs])
@pytest.mark.parametrize(
    ("options", "belong"),
    [(dict.fromkeys(field.name for field in fields(group)), f"{argument}={group.__name__}")
     for argument, group in GROUPS.items()],
    ids=list(GROUPS),
)  # fmt: skip
def test_an_option_by_itself_is_sent_to_its_object(call, options, belong):
    for name in options:
        with pytest.raises(InputError, match=rf"^{name}: .*pass {belong}\({name}=\.\.\.\)"):
            call(net(), images(), Standard(), epochs=1, **{name: None})
    inside = ", ".join(rf"{name}=\.\.\." for name in options)
    with pytest.raises(InputError, match=rf"pass {belong}\({inside}\)"):
        call(net(), images(), Standard(), epochs=1, **options)
    with pytest.raises(InputError, match=r"expected a fastadv\.train\..*, got dict"):
        call(net(), images(), Standard(), epochs=1, **{belong.partition("=")[0]: {}})


@pytest.mark.slow
def test_a_folder_from_before_the_option_objects_goes_on(tmp_path):
    """What a folder says of its run: these keys and values, by which runs of any version are recognized."""
    training = partial(
        fit, train_set=images(), recipe=PGDTraining(fa.Linf(0.1), steps=1), batch_size=8, optimizer="adam",
        augment="shift", run_dir=tmp_path, seed=3,
        test_attacks={"a": partial(fa.attacks.fgsm, threat=fa.Linf(0.1))},
        optimization=Optimization(momentum=0.8, weight_decay=0, schedule="cosine", warm_up=1, clip_norm=2,
                                  ramp=fa.train.Ramp(0.5), ema=0.9),
        measuring=Measuring(validation_set=images(6, seed=1)), ending=Ending(patience=4),
    )  # fmt: skip
    model = net()
    training(model, epochs=2, execution=Execution(precision="bf16", checkpoint_every=3))
    config = checkpoint.load(tmp_path / "checkpoint.safetensors").progress["config"]
    described = {name: config.pop(name) for name in ("model", "data", "recipe", "validation_set", "augment")}
    assert all(described.values())
    assert json.loads(json.dumps(config)) == {
        "epochs": 2, "batch_size": 8, "optimizer": "adam", "learning_rate": 1e-3, "momentum": 0.8,
        "weight_decay": 0.0, "warm_up": 1.0, "clip_norm": 2.0, "max_norm": None,
        "ramp": {"epochs": 1, "radius": None, "steps": None}, "ema": 0.9, "schedule": "cosine",
        "precision": "bf16", "deterministic": None, "compile": None, "seed": 3,
    }  # fmt: skip
    again = net()
    assert training(again, epochs=2, resume=True, execution=Execution(precision="bf16")) == []
    assert all(map(torch.equal, model.state_dict().values(), again.state_dict().values()))


def test_reports_are_told_as_dictionaries():
    told = []
    measuring = Measuring(on_event=told.append)
    reports = fit(net(), images(18), Standard(), epochs=2, batch_size=9, measuring=measuring)
    assert told == [asdict(report) for report in reports]
    with pytest.raises(InputError, match="on_event"):
        Measuring(on_event="log.csv")

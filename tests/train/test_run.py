"""fit trains to the end, epochs one by one; options stand in their objects."""

import pytest
import torch

import fastadv as fa
from fastadv.errors import InputError
from fastadv.runs.folder import RunFolder
from fastadv.train import Standard, epochs, fit

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


def test_the_earlier_name_of_fit():
    assert fa.train.run is fit


@pytest.mark.parametrize("call", [fit, epochs])
def test_an_option_object_of_another_kind_is_named(call):
    for name in ("optimization", "measuring", "ending", "execution"):
        with pytest.raises(InputError, match=rf"^{name}: expected a fastadv\.train\..*, got dict"):
            call(net(), images(), Standard(), epochs=1, **{name: {}})

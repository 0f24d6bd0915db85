"""compile=True: the passes of a step are compiled, the training is the same, and the model stays itself."""

import copy
import io
import warnings
from functools import partial

import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters

import fastadv as fa
from fastadv.errors import InputError
from fastadv.runs.files import load_tensors
from fastadv.train import Crafted, Execution, PGDTraining, Standard, _compiled, fit
from fastadv.train.recipes._common import frozen_twin

from .nets import grouped, images, net, stopped

THREAT = fa.Linf(0.1)


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


@pytest.fixture
def traced(monkeypatch):
    """What torch.compile does without a compiler of machine code."""
    compile = torch.compile
    monkeypatch.setattr(torch, "compile", lambda call, **options: compile(call, backend="aot_eager"))
    monkeypatch.setattr(_compiled, "_try", lambda device: None)


def train(recipe=None, model=None, **options):
    model = net() if model is None else model
    settings = {"epochs": 1, "batch_size": 8, "compile": True} | options
    return model, fit(model, images(20), recipe or PGDTraining(THREAT, 2), **grouped(**settings))


def assert_alike(results, others):
    (model, past), (other, told) = results, others
    torch.testing.assert_close(model.state_dict(), other.state_dict(), rtol=1e-4, atol=1e-5)
    assert [one.loss for one in past] == pytest.approx([one.loss for one in told], rel=1e-4)


@pytest.fixture(scope="module")
def compiler():
    try:
        _compiled._try("cpu")
    except InputError as error:
        pytest.skip(str(error))


@pytest.mark.slow
def test_compiled_for_real_it_trains_what_eager_trains(compiler):
    """With BatchNorm, dropout, and passes that are gone back through twice."""
    recipe = fa.train.PriorGuidedTraining(THREAT)
    assert_alike(train(recipe, batch_size=10), train(recipe, batch_size=10, compile=False))
    assert counters["stats"]["unique_graphs"] >= 1


RECIPES = {
    "trades": fa.train.TRADES(THREAT, 2),
    "free": fa.train.FreeTraining(THREAT, 2),
    "awp": fa.train.AWP(Standard(), 0.01),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_recipes_train_what_they_train_without(name, traced):
    """Two passes of one batch, two steps on one batch, two gradients; the last batch is of another size."""
    options = {"augment": "shift", "ema": 0.9, "clip_norm": 0.5, "epochs": 1}
    assert_alike(train(RECIPES[name], **options), train(RECIPES[name], compile=False, **options))
    # the training pass, and the twin where the recipe attacks one
    assert counters["stats"]["unique_graphs"] >= 1 + (name == "trades")


@pytest.mark.slow
def test_steps_do_not_compile_again_and_again(traced):
    graphs = []
    options = {"epochs": 2, "batch_size": 10, "execution": Execution(compile=True, precision="bf16")}
    for _ in fa.train.epochs(net(), images(10), PGDTraining(THREAT, 1), **options):
        graphs.append(counters["stats"]["unique_graphs"])
    assert graphs[0] == graphs[1] > 0


SEEN: list = []


class Noting(Crafted):
    """Notes whether the model and the twin that it attacks are compiled."""

    def craft(self, model, x, y, *, ids, seed):
        SEEN.append((type(model), model._compiled_call_impl is not None, frozen_twin(model).options.compile))
        return x

    def objective(self, model, x, y, x_adv):
        return Standard()(model, x_adv, y)


@pytest.mark.slow
def test_the_model_stays_itself(traced):
    model, hooked = net(), []
    model[2].register_forward_hook(lambda part, given, made: hooked.append(type(made)))
    keys, before = list(model.state_dict()), model(images(4).x)
    SEEN.clear()
    hooked.clear()
    training = fa.train.epochs(
        model, images(20), Noting(), epochs=2, batch_size=20, execution=Execution(compile=True),
        test_set=images(4), test_attacks={"fgsm": partial(fa.attacks.fgsm, threat=THREAT)},
    )  # fmt: skip
    next(training)
    # in the step compiled; where the recipe's own examples are measured not
    assert [(nn.Sequential, True, True), (nn.Sequential, False, False)] == SEEN
    assert hooked
    assert model._compiled_call_impl is None
    assert list(model.state_dict()) == keys
    model.eval()[2]._forward_hooks.clear()  # a lambda cannot be pickled
    written = io.BytesIO()
    torch.save(model, written)
    written.seek(0)
    for other in (copy.deepcopy(model), torch.load(written, weights_only=False)):
        assert torch.equal(other(images(4).x), model(images(4).x))
    assert not torch.equal(before, model(images(4).x))
    training.close()


@pytest.mark.slow
def test_a_stopped_run_goes_on(traced, tmp_path):
    whole = train(Standard(), epochs=2, schedule="cosine")
    options = {"epochs": 2, "schedule": "cosine", "run_dir": tmp_path, "checkpoint_every": 1}
    stopped(4, train, Standard(), **options)
    with pytest.raises(InputError, match=r"another compile \(True there, False here\)"):
        train(Standard(), resume=True, compile=False, **options)
    model, _ = train(Standard(), resume=True, **options)
    assert_alike((model, fa.train.reports(tmp_path)), whole)
    written, _ = load_tensors(tmp_path / "model.safetensors")
    assert written.keys() == net().state_dict().keys()


@pytest.mark.slow
def test_a_model_that_cannot_be_compiled_is_told(traced, monkeypatch):
    def backend(graph, inputs):
        raise RuntimeError("no such operation here")

    model, compile = net(), torch._dynamo.optimize
    monkeypatch.setattr(torch, "compile", lambda call, **options: compile(backend)(call))
    with pytest.raises(InputError, match=r"a model that torch\.compile takes, got .*no such operation here"):
        train(model=model)
    assert model._compiled_call_impl is None


def test_what_cannot_act_is_refused(traced):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scripted = torch.jit.script(net())
    in_place = net()
    in_place.compile()
    wrapped = "expected a module that is not compiled or wrapped, got a "
    refused = [
        ("expected True or False, got 1", {"compile": 1}),
        ("expected False with deterministic=True", {"deterministic": True, "model": net()[3:]}),
        (f"{wrapped}OptimizedModule", {"model": torch.compile(net())}),
        (f"{wrapped}Sequential", {"model": in_place}),
        (f"{wrapped}DataParallel", {"model": nn.DataParallel(net())}),
        ("expected a module in Python, got a scripted one", {"model": scripted}),
    ]
    for message, options in refused:
        with pytest.raises(InputError, match=f"compile: {message}"):
            train(**options)

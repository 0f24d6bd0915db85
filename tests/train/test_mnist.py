"""FGSM at 0.25 against softmax regression on MNIST, as in Goodfellow et al. 2014 (error 99.9%)."""

import functools

import pytest

import fastadv as fa


@pytest.mark.slow
def test_fgsm_breaks_softmax_regression_and_training_on_it_helps(shared_data):
    train_set = fa.data.load("mnist", "train", data_dir=shared_data.data_dir, limit=2000)
    test_set = fa.data.load("mnist", "test", data_dir=shared_data.data_dir, limit=500)
    attacks = {"fgsm": functools.partial(fa.attacks.fgsm, threat=fa.Linf(0.25))}
    figures = {}
    for recipe in (fa.train.Standard(), fa.train.FGSMTraining(fa.Linf(0.25))):
        model = fa.models.SoftmaxRegression()
        constant = fa.train.Optimization(schedule="constant")
        fa.train.fit(model, train_set, recipe, epochs=3, learning_rate=0.1, optimization=constant)
        figures[type(recipe).__name__] = fa.evaluate(model, test_set, attacks)
    assert figures["Standard"].clean_accuracy > 0.85
    assert figures["Standard"]["fgsm"].robust_accuracy < 0.01
    assert figures["FGSMTraining"]["fgsm"].robust_accuracy > figures["Standard"]["fgsm"].robust_accuracy

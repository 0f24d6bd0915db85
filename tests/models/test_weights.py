"""Weights to and from files."""

import json
import os
import pickle

import pytest
import torch
from safetensors.torch import save_file

from fastadv import models
from fastadv.errors import CorruptFileError, InputError
from fastadv.files import save_tensors
from fastadv.models import load_weights, save_weights


def net(seed=0, **kwargs):
    return models.create("small_cnn", seed=seed, width=2, **kwargs)


def same(first, second):
    return all(torch.equal(tensor, second.state_dict()[name]) for name, tensor in first.state_dict().items())


def test_saved_weights_come_back_with_their_card(tmp_path):
    saved, other = net(1), net(2)
    card = {"kind": "model", "config": {"radius": 0.3}, "measured": {"accuracy": 0.99}}
    save_weights(saved, tmp_path / "a.safetensors", card)
    assert load_weights(other, tmp_path / "a.safetensors") == card
    assert same(saved, other)
    assert os.listdir(tmp_path) == ["a.safetensors"]


def test_files_without_hashes_without_a_card_and_of_any_suffix_load(tmp_path):
    save_file(net(1).state_dict(), tmp_path / "a.safetensors", {"card": json.dumps({"epoch": 3})})
    save_weights(net(1), tmp_path / "weights.bin")
    for name, card in (("a.safetensors", {"epoch": 3}), ("weights.bin", {})):
        other = net(2)
        assert load_weights(other, tmp_path / name) == card
        assert same(net(1), other)


@pytest.mark.parametrize("nest", [None, "state_dict", "model_state_dict", "model"])
def test_torch_files_load_plain_nested_and_from_ddp(tmp_path, nest):
    saved = net(1)
    state = {f"module.{name}" if nest else name: tensor for name, tensor in saved.state_dict().items()}
    for legacy in (False, True):
        content, other = {nest: state, "epoch": 3} if nest else state, net(2)
        torch.save(content, tmp_path / "a.pt", _use_new_zipfile_serialization=not legacy)
        assert load_weights(other, tmp_path / "a.pt") == {}
        assert same(saved, other)


def refused(path, error, match):
    """Loading fails with one line that matches, and the model stays as it was."""
    model = net(2)
    with pytest.raises(error, match=match) as caught:
        load_weights(model, path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    assert same(model, net(2))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda s: s.pop("linear.bias"), r"missing linear\.bias; unexpected none"),
        (lambda s: s.update({"head.bias": torch.zeros(2)}), r"missing none; unexpected head\.bias"),
        (lambda s: s.update({f"extra.{i}": torch.zeros(1) for i in range(5)}), "and 2 more"),
        (lambda s: [s.pop(name) for name in list(s)[1:]], r"missing .* and \d+ more"),
        (lambda s: s.update({"model/linear.bias": torch.zeros(10)}), r"give best\.safetensors beside it"),
        (lambda s: s.update({"linear.bias": torch.zeros(3)}), r"shapes linear\.bias \[3\] instead of \[10\]"),
    ],
)
def test_weights_of_another_model_are_refused(tmp_path, change, match):
    state = dict(net(1).state_dict())
    change(state)
    save_tensors(tmp_path / "a.safetensors", state)
    refused(tmp_path / "a.safetensors", InputError, match)


@pytest.mark.parametrize("kind", ["safetensors", "pt"])
def test_a_truncated_file_is_refused(tmp_path, kind):
    path = tmp_path / f"a.{kind}"
    torch.save(net(1).state_dict(), path) if kind == "pt" else save_weights(net(1), path)
    whole = path.read_bytes()
    for keep in (0.0, 0.01, 0.5, 0.99):
        path.write_bytes(whole[: int(len(whole) * keep)])
        refused(path, CorruptFileError, "does not read")


def test_what_is_no_file_of_weights_is_refused(tmp_path):
    refused(tmp_path / "absent.pt", InputError, "got none")
    refused(tmp_path, InputError, "got none")
    path = tmp_path / "a.pt"
    for text in (b"not weights at all, only text", bytes(range(256)) * 20, b"PK\x03\x04" + bytes(500)):
        path.write_bytes(text)
        refused(path, CorruptFileError, "does not read")
    for content in ([1, 2], torch.zeros(3), {"epoch": 3}):
        torch.save(content, path)
        refused(path, CorruptFileError, "expected a state dict")
    save_tensors(path, net(1).state_dict(), {"card": "{"})
    refused(path, CorruptFileError, "card")
    save_weights(net(1), path)
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    refused(path, CorruptFileError, "damaged")


class Bomb:
    def __reduce__(self):
        return (os.mkdir, ("exploded",))


def test_pickled_code_never_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"linear.weight": Bomb()}, tmp_path / "a.pt")
    refused(tmp_path / "a.pt", CorruptFileError, "does not read")
    (tmp_path / "b.pt").write_bytes(pickle.dumps(Bomb(), protocol=2))
    # and nobody is told how to let it run
    refused(
        tmp_path / "b.pt", CorruptFileError, r"does not read \(it holds Python objects, which are not run"
    )
    assert not (tmp_path / "exploded").exists()


def test_weights_without_constants_go_into_the_model_inside_normalized(tmp_path):
    published, path = net(1), tmp_path / "published.pt"
    torch.save({"state_dict": {f"module.{key}": each for key, each in published.state_dict().items()}}, path)
    model = models.Normalized(net(2), 0.25, 0.5)
    load_weights(model, path)
    assert same(published, model.model)
    assert (model.mean.item(), model.std.item()) == (0.25, 0.5)


def test_weights_with_constants_bring_them_along_and_do_not_load_without_normalized(tmp_path):
    path = tmp_path / "a.safetensors"
    save_weights(models.Normalized(net(1), 0.25, 0.5), path)
    model = models.Normalized(net(2), 0.0, 1.0)
    load_weights(model, path)
    assert (model.mean.item(), model.std.item()) == (0.25, 0.5)
    assert same(net(1), model.model)
    with pytest.raises(InputError, match="unexpected mean, model"):
        load_weights(net(2), path)


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "inside"])
def test_weights_of_compiled_nets_are_read(tmp_path, prefix):
    state, around = net(1).state_dict(), lambda net: models.Normalized(net, 0.5, 0.2)
    if prefix == "inside":  # as where a part alone was compiled
        state = {name.replace(".", "._orig_mod.", 1): tensor for name, tensor in state.items()}
    else:
        state = {prefix + name: tensor for name, tensor in state.items()}
    save_file(state, tmp_path / "a.safetensors")
    torch.save(state, tmp_path / "a.pt")
    for path in tmp_path.iterdir():
        for wrap in (lambda net: net, around, torch.compile, lambda net: around(torch.compile(net))):
            load_weights(wrap(other := net(2)), path)
            assert same(net(1), other)
    schott = {prefix.replace("inside", "") + k: v for k, v in models.SchottCNN().state_dict().items()}
    save_file(schott, tmp_path / "cnn.net")
    assert same(models.SchottCNN.from_official(tmp_path / "cnn.net"), models.SchottCNN())

"""The paper's CNN and the authors' weights."""

import pytest
import torch

from fastadv import data, models
from fastadv.errors import CorruptFileError, InputError
from fastadv.models import Binarized, SchottCNN


@pytest.mark.parametrize(("width", "parameters"), [((20, 70, 256), 249_228), ((32, 32, 64), 52_010)])
def test_it_has_the_papers_number_of_parameters(width, parameters):
    assert sum(p.numel() for p in SchottCNN(width=width).parameters()) == parameters


def test_the_binary_net_is_the_plain_one_binarized():
    x = (torch.randint(5, (4, 1, 28, 28)) / 4).requires_grad_()  # some at the threshold
    logits = [model.eval()(x) for model in (SchottCNN(binary=True), Binarized(SchottCNN()))]
    assert torch.equal(*logits)
    assert torch.equal(*(torch.autograd.grad(each[:, 0].sum(), x)[0] for each in logits))


@pytest.mark.slow
@pytest.mark.parametrize(("file", "errors"), [("vanilla_cnn.net", 65), ("binary_cnn.net", 129)])
def test_the_published_nets_are_as_accurate_as_published(shared_data, file, errors):
    model = SchottCNN.from_official(shared_data.abs_official / file)
    assert not model.training
    assert model.binary == file.startswith("binary")
    # 99.35% and 98.71% of the 10,000 test images; 1,000 tell a wrong layer or threshold apart.
    test = data.load("mnist", "test", shared_data.data_dir, limit=1000)
    with torch.no_grad():
        wrong = sum(int((model(x).argmax(1) != y).sum()) for x, y, _ in data.batches(test, 500))
    assert wrong <= errors / 10 + 8


@pytest.mark.parametrize("name", ["tiny_cnn.net", "binary_cnn.net"])
def test_official_names_and_shapes_load_and_binarization_can_be_said(tmp_path, name):
    model = SchottCNN(width=(3, 4, 5), seed=9)
    state = {name: tensor for name, tensor in model.state_dict().items() if "num_batches" not in name}
    torch.save(state, tmp_path / name)
    x, plain = torch.rand(2, 1, 28, 28), model.eval()
    assert SchottCNN.from_official(tmp_path / name).binary == (name == "binary_cnn.net")
    assert SchottCNN.from_official(tmp_path / name, binary=True).binary
    assert torch.equal(SchottCNN.from_official(tmp_path / name, binary=False)(x), plain(x))


@pytest.mark.parametrize(
    ("name", "error", "match"),
    [
        ("other", CorruptFileError, r"MNIST CNN .* got 2 tensors"),
        ("part", CorruptFileError, r"bn_1\.weight"),
        ("absent", InputError, "expected a file of weights, got none"),
    ],
)
def test_other_weights_are_refused(tmp_path, name, error, match):
    state = SchottCNN().state_dict()
    torch.save(models.create("softmax").state_dict(), tmp_path / "other.net")
    torch.save({key: state[key] for key in state if key != "bn_1.weight"}, tmp_path / "part.net")
    with pytest.raises(error, match=match):
        SchottCNN.from_official(tmp_path / f"{name}.net")

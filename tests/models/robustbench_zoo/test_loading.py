"""State dicts in the zoo's layout become nets; those of other nets are refused with the difference named."""

from collections.abc import Callable
from itertools import cycle

import pytest
import torch
from safetensors.torch import save_file

from fastadv import models
from fastadv.errors import InputError
from fastadv.models import Normalized
from fastadv.models._common import stated_accuracy
from fastadv.models.zoo import Entry, find, locate, weights_folder

from .conftest import TIMM, net_of, state_of

Small = Callable[[str], Entry]
X = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
ONE_OF_EACH = (
    "cifar10/Linf/Sehwag2021Proxy_R18",  # resnet18
    "cifar10/L2/Engstrom2019Robustness",  # resnet50, with mean and deviation in the file
    "cifar10/Wong2020Fast",  # preact_resnet18_raw
    "cifar100/Addepalli2021Towards_PARN18",  # preact_resnet18
    "cifar10/L2/Rade2021Helper_R18_ddpm",  # dm_preact_resnet18
    "cifar10/Linf/Sehwag2021Proxy",  # wrn
    "Carmon2019Unlabeled",  # wrn, with a copy of block1 that is not used
    "cifar100/Wang2023Better_WRN-28-10",  # dm_wrn
)


def saved(path, content):
    torch.save(content, path)
    return path


# the prefix of its names, and under which key it lies
WRAPPED = [("", None), ("module.", None), ("model.", "state_dict"), ("module.model.", "model")]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "wrapped"), [*zip(ONE_OF_EACH, cycle(WRAPPED), strict=False)])
def test_a_file_becomes_the_net_that_it_was_saved_from(tmp_path, small, name, wrapped):
    entry, (prefix, nest) = small(name), wrapped
    net, before = net_of(entry), torch.get_rng_state()
    state = {prefix + name: tensor for name, tensor in state_of(entry, net).items()}
    model = models.robustbench(name, saved(tmp_path / "a.pt", {"epoch": 3, nest: state} if nest else state))
    assert torch.equal(torch.get_rng_state(), before)
    mean, std = ([0.5] * 3, [0.5] * 3) if entry.stored else entry.constants or (0.0, 1.0)
    assert torch.equal(model(X), Normalized(net, mean, std)(X))
    assert model(X).shape == (2, entry.classes)
    assert stated_accuracy(model) == pytest.approx(entry.clean / 100)
    assert not any(part.training for part in model.modules())
    assert all(weight.requires_grad and not weight.is_meta for weight in model.parameters())


def test_of_two_state_dicts_the_zoos_is_taken(tmp_path, small, logged):
    """Andriushchenko et al. ship the last and the best net, with parts that are not passed."""
    entry = small("Andriushchenko2020Understanding")
    last, best = net_of(entry, 1), net_of(entry, 2)
    content = {"best": state_of(entry, best), "last": {**state_of(entry, last), "extra.weight": X}}
    assert torch.equal(models.robustbench(entry.name, saved(tmp_path / "a.pt", content))(X), last(X))
    assert "extra.weight is left out, as in RobustBench" in logged.text


def test_safetensors_in_half_precision_and_without_counters(tmp_path, small):
    entry = small("Carmon2019Unlabeled")
    net = net_of(entry)
    halves = {
        name: tensor.bfloat16().contiguous()
        for name, tensor in state_of(entry, net).items()
        if "num_batches" not in name
    }
    save_file(halves, tmp_path / "a.safetensors")
    model = models.robustbench(entry.name, tmp_path / "a.safetensors")
    net.load_state_dict({name: tensor.bfloat16() for name, tensor in net.state_dict().items()})
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    assert torch.equal(model(X), net(X))
    assert model.train()(X).shape == (2, 10)  # with a counter to count on
    assert not any(tensor.is_meta for tensor in model.state_dict().values())
    models.save_weights(model.to("cpu"), tmp_path / "b.safetensors")


def test_without_mean_and_deviation_the_tables_are_taken(tmp_path, small):
    entry = small("cifar10/Wong2020Fast")
    net = net_of(entry)
    state = state_of(entry, net)
    del state["mu"]
    with pytest.raises(InputError, match="missing mu; unexpected none"):
        models.robustbench(entry.path, saved(tmp_path / "a.pt", state))
    del state["sigma"]
    model = models.robustbench(entry.path, saved(tmp_path / "b.pt", state))
    assert torch.equal(model(X), Normalized(net, (0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616))(X))


def test_the_weights_of_another_net_are_refused(tmp_path, small):
    entry = small("cifar100/Wang2023Better_WRN-28-10")
    state = state_of(entry, net_of(entry))
    del state["layer.1.block.0.shortcut.weight"]
    state |= {"head": X, "logits.bias": torch.zeros(10)}
    with pytest.raises(InputError) as caught:
        models.robustbench(entry.path, saved(tmp_path / "a.pt", state))
    assert str(caught.value).startswith(
        f"{tmp_path / 'a.pt'}: expected the weights of cifar100/Linf/Wang2023Better_WRN-28-10 (dm_wrn_28_10, "
        "100 classes), got those of another net: missing layer.1.block.0.shortcut.weight; unexpected head; "
        "shapes logits.bias [10] instead of [100]; give the file of this entry"
    )


@pytest.mark.parametrize("value", [torch.nan, -torch.inf])
def test_weights_that_are_not_finite_are_refused(tmp_path, small, value):
    entry = small("cifar100/Wang2023Better_WRN-28-10")
    state = state_of(entry, net_of(entry))
    for name in ("logits.bias", "batchnorm.running_var"):
        state[name][-1] = value
    with pytest.raises(InputError, match=r"NaN or infinity in batchnorm\.running_var, logits\.bias;"):
        models.robustbench(entry.path, saved(tmp_path / "a.pt", state))


NAME = "cifar10/L2/Rice2020Overfitting"


def put(path, text="weights"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_the_cache_is_the_named_folder_or_the_users(tmp_path, monkeypatch):
    assert weights_folder() == tmp_path / "cache"
    monkeypatch.delenv("FASTADV_WEIGHTS")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    assert weights_folder() == tmp_path / "home" / "fastadv" / "models"
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize("ending", [".pt", ".safetensors"])
def test_a_file_a_folder_in_either_layout_and_the_cache_are_looked_at(tmp_path, cache, ending):
    entry = find(NAME)
    file = put(tmp_path / "any name.bin")
    deep, flat = (put(tmp_path / at / f"Rice2020Overfitting{ending}") for at in ("a/cifar10/L2", "b"))
    kept = put(cache / f"{NAME}{ending}")
    put(cache / "cifar10/Linf/Rice2020Overfitting.pt")
    assert locate(entry, file) == file
    assert (locate(entry, tmp_path / "a"), locate(entry, str(tmp_path / "b"))) == (deep, flat)
    assert locate(entry, None) == kept


def test_a_missing_file_says_where_it_belongs_and_where_the_zoo_keeps_it(tmp_path, cache):
    entry = find(NAME)
    for weights, place in (
        (None, cache / f"{NAME}.pt"),
        (tmp_path, tmp_path / f"{NAME}.pt"),
        (tmp_path / "absent.pt", tmp_path / "absent.pt"),
    ):
        says = rf"drive\.google\.com/file/d/{entry.drive}.*--weights"
        with pytest.raises(InputError, match=says) as caught:
            models.robustbench(NAME, weights)
        assert f"its weights in {place}, got no such file" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "net", "tiny"),
    [
        ("Salman2020Do_R18", "torchvision:squeezenet1_1", {}),
        pytest.param("Liu2023Comprehensive_Swin-B", None, {"depths": [1] * 4, "embed_dim": 32}, marks=TIMM),
        pytest.param("Debenedetti2022Light_XCiT-M12", None, {"depth": 1, "eta": 1.0}, marks=TIMM),
        pytest.param("Singh2023Revisiting_ConvNeXt-B-ConvStem", None, {"depths": [1] * 4}, marks=TIMM),
        pytest.param("Singh2023Revisiting_ViT-S-ConvStem", None, {"depth": 1}, marks=TIMM),
    ],
)
def test_a_network_of_another_package_takes_the_names_of_the_zoo_and_its_own(
    tmp_path, small, name, net, tiny
):
    entry = small(name, net, **tiny)
    source, before = net_of(entry), torch.get_rng_state()
    x = torch.rand(1, *entry.shape, generator=torch.Generator().manual_seed(0))
    expected = Normalized(source, *entry.constants)(x) if entry.constants else source(x)
    extra = {"attn_mask": X} if entry.lenient else {}  # such as old versions of timm stored
    for state in (state_of(entry, source), source.state_dict()):
        state = {"module." + name: tensor for name, tensor in (extra | state).items()}
        model = models.robustbench(entry.path, saved(tmp_path / "a.pt", {"state_dict": state}))
        assert torch.equal(model(x), expected)
    assert torch.equal(torch.get_rng_state(), before)

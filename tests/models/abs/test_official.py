"""The authors' published weights: read right, classified right, and foreign folders named."""

import pytest
import torch

from fastadv.data import load
from fastadv.errors import CorruptFileError, InputError
from fastadv.models import ABS
from fastadv.models.abs.model import OFFICIAL_FACTORS
from tests.refusals import refuses

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def official(shared_data):
    return ABS.from_official(shared_data.abs_official, prior_samples=1000)


def test_decoder_is_the_authors(official, shared_data):
    state = torch.load(shared_data.abs_official / "ABS_3.net", map_location="cpu", weights_only=True)
    z = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
    h = z[:, :, None, None]
    for i, stride in enumerate((1, 2, 2, 1)):
        h = torch.nn.functional.conv_transpose2d(
            h, state[f"Decoder.conv_{i}.weight"], state[f"Decoder.conv_{i}.bias"], stride=stride
        )
        if i < 3:
            mean, variance, weight, bias = (
                state[f"Decoder.bn_{i}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")
            )
            h = torch.nn.functional.elu(torch.nn.functional.batch_norm(h, mean, variance, weight, bias))
    torch.testing.assert_close(
        official.decoders(z[:, None].expand(-1, 10, -1))[:, 3], torch.sigmoid(h), rtol=1e-4, atol=1e-5
    )


def test_it_classifies_mnist(official, shared_data):
    test = load("mnist", "test", data_dir=shared_data.data_dir, limit=20)
    x, y = test.x.float() / 255, test.y
    assert (official.infer(x).loss.argmin(1) == y).float().mean() >= 0.95
    assert official.shape.image == (1, 28, 28)
    assert official.confidence(x).amax(1).median() > 0.8
    noise = torch.rand(4, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    assert official.confidence(noise).amax() < 0.11
    binary = ABS.from_official(shared_data.abs_official, binary=True, prior_samples=300)
    assert torch.allclose(binary.factors, torch.tensor(OFFICIAL_FACTORS))
    assert (binary.infer(x[:10]).loss.argmin(1) == y[:10]).float().mean() >= 0.9


def test_foreign_folders(tmp_path, shared_data):
    refuses("folder", ABS.from_official, tmp_path / "none")
    for k in range(10):
        (tmp_path / f"ABS_{k}.net").write_bytes((shared_data.abs_official / f"ABS_{k}.net").read_bytes())
    (tmp_path / "ABS_4.net").unlink()
    refuses("ABS_4", ABS.from_official, tmp_path)
    (tmp_path / "ABS_4.net").write_bytes((shared_data.abs_official / "transfer_cnn.net").read_bytes())
    with pytest.raises(CorruptFileError, match="ABS_4"):
        ABS.from_official(tmp_path)
    state = torch.load(shared_data.abs_official / "ABS_4.net", map_location="cpu", weights_only=True)
    for change, error, said in (
        ({"Decoder.extra": torch.zeros(1)}, CorruptFileError, "extra"),
        ({"Decoder.conv_0.weight": torch.zeros(8, 30, 4, 4)}, CorruptFileError, "conv_0"),
        (
            {"Decoder.conv_0.bias": torch.full_like(state["Decoder.conv_0.bias"], torch.nan)},
            InputError,
            "NaN",
        ),
    ):
        torch.save({**state, **change}, tmp_path / "ABS_4.net")
        with pytest.raises(error, match=said):
            ABS.from_official(tmp_path)

"""External adversarial images: written, read, and judged on the model as given."""

from pathlib import Path

import pytest
import torch
from torch.utils.data import TensorDataset

import fastadv as fa
from fastadv.data import ImageSet
from fastadv.errors import CorruptFileError, InputError
from fastadv.evaluation import external
from fastadv.evaluation.external import External, save_external
from tests.evaluation.nets import DATA, Threshold, pixels

# DATA is [0.4, 0.7, 0.2, 0.9, 0.3, 0.6], boundary at 0.5, the last two are wrong already
MOVED = torch.tensor([0.55, 0.45, 0.35, 0.49, 0.3, 0.6]).reshape(-1, 1, 1, 1)


def judged(images, threat=None, data: ImageSet = DATA, **more) -> External:
    return external(Threshold(), images, data, threat or fa.Linf(0.3), **more)


def test_images_count_only_inside_the_threat():
    found = judged(MOVED)
    assert found.outside.tolist() == [3]
    assert found.distances.tolist() == pytest.approx([0.15, 0.25, 0.15, 0.41, 0, 0], abs=1e-6)
    # 0 and 1 break; 2 is still right; 3 would break, but is too far; 4 and 5 are wrong clean
    assert (found.clean_accuracy, found.robust_accuracy) == (4 / 6, 2 / 6)
    assert found.table["external"].broken.tolist() == [True, True, False, False, False, False]
    assert judged(MOVED, fa.Linf(0.5)).robust_accuracy == 1 / 6


def test_images_outside_the_box_or_not_finite_are_outside():
    images = MOVED.clone()
    images[2], images[4] = -0.05, torch.nan
    found = judged(images)
    assert found.outside.tolist() == [2, 3, 4]
    assert found.robust_accuracy == 2 / 6


def test_slack_is_what_an_image_may_leave_the_ball_by():
    threat = fa.Linf(0.15 - 2e-6)
    assert judged(MOVED, threat).outside.tolist() == [0, 1, 2, 3]
    assert judged(MOVED, threat, slack=4e-6).outside.tolist() == [1, 3]


def test_a_file_holds_what_an_attack_made(tmp_path: Path):
    threat = fa.L2(0.25)
    made = fa.attacks.pgd(Threshold(), DATA.x, DATA.y, threat, steps=20)
    save_external(tmp_path / "adv.pt", made.x_adv)
    written = torch.load(tmp_path / "adv.pt", weights_only=True)
    assert (written.dtype, written.shape) == (torch.float32, DATA.x.shape)
    found = judged(tmp_path / "adv.pt", threat, batch_size=4)
    assert found.robust_accuracy == (~made.success).double().mean() == 2 / 6
    assert len(found.outside) == 0


def test_the_first_samples_alone():
    found = judged(MOVED[:3])
    assert (found.table.n, found.clean_accuracy, found.robust_accuracy) == (3, 1, 1 / 3)


def test_the_first_samples_of_a_sorted_set_are_its_first_ones():
    """A limit of `evaluate` would draw as many by class from the whole set."""
    data = pixels([0.4] * 100 + [0.6] * 100, [0] * 100 + [1] * 100)
    for dataset in (data, TensorDataset(data.x, data.y)):
        found = judged(torch.full((40, 1, 1, 1), 0.55), data=dataset)
        assert found.table.ids.tolist() == list(range(40))
        assert (found.clean_accuracy, found.robust_accuracy) == (1, 0)
        assert len(found.outside) == 0


@pytest.mark.parametrize(
    ("images", "match"),
    [
        (MOVED.flatten(1), r"images: expected floating \[6, 1, 1, 1\], one for each .*shape \[6, 1\]"),
        (torch.cat([MOVED, MOVED]), "12"),
        (MOVED.sum(), r"shape \[\]"),
        (MOVED[:0], r"shape \[0, 1, 1, 1\]"),
        ((MOVED * 255).to(torch.uint8), "got torch.uint8"),
    ],
)
def test_other_tensors_are_refused(images, match):
    with pytest.raises(InputError, match=match):
        judged(images)


def test_other_files_are_refused(tmp_path: Path):
    path = tmp_path / "adv.pt"
    with pytest.raises(InputError, match="expected a torch file, got none at"):
        judged(path)
    path.write_bytes(b"no torch file")
    with pytest.raises(CorruptFileError, match="does not read"):
        judged(path)
    torch.save({"adv_complete": MOVED}, path)
    with pytest.raises(CorruptFileError, match="expected a torch file with one tensor of images, got dict"):
        judged(path)
    with pytest.raises(InputError, match="slack"):
        judged(MOVED, slack=-1)

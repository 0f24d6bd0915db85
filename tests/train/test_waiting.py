"""The share of training that passes until images are read: by a clock of its own, and after a stop."""

from types import SimpleNamespace

import pytest
import torch

from fastadv.train import Execution, Standard, _feed, _run, fit, reports

from .nets import images, net, stopped


@pytest.fixture
def slow(monkeypatch):
    """Images of which one takes a second to read, in a run of which a step takes ten."""
    now, step, data = [0.0], torch.optim.SGD.step, images(48)

    def ten_seconds(optimizer, *args, **kwargs):
        now[0] += 10
        return step(optimizer, *args, **kwargs)

    class Slow(torch.utils.data.Dataset):
        def __len__(self):
            return len(data)

        def __getitem__(self, k):
            now[0] += 1
            return data[k]

    for module in (_feed, _run):
        monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    monkeypatch.setattr(torch.optim.SGD, "step", ten_seconds)
    return Slow()


def test_the_share_is_that_of_reading_also_after_a_stop_and_with_partners(slow, tmp_path):
    def trained(folder=None, **options):
        execution = Execution(checkpoint_every=None if folder is None else 2)
        return fit(
            net(), slow, Standard(), epochs=2, batch_size=8, run_dir=folder, execution=execution, **options
        )

    assert [report.waiting for report in trained()] == [8 / 18] * 2
    assert [report.waiting for report in trained(augment="mixup")] == [16 / 26] * 2
    stopped(9, trained, tmp_path)  # after the second step of the second epoch one more was taken
    trained(tmp_path, resume=True)
    assert [report.waiting for report in reports(tmp_path)] == [8 / 18] * 2


def test_images_in_memory_are_hardly_waited_for():
    (report,) = fit(net(), images(480), Standard(), epochs=1, batch_size=120)
    assert 0 < report.waiting < 0.5

"""Jobs that know nothing of each other share a command; merged, their files are those of one job."""

import re
import shlex
from pathlib import Path

import pytest

from fastadv.data import load_constructed
from tests.cli.conftest import timeless
from tests.data.test_construct_processes import files

PAGE = (Path(__file__).parents[2] / "docs" / "slurm.md").read_text()
NET = "-m softmax --data digits -n 61 --device cpu"
CONSTRUCT = f"construct random-target {NET} --steps 2 --shard-size 20 --batch-size 8"
EVALUATE = f"evaluate {NET} --radius 0.1 -a fgsm -a pgd:steps=3 --batch-size 16"
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.slow
@pytest.mark.parametrize("apart", [False, True])
def test_a_set_of_three_jobs_is_that_of_one(fastadv, folder, apart):
    fastadv(f"{CONSTRUCT} --out one")
    homes = [f"job-{k}" if apart else "jobs" for k in range(3)]
    for k in (1, 2, 0):
        done = fastadv(f"{CONSTRUCT} --out {homes[k]} --shard {k}/3")
        whole = (folder / homes[k] / "index.json").exists()
        assert ("train on it with" in done.out) == whole == (not apart and k == 0)
    done = fastadv(f"merge {' '.join(dict.fromkeys(homes))} --out jobs --json")
    assert files(folder / "jobs") == files(folder / "one")
    assert len(load_constructed(folder / "jobs")) == 61


@pytest.mark.slow
@pytest.mark.parametrize("apart", [False, True])
def test_an_evaluation_of_two_jobs_is_that_of_one(fastadv, folder, apart):
    one = fastadv(f"{EVALUATE} --run-dir one --json")
    homes = [f"job-{k}" if apart else "jobs" for k in range(2)]
    for k in (1, 0):
        assert f"share {k} of 2" in fastadv(f"{EVALUATE} --run-dir {homes[k]} --shard {k}/2 --resume").out
    fastadv(f"merge {' '.join(dict.fromkeys(homes))} --out jobs")
    before = {path: path.stat().st_mtime_ns for path in (folder / "jobs").glob("part-*")}
    assert timeless(fastadv(f"{EVALUATE} --run-dir jobs --resume --json").json) == timeless(one.json)
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_shares_that_do_not_make_a_whole_are_refused(fastadv, refused):
    refused(f"{CONSTRUCT} --out a --shard 3/3", "expected I/N with I from 0 to N - 1")
    refused(f"{CONSTRUCT} --out a --shard 0/5", "at most one process for each of the 4 shards, got 5")
    refused(f"{EVALUATE} --shard 0/2", "expected a folder for a share")
    refused(f"{EVALUATE} --run-dir a --shard 0/5", "at most one process for each of the 4 batches, got 5")
    assert not Path("a/evaluation.json").exists()
    for whole in ("--radii 0.1", "--report r.html"):
        refused(f"{EVALUATE} --run-dir b --shard 0/2 {whole}", f"{whole.split()[0]} is of all images")
    refused(f"{EVALUATE} --run-dir b --shard 0/2 --suite robustbench", "--suite is of all images")
    for number in range(2):
        fastadv(f"{CONSTRUCT} --out set-{number} --shard {number}/2")
    refused("merge set-0 --out whole", "expected all 4 shards, got none of 1, 3")
    refused("merge nowhere --out whole", "nowhere: expected shards of a constructed set, got none")
    fastadv("merge set-1 set-0 --out whole")


@pytest.mark.slow
def test_the_page_runs(fastadv, monkeypatch, folder):
    """Each command of its scripts, as the jobs of the array would run it."""
    scripts = re.findall(r"```bash\n(#!/bin/bash.*?)```", PAGE, re.DOTALL)
    assert len(scripts) == 2
    for script in scripts:
        jobs = int(re.search(r"--array=0-(\d+)", script)[1]) + 1
        (line,) = [line for line in re.sub(r"\s*\\\n\s*", " ", script).splitlines() if "fastadv" in line]
        words = shlex.split(line)
        words = words[words.index("fastadv") + 1 :]
        for k in range(jobs):
            command = " ".join(words).replace("$SLURM_ARRAY_TASK_ID", str(k)).replace("$COUNT", str(jobs))
            fastadv(small(command))
    for line in re.findall(r"^fastadv (.*)$", re.sub(r"\s*\\\n\s*", " ", PAGE), re.MULTILINE):
        fastadv(small(line))
    assert len(load_constructed(folder / "sets" / "d_rand")) == 64


def small(command):
    command = command.replace("-m resnet50 -w resnet50.safetensors --data restricted_imagenet", NET)
    command = command.replace("-n 61", "-n 64").replace("--radius 3 --steps 100", "--radius 0.5 --steps 2")
    return command + (" --batch-size 4" if "merge" not in command else "")

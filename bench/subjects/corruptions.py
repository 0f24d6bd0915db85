"""Each common corruption beside imagecorruptions-imaug, image by image, and the 75 sets of one evaluation.

That package has the constants of ImageNet-C alone, so both take these; the sets have those of CIFAR-10-C.
Frost needs its photographs. tests/zoo/test_corruptions.py holds that both compute the same.
"""

from collections.abc import Iterator
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from itertools import product
from statistics import median

import torch

import fastadv as fa
from bench.session import Case, Row, Session
from bench.subjects.training import random_images
from fastadv.data.corruption.card import SEVERITIES, named
from fastadv.data.corruption.sets import corrupt

OURS, ORACLE = "fastadv", "imagecorruptions-imaug 1.1.5"
BATCHES = {224: 8, 32: 256}  # images, by their side
LEVELS = (1, 3, 5)


def cases(session: Session) -> Iterator[Case]:
    for side, name in product(BATCHES, named("all")):
        yield Case(f"{name}, {side}×{side}", partial(compared, session, name, side), needs=30)
    yield Case("75 sets", partial(evaluated, session), needs=100)


def compared(session: Session, name: str, side: int) -> Iterator[Row]:
    """Yield images a second of both, at each severity."""
    count, oracle = session.size(BATCHES[side], 2), find_spec("imagecorruptions")
    x = random_images(count, (3, side, side)).x.to(session.device)
    ids, arrays = torch.arange(count, device=x.device), [*x.permute(0, 2, 3, 1).cpu().numpy()]
    if not oracle:
        session.note(f"{ORACLE} is not installed, and fastadv is measured alone")
    for level in LEVELS:
        ways = {OURS: partial(corrupt, x, name, level, 0, ids, "imagenet")}
        if oracle:
            each = partial(import_module("imagecorruptions").corrupt, severity=level, corruption_name=name)
            ways[ORACLE] = partial(lambda each: [each(image) for image in arrays], each)
        what = f"{name} {level}, {count} images of {side}×{side}"
        for row, values in session.compare(ways, ORACLE, "times_oracle", least=3):
            speed = {"images_per_s": round(1000 * count / median(values), 1)} if values else {}
            yield {"what": what, "corruption": name, "level": level, "side": side, **row, **speed}


def evaluated(session: Session) -> Iterator[Row]:
    """Yield the seconds in which all sets of an evaluation are made and read, once."""
    data = random_images(session.size(1000, 2))

    def read() -> None:
        for name, severity in product(named("c15"), SEVERITIES):
            for _ in fa.data.batches(fa.data.corrupted(data, name, severity), 256):
                pass

    seconds = round(session.timed(read) / 1000, 2)
    yield {"what": f"75 sets of {len(data):,} images of 32×32", "provider": OURS, "seconds": seconds}

"""The pipeline in miniature: every part in a second or so, on sixty digits; its figures mean nothing."""

from dataclasses import replace

from papers.ilyas2019 import pipeline, plan

TINY = plan.SCALES["tiny"]
MINI = replace(
    TINY, images=60, tested=12, epochs=1, invert_steps=2, push_steps=2, attack_steps=2, size=8, inverted=40,
    others=TINY.others[:1], near=True, architecture=plan.Architecture("small CNN", "small_cnn", {"width": 4}),
)  # fmt: skip


def study(folder, settings=MINI, **options):
    """The pipeline in that folder."""
    return pipeline.run(settings, *pipeline.load(settings), folder, **options)


def timeless(value):
    """A result without its seconds."""
    if isinstance(value, dict):
        return {key: timeless(item) for key, item in value.items() if key != "seconds"}
    return value

"""`--preset` and `--presets`: the settings of papers, as options of `fastadv train`."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import typer

from fastadv.cli import _options as o
from fastadv.cli._output import print_table, write_json
from fastadv.cli._panels import Panel
from fastadv.cli._shared import Network
from fastadv.text import percent
from fastadv.train.optim import Optimization
from fastadv.train.presets import PRESETS, Preset, find_preset
from fastadv.train.schedules import SCHEDULES


def list_presets(context: typer.Context, asked: bool) -> None:
    """Print the presets with their published figures, and leave: the callback of --presets."""
    if not asked:
        return
    if context.params.get("json"):
        write_json({name: _card(name, preset) for name, preset in PRESETS.items()})
    else:
        cells = [["preset", "paper", "data", "model", "recipe", "epochs", "clean", "robust", "under"]]
        for name, preset in PRESETS.items():
            figures = [percent(each / 100) for each in (preset.clean, preset.robust)]
            told = [preset.paper, preset.data, preset.model or "your own", preset.recipe, str(preset.epochs)]
            cells.append([name, *told, *figures, preset.judge])
        lines = [f"{name}: {text}" for name, preset in PRESETS.items() for text in preset.differs]
        print_table("presets", cells, [*lines, "--presets --json has every setting, and its source."])
    raise typer.Exit


def _card(name: str, preset: Preset) -> dict[str, Any]:
    about = {key: getattr(preset, key) for key in ("paper", "source", "clean", "robust", "judge", "differs")}
    return about | {"options": flags(preset)}


def use_preset(context: typer.Context, name: str | None) -> str | None:
    """Let the preset give each option that the command line leaves out: the callback of --preset."""
    if name is not None:
        with o.usage():
            given = flags(find_preset(name))
        given.pop("option", None)  # see Presets.complete
        context.default_map = {**(context.default_map or {}), **given}
    return name


class Presets(Panel, title="Preset"):
    preset: str | None = o.option(
        None, f"Settings of a paper, in place of the defaults: {', '.join(PRESETS)}.",
        callback=use_preset, is_eager=True,
    )  # fmt: skip
    presets: bool = o.option(
        False, "List the presets, with published figures.", "--presets", callback=list_presets
    )

    def check(self, data: str) -> None:
        """Refuse another data set than the paper's."""
        if self.preset is not None and data != PRESETS[self.preset].data:
            o.refuse(
                f"--preset {self.preset} has settings for {PRESETS[self.preset].data}, not for --data "
                f"{data}: leave --data out, or choose settings of your own."
            )

    def complete(self, network: Network) -> Network:
        """Return the network with the paper's arguments beside those given, where it is the paper's model."""
        if self.preset is None or network.model != PRESETS[self.preset].model:
            return network
        own = network.option or []
        named = o.pairs(own, "--option")
        paper = flags(PRESETS[self.preset]).get("option", [])
        return replace(network, option=[each for each in paper if each.partition("=")[0] not in named] + own)

    def describe(self) -> dict[str, Any]:
        """Return what the card says: the preset with its published figures."""
        if self.preset is None:
            return {}
        preset = PRESETS[self.preset]
        published = {"clean": preset.clean, "robust": preset.robust, "judge": preset.judge}
        return {"preset": {"name": self.preset, "source": preset.source, "published": published}}


def flags(preset: Preset) -> dict[str, Any]:
    """Return the options of the command that stand for the preset, by name."""
    given = {
        "model": preset.model,
        "option": [f"{key}={value}" for key, value in preset.options.items()] or None,
        "data": preset.data,
        "augment": "+".join(_text(*([each] if isinstance(each, str) else each)) for each in preset.augment),
        "fraction": preset.generated,
        "recipe": _text(preset.recipe, preset.arguments),
        "norm": preset.threat.norm,
        "radius": repr(float(preset.threat.radius)),
        "precision": preset.execution.precision,
        **{key: getattr(preset, key) for key in ("epochs", "batch_size", "optimizer", "learning_rate")},
        **_moving(preset.optimization),
    }
    return {key: value for key, value in given.items() if value is not None}


def _moving(options: Optimization) -> dict[str, Any]:
    names = "weight_decay", "norm_decay", "schedule_by", "warm_up", "batch_norm_momentum", "ema"
    schedule = options.schedule
    if not isinstance(schedule, str):
        near = min(
            (name for name, each in SCHEDULES.items() if type(each) is type(schedule)),
            key=lambda name: len(_changes(SCHEDULES[name], schedule)),
        )
        schedule = _text(near, _changes(SCHEDULES[near], schedule))
    return {name: getattr(options, name) for name in names} | {"schedule": schedule}


def _changes(base: Any, wanted: Any) -> dict[str, Any]:
    return {key: value for key, value in asdict(wanted).items() if getattr(base, key) != value}


def _text(name: str, arguments: Mapping[str, Any] | None = None) -> str:
    """Return NAME:key=value,key=value."""
    told = ",".join(f"{key}={value}" for key, value in (arguments or {}).items())
    return f"{name}:{told}" if told else name

"""`fastadv train`: train a model, standard or adversarially, with checkpoints that resume."""

import dataclasses
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fastadv.cli import _options as o
from fastadv.cli._interrupt import interruptible
from fastadv.cli._load import load_data, load_model, make_device
from fastadv.cli._output import console, note, percent, progress, table, write_json

if TYPE_CHECKING:
    from fastadv.train import Recipe


class RecipeName(StrEnum):
    """What is minimised."""

    STANDARD = "standard"
    FGSM = "fgsm"
    PGD = "pgd"


class Schedule(StrEnum):
    """How the learning rate runs."""

    CONSTANT = "constant"
    STEP = "step"
    COSINE = "cosine"
    CYCLIC = "cyclic"


class Augment(StrEnum):
    """How images are varied."""

    NONE = "none"
    SHIFT = "shift"
    CROP_FLIP = "crop_flip"


def train(
    model: o.Model,
    data: o.Data,
    recipe: Annotated[
        RecipeName, typer.Option(help="Plain cross-entropy, Goodfellow's FGSM objective, or PGD (Madry).")
    ] = RecipeName.STANDARD,
    norm: o.NormOption = "linf",
    radius: o.OptionalRadius = None,
    steps: Annotated[int, typer.Option(min=1, help="Steps of the PGD recipe.")] = 7,
    step_size: o.StepSize = None,
    epochs: Annotated[int, typer.Option(min=1)] = 10,
    run_dir: Annotated[
        Path | None, typer.Option(help="Folder for checkpoint, reports and model.safetensors.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where the run in --run-dir stopped.")
    ] = False,
    option: o.Arguments = None,
    weights: o.Weights = None,
    test_data: Annotated[
        str | None,
        typer.Option(help="Data set to test on after each epoch; by default the test split of --data."),
    ] = None,
    test_samples: Annotated[int, typer.Option(min=1, help="Test on the first so many.")] = 1000,
    data_dir: o.DataDir = None,
    size: o.Size = None,
    samples: o.Samples = None,
    batch_size: o.BatchSize = 128,
    optimizer: Annotated[str, typer.Option(help="sgd or adam.")] = "sgd",
    learning_rate: Annotated[float | None, typer.Option(help="0.05 for sgd, 0.001 for adam.")] = None,
    weight_decay: Annotated[float, typer.Option()] = 5e-4,
    schedule: Annotated[Schedule, typer.Option(help="How the learning rate runs.")] = Schedule.COSINE,
    augment: Annotated[
        Augment, typer.Option(help="shift for digits, crop_flip for photographs.")
    ] = Augment.NONE,
    bf16: Annotated[bool, typer.Option("--bf16", help="Train under bf16 autocast.")] = False,
    seed: o.Seed = 0,
    device: o.Device = None,
    json: o.Json = False,
    debug: o.Debug = False,
) -> None:
    """Train a model, standard or adversarially. A run with --run-dir resumes bit for bit after any stop."""
    chosen = _recipe(recipe, norm, radius, steps, step_size)
    if resume and run_dir is None:
        raise typer.BadParameter("--resume needs the --run-dir of the run that stopped.")
    if run_dir is not None and not resume and (run_dir / "checkpoint.safetensors").exists():
        raise typer.BadParameter(
            f"--run-dir {run_dir} already holds a run: add --resume to go on with it, or choose another folder."
        )
    place = make_device(device)
    from fastadv._card import card
    from fastadv.train import fit, reports

    last = 0

    def kept() -> str:
        if run_dir is None:
            return "nothing was kept; with --run-dir a run can be resumed"
        if last == 0 and not (run_dir / "checkpoint.safetensors").exists():
            return "no epoch was done, so nothing was kept; run it again"
        return f"the last finished epoch is kept in {run_dir}; run the same command with --resume to go on"

    with interruptible(kept):
        dataset = load_data(data, "train", data_dir, size, samples)
        test_set = _test_set(data, test_data, data_dir, size, test_samples)
        net = load_model(model, option, weights, dataset, place, seed, fresh=True)
        done = []
        with progress("training") as tick:
            with o.usage():
                run = fit(
                    net, dataset, chosen, epochs=epochs, run_dir=run_dir, resume=resume, batch_size=batch_size, optimizer=optimizer,
                    learning_rate=learning_rate, weight_decay=weight_decay, schedule=schedule.value,
                    augment=None if augment is Augment.NONE else augment.value, precision="bf16" if bf16 else "fp32", test_set=test_set,
                    test_attacks=_test_attacks(norm, radius, seed) if test_set is not None else None, seed=seed, device=place, progress=tick,
                )  # fmt: skip
            for report in run:
                done.append(report)
                last = report.epoch
    past = reports(run_dir) if run_dir is not None else done
    if json:
        config = {
            "model": model,
            "options": option,
            "recipe": repr(chosen),
            "data": dataset.describe(),
            "epochs": epochs,
            "seed": seed,
            "run_dir": run_dir and str(run_dir),
        }
        write_json(card("training", config, epochs=[dataclasses.asdict(report) for report in past]))
        return
    _show(past, f"{model} on {dataset.name}", dataset.note)
    if run_dir is not None:
        console().print(f"weights in {run_dir / 'model.safetensors'}", soft_wrap=True)
    else:
        note("the weights were not kept: give --run-dir")


def _recipe(
    recipe: RecipeName, norm: str, radius: float | None, steps: int, step_size: float | None
) -> "Recipe":
    from fastadv.train import FGSMTraining, PGDTraining, Standard

    if recipe is RecipeName.STANDARD:
        return Standard()
    if radius is None:
        raise typer.BadParameter(f"the recipe {recipe.value} needs --radius.")
    threat = o.make_threat(norm, radius)
    with o.usage():
        return (
            FGSMTraining(threat)
            if recipe is RecipeName.FGSM
            else PGDTraining(threat, steps=steps, step_size=step_size)
        )


def _test_set(data: str, test_data: str | None, data_dir: Path | None, size: int | None, samples: int) -> Any:
    from fastadv.data import names

    if test_data is None and data not in names():
        note(f"{data} has no test split: name one with --test-data to see accuracies")
        return None
    return load_data(test_data or data, "test", data_dir, size, samples)


def _test_attacks(norm: str, radius: float | None, seed: int) -> dict[str, Any] | None:
    """PGD-10 in the given threat: what the robust accuracy of an epoch's report means."""
    if radius is None:
        return None
    attack = o.parse_attack("pgd", o.AttackOptions(norm, radius, 10, None, 1, seed))
    return {attack.label: attack.run}


def _show(past: list[Any], title: str, caption: str) -> None:
    attacks = list(past[-1].robust_accuracy) if past else []
    made = table(
        title, "epoch", "loss", "accuracy", *attacks, "learning rate", "seconds", caption=caption or None
    )
    for report in past:
        robust = [percent(report.robust_accuracy.get(name)) for name in attacks]
        figures = (
            f"{report.loss:.4f}",
            percent(report.clean_accuracy),
            *robust,
            f"{report.learning_rate:.2g}",
            f"{report.seconds:.1f}",
        )
        made.add_row(str(report.epoch), *figures)
    console().print(made)

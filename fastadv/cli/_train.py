"""`fastadv train`: train a model, standard or adversarially, with checkpoints that resume."""

import dataclasses
import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from fastadv.cli import _augment, _ramp
from fastadv.cli import _options as o
from fastadv.cli._attacks import AttackOptions, parse_attack
from fastadv.cli._interrupt import interruptible
from fastadv.cli._load import load_data, load_mixture, load_model, make_device
from fastadv.cli._output import note, print_table, progress, say, write_json
from fastadv.cli._recipes import DEFAULTS, HELP, RecipeOptions, parse_recipe
from fastadv.cli._torchrun import together
from fastadv.data import names
from fastadv.evaluation.text import percent
from fastadv.runs import processes
from fastadv.runs.card import card
from fastadv.train import Ending, EpochReport, Execution, Measuring, Optimization, reports
from fastadv.train import epochs as each_epoch
from fastadv.train._deterministic import WORKSPACE, WORKSPACES
from fastadv.train.ending import ACTIONS
from fastadv.train.execution import PRECISIONS
from fastadv.train.optim import LEARNING_RATES, SCHEDULES
from fastadv.train.report import best

TEST_STEPS = 10
TEST_SAMPLES = 1000


Schedule = StrEnum("Schedule", {name.upper(): name for name in SCHEDULES})  # type: ignore[misc]
Action = StrEnum("Action", {name.upper(): name for name in ACTIONS})  # type: ignore[misc]
Precision = StrEnum("Precision", {name.upper(): name for name in PRECISIONS})  # type: ignore[misc]


@together
def train(
    model: o.Model,
    data: o.Data,
    recipe: Annotated[str, typer.Option(help=HELP)] = "standard",
    norm: o.NormOption = None,
    radius: o.Radius = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help=f"Steps of the recipe; {DEFAULTS['steps']} by default.")
    ] = None,
    step_size: o.StepSize = None,
    awp: Annotated[float | None, o.number("Perturb the weights, too, by this share: 0.005.")] = None,
    l1: Annotated[float | None, o.number("L1 weight decay on the first layer.")] = None,
    rubbish: Annotated[
        float | None, o.number("Also deny noise, with this weight beside the loss of the recipe: 1.")
    ] = None,
    epochs: o.Epochs = 10,
    run_dir: Annotated[
        Path | None,
        typer.Option(file_okay=False, help="Folder for checkpoint, reports and model.safetensors."),
    ] = None,
    resume: o.Resume = False,
    option: o.Arguments = None,
    weights: o.Weights = None,
    test_data: Annotated[
        str | None,
        typer.Option(help="Data set to test on after each epoch; by default the test split of --data."),
    ] = None,
    test_samples: Annotated[
        int | None, typer.Option(min=1, help=f"Test on the first N samples; {TEST_SAMPLES} by default.")
    ] = None,
    data_dir: o.DataDir = None,
    size: o.Size = None,
    samples: o.Samples = None,
    batch_size: o.BatchSize = 128,
    optimizer: Annotated[str, typer.Option(help=f"{' or '.join(LEARNING_RATES)}.")] = "sgd",
    learning_rate: Annotated[
        float | None,
        typer.Option(help=", ".join(f"{rate:g} for {name}" for name, rate in LEARNING_RATES.items()) + "."),
    ] = None,
    weight_decay: Annotated[float, typer.Option(help="Of the optimizer.")] = 5e-4,
    schedule: Annotated[Schedule, typer.Option(help="How the learning rate changes.")] = Schedule("cosine"),  # noqa: B008
    warm_up: Annotated[float | None, o.number("Epochs in which the learning rate rises linearly.")] = None,
    clip_norm: Annotated[float | None, o.number("Shorten gradients to this norm, of all weights.")] = None,
    max_norm: Annotated[
        float | None, o.number("Shorten the weights into each unit to this norm: 1.9365 for maxout.")
    ] = None,
    ramp: Annotated[str | None, typer.Option(metavar="EPOCHS[:key=value,...]", help=_ramp.HELP)] = None,
    ema: Annotated[
        float | None,
        o.number("Decay of a moving average of the weights, tested and kept beside them: 0.9995."),
    ] = None,
    validation: Annotated[
        int | None,
        typer.Option(min=1, help="Hold out the last N training images; the best epoch is chosen by them."),
    ] = None,
    patience: Annotated[
        int | None,
        typer.Option(min=1, help="Stop after so many epochs without a better accuracy under attack."),
    ] = None,
    on_alarm: Annotated[
        Action,
        typer.Option(
            help="When robustness collapses or falls for good: go on, stop, or stop with the best weights."
        ),
    ] = Action("warn"),  # noqa: B008
    augment: Annotated[str, typer.Option(metavar="NAME+NAME", help=_augment.HELP)] = "none",
    generated: Annotated[
        Path | None,
        typer.Option(exists=True, help="Generated images to mix in: an npz file, or a folder of them."),
    ] = None,
    fraction: Annotated[float | None, o.number("Of each batch, generated: 0.7.")] = None,
    workers: Annotated[
        int | None, typer.Option(min=0, help="Processes that read image folders; they change no result.")
    ] = None,
    precision: Annotated[
        Precision | None,
        typer.Option(help="bf16: under autocast; tf32: products on a GPU; fp32 by default."),
    ] = None,
    bf16: o.Bf16 = False,
    compiled: Annotated[
        bool, typer.Option("--compile", help="Run the passes of a step through torch.compile.")
    ] = False,
    deterministic: Annotated[
        bool, typer.Option("--deterministic", help="The same bits with any number of processes.")
    ] = False,
    seed: o.Seed = 0,
    device: o.Device = None,
    json: o.Json = False,
) -> None:
    """Train a model, standard or adversarially.

    With --run-dir, the same command and --resume goes on bit for bit after any stop.

    Several processes train together: torchrun --nproc-per-node 4 -m fastadv train ...
    """
    chosen = parse_recipe(recipe, RecipeOptions(norm, radius, steps, step_size, l1, awp, rubbish))
    varied = _augment.parse_augment(augment)
    climb = None if ramp is None else _ramp.parse_ramp(ramp)
    if radius is None and (validation is not None or patience is not None or on_alarm.value != "warn"):
        raise typer.BadParameter(
            "--validation, --patience and --on-alarm need the --radius of the attack that decides."
        )
    if (generated is None) != (fraction is None):
        raise typer.BadParameter("--generated and --fraction belong together: give both, or neither.")
    computed = o.one_precision(bf16, precision)
    o.check_run_dir(run_dir, resume)
    if deterministic:
        os.environ.setdefault(WORKSPACE, WORKSPACES[0])  # read when cuBLAS is first used
    place = make_device(device)
    last = 0

    def kept() -> str:
        if run_dir is None:
            return "nothing was kept; with --run-dir a run can be resumed"
        if last == 0 and not o.has_checkpoint(run_dir):
            return "no epoch was done, so nothing was kept; run it again"
        return f"the last finished epoch is kept in {run_dir}; run the same command with --resume to go on"

    with interruptible(kept):
        # with other test data the size is theirs: a constructed set has its own
        own_size = size if test_data is None or data in names() else None
        dataset = load_data(data, None, data_dir, own_size, samples, default=o.Split.TRAIN)
        held_out = None
        if validation is not None:
            dataset, held_out = _hold_out(dataset, validation)
        if generated is not None and fraction is not None:
            with o.usage():
                dataset = load_mixture(dataset, generated, fraction)
        test_set = _test_set(data, test_data, data_dir, size, test_samples)
        net = load_model(model, option, weights, dataset, place, seed, fresh=True)
        tested = test_set if held_out is None else held_out
        done = []
        with progress("training") as tick:
            with o.usage():
                run = each_epoch(
                    net,
                    dataset,
                    chosen,
                    epochs=epochs,
                    run_dir=run_dir,
                    resume=resume,
                    batch_size=batch_size,
                    optimizer=optimizer,
                    learning_rate=learning_rate,
                    optimization=Optimization(
                        weight_decay=weight_decay,
                        schedule=schedule.value,
                        warm_up=warm_up or 0,
                        clip_norm=clip_norm,
                        max_norm=max_norm,
                        ramp=climb,
                        ema=ema,
                    ),
                    augment=varied,
                    execution=Execution(
                        precision=computed, deterministic=deterministic, compile=compiled, workers=workers
                    ),
                    test_set=test_set,
                    test_attacks=None if tested is None else _test_attacks(norm, radius, seed),
                    measuring=Measuring(validation_set=held_out),
                    ending=Ending(patience=patience, on_alarm=on_alarm.value),
                    seed=seed,
                    device=place,
                    progress=tick,
                )
            for report in run:
                done.append(report)
                last = report.epoch
    if processes.rank():
        return  # the first process tells, and its folder may lie on another machine
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
        say(f"weights in {run_dir / 'model.safetensors'}")
        # not whatever lies there: another run in this folder may have left the file
        if ema is not None:
            say(f"their moving average in {run_dir / 'ema.safetensors'}")
        if best(past) is not None:
            say(f"the best under attack in {run_dir / 'best.safetensors'}")
    else:
        note("the weights were not kept: give --run-dir")


def _test_set(
    data: str, test_data: str | None, data_dir: Path | None, size: int | None, samples: int | None
) -> Any:
    if test_data is None and data not in names():
        if samples is not None:
            raise typer.BadParameter(
                f"--test-samples has no effect: {data} has no test split; name --test-data."
            )
        note(f"{data} has no test split: name one with --test-data to see accuracies")
        return None
    return load_data(test_data or data, None, data_dir, size, TEST_SAMPLES if samples is None else samples)


def _hold_out(dataset: Any, count: int) -> tuple[Any, Any]:
    """All but the last `count` images, and these."""
    rest = len(dataset) - count
    if rest < 1:
        raise typer.BadParameter(f"--validation: expected fewer than the {len(dataset)} images, got {count}.")
    return dataset.subset(range(rest)), dataset.subset(range(rest, len(dataset)))


def _test_attacks(norm: str | None, radius: float | None, seed: int) -> dict[str, Any] | None:
    """PGD-10 in the given threat: what the robust accuracy in the report of an epoch means."""
    if radius is None:
        return None
    attack = parse_attack("pgd", AttackOptions(norm, radius, TEST_STEPS), seed)
    return {attack.label: attack.run}


def _show(past: list[EpochReport], title: str, caption: str) -> None:
    attacks = list(past[-1].robust_accuracy) if past else []
    averaged = bool(past) and past[-1].ema_clean_accuracy is not None
    validated = bool(past) and past[-1].validation_clean_accuracy is not None
    head = ["accuracy", *attacks]
    if averaged:
        head += [f"EMA {name}" for name in head]
    if validated:
        head.append("validation")
    cells = [["epoch", "loss", *head, "learning rate", "seconds"]]
    for report in past:
        accuracies = [report.clean_accuracy, *(report.robust_accuracy.get(name) for name in attacks)]
        if averaged:
            accuracies += [report.ema_clean_accuracy]
            accuracies += [report.ema_robust_accuracy.get(name) for name in attacks]
        if validated:
            accuracies.append(report.judged)
        cells.append(
            [
                str(report.epoch),
                f"{report.loss:.4f}",
                *(percent(accuracy) for accuracy in accuracies),
                f"{report.learning_rate:.2g}",
                f"{report.seconds:.1f}",
            ]
        )
    alarms = [f"epoch {report.epoch}: {report.alarm}" for report in past if report.alarm]
    print_table(title, cells, [caption, *alarms] if caption else alarms)

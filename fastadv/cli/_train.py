"""`fastadv train`: train a model, standard or adversarially, with checkpoints that resume."""

import dataclasses
from collections.abc import Iterator
from typing import Any

from fastadv.cli import _options as o
from fastadv.cli._attacks import AttackOptions, parse_attack
from fastadv.cli._interrupt import interruptible
from fastadv.cli._output import note, print_table, progress, say
from fastadv.cli._recipes import RecipeOptions, parse_augment, parse_recipe
from fastadv.cli._shared import Network, RunFolder
from fastadv.cli._torchrun import together
from fastadv.cli._train_options import EndingOptions, Executing, Optimizing, TrainingImages
from fastadv.runs import processes
from fastadv.runs.card import card
from fastadv.text import percent
from fastadv.train import Ending, EpochReport, Measuring, reports
from fastadv.train import epochs as each_epoch
from fastadv.train.report import best

TEST_STEPS = 10


@together
def train(
    network: Network,
    images: TrainingImages,
    options: RecipeOptions,
    optimizing: Optimizing,
    ending: EndingOptions,
    folder: RunFolder,
    machine: Executing,
) -> Iterator[Any]:
    """Train a model, standard or adversarially.

    With --run-dir, the same command and --resume continues bit for bit after any stop.

    Several processes train together: torchrun --nproc-per-node 4 -m fastadv train ...
    """
    recipe, augment = parse_recipe(options.recipe, options), parse_augment(images.augment)
    optimization, end = optimizing.optimization(), ending.ending()
    if options.radius is None and (images.validation is not None or end != Ending()):
        o.refuse("--validation, --patience and --on-alarm need the --radius of the attack that decides.")
    execution = machine.execution()
    folder.check()
    place, run_dir, seed = machine.place(), folder.run_dir, machine.seed
    done: list[EpochReport] = []
    with interruptible(lambda: folder.kept(begun=bool(done))):
        dataset, drawn = images.to_train_on(seed)
        held_out = None if drawn is None else drawn.held_out
        test_set = images.to_test_on()
        net = network.load(dataset, place, seed, fresh=True)
        tested = test_set if held_out is None else held_out
        with progress("training") as bar:
            run = each_epoch(
                net, dataset, recipe, epochs=optimizing.epochs, batch_size=optimizing.batch_size,
                optimizer=optimizing.optimizer, learning_rate=optimizing.learning_rate, augment=augment,
                test_set=test_set, test_attacks=None if tested is None else _test_attacks(options, seed),
                run_dir=run_dir, resume=folder.resume, seed=seed, device=place, progress=bar,
                optimization=optimization, ending=end, execution=execution,
                measuring=Measuring(validation_set=held_out, test_every=images.test_every),
            )  # fmt: skip
            for report in run:
                done.append(report)
    if processes.rank():
        return  # the first process tells, and its folder may lie on another machine
    past = reports(run_dir) if run_dir is not None else done
    config = {
        "model": network.model,
        "options": network.option,
        "recipe": repr(recipe),
        "data": dataset.describe(),
        "validation": drawn and drawn.about,
        "chosen_on": None if best(past) is None else "test_set" if held_out is None else "validation_set",
        "epochs": optimizing.epochs,
        "seed": seed,
        "run_dir": run_dir and str(run_dir),
    }
    yield card("training", config, epochs=[dataclasses.asdict(report) for report in past])
    _show(past, f"{network.model} on {dataset.name}", dataset.note)
    if run_dir is not None:
        say(f"weights in {run_dir / 'model.safetensors'}")
        # not whatever lies there: another run in this folder may have left the file
        if optimizing.ema is not None:
            say(f"their moving average in {run_dir / 'ema.safetensors'}")
        if best(past) is not None:
            on = "test" if held_out is None else "validation"
            say(f"the best under attack, on the {on} images, in {run_dir / 'best.safetensors'}")
    else:
        note("the weights were not kept: give --run-dir")


def _test_attacks(options: RecipeOptions, seed: int) -> dict[str, Any] | None:
    if options.radius is None:
        return None
    tested = AttackOptions(norm=options.norm, radius=options.radius, steps=TEST_STEPS)
    attack = parse_attack("pgd", tested, seed)
    return {attack.label: attack.run}


def _show(past: list[EpochReport], title: str, caption: str) -> None:
    attacks = list(past[-1].robust_accuracy) if past else []
    averaged = bool(past) and past[-1].ema_clean_accuracy is not None
    validated = bool(past) and past[-1].validation_clean_accuracy is not None
    head = ["accuracy", *attacks]
    head += [f"EMA {name}" for name in head] if averaged else []
    head += ["validation"] if validated else []
    cells = [["epoch", "loss", *head, "learning rate", "seconds"]]
    for report in past:
        accuracies = [report.clean_accuracy, *(report.robust_accuracy.get(name) for name in attacks)]
        if averaged:
            accuracies += [report.ema_clean_accuracy]
            accuracies += [report.ema_robust_accuracy.get(name) for name in attacks]
        if validated:
            accuracies.append(report.judged)
        rate, seconds = f"{report.learning_rate:.2g}", f"{report.seconds:.1f}"
        cells.append([str(report.epoch), f"{report.loss:.4f}", *map(percent, accuracies), rate, seconds])
    alarms = [f"epoch {report.epoch}: {report.alarm}" for report in past if report.alarm]
    print_table(title, cells, [caption, *alarms] if caption else alarms)

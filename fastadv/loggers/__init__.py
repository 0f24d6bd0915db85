"""Where numbers of a run go: each logger has `on_event(dict)`, and imports its package when it is made.

    log = fa.loggers.CSV("runs/a/log.csv")
    fa.train.fit(model, train_set, recipe, epochs=10, measuring=fa.train.Measuring(on_event=log.on_event))
    fa.evaluate(model, test_set, attacks, on_event=fa.loggers.CSV("runs/a/attacks.csv").on_event)

Training tells every report. An evaluation tells every batch that an attack is done with: "step" is then
the number of samples done; "clean_accuracy", "robust_accuracy/NAME" and "seconds/NAME" are over these.

An event is a dictionary of numbers and text; a dictionary inside it becomes "outer/inner", and None is left
out. "epoch" or "step" is the place on the axis where there is one. A logger of your own needs `on_event`.
"""

from fastadv.loggers.csv import CSV
from fastadv.loggers.event import Logger, flat
from fastadv.loggers.tensorboard import TensorBoard
from fastadv.loggers.wandb import WandB

__all__ = ["CSV", "Logger", "TensorBoard", "WandB", "flat"]

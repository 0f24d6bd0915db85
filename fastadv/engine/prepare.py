"""prepare: which engine answers, the plain one or a frozen copy."""

from fastadv._checks import check_flag
from fastadv.engine.copying.twin import as_module
from fastadv.engine.freeze import frozen_by_itself
from fastadv.engine.frozen import Frozen
from fastadv.engine.plain import Plain
from fastadv.engine.prepared import Model, Prepared

# Passes times samples from which a frozen copy gains more than it takes to make and to compare.
WORTH = 4096


def prepare(
    model: Model | Prepared, eot: int | None = None, *, work: int = 0, freeze: bool | None = None
) -> Prepared:
    """Return the model as an attack asks it: plain, or frozen where that pays.

    What was prepared before is used as it is. Otherwise a module is frozen where `work` is at least WORTH,
    without settings of the process. Anything else stays plain.

    Args:
        model: module, function or prepared.
        eot: passes over which the search averages; None takes those of a prepared model, or else 1.
        work: planned passes times samples.
        freeze: True freezes for any work, False for none; None, the default, decides by the work.

    Returns:
        A prepared model.

    Raises:
        InputError: the model cannot be called, or `freeze` is no flag.
    """
    wanted = work >= WORTH if freeze is None else check_flag("freeze", freeze)
    if isinstance(model, Frozen):
        return model if eot in (None, model.eot) else frozen_by_itself(model, eot)
    if isinstance(model, Prepared) and eot in (None, model.eot):
        return model
    if wanted and as_module(model) is not None:
        return frozen_by_itself(model, eot)
    return Plain(model, 1 if eot is None else eot)

"""prepare: which engine answers an attack, the plain one or a frozen copy."""

from fastadv.engine.freeze import freeze
from fastadv.engine.frozen import Frozen
from fastadv.engine.plain import Plain
from fastadv.engine.prepared import Model, Prepared


def prepare(model: Model | Prepared, eot: int | None = None) -> Prepared:
    """Return the model as an attack asks it: plain, unless it was prepared before.

    Args:
        model: module, function or prepared.
        eot: passes over which the search averages; None takes those of a prepared model, or else 1.

    Returns:
        A prepared model.
    """
    if isinstance(model, Prepared) and eot in (None, model.eot):
        return model
    if isinstance(model, Frozen):
        return freeze(model, eot=eot)
    return Plain(model, 1 if eot is None else eot)

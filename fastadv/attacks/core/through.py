"""An attack in a map of parameters: the same attack on the parameters, in their ball."""

from collections.abc import Callable
from dataclasses import replace
from math import inf
from typing import Any, Literal

from torch import Tensor

from fastadv.attacks.core.criterion import outputs_for
from fastadv.attacks.core.problem import problem
from fastadv.attacks.core.result import AttackResult
from fastadv.engine import Model, Prepared, prepare
from fastadv.engine.mapped import Mapped
from fastadv.engine.precision import no_gradient
from fastadv.errors import InputError
from fastadv.threat import Linf, Through

# maps of parameters that an attack serves
Serves = Literal["any", "images", "none"]
IMAGE = 3  # axes of the parameters of a sample that are an image


def on_parameters(
    attack: Callable[..., Any], /, model: Model | Prepared, x: Tensor, y: Tensor | None, threat: Through, *,
    eot: int = 1, freeze: bool | None = None, whole_batches: bool = False, **arguments: Any,
) -> AttackResult:  # fmt: skip
    """Return the result of an attack on the parameters of a map, with their images as x_adv."""
    served = getattr(attack, "through", "any")
    with no_gradient():
        about = {name: arguments[name] for name in ("targets", "criterion", "ids") if name in arguments}
        task = problem(x, y, Linf(inf, threat.box), **about)
        settings = {name: arguments.pop(name) for name in ("precision", "compile") if name in arguments}
        size = len(task.x) if whole_batches else 0
        outputs = outputs_for(arguments.get("criterion"), y)
        passes = eot if eot > 1 else None
        inner = prepare(model, passes, freeze=freeze, size=size, outputs=outputs, **settings)
        mapped = Mapped(inner, threat, task.x, task.ids)
        t = threat.parameters(task.x, task.ids)
        if served == "none" or (served == "images" and t.ndim != 1 + IMAGE):
            wanted = "and no map of parameters" if served == "none" else "or a map of parameters [C, H, W]"
            blind = "grid" if t[0].numel() <= 3 else "nes"
            raise InputError(
                f"threat: expected a ball {wanted} for {attack.__name__}, got {threat.name}, whose "
                f"parameters are {list(t.shape[1:])}; use apgd or, without gradients, {blind}"
            )
        if arguments.get("gradient"):
            raise InputError(
                f"gradient: expected no rules with {threat.name}, whose points are no images; leave them out"
            )
        out: AttackResult = attack(mapped, x=t, y=y, threat=threat.ball, **arguments)
        images = threat.image(out.x_adv, task.x, task.ids)
        threat.check_images(images)
    return replace(out, x_adv=images, parameters=out.x_adv, threat=threat)

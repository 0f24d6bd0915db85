"""The decision boundary of a classifier of points in the plane."""

from os import PathLike
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fastadv._checks import kind_of
from fastadv.attacks import AttackResult
from fastadv.engine import Prepared, prepare
from fastadv.errors import InputError
from fastadv.evaluation.figures import style
from fastadv.evaluation.figures.style import FAINT, FRAME, INK, LINES
from fastadv.labels import check_index

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CLEAN: dict[str, Any] = {"s": 16, "edgecolors": "w", "linewidths": 0.5}
ATTACKED: dict[str, Any] = {"s": 12, "marker": "x", "linewidths": 0.9}
FINE, MARGIN = 200, 0.08  # points of the grid along each side, and the room around all points
WIDTH = 3.8  # inches


@torch.no_grad()
def boundary(
    model: nn.Module | Prepared, x: Tensor, y: Tensor, x_adv: Tensor | AttackResult | None = None,
    path: str | PathLike[str] | None = None, *, title: str | None = None,
) -> "Figure":  # fmt: skip
    """Draw which class a model gives to each point of the plane, the points, and where an attack took them.

    Args:
        model: as attacks take it; points [B, 2] to logits [B, K], of at most six classes.
        x: points [N, 2].
        y: int64 [N], their classes, which are their colors.
        x_adv: like x, each joined with its x; or what an attack on x returned. None draws x alone.
        path: of a file to write: .png, .pdf or .svg.
        title: above the figure; None is none.

    Returns:
        The matplotlib figure.

    Raises:
        InputError: x are no points of the plane, y no classes of the model, or classes more than six.
    """
    points = x_adv.x_adv if isinstance(x_adv, AttackResult) else x_adv
    for name, one in ("x", x), ("x_adv", x if points is None else points):
        flat = isinstance(one, Tensor) and one.ndim == 2 and one.shape[1] == 2 and len(one) > 0
        if not flat or one.shape != x.shape or not one.isfinite().all():
            raise InputError(f"{name}: expected finite points [N, 2], as many as x, got {kind_of(one)}")
    labels = check_index("y", y, len(x), x.device).cpu()
    ends = x if points is None else torch.cat([x, points])
    low, high = ends.amin(0), ends.amax(0)
    room = MARGIN * (high - low).clamp_min(1e-6)
    share = torch.linspace(0, 1, FINE, device=x.device, dtype=x.dtype)[:, None]
    across, up = (low - room + share * (high - low + 2 * room)).unbind(1)
    grid = torch.stack(torch.meshgrid(across, up, indexing="xy"), 2).view(-1, 2)
    logits = prepare(model).verdict(grid).cpu()
    count = logits.shape[1]
    if not 2 <= count <= len(LINES) or not bool(((labels >= 0) & (labels < count)).all()):
        raise InputError(
            f"y: expected classes of a model that has 2 to {len(LINES)}, got {sorted(set(labels.tolist()))} "
            f"and {count} logits"
        )
    sides, spread = (across.cpu(), up.cpu()), (high - low + 2 * room).tolist()
    ratio = spread[1] / spread[0]
    tall = WIDTH * (ratio if 0.4 < ratio < 2.5 else 1)  # of one scale, unless one side is far longer
    above = 0.3 * bool(title)
    figure = style.new_figure(WIDTH, tall + above, title)
    axes = figure.add_axes((0, 0, 1, tall / (tall + above)))
    for k, (color, _) in zip(range(count), LINES, strict=False):
        others = logits.clone()
        others[:, k] = -torch.inf
        lead = (logits[:, k] - others.amax(1)).view(FINE, FINE).numpy()
        if lead.max() > 0:
            axes.contourf(*sides, lead, levels=[0, lead.max()], colors=[color], alpha=0.16)
        if lead.min() < 0 < lead.max():
            axes.contour(*sides, lead, levels=[0], colors=[INK], linewidths=0.9)
        mine = labels == k
        for spots, look in (x, CLEAN | {"label": f"class {k}"}), (points, ATTACKED):
            if spots is not None:
                across, up = spots.cpu()[mine].T
                axes.scatter(across, up, color=color, zorder=3, **look)
    if points is not None:
        axes.plot(*torch.stack([x, points]).cpu().unbind(2), color=FAINT, linewidth=0.6, zorder=2)
        axes.scatter([], [], color=INK, label="adversarial", **ATTACKED)
    axes.tick_params(length=0, labelsize=8.5, colors=INK)
    for side in axes.spines.values():
        side.set_color(FRAME)
    beside: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (1.02, 1), "borderpad": 0}
    axes.legend(fontsize=9, frameon=False, labelcolor=INK, handletextpad=0.3, **beside)
    return style.finish(figure, path)

"""Tables of the page: attacks, what they cost, and the accuracy of each class."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from fastadv.evaluation.row import Row, comparable
from fastadv.evaluation.table import Table
from fastadv.text import number, percent, with_interval
from fastadv.threat import Threat

Grid = tuple[str, Sequence[Sequence[str]]]  # a caption, and cells as text, the head first
Heat = tuple[Sequence[str], Sequence[tuple[str, int, Sequence[float]]]]
"""Names of attacks, and of each class its name, its number of samples and its accuracies."""


def attacks(table: Table) -> Grid:
    """Return each attack with its accuracy and distances, and the worst of several."""
    shares = table.criterion.counted + (", at most" if table.lead else " [95%]")
    lines = [["attack", "threat", shares, "broken", "median distance", "mean of the broken"]]
    lines.append(["no attack", "", percent(table.clean_accuracy), "", "", ""])
    lines += [_line(row, bool(table.lead)) for row in table.rows]
    if len(table.rows) > 1 and (table.unserved or not math.isnan(table.worst_case)):
        for name, share in table.worst_cases.items():
            sure = table.lead or math.isnan(share)
            text = percent(share) if sure else with_interval(percent, share, table.intervals[name])
            lines.append([name, "", text, "", "", ""])
    kept = [place for place, cells in enumerate(zip(*lines[1:], strict=True)) if {*cells} - {"", "-"}]
    cells = [[line[place] for place in kept] for line in lines]
    return "Accuracy over all samples, and how far the attacks had to go", cells


def _line(row: Row, doubt: bool) -> list[str]:
    cells = row.cells()
    sure = with_interval(percent, row.robust_accuracy, row.accuracy_interval)
    share = cells["accuracy"] if doubt or row.unlimited or row.refused else sure
    return [row.title, row.within, share, cells["broken"], cells["median"].replace("inf", "∞"), cells["mean"]]


def costs(table: Table) -> Grid:
    """Return what each attack and the look for signs of masking took."""
    cells = [["", "forwards", "backwards", "seconds"]]
    for row in table.rows:
        cells.append([row.title, *(row.cells()[name] for name in cells[0][1:])])
    cells += [[audit.title, *audit.spent] for audit in table.audits]
    if (seen := table.indicators) is not None:
        cells.append(["signs of masking", f"{seen.forwards:,}", f"{seen.backwards:,}", "-"])
    cells.append(["the whole evaluation", "-", "-", f"{table.seconds:.1f}"])
    return "Samples passed through the model, forwards and backwards", cells


def class_name(label: int, classes: Sequence[str] | None) -> str:
    return str(classes[label]) if classes is not None and 0 <= label < len(classes) else str(label)


def heat(table: Table, classes: Sequence[str] | None, threat: Threat | None) -> Heat | None:
    """Return the accuracy of each class, the worst first, under each attack; None without labels."""
    # within the radius of `threat`; an attack of another norm without one, within its median distance
    rows = [row for row in table.rows if not row.refused]
    if table.samples is None or not rows:
        return None
    y = table.samples.y
    broken = {"no attack": ~table.correct} | dict(_broken(row, threat) for row in rows)
    if len(rows) > 1 and not table.unserved:
        broken[[*table.worst_cases][-1]] = torch.stack(list(broken.values())).any(0)
    kept = (table.correct[:, None] & ~torch.stack(list(broken.values()), 1)).double()
    shares = {label: kept[y == label].mean(0).tolist() for label in sorted(set(y.tolist()))}
    worst = sorted(shares, key=lambda label: (shares[label][-1], shares[label][0], label))
    return list(broken), [(class_name(k, classes), int((y == k).sum()), shares[k]) for k in worst]


def _broken(row: Row, threat: Threat | None) -> tuple[str, Tensor]:
    """Return the name of a column and bool [n], what the attack broke within the radius that counts."""
    if row.threat is None:
        return row.title, row.broken
    reach = float(row.threat.radius)
    if threat is not None and threat.finite and comparable(row.threat, threat):
        radius = float(threat.radius)
    else:
        radius = reach if row.threat.finite else row.median_distance
    if reach <= radius < math.inf:
        return row.title, row.broken
    return f"{row.title} within {number(radius)}", row.broken & (row.distance <= row.threat.edge(radius))

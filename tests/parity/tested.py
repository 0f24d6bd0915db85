"""Which comparisons the tests hold, and at which radii a run is judged."""

from math import inf

from tests.parity.case import Case
from tests.parity.cases import cases_on
from tests.parity.models import NETS

# the nets of the tests: on an undefended one every attack finds all that there is. The attacks that fare
# differently on these are held on each of them, the others on one each, in turn
TESTED = ("linf", "l2", "saturated", "quantized")
TRIED = ("apgd-ce", "fmn", "ddn", "sigma_zero", "pdpgd")


def radii(case: Case, net: str) -> tuple[float, ...]:
    """Return the radius of a budget; for a minimum norm none, and that at which robust accuracy is taken."""
    return (case.radius,) if case.radius < inf else (inf, NETS[net].radii[case.norm])


def held(case: Case, net: str) -> bool:
    """Tell whether the tests hold the case on this net."""
    if net not in TESTED:
        return False
    names = [other.name for other in cases_on(net)]
    return case.name.startswith(TRIED) or names.index(case.name) % len(TESTED) == TESTED.index(net)

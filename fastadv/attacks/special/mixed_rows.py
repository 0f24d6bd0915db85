"""Whether logits depend on the rest of the batch, as of a BatchNorm without statistics, or on their place."""

from torch import Tensor

from fastadv.engine import Prepared

WORDS = "logits depend on the rest of the batch, or on the place in it, and no two passes of one batch differ"
ADVICE = "give BatchNorm its statistics, or attack a module around it that passes each row alone"
FLAG = f"mixed_rows: {WORDS}: {ADVICE}; a final pass of the whole batch decided"
FEW = 2  # rows that pass alone
AGAIN = 4  # times; a model that draws once for a batch, such as a shift, may repeat itself by chance


def mixes_rows(classifier: Prepared, x: Tensor, rows: Tensor, logits: Tensor, rounding: float) -> bool:
    """Return whether a few rows of x [B, ...] have other logits [B, K] than alone, which stay the same."""
    last = slice(max(len(x) - FEW, 1), None)  # in other places alone
    few, rows = x[last], rows[last]
    if not len(few):
        return False

    try:
        alone = classifier.verdict(few, rows)
        if not _apart(alone, logits[last], rounding):
            return False
        again = (classifier.verdict(few, rows) for _ in range(AGAIN))
        return not any(_apart(alone, logits, rounding) for logits in again)
    except Exception:  # models of one batch size raise anything
        return False


def _apart(logits: Tensor, others: Tensor, rounding: float) -> bool:
    """Return whether finite rows differ by more than rounding."""
    finite = logits.isfinite().all(1) & others.isfinite().all(1)
    apart = (logits.double() - others.double()).abs()[finite]
    return bool(apart.numel()) and float(apart.max()) > rounding

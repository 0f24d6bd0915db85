"""Whether logits depend on the rest of the batch, as those of a BatchNorm without statistics do."""

from torch import Tensor

from fastadv.engine import Prepared

WORDS = "logits depend on the rest of the batch"
ADVICE = "give BatchNorm its statistics, or attack with batch_size=1"
FLAG = f"mixed_rows: {WORDS}: {ADVICE}; a final pass of the whole batch decided"
FEW = 2  # rows that pass alone
AGAIN = 4  # times; a model that draws once for a batch, such as a shift, may repeat itself by chance


def mixes_rows(classifier: Prepared, x: Tensor, rows: Tensor, logits: Tensor, rounding: float) -> bool:
    """Return whether a few rows of x [B, ...] have other logits [B, K] than alone, which stay the same."""
    few = x[: min(FEW, len(x) - 1)]
    if not len(few):
        return False

    try:
        alone = classifier.verdict(few, rows[: len(few)])
        if not _apart(alone, logits[: len(few)], rounding):
            return False
        again = (classifier.verdict(few, rows[: len(few)]) for _ in range(AGAIN))
        return not any(_apart(alone, logits, rounding) for logits in again)
    except Exception:  # models of one batch size raise anything
        return False


def _apart(logits: Tensor, others: Tensor, rounding: float) -> bool:
    """Return whether finite rows differ by more than rounding."""
    finite = logits.isfinite().all(1) & others.isfinite().all(1)
    apart = (logits.double() - others.double()).abs()[finite]
    return bool(apart.numel()) and float(apart.max()) > rounding

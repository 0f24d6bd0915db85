"""What the paper reports for CIFAR-10, with a ResNet-50: the figures that ours stand beside."""

SOURCE = "Ilyas et al. 2019, ResNet-50 on CIFAR-10, PGD L2 0.25"
PAPER_ATTACK = "PGD L2 0.25"
# Table 1 and figure 2; adversarial training at 0.5. D_rand and D_det have a robust accuracy of about 0 there.
PAPER = {
    "standard": {"clean": 0.9525, PAPER_ATTACK: 0.0449},
    "adversarial": {"clean": 0.9083, PAPER_ATTACK: 0.823},
    "D_R": {"clean": 0.841, PAPER_ATTACK: 0.483},
    "D_NR": {"clean": 0.877, PAPER_ATTACK: 0.008},
    "D_rand": {"clean": 0.633, PAPER_ATTACK: 0.0},
    "D_det": {"clean": 0.437, PAPER_ATTACK: 0.0},
}
# Figure 3, read off its pixels to 0.3 points: accuracy of a net taught by D_det of a ResNet-50, and how often
# adversarial examples of that ResNet-50 transfer to a net of this architecture.
TRANSFER = {
    "VGG-16": (0.279, 0.657),
    "Inception-v3": (0.394, 0.828),
    "ResNet-18": (0.409, 0.921),
    "DenseNet": (0.417, 0.927),
    "ResNet-50": (0.447, 0.987),
}


def paper(name: str) -> dict[str, float]:
    """Return what the paper reports for a net by the set that taught it, at any radius."""
    return PAPER.get(name.partition(" at ")[0], {})


def printed(share: float | None) -> str:
    """Return a share as the paper prints it; of some it says only that they are about 0."""
    if share is None:
        return "-"
    return f"{100 * share:.4g}%" if share else "~0%"

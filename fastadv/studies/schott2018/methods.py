"""The attacks of the paper (its table 1) and today's best, with the arguments that the study gives them.

The paper runs gradient attacks on nearest neighbors and on ABS with numerical gradients, 1,568 passes each.
Here both have exact ones: the direction to the nearest image of each class, and by the envelope theorem the
gradient of the loss at the best latents. Binarized models pass gradients straight through the threshold.
The logits of both are minus distances, so small on ABS that cross-entropy pulls towards all classes at once:
there the margin is the loss.
"""

from functools import partial

from fastadv.studies.schott2018.plan import SYNTHESES, Method

BIM = {"steps": 10}
MARGIN = {"loss": "margin"}
RADIUS = "minimum_radius"
TRANSFER = partial(Method, "Transfer", attack="bim", arguments=BIM, passes=30, wrap="transfer")
NOISE = {"levels": 100, "repetitions": 10}
FEW_LEVELS = {"levels": 20, "repetitions": 3}
MANY, FEW = {"steps": 500}, {"steps": 50}

PAPER = (
    TRANSFER(norm="l2"),
    Method("Gaussian noise", "l2", "gaussian_noise", NOISE, FEW_LEVELS, 1000, 60, gradient=False),
    Method("Boundary", "l2", "boundary", {"queries": 2000}, {"queries": 200}, 2000, 200, gradient=False),
    Method("Pointwise", "l2", "pointwise", {"queries": 1000}, {"queries": 250}, 1000, 250, gradient=False),
    Method("FGM", "l2", "fgsm", dear=MARGIN, passes=20, wrap=RADIUS),
    Method("DeepFool", "l2", "deepfool", {"steps": 50}, passes=100, dear_passes=20),
    Method("BIM", "l2", "bim", BIM, MARGIN, passes=100, wrap=RADIUS),
    Method("Latent descent", "l2", "latent_descent", {"steps": 200}, passes=120, only=SYNTHESES),
    TRANSFER(norm="linf"),
    Method("FGSM", "linf", "fgsm", dear=MARGIN, passes=20, wrap=RADIUS),
    Method("DeepFool", "linf", "deepfool", {"steps": 50}, passes=100, dear_passes=20),
    Method("BIM", "linf", "bim", BIM, MARGIN, passes=100, wrap=RADIUS),
    Method("MIM", "linf", "mim", BIM, MARGIN, passes=100, wrap=RADIUS),
    Method("Salt & pepper", "l0", "salt_and_pepper", NOISE, FEW_LEVELS, 1000, 60, gradient=False),
    Method("Pointwise", "l0", "pointwise", {"queries": 4000}, {"queries": 300}, 4000, 300, gradient=False),
)

STRONG = partial(Method, arguments=MANY, dear=FEW, passes=500, dear_passes=50, today=True)
SEARCHED = partial(
    Method, "APGD", attack="apgd", arguments={"steps": 50}, dear={"steps": 8, **MARGIN}, passes=500,
    dear_passes=80, today=True, wrap=RADIUS,
)  # fmt: skip
UNROLLED = partial(
    Method, "FMN, unrolled", attack="fmn", arguments={"steps": 25}, passes=25, today=True, only=SYNTHESES,
    options={"input_grad": "unrolled"},
)  # fmt: skip
TODAY = (
    STRONG("DDN", "l2", "ddn", dear={**FEW, **MARGIN}),
    *(STRONG("FMN", norm, "fmn") for norm in ("l2", "linf", "l0")),
    *(STRONG("PDPGD", norm, "pdpgd") for norm in ("l2", "linf", "l0")),
    *(SEARCHED(norm=norm) for norm in ("l2", "linf")),
    STRONG("sigma-zero", "l0", "sigma_zero", dear={"steps": 100}, dear_passes=100),
    *(UNROLLED(norm=norm) for norm in ("l2", "linf")),
)

# dear, and no better than the exact gradients: run only where they are named
ESTIMATED = partial(
    Method, "DeepFool, estimated gradient", attack="deepfool", arguments={"steps": 5}, passes=5 * 1568,
    gradient=False, probe=0.1, extra=True,
)  # fmt: skip
METHODS = PAPER + TODAY + tuple(ESTIMATED(norm=norm) for norm in ("l2", "linf"))

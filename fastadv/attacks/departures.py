"""Where an attack is not the one of its paper: what differs, why, and what that gains.

Unless a gain says otherwise, it is against the best other implementation at equal passes, on a net of
docs/parity.md. What all attacks share is not listed: the strongest point met is returned, not the last;
draws are each sample's own; norms that the paper does not have take their own steepest direction.
"""

from fastadv.attacks.core.card import Departure

DEPARTURES: dict[str, tuple[Departure, ...]] = {
    "apgd": (
        Departure(
            "a cross-entropy of exactly 0 is ranked by the margin, and keeps its gradient's direction",
            "in float32 it is 0 on confident models, and the search stalls",
            "80% robust instead of 97% (net saturated)",
            "apgd-ce, L∞",
        ),
        Departure(
            "the first checkpoint counts a rise from the start",
            "the authors' code compares with a loss of 0 there",
            row="apgd-dlr, L∞",
        ),
        Departure(
            "in L1 the number of coordinates that move is rounded down",
            "the paper does not say; the authors' code rounds up, and finds as much",
            row="apgd-ce, L1",
        ),
    ),
    "autoattack": (
        Departure(
            "FAB and Square are those of this library",
            "see there",
            "31% robust instead of 36% (net linf)",
            "autoattack, L2",
        ),
        Departure(
            '"rand" counts a sample as broken by one more verdict on the whole batch',
            "the authors count one wrong pass after any attack, which luck brings about too",
        ),
        Departure(
            '"quick" and "strong" are not of the paper',
            "most samples fall to a tenth of the passes; defenses fall that hold against the standard one",
            '"quick": one image of 200 more than "standard" at most',
            "autoattack-quick, L∞",
        ),
    ),
    "bim": (
        Departure(
            "steps go 1.25 radii in all, however many they are",
            "those of the paper, one level of 255 each, go as far for its radii, and fit 8-bit images alone",
            row="bim, L∞",
        ),
    ),
    "boundary": (
        Departure(
            "ten candidates pass at once, and the sum of their answers tells which way leads deeper",
            "the published walk forgets all answers but a rate",
            "median 1.88 instead of 8.47 published, 1.46 instead of 1.64 in 10,000 queries (net linf)",
            "boundary, L2",
        ),
        Departure(
            "candidates lie farther out or nearer until half of them succeed",
            "the box makes answers one-sided",
            row="boundary, L2",
        ),
        Departure(
            "the start is the nearest of blends with noise of 1, 2, 4, 8 ... coordinates a grain",
            "fine noise looks alike to most models",
            row="boundary, L2",
        ),
    ),
    "cw": (
        Departure(
            "in L2 the first constant and the step fit the gradient at x, steps fall, the constant is "
            "bisected in its logarithm, and samples leave when a search has brought them nothing",
            "a first constant of 0.001 spends whole searches on constants that are far too small",
            "median 0.731 instead of 2.36 published, in 36% fewer passes (net standard)",
            "cw, L2",
        ),
        Departure(
            "in L∞ each search starts at the nearest success, with tau 5% below its distance",
            "from tau = 1 and a constant of 1e-5 most searches find nothing new",
            "median 0.335 instead of 0.575 published (net linf), 0.0502 instead of 0.231 (net standard), "
            "with 15% more passes",
            "cw, L∞",
        ),
        Departure(
            "tanh covers a box that is wider by 10%",
            "its gradient is nearly 0 at pixels on an edge of the box",
            row="cw, L2",
        ),
    ),
    "ddn": (
        Departure("points are not rounded to levels of a pixel", "models take any value", row="ddn, L2"),
        Departure("where the gradient is zero it searches by noise", "as adv-lib and foolbox do"),
    ),
    "ead": (
        Departure(
            "beta is 10 widths of the box instead of 0.001, and counts times the step",
            "the L1 norm is to outweigh the squared distance",
            "all of it: median 4.39 instead of 6.46 published (net standard), 11.4 instead of 12.2 (net "
            "linf)",
            "ead, L1",
        ),
        Departure(
            "the first constant and the step fit the gradient at x, steps fall to zero, and are long after a "
            "search without a success",
            "fixed ones suit one model, and short ones leave robust nets unbroken",
            row="ead, L1",
        ),
        Departure(
            "the points of the momentum are judged, and samples leave that a search brings nothing",
            "no pass is spent on judging alone",
            row="ead, L1",
        ),
    ),
    "fab": (
        Departure(
            "early steps go to a corner of the box where a sample comes no nearer",
            "the projections settle in a poor place",
            "54% robust instead of 59% (net linf)",
            "fab, L2",
        ),
        Departure(
            "three steps of false position end it, for every norm",
            "the authors' first code has them, AutoAttack's has not",
            "0.1 to 0.3% nearer",
        ),
    ),
    "fmn": (
        Departure(
            "a sample that is not broken early goes a little beyond the boundary of a linear model, in the "
            "box",
            "the published steps hardly move where few coordinates have a gradient, and their ball ends on "
            "it",
            "median 1.8 instead of 2.22, 57% robust instead of 68% (net linf); 52% instead of 89% (net "
            "standard), all against the published variant",
            "fmn, L2",
        ),
        Departure(
            "in L∞ steps follow the sign of the gradient, twice as long as the ball's radius",
            "it is the steepest direction of that norm",
            "median 0.314 instead of 0.523 published (net linf), equal on net standard",
            "fmn, L∞",
        ),
        Departure(
            "in L0 the first step is 50 widths of the box, and the first ball holds the whole way",
            "the projection then keeps the coordinates whose whole range gains most",
            "12 instead of 22 coordinates published (net linf), 5 instead of 6 (net standard)",
            "fmn, L0",
        ),
        Departure(
            "projections are exact on ball and box at once",
            "to clip afterwards is no projection",
            "with the first, median 6.79 instead of 11.4 published (net linf)",
            "fmn, L1",
        ),
    ),
    "gaussian_noise": (
        Departure(
            "a success is scaled down, and then only smaller noise is drawn",
            "the paper's levels of growing size look for no minimum; within a radius they find more",
            "none: 41% robust instead of 38% (net standard)",
            "gaussian_noise, L2",
        ),
    ),
    "hopskipjump": (
        Departure(
            "probes are orthogonal to the normal that is known, and bisection finds how far they turn it",
            "the published estimate begins anew at each step",
            "median 2 instead of 2.24 published in 1,800 queries (net linf)",
            "hopskipjump, L2",
        ),
        Departure(
            "their center moves until the answers balance",
            "the box cuts probes off to one side",
            "median 0.333 instead of 0.349 published (net linf)",
            "hopskipjump, L∞",
        ),
        Departure(
            "the start is the nearest of blends with noise of 1, 2, 4, 8 ... coordinates a grain",
            "fine noise looks alike to most models",
            row="hopskipjump, L∞",
        ),
    ),
    "lbfgs": (
        Departure(
            "the loss is log(1 + exp(-margin)), for two classes the cross-entropy of the paper, in units of "
            "a thirtieth of the margin at x",
            "it takes any criterion, and a factor of all logits changes nothing",
        ),
        Departure(
            "each sample has its own curvature, step and constant", "all of a batch pass the model at once"
        ),
    ),
    "nes": (
        Departure(
            "steps go 2.5 radii in all",
            "the authors begin with 0.01 and halve it where the loss stalls, over thousands of queries",
            "90% robust instead of 94% (net linf, against PGD with the same estimate)",
            "nes, L∞",
        ),
        Departure("it maximizes the margin", "the cross-entropy of the paper saturates", row="nes, L∞"),
    ),
    "pdgd": (
        Departure(
            "a momentum step of fixed length on the loss takes the place of Adam on its softplus, in units "
            "of the least distance so far",
            "Adam's steps of fixed size end far beyond the boundary",
            "all of it: median 0.703 instead of 2.13 published (net standard), 2 instead of 4.05 (net linf)",
            "pdgd, L2",
        ),
        Departure(
            "the first 30% of the steps ascend the cross-entropy, the others the margin, and the weight "
            "moves freely in its logarithm",
            "the cross-entropy leads out of flat places, the margin to the boundary",
            row="pdgd, L2",
        ),
    ),
    "pdpgd": (
        Departure(
            "proximal Adam explores, for 50% of the steps in L1 and 60% in L2; gradient and proximal steps "
            "in units of the least distance refine",
            "Adam finds the way on robust nets, and steps of the size of the distance end nearer",
            "median 1.28 instead of 2 published (net linf), 0.727 instead of 0.778 (net standard)",
            "pdpgd, L2",
        ),
        Departure(
            "in L0 it explores with the operator of L1, and always looks for fewer coordinates than the best",
            "that of L2/3 sets coordinates back that are needed later",
            "5 instead of 7 coordinates published (net standard), but 6 instead of 5 (net linf)",
            "pdpgd, L0",
        ),
    ),
    "pointwise": (
        Departure(
            "several coordinates go back at once, fewer after each failure",
            "one a query takes as many queries as the start has coordinates",
            row="pointwise, L0",
        ),
        Departure(
            "with the queries left, fresh noise on the best point goes back as before",
            "the published run ends in the first local minimum, and ten runs in L0 in the best of ten",
            "median 3 coordinates in 2,800 queries, where ten runs find 4 in 1,200 and end (net linf)",
            "pointwise, L0",
        ),
        Departure(
            "in L2 coordinates go half of their way back, a quarter and so on, several at once",
            "a bisection of each takes ten queries",
            "median 2.87 instead of 3.44 published in 480 queries (net standard)",
            "pointwise, L2",
        ),
    ),
    "salt_and_pepper": (
        Departure(
            "of a success it keeps as few coordinates as it needs, and then only less noise is drawn",
            "the paper's levels of growing size look for no minimum",
            "median 22 instead of 27.5 coordinates (net linf)",
            "salt_and_pepper, L0",
        ),
        Departure(
            "each channel of a pixel is a coordinate",
            "L0 counts coordinates here; foolbox moves whole pixels",
        ),
    ),
    "sigma_zero": (
        Departure(
            "at the end coordinates of the best success are put back, one for each 15 steps",
            "some have changed and are not needed",
            "median 10 instead of 11 coordinates (net linf)",
            "sigma_zero, L0",
        ),
    ),
    "sparse_rs": (
        Departure(
            "a coordinate goes to an end where it is not",
            "the paper draws one of the two, half of them in vain",
            row="sparse_rs, L0",
        ),
        Departure(
            "each channel of a pixel is a coordinate", "L0 counts coordinates here; the paper counts pixels"
        ),
        Departure(
            "the first share is 0.8, as in the class of the authors' code",
            "the paper takes 0.3 for 10,000 queries",
        ),
    ),
    "spsa": (
        Departure(
            "steps go 2.5 radii in all",
            "Adam's 0.01 of the paper fits one radius",
            "90% robust instead of 94% (net linf)",
            "spsa, L∞",
        ),
    ),
    "square": (
        Departure(
            "squares may lie at the last row and column",
            "the authors' code never draws them there",
            row="square, L∞",
        ),
        Departure(
            "in L∞ no proposal leaves the point as it is",
            "as in the authors' first code, not in AutoAttack's",
            row="square, L∞",
        ),
    ),
    "uniform_noise": (
        Departure(
            "a success is scaled down, and then only smaller noise is drawn",
            "levels of growing size look for no minimum; within a radius they find more",
            "none: 38% robust instead of 36% (net standard)",
            "uniform_noise, L2",
        ),
    ),
}

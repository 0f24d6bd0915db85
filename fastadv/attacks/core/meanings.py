"""What the arguments that attacks share mean, as the help of each attack says it."""

from collections.abc import Iterable, Mapping

# Meanings wherever an attack takes them and does not say otherwise.
MEANINGS = {
    "targets": """int [B], the class that each sample must be taken for; a success is a decision for it. None,
    the default, accepts every class but y.""",
    "criterion": """what a success must fulfill beyond the class: `ConfidentlyWrong(confidence)`,
    `WrongBy(lead)`, `OutsideTopK(k)` or `Unless(reject)`. Of models with other outputs `Signs()`,
    `Share(least)` or `Beyond(distance)`, which say what y and targets are, and which losses there
    are. None, the default, asks for the class alone.""",
    "mask": """bool, broadcasts to x; only coordinates where it is True may change. None, the default, lets
    all of them change.""",
    "eot": """forward passes of a randomized model over which the search averages loss, logits and gradient
    (expectation over transformation), an integer >= 1; the default is 1. With more, x is attacked where any
    pass misreads it, all steps are taken, and an attack with a radius returns the last point of a run, of
    several runs that of the largest mean; one for the nearest keeps the nearest success of the means.""",
    "ids": """int [B], sample numbers, by default 0 to B - 1. Random numbers depend on them, not on the place
    in the batch.""",
    "freeze": """whether to search on a frozen copy of the model (`fastadv.freeze`); None, the default, does
    so where steps times samples are many. A Frozen is used as it is.""",
    "gradient": """rules that make the gradient to follow, such as those of docs/transfer.md; the first one
    asks the model. They do not change what counts as a success, nor the losses that are reported.
    Random numbers are those of the seed, 0 in an attack without one. The default is (), the gradient
    itself.""",
    "model": "classifier or Frozen; x [B, ...] in the threat's box to logits [B, K]. It is not changed.",
    "x": "floating [B, ...] inside the box.",
    "y": "int [B], labels; or what the criterion takes.",
    "steps": "gradients for each sample, an integer >= 1.",
    "starts": """floating like x, adversarial points inside the box. None looks for them among blends of x and
    uniform noise, which needs a finite box. A sample without such a point counts as held.""",
    "variant": """"fastadv", or "published" for the algorithm of the paper. What the first changes, and
    what that gains, is in docs/departures.md.""",
    "repetitions": """noises in a batch, an integer >= 1; levels * repetitions samples pass the model for each
    image.""",
    "restarts": "attempts, each with other random numbers; the best result of each sample is kept.",
    "random_start": """whether the first attempt, too, starts at a random point of ball and box; False starts
    it at x.""",
    "loss": """"ce", "ce_sharp", "margin", "dlr", "cw", "bce" (see `fastadv.ops.logit_loss`),
    or a function (logits, y, targets) -> [B]; it is maximized. "ce" is the published choice. The default,
    "ce_sharp", first scales logits up whose largest differ little, and breaks more where they are nearly
    alike. With a criterion of one class the default is its margin: half of the steps then lead to the
    likeliest class that would meet it, half to the next one.""",
    "stop_early": "whether a sample stops at its first success; False searches on for its strongest point.",
    "seed": "of all random numbers, an integer >= 0.",
}
# The same where the loss is None by default.
NO_LOSS = {
    "loss": """a name of `fastadv.ops.logit_loss`, or a function (logits, y, targets) -> [B]; it is maximized.
    None is the margin of the criterion."""
}
# The same of gradient attacks for the minimum norm.
NEAREST = {
    "starts": """floating like x, adversarial points of the box, where the first attempt begins: bisected
    towards x in ten queries. A sample whose point is not adversarial begins as usual, and so do all with
    None.""",
    "restarts": """attempts; the others begin at random points within half the distance of the nearest
    success.""",
    "seed": "of the random points of restarts.",
}
FIRST = ("model", "x", "y", "threat")  # Names before those that an attack explains.
SECTIONS = ("Args", "Returns", "Raises", "Example", "Source")
RETURNS = """\
Returns:
    An `AttackResult` with the adversarial examples x_adv, like x, and success, bool [B]. Where nothing was
    found, x_adv is the strongest point for an attack with a budget, and x itself for a minimum-norm
    attack."""
RAISES = """\
Raises:
    InputError: an argument is wrong; the message names it, what was expected and what came."""
# The beginning of the example of every attack.
EXAMPLE = """\
Example:
    >>> import fastadv as fa
    >>> x = fa.data.load("digits", "test").x[:8]
    >>> model = fa.models.create("softmax", shape=(1, 8, 8), classes=10)
    >>> y = model(x).argmax(1)  # what it decides before the attack
"""


def documented(text: str, names: Iterable[str], others: Mapping[str, str]) -> str:
    """Add to the docstring of an attack the arguments it does not explain, and what attacks return.

    Args:
        text: the docstring; no section of it has an empty line.
        names: of the arguments of the attack.
        others: meanings that go before `MEANINGS`.
    """
    paragraphs, meanings = text.split("\n\n"), MEANINGS | dict(others)
    sections = {name: part for part in paragraphs for name in SECTIONS if part.startswith(f"{name}:\n")}
    head = [part for part in paragraphs if part not in sections.values()]
    explained = sections.get("Args", "Args:").removeprefix("Args:")
    before, after = "", ""
    for name in names:
        if f"\n    {name}: " not in explained and name in meanings:
            entry = f"\n    {name}: " + meanings[name].replace("\n", "\n    ")
            before, after = (before + entry, after) if name in FIRST else (before, after + entry)
    sections["Args"] = f"Args:{before}{explained}{after}"
    if "Example" in sections:
        sections["Example"] = EXAMPLE + sections["Example"].removeprefix("Example:\n")
    sections = {"Returns": RETURNS, "Raises": RAISES} | sections
    return "\n\n".join([*head, *(sections[name] for name in SECTIONS if name in sections)])

"""Words of the library: a name says what a thing is, not its grammar, and a comment has its noun.

Both are counted over fastadv. The limits are targets like those of `test_budget.py`, and only fall.
"""

import re
import tokenize
from collections.abc import Iterator

import pytest

from tests.test_budget import files, keeps

GRAMMAR = {"given", "found", "made", "told", "own", "each"}
HEADLESS = re.compile(
    r"(of|what|which|where|when|who|whose|how|whether|by|as|in|on|at|with|without|for|from|to|so|that|than|not|"
    r"no|only|its?|they|these|this|those)(?![^\s,:;'])",
    re.IGNORECASE,
)
DIRECTIVE = re.compile(r"(fmt:|type:|noqa|pragma|mypy|ruff)")


def names(tokens: list[tokenize.TokenInfo]) -> int:
    return sum(token.type == tokenize.NAME and token.string in GRAMMAR for token in tokens)


def comments(tokens: list[tokenize.TokenInfo]) -> Iterator[str]:
    """Yield the text of each comment on lines of its own, by its first line."""
    last = -1
    for token in tokens:
        if token.type != tokenize.COMMENT or not token.line.lstrip().startswith("#"):
            continue
        text, begins = token.string.lstrip("#").strip(), token.start[0] > last + 1
        last = token.start[0]
        if begins and not DIRECTIVE.match(text):
            yield text


def headless(tokens: list[tokenize.TokenInfo]) -> int:
    return sum(HEADLESS.match(text) is not None for text in comments(tokens))


LIMITS = {"names by grammar": (names, 600), "comments without a noun": (headless, 70)}


@pytest.mark.slow
@pytest.mark.parametrize("what", LIMITS)
def test_words_are_few(what: str) -> None:
    count, most = LIMITS[what]
    total = 0
    for path in files("fastadv"):
        with path.open("rb") as file:
            total += count([*tokenize.tokenize(file.readline)])
    keeps("fastadv", total, most, what)


def test_words_are_counted() -> None:
    source = (
        "# of a box\n# and more\nfound = 1\n\n# The width\nx = found  # of it\n# noqa: X\nx.own = made_up\n"
    )
    lines = iter(source.encode().splitlines(keepends=True))
    tokens = [*tokenize.tokenize(lambda: next(lines, b""))]
    assert (names(tokens), headless(tokens), [*comments(tokens)]) == (3, 1, ["of a box", "The width"])

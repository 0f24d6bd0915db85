"""The pages of the table of every attack beside others."""

from bench.suite import wall
from tests.parity.store import STORES, stored


def test_the_pages_show_the_stored_rows():
    rows = stored(STORES["full"])
    assert wall.PAGE.read_text() == wall.page(rows), "run `python -m bench.suite.wall`"
    assert wall.TABLES.read_text() == wall.tables(rows), "run `python -m bench.suite.wall`"

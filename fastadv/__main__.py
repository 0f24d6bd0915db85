"""`python -m fastadv`, as torchrun starts it, and what the command `fastadv` runs."""

import sys

from fastadv._extras import need
from fastadv.errors import MissingExtraError


def main() -> int:
    """Run the command line on the arguments of the process, and return its exit code."""
    try:
        need("typer")
        need("rich")
    except MissingExtraError as error:
        sys.stderr.write(f"fastadv: {error}\n")
        return 1
    from fastadv.cli import main as run

    return run()


if __name__ == "__main__":
    sys.exit(main())

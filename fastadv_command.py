"""The command `fastadv`, outside the package: where torch is missing or too old, importing that fails."""

import sys


def main() -> int:
    """Run the command line, and return its exit code. A failed import is one line, as other errors are."""
    try:
        from fastadv.__main__ import main as run
    except ImportError as error:
        if "--debug" in sys.argv:
            raise
        sys.stderr.write(f"fastadv: {error}\n")
        return 1
    return run()

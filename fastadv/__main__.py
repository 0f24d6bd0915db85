"""`python -m fastadv`: the command line, as torchrun starts it."""

import sys

from fastadv.cli import main

if __name__ == "__main__":
    sys.exit(main())

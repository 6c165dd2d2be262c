"""`python -m p2pmodels` is the command `p2pmodels`."""

import sys

from p2pmodels.cli import main

if __name__ == "__main__":
    sys.exit(main())

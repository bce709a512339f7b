"""`python -m clipkd` is the `clipkd` command."""

import os
import sys

# `python -m` looks for modules in the working folder first: a torch.py that lies there is not meant.
sys.path[:] = [place for place in sys.path if place not in ("", os.getcwd())]

from clipkd.cli import main  # noqa: E402

if __name__ == "__main__":  # a process that trains one of several students imports this module too
    sys.exit(main())

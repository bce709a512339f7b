"""`python -m clipkd` is the `clipkd` command."""

import os
import sys

# `python -m` looks for modules in the working folder first: a torch.py that lies there is not meant.
sys.path[:] = [place for place in sys.path if place not in ("", os.getcwd())]

from clipkd.cli import main  # noqa: E402

sys.exit(main())

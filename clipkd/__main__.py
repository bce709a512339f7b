"""`python -m clipkd` is the `clipkd` command."""

import sys

from clipkd.cli import main

if __name__ == "__main__":  # a process that trains one of several students imports this module too
    sys.exit(main())

"""`python -m clipkd` is the `clipkd` command."""

import sys

from clipkd.cli import main

sys.exit(main())

"""`python -m fastmlp` is the command line."""

import sys

from fastmlp.cli import main

sys.exit(main())

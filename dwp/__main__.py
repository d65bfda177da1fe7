"""Entry point of `python -m dwp`, which is the same as the console script `dwp`."""

import sys

from dwp.cli import main

sys.exit(main())

"""`python -m dwp`, the same as the console script `dwp`."""

import sys

from dwp.pipeline.cli import main

sys.exit(main())

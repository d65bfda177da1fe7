"""Speed relative to the published recipe on a GPU, and share of its peak.

    python -m benchmarks.gpu data_root=~/data

The table of benchmarks.speed, in bfloat16 and in float32. With device=cpu it runs on the CPU.
"""

import sys
from collections.abc import Iterator
from dataclasses import replace

import torch

from benchmarks import measure, speed
from benchmarks.options import Options

DEFAULTS = "device=cuda source_steps=40 vae_steps=140 target_steps=50 product=8192"


def rows(options: Options) -> Iterator[dict[str, object]]:
    """Yield the rows of the table in both precisions."""
    for precision in ("bfloat16", "float32"):
        for row in speed.rows(replace(options, precision=precision)):
            yield {"precision of dwp": precision, **row}


def main(words: list[str] | None = None) -> None:
    """Measure and print the table, or say that there is no GPU."""
    given = sys.argv[1:] if words is None else words
    if torch.cuda.is_available() or "device=cpu" in given:
        measure.command(__doc__, rows, DEFAULTS)(words)
    else:
        print("No GPU is available: nothing is measured.")


if __name__ == "__main__":
    main()

"""Speed relative to the published recipe on a GPU, and share of its peak.

    python -m benchmarks.gpu data_root=~/data

The table of benchmarks.speed, in bfloat16 and in float32. With device=cpu it runs on the CPU.
"""

import sys

import torch

from benchmarks import measure, speed

DEFAULTS = "device=cuda source_steps=40 vae_steps=140 target_steps=50 product=8192"


def main(words: list[str] | None = None) -> None:
    """Measure and print the tables, or say that there is no GPU."""
    words = sys.argv[1:] if words is None else words
    if not torch.cuda.is_available() and "device=cpu" not in words:
        print("No GPU is available: nothing is measured.")
        return
    for precision in ("auto", "float32"):
        measure.command(__doc__, speed.rows, f"{DEFAULTS} precision={precision}")(words)


if __name__ == "__main__":
    main()

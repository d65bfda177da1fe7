"""Pictures of kernels."""

import math

import numpy as np

PIXELS = 8  # on each side of a weight
BORDER = 4


def grid(kernels: np.ndarray) -> np.ndarray:
    """Return a picture [height, width] of kernels [n, 1, k, k] side by side, uint8.

    Zero is grey, the weight of the largest absolute value is white or black. Borders are white.
    """
    n, size = len(kernels), kernels.shape[-1]
    columns = math.ceil(math.sqrt(n))
    rows = math.ceil(n / columns)
    limit = np.abs(kernels).max() or 1.0
    tile = size * PIXELS + BORDER
    picture = np.full((rows * tile + BORDER, columns * tile + BORDER), 255, np.uint8)
    for number, kernel in enumerate(np.rint(127.5 * (1 + kernels[:, 0] / limit)).astype(np.uint8)):
        top, left = (BORDER + place * tile for place in divmod(number, columns))
        enlarged = kernel.repeat(PIXELS, 0).repeat(PIXELS, 1)
        picture[top : top + size * PIXELS, left : left + size * PIXELS] = enlarged
    return picture

"""Weights as whole numbers of 8 bits."""

import numpy as np


def round_to_int8(matrix: np.ndarray) -> np.ndarray:
    """Each column as the nearest whole numbers from -127 to 127, times a scale of its own.

    Examples
    --------
    >>> round_to_int8(np.array([[254.0], [1.2]]))
    array([[254.],
           [  2.]])
    """
    top = abs(matrix).max(0)
    top[top == 0] = 1  # nothing to scale
    one = matrix.dtype.type(127)
    return np.asarray(np.rint(matrix * (one / top)) * (top / one))

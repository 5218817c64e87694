"""Rounding of weights to 8-bit integers."""

import numpy as np


def round_to_int8(matrix: np.ndarray) -> np.ndarray:
    """Each column rounded to integers from -127 to 127 times the column's own scale.

    Examples
    --------
    >>> round_to_int8(np.array([[254.0], [1.2]]))
    array([[254.],
           [  2.]])
    """
    top = abs(matrix).max(0)
    top[top == 0] = 1  # avoid division by zero
    one = matrix.dtype.type(127)
    return np.asarray(np.rint(matrix * (one / top)) * (top / one))

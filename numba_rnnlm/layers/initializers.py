"""Starting values of weight matrices."""

import numpy as np


def glorot(random: np.random.Generator, rows: int, columns: int) -> np.ndarray:
    """Uniform within ±√(6 / (rows + columns)) (Glorot and Bengio 2010)."""
    limit = np.sqrt(6 / (rows + columns))
    return random.uniform(-limit, limit, (rows, columns))


def orthogonal(random: np.random.Generator, rows: int, columns: int) -> np.ndarray:
    """Orthonormal rows (or columns, if there are fewer): random signs and a Hartley transform, three times.

    Orthogonal recurrent weights keep gradients alive (Saxe, McClelland, Ganguli 2014); the construction is
    that of Yu et al. 2016, "Orthogonal random features", with a transform that exists for every size. It
    needs no matrix product, whose library would take all processors for a moment.
    """
    size = max(rows, columns)
    q = np.eye(min(rows, columns), size)
    for _ in range(3):
        spectrum = np.fft.fft(q * random.choice([-1.0, 1.0], size))
        q = (spectrum.real - spectrum.imag) / np.sqrt(size)
    return q if rows <= columns else q.T


def diagonal(random: np.random.Generator, rows: int, columns: int) -> np.ndarray:
    """Uniform within ±√(3 / columns), for vectors that are multiplied with a state element by element (as in SRU, Lei et al. 2018).

    Each is the diagonal of a matrix; its elements are as large as those of an orthogonal matrix, with a variance of 1 / columns. From zeros, no
    gradient would flow through a state that is seen only through them.
    """
    limit = np.sqrt(3 / columns)
    return random.uniform(-limit, limit, (rows, columns))

"""One flat buffer with names: parameters, gradients, moments, state and activations are all this."""

from collections.abc import Iterator, Mapping
from math import prod
from typing import Any

Shape = tuple[int, ...]

ALIGNMENT = 16  # elements: 64 bytes of float32, one cache line and one AVX-512 vector


class Layout(Mapping[str, Shape]):
    """Names and shapes, laid out one behind the other in a single 1-D buffer.

    Every array begins on a multiple of 16 elements, so that no two arrays share a cache line. The gaps
    belong to nobody: they start at zero and every optimiser leaves zero there.

    Examples
    --------
    >>> layout = Layout({"lstm/W": (3, 4), "lstm/b": (4,)})
    >>> layout.size, layout.offsets["lstm/b"]
    (32, 16)
    """

    def __init__(self, shapes: Mapping[str, Shape]) -> None:
        self.shapes = {name: tuple(shape) for name, shape in shapes.items()}
        self.offsets: dict[str, int] = {}
        self.size = 0
        for name, shape in self.shapes.items():
            self.offsets[name] = self.size
            self.size += -(-prod(shape) // ALIGNMENT) * ALIGNMENT

    def __getitem__(self, name: str) -> Shape:
        return self.shapes[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)


class Arena(Mapping[str, Any]):
    """A layout over one flat buffer: ``arena["lstm/W"]`` is a view, ``arena.flat`` is everything.

    Parameters
    ----------
    layout
        Names and shapes.
    flat
        A 1-D array of ``layout.size`` elements, on whatever machine it lives.

    Examples
    --------
    >>> import numpy as np
    >>> layout = Layout({"lstm/W": (2, 2), "dense/W": (2,)})
    >>> arena = Arena(layout, np.zeros(layout.size))
    >>> arena["dense/W"][:] = 1
    >>> arena.scope("dense")
    {'W': array([1., 1.])}
    """

    def __init__(self, layout: Layout, flat: Any) -> None:
        self.layout, self.flat = layout, flat
        self.views = {
            name: flat[start : start + prod(layout[name])].reshape(layout[name])
            for name, start in layout.offsets.items()
        }

    def __getitem__(self, name: str) -> Any:
        return self.views[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.views)

    def __len__(self) -> int:
        return len(self.views)

    def scope(self, prefix: str) -> dict[str, Any]:
        """The arrays below ``prefix``, by their short names."""
        start = prefix + "/"
        return {name[len(start) :]: view for name, view in self.views.items() if name.startswith(start)}

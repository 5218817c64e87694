"""Windows that slide over time, as convolutions and pooling see them: how many there are, and where the first begins."""

from typing import NamedTuple

from ..errors import ShapeError


class Windows(NamedTuple):
    """Windows of ``span`` steps, each ``stride`` steps after the one before.

    Parameters
    ----------
    span, stride
        In steps.
    padding
        "valid": windows that fit into the sequence. "same": ⌈T / stride⌉ windows, centred, of which the first and the last look past the
        ends. "causal": as many, each ending with the step of its number, so that the first look past the start only.
    """

    span: int
    stride: int
    padding: str

    def outputs(self, steps: int, layer: str) -> int:
        """How many there are in a sequence; 0 if its length is not known yet, 0 steps. Raises :class:`ShapeError` if none fits."""
        if self.padding != "valid":
            return -(-steps // self.stride)
        if 0 < steps < self.span:
            raise ShapeError(f"{layer} sees {self.span} steps at once, but gets a sequence of {steps}; pass longer sequences, or "
                             "padding='same'.")
        return max(0, (steps - self.span) // self.stride + 1)

    def before(self, steps: int) -> int:
        """How many steps before the sequence the first one begins."""
        if self.padding == "valid":
            return 0
        if self.padding == "causal":
            return self.span - 1
        return max((-(-steps // self.stride) - 1) * self.stride + self.span - steps, 0) // 2

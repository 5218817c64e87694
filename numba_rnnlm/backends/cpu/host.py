"""A description of this computer's processor."""

from llvmlite import binding

from .. import COMPILER_IS_OFF
from . import simd
from .kernels import store


def about() -> dict[str, str]:
    """The processor that kernels are compiled for, and the folder of their machine code."""
    cache = "none: Numba's compiler is off" if COMPILER_IS_OFF else store().about()
    return {
        "processor": f"{binding.get_host_cpu_name()}, vectors of {8 * simd.VECTOR_BYTES} bits, "
                     f"{'with' if simd.HAS_BF16 else 'without'} AVX512_BF16 for precision bf16",
        "kernel cache": cache,
    }

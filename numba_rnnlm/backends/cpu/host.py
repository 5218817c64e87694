"""What this machine is, for people to read."""

from llvmlite import binding

from . import packing, simd


def about() -> dict[str, str]:
    """The processor that kernels are compiled for, and the folder that keeps their machine code."""
    if not hasattr(packing.pack, "stats"):
        cache = "none: Numba's compiler is off"
    else:
        cache = packing.pack.stats.cache_path or "none: no folder can be written, so each process compiles anew"
    return {
        "processor": f"{binding.get_host_cpu_name()}, vectors of {8 * simd.VECTOR_BYTES} bits, "
                     f"{'with' if simd.HAS_BF16 else 'without'} AVX512_BF16 for precision bf16",
        "kernel cache": cache,
    }

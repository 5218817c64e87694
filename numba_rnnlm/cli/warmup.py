"""``numba-rnnlm warmup``."""

import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from .. import backends
from ..backends.cache import cache_folder, problem_of
from ..backends.compiling import notice
from ..cells import CELLS
from ..config import OPTIMIZERS, WEIGHTS, TrainingConfig
from ..errors import BackendError
from ..language_model import LanguageModel
from ..reports import report
from .flags import Arguments, add_command, backend_flags, backend_options

SYMBOLS = 100
STREAMS, STEPS = 50, 50


def add(commands: Any) -> None:
    command = add_command(
        commands, "warmup", run, "compile all kernels ahead of time",
        "Compile all kernels that train, eval, score and generate need, and cache them on disk, so that no later process has\n"
        "to compile them on first use. The cache is valid for this kind of processor, this version of Numba and this\n"
        "installation of numba_rnnlm. On a GPU, some kernels depend on the sizes of the model; warmup compiles those for the\n"
        "default sizes of train. Set NUMBA_CACHE_DIR to cache them in another folder.",
        """examples:
  numba-rnnlm warmup                                    all cells, a minute or two
  numba-rnnlm warmup --cells lstm --optimizers all
  numba-rnnlm warmup --cells lstm gru --precision bf16""",
    )
    command.set_defaults(only_reports=True)
    command.add_argument("--cells", nargs="+", type=str.lower, choices=CELLS, default=list(CELLS), metavar="CELL",
                         help=f"compile for models with these cells: {', '.join(CELLS)} (default: all)")
    command.add_argument("--optimizers", nargs="+", type=str.lower, choices=(*OPTIMIZERS, "all"), default=["adam"], metavar="NAME",
                         help=f"compile for training with these: {', '.join(OPTIMIZERS)}, or all (default: adam)")
    backend_flags(command)


def run(args: Arguments) -> None:
    started = time.monotonic()
    options = backend_options(args)
    backend = backends.get(options.pop("backend"), **options).name
    folder = expect_kernel_folder(backend)
    names = OPTIMIZERS if "all" in args.optimizers else args.optimizers
    configs = [TrainingConfig(epochs=1, streams=STREAMS, steps=STEPS, optimizer=name, verbose=0) for name in names]
    if "sgd" in names:  # sgd with momentum uses another kernel
        configs.append(TrainingConfig(epochs=1, streams=STREAMS, steps=STEPS, optimizer="sgd", momentum=0.9, verbose=0))
    for cell in args.cells:
        report(f"{cell}: training, evaluating, scoring and generating on {backend} ... ", sys.stderr)
        begun = time.monotonic()
        use(cell, configs, WEIGHTS if backend == "cpu" else WEIGHTS[:1], backend_options(args))
        report(f"{time.monotonic() - begun:.1f} s\n", sys.stderr)
    report(f"kernels are cached in {folder}; {time.monotonic() - started:.1f} s\n")


def use(cell: str, configs: Sequence[TrainingConfig], weights: Sequence[str], options: dict[str, Any]) -> None:
    """Run everything that compiles a kernel once, on temporary models of the default sizes (GPU kernels depend on these)."""
    ids = np.arange(2 * STREAMS * STEPS) % SYMBOLS
    for tied in (False, True):
        model = LanguageModel(cell, dropout=0.5, tied=tied, tokenizer=None, vocabulary_size=SYMBOLS, **options)
        for config in configs:
            model.fit_config(ids, ids, config)
        model.score([ids[:2], ids[:20]])
        for kind in weights:
            model.evaluate(ids, kind)
            model.generate([ids[:1], ids[:20]], length=3, seed=0, weights=kind)


def expect_kernel_folder(backend: str) -> str:
    """The folder for compiled kernels; raises an error now rather than after minutes of compiling."""
    if backend == "reference":
        raise BackendError("nothing was compiled: the reference backend has no kernels; choose another --backend.")
    if backends.COMPILER_IS_OFF:
        raise BackendError("nothing was compiled: NUMBA_DISABLE_JIT is set; unset it.")
    if problem := problem_of():
        raise BackendError(f"nothing was compiled, because it could not be cached: {problem}; set NUMBA_CACHE_DIR to a "
                           "writable folder.")
    notice.silence()
    return str(cache_folder())

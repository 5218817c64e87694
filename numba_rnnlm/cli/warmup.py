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
from .flags import Arguments, add_command, machine_flags, machine_of

SYMBOLS = 100
STREAMS, STEPS = 50, 50


def add(commands: Any) -> None:
    command = add_command(
        commands, "warmup", run, "compile ahead of time",
        "Compile all kernels that train, eval, score and generate need, and keep them on disk: no later process has to\n"
        "wait. Otherwise they are compiled, and kept, when they are first needed. They serve this kind of processor, this\n"
        "version of Numba and this installation of numba_rnnlm. On a GPU some depend on the sizes of the model: those of\n"
        "train's default sizes are compiled. NUMBA_CACHE_DIR names another folder to keep them in.",
        """examples:
  numba-rnnlm warmup                                    all cells, a minute or two
  numba-rnnlm warmup --cells lstm --optimizers all
  numba-rnnlm warmup --cells lstm gru --precision bf16""",
    )
    command.set_defaults(only_reports=True)
    command.add_argument("--cells", nargs="+", type=str.lower, choices=CELLS, default=list(CELLS), metavar="CELL",
                         help=f"for models with these cells: {', '.join(CELLS)} (default: all)")
    command.add_argument("--optimizers", nargs="+", type=str.lower, choices=(*OPTIMIZERS, "all"), default=["adam"], metavar="NAME",
                         help=f"for training with these: {', '.join(OPTIMIZERS)}, or all (default: adam)")
    machine_flags(command)


def run(args: Arguments) -> None:
    started = time.monotonic()
    machine = machine_of(args)
    backend = backends.get(machine.pop("backend"), **machine).name
    folder = expect_kernel_folder(backend)
    names = OPTIMIZERS if "all" in args.optimizers else args.optimizers
    configs = [TrainingConfig(epochs=1, streams=STREAMS, steps=STEPS, optimizer=name, verbose=0) for name in names]
    if "sgd" in names:  # with momentum it is another kernel
        configs.append(TrainingConfig(epochs=1, streams=STREAMS, steps=STEPS, optimizer="sgd", momentum=0.9, verbose=0))
    for cell in args.cells:
        report(f"{cell}: training, measuring, scoring and generating on {backend} ... ", sys.stderr)
        begun = time.monotonic()
        use(cell, configs, WEIGHTS if backend == "cpu" else WEIGHTS[:1], machine_of(args))
        report(f"{time.monotonic() - begun:.1f} s\n", sys.stderr)
    report(f"kernels are stored in {folder}; {time.monotonic() - started:.1f} s\n")


def use(cell: str, configs: Sequence[TrainingConfig], weights: Sequence[str], machine: dict[str, Any]) -> None:
    """All that compiles a kernel, once, on models to throw away, of the default size: a GPU's kernels depend on it."""
    ids = np.arange(2 * STREAMS * STEPS) % SYMBOLS
    for tied in (False, True):
        model = LanguageModel(cell, dropout=0.5, tied=tied, tokenizer=None, vocabulary_size=SYMBOLS, **machine)
        for config in configs:
            model.fit_config(ids, ids, config)
        model.score([ids[:2], ids[:20]])
        for kind in weights:
            model.evaluate(ids, kind)
            model.generate([ids[:1], ids[:20]], length=3, seed=0, weights=kind)


def expect_kernel_folder(backend: str) -> str:
    """The folder for compiled kernels; a problem with it is found before minutes are spent on them."""
    if backend == "reference":
        raise BackendError("nothing was compiled: the backend reference has no kernels; choose another --backend.")
    if backends.COMPILER_IS_OFF:
        raise BackendError("nothing was compiled: NUMBA_DISABLE_JIT is set; unset it.")
    if problem := problem_of():
        raise BackendError(f"nothing was compiled, because it could not be stored: {problem}; set NUMBA_CACHE_DIR to a folder "
                           "that you can write.")
    notice.silence()
    return str(cache_folder())

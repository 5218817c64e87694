"""Soak test of a GPU: compares time loops with the reference, and checks for equal bits in every run and for lost memory.

    python -m benchmarks.soak --seconds 120 --processes 2
    NUMBA_ENABLE_CUDASIM=1 python -m benchmarks.soak --small --rounds 1     # on the simulator

A round draws the shape of a time loop for each cell and precision and runs it forward and backward, runs a long time loop with 128
blocks, and trains two models alternately. A small number of rounds is repeated. The first time, results are compared with the reference,
and each model is also trained on its own; after that, all bits must be the same. After each round no array may be left on the device,
and at the end the device must have as much free memory as when the rounds began to repeat. With ``--processes 2`` another process does
the same concurrently, so that kernels whose blocks wait for one another are interrupted. The first error ends the run with an exception.
"""

import argparse
import gc
import hashlib
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from itertools import count
from typing import Any

import numpy as np

from numba_rnnlm import backends
from numba_rnnlm.arena import Arena
from numba_rnnlm.backends.ops import PRECISIONS
from numba_rnnlm.cells import BUILT_IN, CELLS, Cell
from numba_rnnlm.config import ModelConfig
from numba_rnnlm.language_model.architecture import build, initial_weights
from numba_rnnlm.network import Network
from numba_rnnlm.optimizers import Adam
from numba_rnnlm.training.updater import Updater

SEEDS = 4  # number of different rounds; when they repeat, all kernels have been compiled
TOLERANCE = {"float32": 5e-5, "tf32": 4e-3, "bf16": 4e-2}  # relative to the largest element: ten times the error of rounding the factors
GRAIN = 32 << 20  # bytes of memory that the driver may take for itself
LARGE = {"steps": 40, "streams": 130, "hidden": 520}  # maximum sizes to draw; longer loops are not compared with the reference
SMALL = {"steps": 2, "streams": 17, "hidden": 9}
LONG = {"steps": 500, "streams": 64, "hidden": 512}
UPDATES = 4  # updates of each of the two models

Arrays = dict[str, np.ndarray]


class Wrong(Exception):
    """The soak test found an error."""


def main(arguments: list[str] | None = None) -> None:
    flags = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    flags.add_argument("--seconds", type=float, default=120, help="duration, after the first round of each seed")
    flags.add_argument("--rounds", type=int, help="number of rounds, in place of --seconds")
    flags.add_argument("--processes", type=int, default=1, help="number of concurrent processes")
    flags.add_argument("--seed", type=int, default=0, help="seed of shapes and numbers")
    flags.add_argument("--small", action="store_true", help="one cell, and shapes that the simulator can handle")
    flags.add_argument("--beside", action="store_true", help="do not check the free memory, because another process uses the device too")
    options = flags.parse_args(arguments)
    if "cuda" not in backends.available():
        sys.exit(f"no GPU to test: it {backends.about()['cuda']}")
    others: list[subprocess.Popen[bytes]] = []
    try:
        print(soak(options, others))
    finally:
        for process in others:
            process.kill()


def soak(options: argparse.Namespace, others: list[subprocess.Popen[bytes]]) -> str:
    """Run all rounds and return a summary. Raises :class:`Wrong`. Processes that are started are added to ``others``."""
    from numba_rnnlm.backends.cuda import linear

    linear.nothing()  # allocates an array that is never freed
    before, free, loops = held(), None, 0
    digests: dict[str, str] = {}  # computation → digest of its correct result
    started = time.monotonic()
    for number in count():
        seed = SEEDS * options.seed + number % SEEDS
        if number == SEEDS:
            free, started = free_memory(), time.monotonic()
            others += [beside(options, process) for process in range(1, options.processes)]
        over = time.monotonic() - started > options.seconds and number > SEEDS
        if number == options.rounds or (options.rounds is None and over):
            break
        for name, cell, precision, shape in draw(seed, number, options.small):
            time_loop(name, cell, precision, shape, seed, digests)
            loops += 1
        for which, weights in enumerate(train(range(2), seed, options.small)):
            what = f"model {which} of two, seed {seed}"
            if what not in digests:
                expect_same(what, next(train([which], seed, options.small)), digests)
            expect_same(what, weights, digests)
        if (left := held() - before) != 0:
            raise Wrong(f"round {number} left {left} bytes of arrays")
    for process in others:
        if process.wait() != 0:
            raise Wrong(f"a concurrent process ended with exit status {process.returncode}")
    used = "not measured"
    if free is not None and not options.beside:
        lost = free - free_memory()
        if lost > GRAIN:
            raise Wrong(f"the device has {lost / 1e6:.0f} MB less free memory than at the beginning")
        used = f"{lost / 1e6:+.1f} MB used"
    return f"{number} rounds, {loops} time loops, no errors; memory of the device: {used}"


def beside(options: argparse.Namespace, process: int) -> "subprocess.Popen[bytes]":
    """Start the same test in another process, with other seeds."""
    more = ["--small"] * options.small + (["--rounds", str(options.rounds)] if options.rounds else [])
    return subprocess.Popen([sys.executable, "-m", "benchmarks.soak", "--beside", "--seconds", str(options.seconds),
                             "--seed", str(options.seed + process), *more])


def draw(seed: int, number: int, small: bool) -> Iterator[tuple[str, Cell, str, tuple[int, int, int]]]:
    """Draw (steps, streams, hidden) for all cells and precisions."""
    random = np.random.default_rng([seed, 1])
    kinds = [(name, precision) for name in sorted(BUILT_IN) for precision in PRECISIONS]
    for name, precision in [kinds[number * 4 % len(kinds)]] if small else kinds:
        most = SMALL if small else LARGE
        steps, streams, hidden = (int(random.integers(least, most[size] + 1)) for size, least in (("steps", 1), ("streams", 1), ("hidden", 4)))
        yield name, CELLS[name], precision, (steps, streams, hidden)
    if not small:
        yield "lstm", CELLS["lstm"], "tf32", (LONG["steps"], LONG["streams"], LONG["hidden"])


def time_loop(name: str, cell: Cell, precision: str, shape: tuple[int, int, int], seed: int, digests: dict[str, str]) -> None:
    """Run a time loop forward and backward, and compare it with the last run, or (the first time, except for the long loop) with the
    reference."""
    steps, streams, hidden = shape
    random = np.random.default_rng([seed, 2, steps, streams, hidden])
    first, last = cell.window("h")
    given = {
        "U": 0.5 * random.standard_normal((hidden, (last - first) * hidden), np.float32) / np.sqrt(hidden, dtype=np.float32),
        "z": random.standard_normal((steps, streams, len(cell.gates), hidden), np.float32),
        "s": random.standard_normal((1, streams, len(cell.states), hidden), np.float32),
        "dy": random.standard_normal((steps, streams, hidden), np.float32),
        "d": random.standard_normal((streams, len(cell.states), hidden), np.float32),
    }
    what = f"{name} in {precision}, {steps} steps, {streams} streams, {hidden} units, seed {seed}"
    found = forward_and_backward(backends.get("cuda", precision=precision), cell, given)
    if what not in digests and steps <= LARGE["steps"]:
        want = forward_and_backward(backends.get("reference"), cell, given)
        if name == "relu":  # rounding decides which units are off, so gradients differ
            want = {"s": want["s"]}
        expect_close(what, found, want, TOLERANCE[precision])
    expect_same(what, found, digests)


def forward_and_backward(ops: Any, cell: Cell, given: Arrays) -> Arrays:
    """The states, and the gradients of the pre-activations, of the initial state and of U."""
    steps = len(given["z"])
    U, z, dy, d = (ops.upload(np.array(given[name])) for name in ("U", "z", "dy", "d"))
    s, dU = ops.empty((steps + 1, *given["s"].shape[1:])), ops.empty(given["U"].shape)
    ops.copy(ops.upload(given["s"][0]), s[0])
    ops.recur(cell, U, z, s)
    states = ops.download(s)
    ops.recur_backward(cell, U, z, s, dy, d, dU)
    return {"s": states, "z": ops.download(z), "d": ops.download(d), "dU": ops.download(dU)}


def train(which: Iterable[int], seed: int, small: bool) -> Iterator[Arrays]:
    """Train these models alternately, one update each, and yield their weights."""
    size = 3 if small else 60
    training = []
    for index in which:
        config = ModelConfig(("lstm", "gru")[index], hidden=size + index, layers=1, embedding=size, dropout=0.2, vocabulary_size=7 + index)
        model, streams = build(config), 2 if small else 16
        network = Network(model, backends.get("cuda"), initial_weights(model, config, seed + index))
        ids = np.random.default_rng([seed, 3, index]).integers(0, 7 + index, (UPDATES, 2, 1 if small else 20, streams)).astype(np.int32)
        training.append((network, Updater(network, Adam(clipnorm=1.0)), network.state(streams), ids))
    for update in range(1 if small else UPDATES):
        for network, updater, state, ids in training:
            _update(network, updater, state, *ids[update], key=seed + update)
    for network, *_ in training:
        yield network.weights()


def _update(network: Network, updater: Updater, state: Arena, x: np.ndarray, y: np.ndarray, key: int) -> None:
    ops = network.ops
    updater.start(network.differentiate(ops.upload(x), ops.upload(y.reshape(-1)), state, 1 / y.size, key))()


def expect_same(what: str, got: Arrays, digests: dict[str, str]) -> None:
    """Raise :class:`Wrong` unless all bits are the same as the first time."""
    found = hashlib.sha256(b"".join(got[name].tobytes() for name in sorted(got))).hexdigest()
    if digests.setdefault(what, found) != found:
        raise Wrong(f"{what}: the bits differ from the first time")


def expect_close(what: str, got: Arrays, want: Arrays, tolerance: float) -> None:
    """Raise :class:`Wrong` if an element differs by more than ``tolerance`` times the largest element, or is not finite."""
    for name in want:
        error = abs(got[name] - want[name]).max() / max(abs(want[name]).max(), 1e-30)
        if not error <= tolerance:
            raise Wrong(f"{what}: {name} differs from the reference by {error:.1e}; rounding explains at most {tolerance:.1e}")


def held() -> int:
    """Bytes of all arrays of this process on the device."""
    from numba_rnnlm.backends.cuda.arrays import Memory

    gc.collect()
    return sum(thing.size for thing in gc.get_objects() if type(thing) is Memory)


def free_memory() -> float:
    """Free bytes on the device."""
    return backends.get("cuda").memory().bytes


if __name__ == "__main__":
    main()

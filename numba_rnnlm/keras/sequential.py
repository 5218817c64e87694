"""Sequential: stack layers, train them on examples; Keras's names, defaults and axis order."""

import copy
import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import MISSING, fields
from math import lcm
from typing import Annotated, Any, ClassVar, Literal, Self, overload

import numpy as np

from .. import backends, model_files, optimizers, runs
from ..arguments import Only, checked_calls
from ..callbacks import Callback, Called, History, Stoppable, read_callbacks
from ..cells import Cell
from ..config import CheckpointConfig, TrainingConfig
from ..errors import (
    ConfigError,
    DivergenceError,
    ModelFileError,
    NotFittedError,
    ShapeError,
    expect_flag,
    expect_items,
    expect_number,
    expect_one_of,
    expect_shape,
    plain_value,
    shown,
)
from ..formats.keras import expect_our_file, from_keras, to_keras
from ..formats.native import write_model
from ..interrupts import Interrupts
from ..layers import Conv1D, Layer
from ..layers.description import describe, expect_describable
from ..layers.layer import above, below, walk
from ..model_files import Loaded, fitting, second_biases
from ..network import Graph, Network
from ..optimizers import Optimizer
from ..paths import same_file
from ..progress import Progress
from ..recognition import records
from ..reports import warn
from ..storage import locked
from ..training.checkpoints import Checkpoints, Groups
from ..training.loop import Trainer
from ..training.position import MOST, Position
from ..training.updater import Updater
from .arrays import Examples, read_inputs, read_numbers, read_targets, swap
from .compiled import LOSSES, METRICS, Compiled
from .examples import ExampleTask, Lines, line, measure

Path = str | os.PathLike[str]


Steps = Annotated[None, Only("a pass goes over all examples, batch_size at a time")]
Weights = Annotated[None, Only("every example counts the same")]
Callbacks = Annotated[None, Only("only fit calls callbacks")]


@checked_calls
class Sequential(Stoppable):
    """A stack of layers, trained on examples. Every example starts from a zero state.

    Parameters
    ----------
    layers
        Layers of :mod:`numba_rnnlm.layers`, or your own; :meth:`add` adds more.
    seed
        Seed of the initial weights, the order of the examples and the dropout masks. The same seed gives the same model, bit for bit.
    backend
        "auto", "cpu", "cuda" (an NVIDIA GPU) or "reference"; see :func:`numba_rnnlm.backends.get`.
    threads
        By default NUMBA_RNNLM_NUM_THREADS, or all processors that this process may use. Results do not depend on it.
    precision
        Precision of the factors of matrix products: "float32"; or "bf16", which is faster (on "cuda", and on processors with AVX512_BF16);
        or on "cuda" "tf32".

    Attributes
    ----------
    history
        Of the last :meth:`fit`; None before.
    stop_training
        A callback that sets it to True ends the training after the epoch.

    Examples
    --------
    >>> from numba_rnnlm.layers import LSTM, Dense, Embedding
    >>> x = np.arange(40).reshape(8, 5) % 4
    >>> model = Sequential([Embedding(4, 8), LSTM(16), Dense(4, activation="softmax")])
    >>> model.compile(optimizer="adam", loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    >>> history = model.fit(x, (x[:, -1] + 1) % 4, epochs=60, batch_size=4, verbose=0)
    >>> history.history["accuracy"][-1]
    1.0
    >>> model.predict(x).shape
    (8, 4)
    """

    file_kind: ClassVar[str] = "sequential"

    def __init__(
        self, layers: Sequence[Layer] | None = None, *, seed: int = 0, backend: str = "auto", threads: int | None = None,
        precision: str = "float32",
        name: Annotated[None, Only("a model is known by its file")] = None,
        trainable: Annotated[Literal[True], Only("all layers learn")] = True,
    ) -> None:
        self._seed = expect_number("seed", seed, 0, 2**63 - 1, whole=True)
        self._ops = backends.get(backend, threads=threads, precision=precision)
        self._layers: tuple[Layer, ...] = ()
        self._features: int | None = None  # size of the input vectors, where the first layer is not an Embedding
        self._steps: int | None = None  # length of the sequences, which counts if a layer flattens them
        self._network: Network | None = None
        self._kept: dict[str, np.ndarray] = {}  # weights for the network that is built next
        self._compiled: Compiled | None = None
        self._updater: Updater | None = None
        self.history: History | None = None
        self._is_training = False
        self._stack(tuple(map(_checked, () if layers is None else expect_items("layers", layers, "a list of layers"))))

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_is_training": False}

    def __copy__(self) -> Self:
        return copy.deepcopy(self)  # so that a copy never trains the weights of its origin

    def __repr__(self) -> str:
        return f"Sequential([{', '.join(map(_short, self._layers))}])"

    # stacking

    @property
    def layers(self) -> list[Layer]:
        """The layers, from the input to the output."""
        return list(self._layers)

    def add(self, layer: Layer) -> None:
        """Add a layer at the end."""
        self._stack((*self._layers, _checked(layer)))

    def pop(self) -> Layer:
        """Remove the last layer, and return it."""
        top = self._layer(-1)
        self._stack(self._layers[:-1])
        return top

    def build(self, input_shape: Sequence[int | None]) -> None:
        """Create the weights now. Vectors have the shape (None, steps or None, features); an Embedding needs no shape."""
        first, shape = self._layer(0), [plain_value(size) for size in expect_items("input_shape", input_shape, "a tuple such as (None, None, 3)")]
        for size in shape:
            if size is not None:
                expect_number("input_shape, where not None,", size, 1, whole=True)
        if first.ids is not None:
            if len(shape) not in (1, 2):
                raise ShapeError(f"input_shape is {shown(tuple(shape))}, expected (None, steps or None), ids for the Embedding.")
        elif len(shape) != 3 or shape[-1] is None or self._features not in (None, shape[-1]):
            raise ShapeError(f"input_shape is {shown(tuple(shape))}, expected (None, steps or None, "
                             f"{self._features or 'features'}), because the first layer is not an Embedding.")
        else:
            Graph(self._layers, shape[-1])  # raises if the layers do not fit
            self._features = shape[-1]
        self._build(shape[1] if len(shape) > 1 else None)

    def _stack(self, layers: tuple[Layer, ...]) -> None:
        """Replace the layers; those that stay keep their weights, and the optimiser is reset."""
        self._expect_not_training()
        expect_describable(layers)
        first = layers[0] if layers else None
        features, steps = self._features or getattr(first, "input_features", None), self._steps or getattr(first, "input_steps", None)
        size = features or lcm(*(layer.groups for layer in walk(layers) if isinstance(layer, Conv1D)))  # of vectors that all layers take
        names = Graph(layers, size).names if layers else ()  # raises if they do not fit, whatever the size of the vectors
        weights = self._network.weights() if self._network else self._kept
        self._kept = {name: array for name, array in weights.items() if name.split("/")[0] in names}
        self._layers, self._network, self._updater = layers, None, None
        self._features, self._steps = (features, steps) if layers else (None, None)

    def _expect_not_training(self) -> None:
        """Raise :class:`ConfigError` if a callback, or another thread, asks for what would take the model away from a running ``fit``."""
        if self._is_training:
            raise ConfigError("the model is being trained: fit, compile, add and pop have to wait until fit has returned; a callback may train a "
                              "copy, copy.deepcopy(model).")

    def _layer(self, index: int) -> Layer:
        """The first layer, 0, or the last one, -1."""
        if not self._layers:
            raise ConfigError("the model has no layers; add some, for example model.add(Embedding(1000, 64)).")
        return self._layers[index]

    def _build(self, steps: int | None = None) -> Network:
        """The network, which is built now if there is none yet; ``steps`` is the length of the sequences, if known."""
        if self._network is None:
            if self._layer(0).ids is None and self._features is None:
                raise NotFittedError("the size of the input vectors is not known yet; call build((None, None, features)) "
                                     "or fit first, or give the first layer input_shape=(None, features).")
            graph = Graph(self._layers, self._features, self._steps or steps)
            if graph.steps == 0:
                raise NotFittedError("the length of the sequences is not known yet, and a layer flattens them; call build((None, steps, ...)) or fit "
                                     "first, or give it to the first layer: Embedding(input_length=...), or input_shape=(steps, features).")
            if graph.chain.flattens:
                self._steps = graph.steps
            self._network = Network(graph, self._ops, graph.initialize(self._seed) | self._kept)
            self._kept = {}
        return self._network

    def summary(self) -> None:
        """Print the layers, the shapes of their outputs and the number of their weights."""
        graph = self._build().graph
        rows = []
        for (name, layer, shape), weights in zip(graph.chain.inputs(graph.input(graph.steps or 0, 1)), self._keras_weights(), strict=True):
            last = layer.output(shape)
            output = (None, last[0] or None, last[-1]) if len(last) == 3 else (None, last[-1])
            count = sum(array.size for array in weights)
            rows.append((f"{name} ({type(layer).__name__})", str(output), f"{count:,}"))
        rows.insert(0, ("Layer (type)", "Output Shape", "Param #"))
        widths = [max(len(row[column]) for row in rows) + 3 for column in range(3)]
        lines = ["".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        rule = "=" * sum(widths)
        print("\n".join(['Model: "sequential"', rule, lines[0], rule, *lines[1:], rule,
                         f"Total params: {self.count_params():,}"]))

    def count_params(self) -> int:
        """Number of weights, as Keras counts them: the sizes of :meth:`get_weights`."""
        return sum(array.size for array in self.get_weights())

    def get_weights(self) -> list[np.ndarray]:
        """Copies of all weights, in Keras's shapes and order.

        Embedding: [embeddings]. Recurrent layers: [kernel, recurrent_kernel, bias], with the LSTM's gates in the
        order i f c o and the GRU's, with ``reset_after``, z r h. Dense: [kernel, bias]. A tied Dense has no kernel.
        The GRU's bias has two rows, of the input and of the state, as in Keras.
        """
        return [array for weights in self._keras_weights() for array in weights]

    def set_weights(self, weights: Sequence[np.ndarray]) -> None:
        """Overwrite all weights by arrays as :meth:`get_weights` returns them, here or in Keras for the same layers."""
        network = self._build()
        groups = self._keras_weights()
        expected = [array.shape for group in groups for array in group]
        weights = expect_items("weights", weights, "a list of arrays, as get_weights() gives")
        if len(weights) != len(expected):
            raise ShapeError(f"weights has {len(weights)} arrays, expected {len(expected)}, as get_weights() gives.")
        arrays = [read_numbers(f"weights[{index}]", values, self._ops.dtype) for index, values in enumerate(weights)]
        for index, (array, shape) in enumerate(zip(arrays, expected, strict=True)):
            expect_shape(f"weights[{index}]", array.shape, shape, "get_weights() shows the order.")
        found: dict[str, np.ndarray] = {}
        for name, layer, group in zip(network.graph.names, self._layers, groups, strict=True):
            its, arrays = arrays[: len(group)], arrays[len(group) :]
            found |= above(name, from_keras(layer, below(network.graph.layout, name), its))
        network.set_weights(found)

    def _keras_weights(self) -> list[list[np.ndarray]]:
        """The arrays of each layer, as Keras has them."""
        network = self._build()
        return [
            to_keras(layer, {key: network.ops.download(value) for key, value in network.parameters.scope(name).items()})
            for name, layer in zip(network.graph.names, self._layers, strict=True)
        ]

    # training

    def compile(
        self,
        optimizer: str | Optimizer = "rmsprop",
        loss: str | None = None,
        metrics: Sequence[str] | str | None = None,
        *,
        loss_weights: Annotated[None, Only("there is one loss")] = None,
        weighted_metrics: Weights = None,
        run_eagerly: Annotated[Literal[False], Only("everything is compiled")] = False,
        steps_per_execution: Annotated[Literal[1], Only("a batch is an update")] = 1,
        jit_compile: Annotated[Literal["auto"], Only("everything is compiled")] = "auto",
    ) -> None:
        """Set optimiser, loss and metrics. The optimiser is reset; the weights are kept.

        Parameters
        ----------
        optimizer
            "sgd", "rmsprop", "adagrad", "adam", "adamw", "adadelta", "nadam", "lion": those of Keras 3, with its defaults. Or an object
            of :mod:`numba_rnnlm.optimizers` or of your own class.
        loss
            "categorical_crossentropy" (one-hot targets) or "sparse_categorical_crossentropy" (ids), on a last
            layer ``Dense(..., activation="softmax")``; "binary_crossentropy" (0 to 1) on ``activation="sigmoid"``. The loss is
            exact, whereas Keras limits the cross-entropy of an example to 16.118 (-ln 1e-7).
        metrics
            ["accuracy"] or "accuracy", or none. As in Keras, it is the fraction of rows whose largest output is the target's; for a single
            sigmoid unit, and as "binary_accuracy", the fraction of outputs on the right side of 1/2.
        """
        expect_one_of("loss", loss, LOSSES)
        metrics = (metrics,) if isinstance(metrics, str) else tuple(expect_items("metrics", () if metrics is None else metrics, "a list of names"))
        for metric in metrics:
            expect_one_of("metrics", metric, METRICS)
        self._expect_not_training()
        compiled = Compiled(optimizers.get(optimizer), str(loss), metrics)
        if self._layers:
            compiled.check(self._layers[-1])
        self._compiled, self._updater = compiled, None

    def fit(
        self,
        x: Any,
        y: Any,
        batch_size: int = 32,
        epochs: int = 1,
        verbose: int | str = 1,
        callbacks: Sequence[Callback] | Callback | None = None,
        validation_split: float = 0.0,
        validation_data: tuple[Any, Any] | None = None,
        shuffle: bool = True,
        initial_epoch: int = 0,
        on_interrupt: str = "raise",
        *,
        schedule: str = "constant",
        warmup: float = 0.0,
        decay_factor: float = 2.0,
        decay_after: int = 4,
        accumulate: int = 1,
        patience: int | None = None,
        max_seconds: float | str | None = None,
        not_finite: str = "stop",
        checkpoint: Path | None = None,
        checkpoint_every: str | float = "5min",
        resume: Path | None = None,
        sample_weight: Weights = None,
        class_weight: Annotated[None, Only("every class counts the same")] = None,
        steps_per_epoch: Steps = None,
        validation_steps: Steps = None,
        validation_batch_size: Annotated[None, Only("batch_size is that of validation too")] = None,
        validation_freq: Annotated[Literal[1], Only("every epoch is validated")] = 1,
    ) -> History:
        """Train. Calling it again continues, with the same state of the optimiser, until :meth:`compile` is called.

        Ctrl-C, SIGTERM and other signals end the training cleanly (:mod:`numba_rnnlm.interrupts`): the epoch is closed, the
        callbacks are called, and :attr:`history` is set. Then the signal has its usual effect, such as ``KeyboardInterrupt``.

        Parameters
        ----------
        x
            Ids (examples, steps), or without an Embedding vectors (examples, steps, features).
        y
            One-hot rows, ids or numbers from 0 to 1, as the loss requires: one for each example, or one for each of its steps if the model
            has an output for every step.
        batch_size
            Examples between updates; the last batch may be smaller.
        epochs, initial_epoch
            Train from epoch ``initial_epoch``, counted from 0, up to ``epochs``.
        verbose
            0 silent, 1 or "auto" live progress, 2 one line per epoch.
        callbacks
            See :mod:`numba_rnnlm.callbacks`.
        validation_split
            Fraction of the examples, at the end, to validate on instead of training on them.
        validation_data
            (x, y) to validate on; takes precedence over ``validation_split``.
        shuffle
            Shuffle the examples in each epoch.
        on_interrupt
            After a signal has ended the training: "raise" it again, so that it has its usual effect; or "return".
        schedule, warmup, decay_factor, decay_after
            The learning rate over all ``epochs``: see :class:`~numba_rnnlm.config.TrainingConfig`.
        accumulate
            Number of batches whose gradients are summed before each update: like batches ``accumulate`` times as large, without more memory.
        patience
            Stop after this many epochs without a better validation loss (loss, if nothing is validated). EarlyStopping can do more.
        max_seconds
            End cleanly within this time, in seconds or as "45min"; it includes validations, but not compiling.
        not_finite
            If the loss or a gradient is NaN or infinite: "stop", or "skip" the update and halve the learning rate. The second skip in a row and
            all further ones also restore the weights of the last whole epoch; after more than 10 in a row training stops.
        checkpoint, checkpoint_every
            A file for the complete state of the training, and how often to write it: "30s", "5min" or a number of seconds. It is also written
            before the first update, and when training ends or a signal ends it. :meth:`load` can read it.
        resume
            A checkpoint to resume from, with the same layers, examples and settings; the result has the same bytes as that of an
            uninterrupted run. ``epochs`` and ``max_seconds`` may differ if the schedule is "constant", "plateau" or "zaremba", without
            warm-up. If it is the file of ``checkpoint`` and does not exist yet, a new run starts. Callbacks are called from where the run
            continues; they do not know what came before.

        Raises
        ------
        ShapeError, VocabularyError
            If x or y do not fit the layers or the loss.
        DivergenceError
            If training runs into NaN; the weights of the last whole epoch are restored.
        TrainingError
            If a validation fails, or memory runs out during training; what was learned is kept.
        ModelFileError
            If the checkpoint to resume from is missing or damaged, or the checkpoint cannot be written.
        """
        self._expect_not_training()
        batch_size = expect_number("batch_size", batch_size, 1, whole=True)
        epochs = expect_number("epochs", epochs, 0, whole=True)
        initial_epoch = expect_number("initial_epoch", initial_epoch, 0, whole=True)
        validation_split = expect_number("validation_split", validation_split, 0, 1)
        expect_flag("shuffle", shuffle)
        progress, history = _progress(verbose), History()
        interrupts = Interrupts(on_interrupt, notice=progress.verbose > 0)
        watching = [history, *read_callbacks(callbacks)]
        compiled = self._ready()
        examples, held_out = self._examples("", x, y), None
        if validation_data is not None:
            if not isinstance(validation_data, (tuple, list)) or len(validation_data) != 2:
                raise ConfigError("validation_data is not a pair, expected (x, y).")
            held_out = self._examples("validation ", *validation_data, features=examples.x.shape[-1])
        elif validation_split:
            count = int(len(examples) * (1 - validation_split))
            examples, held_out = examples[:count], examples[count:]
            if not len(examples) or not len(held_out):
                raise ConfigError(f"validation_split={validation_split} leaves {len(examples)} examples to train on and "
                                  f"{len(held_out)} to validate on; both need some.")
        config = TrainingConfig(epochs=max(epochs, 1), schedule=schedule, warmup=warmup, decay_factor=decay_factor, decay_after=decay_after, accumulate=accumulate,
                                patience=patience, max_seconds=max_seconds, not_finite=not_finite)  # type: ignore[arg-type]  # "1h" is a time
        if checkpoint is not None:
            expect_our_file(checkpoint)
        keeping = CheckpointConfig(checkpoint=checkpoint, checkpoint_every=checkpoint_every, resume=resume)  # type: ignore[arg-type]  # any path
        held = (self._network.held if self._network else 0) + (self._updater.moments.size if self._updater else 0)
        self._graph_for(examples.x).expect_memory_for_training(
            self._ops, examples.x.shape[1], min(batch_size, len(examples)), compiled.optimizer.rule.moments, held
        )
        network = self._network_for(examples.x)
        self._updater = self._updater or Updater(network, compiled.optimizer)
        task = ExampleTask(network, examples, held_out, compiled.metrics, batch_size, shuffle, self._seed)
        names = ["loss", *compiled.metrics]
        params = {"epochs": epochs, "steps": -(-task.batches_per_epoch // accumulate), "verbose": progress.verbose,
                  "metrics": names + [f"val_{name}" for name in names if held_out is not None]}
        called = Called(self, watching, params)
        trainer = Trainer(
            network, task, self._updater, epochs, config, Position(epoch=initial_epoch + 1, updates=self._updater.steps), keeps_best=False,
            watchers=[Lines(progress, called.named), called], interrupted=interrupts, clipping="clipnorm=1 in the optimizer",
        )
        with ExitStack() as stack:
            stack.enter_context(interrupts)
            if keeping.checkpoint is not None:
                stack.enter_context(locked(keeping.checkpoint))
            self._keep(trainer, task, config, keeping, history, {"batch_size": batch_size, "shuffle": bool(shuffle)})
            self.history, self.stop_training, self._is_training = history, False, True
            stack.callback(setattr, self, "_is_training", False)
            try:
                trainer.run()
            except DivergenceError:
                self._updater = None  # its moments belong to weights that are gone
                raise
        return history

    def _keep(
        self, trainer: Trainer, task: ExampleTask, config: TrainingConfig, keeping: CheckpointConfig, history: History, batches: Mapping[str, Any]
    ) -> None:
        """Let a training write checkpoints, and continue from one, as far as that is asked for."""
        if keeping.checkpoint is None and keeping.resume is None:
            return
        examples = task.digests()
        if keeping.checkpoint is not None and not same_file(keeping.checkpoint, keeping.resume):
            runs.expect_no_run(keeping.checkpoint, "sequential")
        if keeping.resume is not None and not keeping.begins:
            saved = runs.read_run(keeping.resume, "sequential")
            saved.expect_settings({**{key: self._about()[key] for key in ("layers", "seed", "compiled")}, **batches}, config)
            saved.expect_cells(self._ops, self._layers)
            if saved.texts != examples:
                raise ConfigError(f"the examples are not those of the run in {saved.name!r}; a run continues with the examples that it began with.")
            with fitting(saved.name):
                trainer.resume(saved.at, saved.group, saved.rounding, saved.extended(config))
                task.resume(saved.about["run"]["hits"])
                history.resume(saved.about["history"])
            if trainer.at.ended:
                warn(f"the run in {saved.name!r} had ended ({trainer.at.ended}); nothing was left to do.")
        if (path := keeping.checkpoint) is None:
            return

        def write(at: Position, groups: Groups) -> None:
            run = {"config": runs.settings(config), "batches": batches, "texts": examples, "position": at.about(), "model": "weights",
                   "rounding": trainer.updater.rounding, "hits": task.metrics()}
            about = {**self._about(trainer.updater, gradients=True), "run": run, "history": {"epoch": history.epoch, "values": history.about()}}
            write_model(path, "sequential", about, groups)

        trainer.checkpoints = Checkpoints(write, keeping.every)

    @overload
    def evaluate(
        self, x: Any, y: Any, batch_size: int = 32, verbose: int | str = 0, return_dict: Literal[False] = False, *,
        sample_weight: Weights = None, steps: Steps = None, callbacks: Callbacks = None,
    ) -> float | list[float]: ...

    @overload
    def evaluate(
        self, x: Any, y: Any, batch_size: int = 32, verbose: int | str = 0, *, return_dict: Literal[True],
        sample_weight: Weights = None, steps: Steps = None, callbacks: Callbacks = None,
    ) -> dict[str, float]: ...

    @overload
    def evaluate(
        self, x: Any, y: Any, batch_size: int = 32, verbose: int | str = 0, return_dict: bool = False, *,
        sample_weight: Weights = None, steps: Steps = None, callbacks: Callbacks = None,
    ) -> float | list[float] | dict[str, float]: ...

    def evaluate(
        self, x: Any, y: Any, batch_size: int = 32, verbose: int | str = 0, return_dict: bool = False, *,
        sample_weight: Weights = None, steps: Steps = None, callbacks: Callbacks = None,
    ) -> float | list[float] | dict[str, float]:
        """The loss on examples, or with metrics [loss, accuracy]; x and y as in :meth:`fit`.

        With ``return_dict``, the same by name.
        """
        batch_size = expect_number("batch_size", batch_size, 1, whole=True)
        expect_flag("return_dict", return_dict)
        progress = _progress(verbose)
        compiled, examples = self._ready(), self._examples("", x, y)
        logs = measure(self._network_for(examples.x), examples, compiled.metrics, batch_size, progress)
        progress.line(line(logs))
        if return_dict:
            return logs
        return list(logs.values()) if compiled.metrics else logs["loss"]

    def predict(
        self, x: Any, batch_size: int = 32, verbose: int | str = 0, *, steps: Steps = None, callbacks: Callbacks = None
    ) -> np.ndarray:
        """Outputs of the last layer: (examples, units), or (examples, steps, units); x as in :meth:`fit`.

        float32, or float64 on backend "reference".
        """
        batch_size = expect_number("batch_size", batch_size, 1, whole=True)
        progress = _progress(verbose)
        inputs = read_inputs("x", x, self._layer(0), self._features, self._ops.dtype)
        network = self._network_for(inputs)
        parts = []
        for first in range(0, len(inputs), batch_size):
            batch = network.ops.upload(swap(inputs[first : first + batch_size]))
            outputs = network.ops.download(network.predict(batch, network.state(batch.shape[1])))
            parts.append(swap(outputs) if outputs.ndim == 3 else outputs)
            if progress.due():
                progress.show(f"{min(first + batch_size, len(inputs))}/{len(inputs)} examples")
        progress.line(f"{len(inputs)}/{len(inputs)} examples")
        return np.concatenate(parts)

    def _ready(self) -> Compiled:
        if self._compiled is None:
            raise NotFittedError("how to train is not known yet; call compile(optimizer=..., loss=...) first.")
        self._compiled.check(self._layer(-1))
        return self._compiled

    def _graph_for(self, inputs: np.ndarray) -> Graph:
        """The layers on inputs like these. Nothing is built yet: what is wrong with the targets must leave the size of the vectors open."""
        return self._network.graph if self._network else Graph(self._layers, inputs.shape[-1] if inputs.ndim == 3 else None, self._steps or inputs.shape[1])

    def _network_for(self, inputs: np.ndarray) -> Network:
        if inputs.ndim == 3:
            self.build(inputs.shape)
        return self._build(inputs.shape[1])

    def _examples(self, prefix: str, x: Any, y: Any, features: int | None = None) -> Examples:
        inputs = read_inputs(f"{prefix}x", x, self._layer(0), self._features or features, self._ops.dtype)
        graph = self._graph_for(inputs)
        shape = graph.output(graph.input(inputs.shape[1], inputs.shape[0]))
        if len(shape) == 3:
            shape = (shape[1], shape[0], shape[2])
        compiled = self._ready()
        return Examples(inputs, read_targets(f"{prefix}y", y, compiled.loss, shape, self._ops.dtype))

    # keeping

    def save(self, path: Path, include_optimizer: bool = True) -> None:
        """Write layers, weights, the arguments of :meth:`compile` and the state of the optimiser to one file.

        Training can then continue: fit 4 epochs, save, load, and ``fit(..., initial_epoch=4, epochs=10)`` gives the same bytes as 10
        epochs in one call. Keras's suffixes, .h5 and .keras, are refused, because the file is a .npz.

        Parameters
        ----------
        path
            The file.
        include_optimizer
            Save the optimiser's moments, which are as large as the weights, for Adam twice as large.
        """
        expect_our_file(path)
        runs.expect_ended(path, "sequential")
        expect_flag("include_optimizer", include_optimizer)
        network = self._build()
        updater = self._updater if include_optimizer and self._updater and self._updater.steps else None  # without updates it is as a new one
        download = network.ops.download
        arenas = {"weights": network.parameters, **(updater.arenas() if updater else {})}
        write_model(path, "sequential", self._about(updater), {
            group: ((name, download(array)) for name, array in arena.items()) for group, arena in arenas.items()
        })

    def _about(self, updater: Updater | None = None, gradients: bool = False) -> dict[str, Any]:
        """The header of a file, as plain values; custom cells are recorded by what they compute, with ``gradients`` also backward."""
        network, compiled = self._build(), self._compiled
        own = records(network.ops, self._layers, gradients)
        return {
            "layers": [describe(layer) for layer in self._layers],
            "features": self._features,
            "seed": self._seed,
            "compiled": None if compiled is None else {
                "optimizer": optimizers.describe(compiled.optimizer),
                "loss": compiled.loss,
                "metrics": list(compiled.metrics),
            },
            "updates": updater.steps if updater else 0,
            "rounding": updater.rounding if updater else None,
            **({"cells": own} if own else {}),
            **({"steps": self._steps} if network.graph.chain.flattens else {}),
        }

    @classmethod
    def load(
        cls, path: Path, backend: str = "auto", threads: int | None = None, precision: str = "float32", *, compile: bool = True,
        custom_objects: Mapping[str, type[Layer] | type[Optimizer] | Cell] | None = None, cells: Sequence[Cell] = (),
    ) -> Self:
        """The model that :meth:`save` wrote.

        Parameters
        ----------
        path, backend, threads, precision
            The file, and as in :class:`Sequential`.
        compile
            Also load optimiser, loss and metrics; otherwise only the layers and their weights.
        custom_objects
            Your own classes of layers and optimisers, and your own cells, by name: the file only names them, and nothing is imported. A cell
            that is not given must be registered. A cell that does not compute what the model was trained with is refused.
        cells
            For a model with your own cells: use these, even if they compute something else than the cells of these names that the model was
            trained with.

        Raises
        ------
        ModelFileError
            If the file is missing, damaged, not a Sequential, from a newer version, or names an optimiser that is not in
            ``custom_objects``; or a cell is unknown, or computes something else.
        """
        custom = model_files.custom_in(custom_objects)
        expect_flag("compile", compile)
        cells = expect_items("cells", cells, "a list of cells")
        model = cls(backend=backend, threads=threads, precision=precision)
        loaded = model_files.load(path, "sequential", model._ops, cells, custom, lambda file: file.groups if compile else ["weights"])
        with fitting(loaded.name):
            model._restore(loaded, compile, custom.classes)
        return model

    def _restore(self, loaded: Loaded, compile: bool, custom_objects: Mapping[str, type]) -> None:
        """Be the model of a file."""
        about, groups = loaded.about, loaded.groups
        expect_number("seed", about["seed"], 0, 2**63 - 1, whole=True)
        self._seed, self._features = about["seed"], about["features"]
        if self._features is not None:
            expect_number("features", self._features, 1, whole=True)
        self._steps = about.get("steps")
        if self._steps is not None:
            expect_number("steps", self._steps, 1, whole=True)
        self._stack(tuple(loaded.layers or ()))
        graph = Graph(self._layers, self._features, self._steps)
        self._network = Network(graph, self._ops, second_biases(graph, groups["weights"], moments=False))
        if (compiled := about["compiled"]) is not None and compile:
            try:
                optimizer = optimizers.rebuild(compiled["optimizer"], custom_objects,
                                    "load with custom_objects={name: class} to continue with it, or with compile=False for the weights alone")
            except ModelFileError as error:
                raise ModelFileError(f"{loaded.name!r}: {error}") from error
            self.compile(optimizer, compiled["loss"], compiled["metrics"])
        expect_number("updates", about["updates"], 0, MOST, whole=True)
        if about["updates"] and self._compiled:
            self._updater = Updater(self._network, self._compiled.optimizer)
            self._updater.resume(about["updates"], about.get("rounding"))
            for group, arena in self._updater.arenas().items():
                self._network.load(arena, second_biases(graph, groups[group], moments=True))


def _checked(layer: Any) -> Layer:
    if not isinstance(layer, Layer):
        raise ConfigError(f"layer is {shown(layer)}, expected one of numba_rnnlm.layers such as Dense(10).")
    return layer


def _progress(verbose: int | str) -> Progress:
    expect_one_of("verbose", verbose, ("auto", 0, 1, 2))
    return Progress(1 if verbose == "auto" else int(verbose))


def _short(layer: Any) -> str:
    """A layer as one would write it: without what is as always."""
    values = [(field, getattr(layer, field.name)) for field in fields(layer) if field.init and field.repr]
    given = [repr(value) for field, value in values if field.default is MISSING]
    given += [f"{field.name}={value!r}" for field, value in values if field.default not in (MISSING, value)]
    return f"{type(layer).__name__}({', '.join(given)})"

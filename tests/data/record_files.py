"""Write model_v2.npz, checkpoint_v2.npz and sequential_v2.npz next to this file: files that every later release must read.

Run by hand, once per version of the format (the version is part of the names; older files stay unchanged)::

    python tests/data/record_files.py
"""

import json
import sys
from itertools import count
from pathlib import Path

import numpy as np

from numba_rnnlm import LanguageModel, Sequential
from numba_rnnlm.formats import native
from numba_rnnlm.layers import LSTM, Dense, Embedding
from numba_rnnlm.training import loop

FOLDER = Path(__file__).parent
TEXT = "to be or not to be\nthat is the question\n"
TRAINING = {"epochs": 3, "streams": 2, "steps": 10, "learning_rate": 0.05, "schedule": "plateau", "verbose": 0}
STOPPED = 9  # updates after which the checkpointed run is stopped, in the middle of an epoch


def model():
    return LanguageModel("lstm", hidden=4, layers=1, embedding=3, dropout=0.1, seed=1, backend="cpu")


def examples():
    x = np.arange(40).reshape(8, 5) % 7
    return x, (x[:, -1] + 1) % 7


def sequential():
    made = Sequential([Embedding(7, 3), LSTM(4), Dense(7, "softmax")], seed=1, backend="cpu")
    made.compile("adam", "sparse_categorical_crossentropy", ["accuracy"])
    return made


def name(kind):
    return FOLDER / f"{kind}_v{native.VERSION}.npz"


def main():
    whole = model().fit(TEXT * 4, TEXT, **TRAINING)
    whole.save(name("model"))
    step, updates = loop.Trainer._step, count(1)

    def stop(self, *batch):
        if next(updates) > STOPPED:
            raise KeyboardInterrupt
        step(self, *batch)

    loop.Trainer._step = stop
    try:
        model().fit(TEXT * 4, TEXT, **TRAINING, checkpoint=name("checkpoint"), checkpoint_every="0.000001s")
    except KeyboardInterrupt:
        loop.Trainer._step = step
    made = sequential()
    made.fit(*examples(), epochs=2, verbose=0)
    made.save(name("sequential"))
    found = {"score": whole.score("to be"), "prediction": made.predict(examples()[0])[0].tolist()}
    (FOLDER / f"files_v{native.VERSION}.json").write_text(json.dumps(found) + "\n")


if __name__ == "__main__":
    sys.exit(main())

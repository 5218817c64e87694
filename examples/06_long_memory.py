"""Associative recall: one head of attention looks up what an LSTM forgets.

Each sequence lists pairs of a key and a value, is silent for 200 steps, and then asks for keys: which value belonged to each? An LSTM has to learn to carry
all pairs in its state over the silence. Attention behind the same LSTM compares a question with all earlier steps, so the distance does not matter. It takes
about twice the time for a sequence; the LSTM alone gets twice the sequences.
"""

import numpy as np

from numba_rnnlm import Sequential
from numba_rnnlm.layers import LSTM, Dense, Embedding, LayerNormalization, MultiHeadAttention, Residual
from numba_rnnlm.optimizers import Adam

KEYS, VALUES = 8, 8
PAIRS, DISTANCE, QUESTIONS = 4, 200, 8
SILENCE, NOTHING = KEYS + VALUES, VALUES  # an input, and what is to be answered where there is no question


def examples(random, count):
    """Ids (count, steps) and the answer to each; only the last QUESTIONS of them are values."""
    keys = np.argsort(random.random((count, KEYS)))[:, :PAIRS]
    values = random.integers(0, VALUES, (count, PAIRS))
    pairs = np.stack([keys, KEYS + values], 2).reshape(count, 2 * PAIRS)
    asked = random.integers(0, PAIRS, (count, QUESTIONS))
    x = np.hstack([pairs, np.full((count, DISTANCE), SILENCE), np.take_along_axis(keys, asked, 1)])
    y = np.full(x.shape, NOTHING)
    y[:, -QUESTIONS:] = np.take_along_axis(values, asked, 1)
    return x, y


def network(*memory):
    recurrent = [Embedding(SILENCE + 1, 32), LayerNormalization(), LSTM(64, return_sequences=True), LayerNormalization()]
    model = Sequential([*recurrent, *memory, Dense(VALUES + 1, activation="softmax")], seed=1)
    model.compile(Adam(learning_rate=0.003), "sparse_categorical_crossentropy")
    return model


def train(model, random, count):
    """Train on this many new sequences; the accuracy of the answers in others."""
    model.fit(*examples(random, count), batch_size=8, verbose=0)
    x, y = examples(np.random.default_rng(1), 300)
    return float(np.mean(model.predict(x, verbose=0)[:, -QUESTIONS:].argmax(-1) == y[:, -QUESTIONS:]))


head = Residual([MultiHeadAttention(num_heads=1, key_dim=64, use_causal_mask=True)])
attention, alone = network(head), network()
draws = np.random.default_rng(0), np.random.default_rng(0)
print(f"accuracy of answers over a distance of {DISTANCE} steps; by chance {1 / VALUES:.2f}")
print("epoch  with attention  LSTM alone, twice the sequences")
for epoch in range(1, 7):
    print(f"{epoch:5}  {train(attention, draws[0], 500):14.2f}  {train(alone, draws[1], 1000):10.2f}", flush=True)

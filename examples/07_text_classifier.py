"""A text classifier written for Keras, with only the imports changed: convolution, the maximum over time, one sigmoid unit.

Each review praises or complains in one phrase among many other words. "not" in front of a word turns its meaning around, so single
words do not tell which it is; a convolution sees a few words in a row.
"""

import numpy as np

from numba_rnnlm import Sequential
from numba_rnnlm.layers import Conv1D, Dense, Dropout, Embedding, GlobalMaxPooling1D

PRAISE, COMPLAINT = ["good", "great", "lovely", "brilliant"], ["bad", "awful", "dull", "boring"]
OTHER = ["the", "a", "film", "plot", "actor", "scene", "music", "it", "was", "we", "saw", "last", "night", "with", "friends", "and", "then"]
LENGTH = 20

words = ["<pad>", "not", *PRAISE, *COMPLAINT, *OTHER]
index = {word: number for number, word in enumerate(words)}
random = np.random.default_rng(0)


def review():
    """(words, whether it praises)"""
    likes, negated = random.random(2) < 0.5
    opinion = (["not"] if negated else []) + [str(random.choice(PRAISE if likes != negated else COMPLAINT))]
    told = [str(word) for word in random.choice(OTHER, random.integers(8, LENGTH - 2))]
    place = random.integers(0, len(told))
    return told[:place] + opinion + told[place:], likes


def vectorize(texts):
    """Ids (examples, LENGTH), padded at the end."""
    return np.array([[index[word] for word in text] + [0] * (LENGTH - len(text)) for text in texts])


texts, labels = zip(*(review() for _ in range(3000)), strict=True)
x, y = vectorize(texts), np.array(labels, float)

model = Sequential()
model.add(Embedding(len(words), 32))
model.add(Conv1D(64, 3, activation="relu"))
model.add(GlobalMaxPooling1D())
model.add(Dropout(0.2))
model.add(Dense(1, activation="sigmoid"))
model.compile(loss="binary_crossentropy", optimizer="adam", metrics=["accuracy"])
history = model.fit(x, y, epochs=8, batch_size=32, validation_split=0.2, verbose=0)
model.summary()
for epoch in (0, 3, 7):
    print(f"epoch {epoch + 1}: loss {history.history['loss'][epoch]:.3f}, accuracy on new reviews {history.history['val_accuracy'][epoch]:.3f}")

for text in ("the film was good", "the film was not good", "we saw a dull plot", "it was not bad and the music was great"):
    probability = float(model.predict(vectorize([text.split()]))[0, 0])
    print(f"{probability:.2f}  {text}")

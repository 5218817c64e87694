"""A model written for Keras, with only the imports changed. It learns to predict the next character of a verse."""

import numpy as np

from numba_rnnlm import Sequential
from numba_rnnlm.layers import LSTM, Dense, Embedding
from numba_rnnlm.optimizers import Adam

text = """twinkle twinkle little star
how i wonder what you are
up above the world so high
like a diamond in the sky
"""

characters = sorted(set(text))
index = {character: number for number, character in enumerate(characters)}
vocab_size = len(characters)
max_length = 12

x_train = np.array([[index[c] for c in text[i : i + max_length]] for i in range(len(text) - max_length)])
y_train = np.eye(vocab_size)[[index[c] for c in text[max_length:]]]  # one-hot, like the result of to_categorical

model = Sequential()
model.add(Embedding(vocab_size, 16, input_length=max_length))
model.add(LSTM(128, return_sequences=True))
model.add(LSTM(64))
model.add(Dense(vocab_size, activation="softmax"))
model.compile(loss="categorical_crossentropy", optimizer=Adam(learning_rate=0.005), metrics=["accuracy"])
model.summary()
history = model.fit(x_train, y_train, epochs=60, batch_size=8, verbose=0)

for epoch in (0, 9, 29, 59):
    print(f"epoch {epoch + 1:2}: loss {history.history['loss'][epoch]:.3f}, "
          f"accuracy {history.history['accuracy'][epoch]:.3f}")

generated = text[:max_length]
for _ in range(70):
    window = np.array([[index[c] for c in generated[-max_length:]]])
    generated += characters[int(model.predict(window, verbose=0)[0].argmax())]
print(f"\ngenerated from the first {max_length} characters:\n{generated}")

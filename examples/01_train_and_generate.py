"""Train a character model on Python's own documentation, evaluate it, generate text, save and load it."""

import tempfile
from pathlib import Path

from numba_rnnlm import LanguageModel
from numba_rnnlm.demo import documentation

training, held_out = documentation()  # or pass paths of your own files: model.fit("corpus.txt", valid="valid.txt")

model = LanguageModel(cell="lstm", hidden=128, layers=1, embedding=32, seed=1)
model.fit(training[:100_000], valid=held_out, epochs=4, streams=16, steps=50, learning_rate=8e-3)

measured = model.evaluate(held_out)
print(f"\nheld out: perplexity {measured.perplexity:.2f}, {measured.bits_per_character:.2f} bits per character "
      f"over {measured.tokens:,} characters")

print("\ntemperature 0.3:", model.generate("The ", length=120, temperature=0.3, seed=1))
print("\ntemperature 1.0:", model.generate("The ", length=120, temperature=1.0, seed=1))

with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "model.npz"
    model.save(path)
    same = LanguageModel.load(path)
    assert same.generate("The ", length=50, seed=1) == model.generate("The ", length=50, seed=1)
    print(f"\nsaved {path.stat().st_size:,} bytes; the loaded model generates the same text")

"""Train a character model on Python's own documentation, measure it, let it write, save and load it."""

import tempfile
from pathlib import Path

from numba_rnnlm import LanguageModel
from numba_rnnlm.demo import documentation

training, held_out = documentation()  # or the paths of your own files: model.fit("corpus.txt", valid="valid.txt")

model = LanguageModel(cell="lstm", hidden=128, layers=1, embedding=32, seed=1)
model.fit(training[:100_000], valid=held_out, epochs=4, streams=16, steps=50, learning_rate=8e-3)

measured = model.evaluate(held_out)
print(f"\nheld out: perplexity {measured.perplexity:.2f}, {measured.bits_per_character:.2f} bits per character "
      f"over {measured.tokens:,} characters")

print("\ncautious:", model.generate("The ", length=120, temperature=0.3, seed=1))
print("\nbold:    ", model.generate("The ", length=120, temperature=1.0, seed=1))

with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "model.npz"
    model.save(path)
    same = LanguageModel.load(path)
    assert same.generate("The ", length=50, seed=1) == model.generate("The ", length=50, seed=1)
    print(f"\nsaved, loaded, and it writes the same: {path.stat().st_size:,} bytes")

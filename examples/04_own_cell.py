"""A custom cell: the minimal gated unit (Zhou et al. 2016), with the matrix product before the gate, as in cuDNN's GRU.

::

    f = σ(W x + U h + b)      m = U h + b_m      n = tanh(W x + b_n + f ⊙ m)
    h' = (1 - f) ⊙ h + f ⊙ n

The slots are in the order m f n: those that depend on the state come first, those that depend on the input last.
"""

from tempfile import TemporaryDirectory

import numpy as np

from numba_rnnlm import Cell, LanguageModel, cells
from numba_rnnlm.portable import dsigmoid, dtanh, portable, sigmoid, tanh


def equations(z, prev):
    """The specification in NumPy, which the check differentiates automatically."""
    m, f, n = z
    (h,) = prev
    f = 0.5 * np.tanh(0.5 * f) + 0.5
    return ((1 - f) * h + f * np.tanh(n + f * m))[np.newaxis]


@portable
def forward(z, prev, next, start, stride):
    """One step of one stream; element j depends on column j only. One short loop per gate vectorises best."""
    m, f, n = z[0], z[1], z[2]
    h, h_prev = next[0], prev[0]
    for j in range(start, h.size, stride):
        f[j] = sigmoid(f[j])
    for j in range(start, h.size, stride):
        n[j] = tanh(n[j] + f[j] * m[j])
    for j in range(start, h.size, stride):
        h[j] = h_prev[j] + f[j] * (n[j] - h_prev[j])


@portable
def backward(z, prev, next, d, start, stride):
    """Overwrite the activations with the gradients of the pre-activations, and d, the gradient of h', with the gradient of h."""
    m, f, n = z[0], z[1], z[2]
    h_prev, dh = prev[0], d[0]
    for j in range(start, dh.size, stride):
        mj, fj, nj, dj = m[j], f[j], n[j], dh[j]
        dn = dj * fj * dtanh(nj)
        n[j] = dn
        m[j] = dn * fj
        f[j] = (dj * (nj - h_prev[j]) + dn * mj) * dsigmoid(fj)
        dh[j] = dj * (type(fj)(1) - fj)  # type(fj)(1): a 1 of f's own type, float32 or float64; Numba would compute 1.0 - fj in float64


MGU = Cell("mgu", {"m": "h", "f": "xh", "n": "x"}, ("h",), equations, forward, backward)

cells.check(MGU, verbose=True)  # compares forward and backward with the equations and their derivative, and much more

text = "how much wood would a woodchuck chuck if a woodchuck could chuck wood\n" * 60
for cell in (MGU, "gru"):
    model = LanguageModel(cell, hidden=64, layers=1, embedding=16, seed=1)
    model.fit(text, epochs=8, streams=8, steps=35, learning_rate=1e-2, verbose=0)
    name = cell if isinstance(cell, str) else cell.name
    print(f"\n{name}: {model.parameter_count:,} weights, perplexity {model.perplexity(text):.3f}")
    print("  how" + model.generate("how", length=66, temperature=0))
    with TemporaryDirectory() as folder:
        model.save(path := f"{folder}/model.npz")
        loaded = LanguageModel.load(path, custom_objects={"mgu": MGU})  # the file only names the cell
    assert loaded.perplexity(text) == model.perplexity(text)

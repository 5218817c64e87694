"""Record golden_attention.npz next to this file: float64 results of Keras's attention layers and of torch.nn.MultiheadAttention.

Run by hand, with torch and keras installed::

    python tests/data/record_attention.py

Keys, for each case in :func:`record`, such as keras_causal::

    about               versions, as strings
    CASE/x              (T, N, D)    input
    CASE/dy             (T, N, D)    random gradient of y
    CASE/weights/0, …   in the order of Keras's get_weights(); torch's in the same order and shapes
    CASE/y              (T, N, D)
    CASE/dx             gradient of sum(y * dy) with respect to x
    CASE/gradients/0, … and with respect to the weights
"""

import os
from pathlib import Path

os.environ["KERAS_BACKEND"] = "torch"  # must be set before Keras is imported

import keras
import numpy as np
import torch
from keras.src.backend.common import dtypes

dtypes.BIT64_TO_BIT32_DTYPE["float64"] = "float64"  # otherwise Keras rounds products to float32 with every backend but TensorFlow

STEPS, STREAMS, SIZE, HEADS, KEYS, VALUES, WINDOW = 7, 3, 6, 2, 4, 3, 3

Record = dict[str, np.ndarray]


def draw(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Normal numbers, rounded to multiples of 1/64, which are exact in float32 and compress well."""
    return np.round(rng.normal(0, 0.7, shape) * 64) / 64


def of_keras(rng: np.random.Generator, layer: keras.layers.Layer, **options: bool) -> Record:
    x, dy = (torch.tensor(draw(rng, STEPS, STREAMS, SIZE)) for _ in range(2))
    x.requires_grad_(True)
    inputs = x.swapaxes(0, 1)
    call = (lambda: layer(inputs, inputs, **options)) if isinstance(layer, keras.layers.MultiHeadAttention) else (lambda: layer([inputs, inputs], **options))
    call()
    layer.set_weights([draw(rng, *weight.shape) for weight in layer.get_weights()])
    y = call().swapaxes(0, 1)
    (y * dy).sum().backward()
    found = {"x": x.detach().numpy(), "dy": dy.numpy(), "y": y.detach().numpy(), "dx": x.grad.numpy()}
    for index, weight in enumerate(layer.weights):
        found |= {f"weights/{index}": weight.value.detach().numpy(), f"gradients/{index}": weight.value.grad.numpy()}
    return found


def of_torch(rng: np.random.Generator, causal: bool) -> Record:
    layer = torch.nn.MultiheadAttention(SIZE, HEADS)
    x, dy = (torch.tensor(draw(rng, STEPS, STREAMS, SIZE)) for _ in range(2))
    x.requires_grad_(True)
    with torch.no_grad():
        for weight in layer.parameters():
            weight.copy_(torch.tensor(draw(rng, *weight.shape)))
    mask = torch.triu(torch.ones(STEPS, STEPS, dtype=torch.bool), 1) if causal else None
    y, _ = layer(x, x, x, attn_mask=mask, need_weights=False)
    (y * dy).sum().backward()

    def as_keras(in_matrix, in_bias, out_matrix, out_bias):
        parts = []
        for matrix, bias in zip(in_matrix.chunk(3), in_bias.chunk(3), strict=True):
            parts += [matrix.T.reshape(SIZE, HEADS, -1), bias.reshape(HEADS, -1)]
        return [part.detach().numpy() for part in (*parts, out_matrix.T.reshape(HEADS, -1, SIZE), out_bias)]

    weights = [layer.in_proj_weight, layer.in_proj_bias, layer.out_proj.weight, layer.out_proj.bias]
    found = {"x": x.detach().numpy(), "dy": dy.numpy(), "y": y.detach().numpy(), "dx": x.grad.numpy()}
    for name, arrays in (("weights", as_keras(*weights)), ("gradients", as_keras(*(weight.grad for weight in weights)))):
        found |= {f"{name}/{index}": array for index, array in enumerate(arrays)}
    return found


def record() -> Record:
    keras.config.set_dtype_policy("float64")
    torch.set_default_dtype(torch.float64)
    rng = np.random.default_rng(20)
    heads = {"num_heads": HEADS, "key_dim": KEYS, "value_dim": VALUES}
    cases = {
        "keras": of_keras(rng, keras.layers.MultiHeadAttention(**heads)),
        "keras_causal": of_keras(rng, keras.layers.MultiHeadAttention(**heads, use_bias=False), use_causal_mask=True),
        "keras_window": of_keras(rng, keras.layers.MultiHeadAttention(**heads, sliding_window=WINDOW), use_causal_mask=True),
        "attention": of_keras(rng, keras.layers.Attention()),
        "additive": of_keras(rng, keras.layers.AdditiveAttention()),
        "additive_causal": of_keras(rng, keras.layers.AdditiveAttention(), use_causal_mask=True),
        "torch": of_torch(rng, False),
        "torch_causal": of_torch(rng, True),
        "scaled": of_keras(rng, keras.layers.Attention(use_scale=True)),
        "scaled_causal": of_keras(rng, keras.layers.Attention(use_scale=True), use_causal_mask=True),
        "concat": of_keras(rng, keras.layers.Attention(score_mode="concat")),
        "scaled_concat_causal": of_keras(rng, keras.layers.Attention(use_scale=True, score_mode="concat"), use_causal_mask=True),
    }
    about = {"about": np.array([f"keras {keras.__version__}", f"torch {torch.__version__}", f"numpy {np.__version__}"])}
    return about | {f"{name}/{key}": value for name, found in cases.items() for key, value in found.items()}


if __name__ == "__main__":
    np.savez_compressed(Path(__file__).parent / "golden_attention.npz", **record())

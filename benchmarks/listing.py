"""One training step of the README's Sequential model: Embedding, LSTM(128), LSTM(64), Dense with softmax, Adam.

    python -m benchmarks.listing
    python -m benchmarks.listing --peer torch --peer keras

All libraries get ids as targets, which they process faster than one-hot rows. For numba_rnnlm, a step is what ``fit`` does for one
batch; for Keras it is ``train_on_batch``.
"""

from .harness import compare, contestants, describe, parser, read, write_results
from .workers.data import LISTING

SECONDS = 0.4  # approximate duration of one turn
TOLERANCE = 1e-4  # for the first losses


def main() -> None:
    options = read(parser("Time one training step of the Sequential listing.", peers=("torch", "keras")), "listing")
    with contestants(options) as players:
        requests = {who: {"task": "listing", "backend": options.backend} for who in players}
        found = compare(players, options.turns, SECONDS, TOLERANCE, requests)
    print(describe("listing", found["milliseconds"], "ms", found["ratio"]))
    write_results("listing", options, [{"row": "listing", "shape": LISTING, **found}])


if __name__ == "__main__":
    main()

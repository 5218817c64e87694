"""Changes to bytes."""

import random

Random = random.Random


def flip_bits(random: Random, data: bytes) -> bytes:
    spoiled = bytearray(data)
    for _ in range(random.choice((1, 1, 3, 30)) if data else 0):
        spoiled[random.randrange(len(data))] ^= 1 << random.randrange(8)
    return bytes(spoiled)


def change_bytes(random: Random, data: bytes) -> bytes:
    start, stop = _slice(random, data)
    return data[:start] + random.choice((random.randbytes(stop - start), bytes(stop - start))) + data[stop:]


def truncate(random: Random, data: bytes) -> bytes:
    return data[: random.randint(0, len(data))]


def insert(random: Random, data: bytes) -> bytes:
    start, _ = _slice(random, data)
    return data[:start] + random.randbytes(random.choice((1, 4, 100))) + data[start:]


def duplicate(random: Random, data: bytes) -> bytes:
    start, stop = _slice(random, data)
    return data[:stop] + data[start:]


def remove(random: Random, data: bytes) -> bytes:
    start, stop = _slice(random, data)
    return data[:start] + data[stop:]


def exchange(random: Random, data: bytes) -> bytes:
    a, b, c, d = sorted(random.randint(0, len(data)) for _ in range(4))
    return data[:a] + data[c:d] + data[b:c] + data[a:b] + data[d:]


def _slice(random: Random, data: bytes) -> tuple[int, int]:
    start = random.randint(0, len(data))
    return start, min(len(data), start + random.choice((1, 2, 8, 100, 1000)))


BYTES = (flip_bits, change_bytes, truncate, insert, duplicate, remove, exchange)


def spoil(random: Random, data: bytes) -> bytes:
    """Apply one of these changes."""
    return random.choice(BYTES)(random, data)

"""Changes to a zip archive and its arrays."""

import io
import random
import struct
import zipfile
import zlib
from functools import cache
from typing import NamedTuple

import numpy as np

from . import damage
from .conduct import MEMORY

Random = random.Random


class Member(NamedTuple):
    """A member of a zip archive; its header may contradict its contents.

    Attributes
    ----------
    local
        The name in the local header, if it differs from that in the directory.
    """

    name: bytes
    data: bytes
    method: int = zipfile.ZIP_STORED
    size: int | None = None
    flags: int = 0
    extra: bytes = b""
    local: bytes | None = None


def members_of(data: bytes) -> list[Member]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return [Member(name.encode(), archive.read(name)) for name in archive.namelist()]


def packed(members: list[Member], comment: bytes = b"") -> bytes:
    """A zip archive that is valid except for what its members specify."""
    body, directory = bytearray(), bytearray()
    for name, data, method, size, flags, extra, local in members:
        known = struct.pack("<HHHHHIII", 20, flags, method, 0, 33, zlib.crc32(data), len(data), len(data) if size is None else size)
        lengths = struct.pack("<HH", len(name), len(extra))
        directory += b"PK\1\2\x14\0" + known + lengths + struct.pack("<HHHII", 0, 0, 0, 0, len(body)) + name + extra
        local = name if local is None else local
        body += b"PK\3\4" + known + struct.pack("<HH", len(local), len(extra)) + local + extra + data
    count = len(members) % 2**16
    return bytes(body + directory) + struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, count, count, len(directory), len(body), len(comment)) + comment


def spoil_zip_headers(random: Random, data: bytes) -> bytes:
    """Set a number in a header of the archive to an extreme value."""
    spoiled = bytearray(data)
    places = [found for kind in (b"PK\1\2", b"PK\3\4", b"PK\5\6") for found in _places(data, kind)] or [0]
    for _ in range(random.choice((1, 1, 2))):
        width = random.choice((2, 4, 8))
        place = random.choice(places) + random.randint(4, 46)
        value = random.choice((0, 1, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1, len(data)))
        spoiled[place : place + width] = (value % 2 ** (8 * width)).to_bytes(width, "little")
    return bytes(spoiled)


def _places(data: bytes, piece: bytes) -> list[int]:
    found, place = [], data.find(piece)
    while place >= 0:
        found.append(place)
        place = data.find(piece, place + 1)
    return found


def npy(descr: str, shape: str, data: bytes, fortran: object = False, version: int = 1) -> bytes:
    header = f"{{'descr': {descr!r}, 'fortran_order': {fortran}, 'shape': {shape}, }}".ljust(117) + "\n"
    length = len(header).to_bytes(2 if version == 1 else 4, "little")
    return b"\x93NUMPY" + bytes((version, 0)) + length + header.encode() + data


SHAPES = (
    "()", "(0,)", "(1,)", "(-1,)", "(-5, -5)", "(10**9,)", "(9999999999,)", "(0, 9999999999999999999)", "(1, 1, 1)",
    "(1" + ", 1" * 40 + ")", "(1" + ", 1" * 20_000 + ")", "(2, 2L)", "(True,)", "(3.0,)", "[3]", "(0x3,)", "(١,)", "(" * 300 + ")" * 300,
    "-" * 5000 + "1", "None", "(" + "9" * 5000 + ",)", "(0, " + "9" * 4000 + ")", "(\x1b[2J,)",
)  # fmt: skip
DTYPES = (">f4", "<f2", "<f8", ">f8", "<i4", "<i8", "|b1", "<c8", "<f16", "<U1", "|S3", "<M8[s]")
DESCRIPTIONS = ("|O", "O", "<f3", "f4", "float32", "(2,)f4", "f4,f4", "", "|V4", "<f4 ", "a4", "object", "\0", "<U0", "|V0", "<f4" * 3000,
                "\\d", "é", "\x1b]0;x\x07", "\u202e4f<")  # fmt: skip


def spoil_array(random: Random, members: list[Member]) -> None:
    """Change the shape, the dtype or a number of an array."""
    index = random.randrange(len(members))
    array = np.load(io.BytesIO(members[index].data))
    descr, shape, fortran, version, data = array.dtype.str, str(array.shape), False, 1, array.tobytes()
    action = random.choice(("shape", "dtype", "descr", "number", "version", "text"))
    if action == "shape":
        shape = random.choice((*SHAPES, str((array.size,)), str(array.shape[::-1])))
        fortran = random.choice((False, True))
    elif action == "dtype":
        kind = random.choice(DTYPES)
        array = array.astype("i8").astype(kind) if "M8" in kind else array.astype(kind)
        descr, data = array.dtype.str, array.tobytes()
    elif action == "descr":
        descr = random.choice(DESCRIPTIONS)
    elif action == "number" and array.dtype.kind == "f" and array.size:
        array = array.astype(random.choice(("<f4", "<f4", "<f8")))
        extreme = (np.nan, np.inf, -np.inf, 1e38, 3e38, -3e38, 1e-45) + ((1e39, 1e300, -1e308) if array.itemsize == 8 else ())
        array.reshape(-1)[random.randrange(array.size)] = random.choice(extreme)
        if random.random() < 0.3:
            array[:] = random.choice(extreme)
        descr, data = array.dtype.str, array.tobytes()
    elif action == "version":
        version = random.choice((0, 2, 3, 4, 255))
        fortran = random.choice((False, True))
    else:
        shape = random.choice((f"{shape} # x", f"{shape}, 'x': 1", f"{shape}, 'shape': (1,)", "0or 1", "1if 1else 2", "().x"))
    spoiled = npy(descr, shape, data, fortran, version) if len(shape) + len(descr) < 60_000 else members[index].data
    if random.random() < 0.2:
        spoiled = spoiled[:10] + damage.flip_bits(random, spoiled[10:128]) + spoiled[128:]
    members[index] = members[index]._replace(data=spoiled)


NAMES = (
    b"../../x.npy", b"/etc/x.npy", b"a\\b.npy", b"C:\\x.npy", b"weights/../x.npy", b"x", b"", b".npy", b"weights/.npy", b"/",
    b"weights/\xff\xfe.npy", b"weights/a\0b.npy", b"weights//x.npy", b"moments/0/x.npy", b"good/x.npy", b"state/\xc2\xb2/x.npy",
    b"moments/\xd9\xa1/x.npy", b"x" * 60_000 + b".npy", b"about.npy", b"weights/\x1b]0;x\x07\x1b[2J.npy", b"\xe2\x80\xaeypn.x",
    b"weights/\xe2\x80\xaex.npy", b"weights/" + b"\x1b" * 30_000 + b".npy", b"moments/0/0/0.npy", b"weights/embedding/W/x.npy",
)  # fmt: skip
UTF8 = 0x800  # the flag for names in UTF-8


def spoil_members(random: Random, members: list[Member]) -> None:
    """Remove, move, duplicate, compress or rename a member."""
    index, other = random.randrange(len(members)), random.randrange(len(members))
    member = members[index]
    action = random.choice(("rename", "rename", "drop", "swap", "twice", "compress", "bomb", "size", "bytes", "header", "order"))
    if action == "rename":
        name = random.choice((*NAMES, member.name.upper(), member.name + b".npy"))
        members[index] = member._replace(name=name, flags=random.choice((0, UTF8)))
    elif action == "drop":
        del members[index]
    elif action == "swap":
        members[index], members[other] = member._replace(data=members[other].data), members[other]._replace(data=member.data)
    elif action == "twice":
        members.append(members[other])
    elif action == "compress":
        squeezed = zlib.compress(member.data, wbits=-15)
        members[index] = Member(member.name, squeezed, zipfile.ZIP_DEFLATED, len(member.data))
    elif action == "bomb":
        members[index] = Member(member.name, bomb(), random.choice((0, 8, 8, 8, 12, 14, 99)), random.choice((None, 128 + 2 * MEMORY)))
    elif action == "size":
        members[index] = member._replace(size=random.choice((0, 1, len(member.data) - 1, len(member.data) + 1, 2**32 - 1)))
    elif action == "bytes":
        members[index] = member._replace(data=damage.spoil(random, member.data))
    elif action == "order":
        random.shuffle(members)
    else:
        zip64 = struct.pack("<HHQQ", 1, 16, random.choice((len(member.data), 2**63, 2**64 - 1)), len(member.data))
        members[index] = random.choice((
            member._replace(flags=random.choice((1, 8, UTF8, 0x2000, 0xFFFF))), member._replace(local=random.choice(NAMES)),
            member._replace(extra=random.choice((zip64, zip64[:9], b"\1\0\xff\xff", bytes(60_000), random.randbytes(50)))),
            member._replace(extra=zip64, size=2**32 - 1),
        ))  # fmt: skip


def add_members(random: Random, members: list[Member]) -> None:
    """Add many members, all in one group or each in its own."""
    count = round(10 ** random.uniform(1, 3.3))
    name = random.choice((b"weights/%d.npy", b"%d/x.npy", b"moments/%d/x.npy", b"good/%d.npy", b"state/%d.npy", b"%d.npy", b"w/%d/x.npy"))
    data = random.choice((b"", npy("<f4", "(0,)", b""), npy("<f4", "(1,)", bytes(4))))
    members += [Member(name % number, data) for number in range(count)]


@cache
def bomb() -> bytes:
    """An array that takes twice the memory, as a deflate stream of two megabytes."""
    squeeze = zlib.compressobj(wbits=-15)
    header = squeeze.compress(npy("<f4", f"({2 * MEMORY // 4},)", b"")) + squeeze.flush(zlib.Z_FULL_FLUSH)
    piece = squeeze.compress(bytes(MEMORY // 100)) + squeeze.flush(zlib.Z_FULL_FLUSH)
    return header + piece * 200 + squeeze.flush()

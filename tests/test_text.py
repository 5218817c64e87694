"""Vocabularies, tokenizers, corpora and streams."""

import codecs
import gzip
import json
import mmap
import os
import re
import subprocess
import sys
import tempfile
import tracemalloc
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import needs
import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from models import WHITE_SPACE, as_read, words_of

import numba_rnnlm
from numba_rnnlm.config import TextConfig
from numba_rnnlm.errors import ConfigError, CorpusError, ShapeError, VocabularyError
from numba_rnnlm.text import (
    ByteTokenizer,
    CharTokenizer,
    Tokenizer,
    Vocabulary,
    WordTokenizer,
    cleaning,
    learn_tokenizer,
    mapped,
    packed,
    read_corpus,
    segments,
    segments_per_epoch,
    sources,
    streams_that_fit,
)

NAMES = ("byte", "char", "word")
any_text = st.text(st.characters(exclude_categories=()), max_size=40)  # lone surrogates too
utf8_text = st.text(st.sampled_from("ab \n\r\t\u3000é中😀\ufeff"), max_size=40)
words = st.text(st.characters(exclude_categories=(), exclude_characters=WHITE_SPACE), min_size=1, max_size=5)


def tokenizer_for(name: str, text: str) -> Tokenizer:
    return {"byte": lambda pieces: ByteTokenizer(), "char": CharTokenizer.learn, "word": WordTokenizer.learn}[name](
        [text]
    )


@pytest.fixture
def small_pieces(monkeypatch):
    monkeypatch.setattr(packed, "CHUNK", 3)
    monkeypatch.setattr(sources, "MEMORY_BYTES", 10)
    monkeypatch.setattr(mapped, "READ", 6)


@contextmanager
def in_file(data, chunk, suffix=".txt"):
    """``data`` in a file that is read ``chunk`` bytes at a time."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(packed, "CHUNK", chunk)
        path = Path(folder) / f"text{suffix}"
        path.write_bytes(gzip.compress(data) if suffix == ".gz" else data)
        yield path


# Vocabulary


@given(
    st.dictionaries(st.text(max_size=3), st.integers(1, 5)),
    st.integers(1, 4),
    st.none() | st.integers(2, 8),
)
def test_learn_takes_the_most_frequent_and_ties_go_by_code_point(counts, min_count, maximum):
    reserved = ["<unk>", "b"]
    vocabulary = Vocabulary.learn(counts, reserved, min_count, maximum)
    assert list(vocabulary.symbols[:2]) == reserved
    learned = vocabulary.symbols[2:]
    rank = [(-counts[symbol], symbol) for symbol in learned]
    assert rank == sorted(rank)
    left_out = set(counts) - set(vocabulary.symbols)
    is_full = len(vocabulary) == maximum
    for symbol in left_out:
        assert counts[symbol] < min_count or (is_full and (not rank or (-counts[symbol], symbol) > rank[-1]))
    assert all(counts[symbol] >= min_count for symbol in learned)
    assert maximum is None or len(vocabulary) <= maximum


@given(st.lists(words, unique=True))
def test_an_index_is_the_position_in_the_list(symbols):
    vocabulary = Vocabulary(["<unk>", *(symbol for symbol in symbols if symbol != "<unk>")])
    assert [vocabulary.index(symbol) for symbol in vocabulary.symbols] == list(range(len(vocabulary)))
    assert vocabulary.indices(vocabulary.symbols).tolist() == list(range(len(vocabulary)))
    assert vocabulary.index("missing one") == 0 and "missing one" not in vocabulary
    assert all(symbol in vocabulary for symbol in vocabulary.symbols)


@pytest.mark.parametrize(
    ("symbols", "message"),
    [
        ([], "expected '<unk>' first"),
        (["a", "<unk>"], "expected '<unk>' first"),
        (["<unk>", 3], r"symbols\[1\] is 3"),
        (["<unk>", "a", "b", "a"], r"symbols\[1\] and symbols\[3\] are both 'a'"),
    ],
)
def test_invalid_vocabularies_are_rejected(symbols, message):
    with pytest.raises(VocabularyError, match=message):
        Vocabulary(symbols)


# Tokenizers


@given(any_text, any_text)
def test_the_byte_tokenizer_encodes_utf8(text, other):
    tokenizer = ByteTokenizer()
    ids = tokenizer.encode(text)
    assert ids.dtype == np.int32
    assert bytes(ids.astype(np.uint8)) == text.encode("utf-8", "surrogatepass")
    assert ids.size == 0 or ids.max() < tokenizer.size == 256
    assert text in tokenizer  # a byte tokenizer knows every symbol
    assert tokenizer.encode(text + other).tolist() == [*ids, *tokenizer.encode(other)]
    assert tokenizer.encode("\n").tolist() == [tokenizer.line_end]


@given(st.binary())
def test_any_bytes_decode_as_utf8_with_replacements(data):
    tokenizer = ByteTokenizer()
    assert tokenizer.decode(tokenizer.encode(data)) == data.decode("utf-8", "replace")


@given(any_text, any_text)
def test_characters_are_looked_up_one_by_one(known, text):
    tokenizer = tokenizer_for("char", known)
    symbols = tokenizer.to_dict()["symbols"]
    assert sorted(symbols[1:]) == sorted({"\n", *known})
    ids = tokenizer.encode(text)
    assert ids.dtype == np.int32
    assert ids.tolist() == [symbols.index(c) if c in symbols[1:] else 0 for c in text]
    assert tokenizer.decode(ids) == "".join(c if c in symbols[1:] else "\ufffd" for c in text)
    assert list(tokenizer.unknown_symbols(text)) == [(i, c) for i, c in enumerate(text) if c not in symbols[1:]]


@given(any_text, any_text)
@example("a", "<unk> a\n\n b <eos>\r\nc")
@example("a\u00a0b c\u3000d\x1fe", "a b\u00a0c\x85 a\u00a0b")
def test_words_are_separated_by_ascii_white_space(known, text):
    tokenizer = tokenizer_for("word", known)
    symbols = tokenizer.to_dict()["symbols"]
    assert sorted(symbols) == sorted({"<unk>", "<eos>", *words_of(known)})
    expected = ["<eos>" if token == "\n" else token for token in re.findall(f"\n|[^{WHITE_SPACE}]+", text)]
    ids = tokenizer.encode(text)
    assert ids.dtype == np.int32
    assert ids.tolist() == [symbols.index(token) if token in symbols else 0 for token in expected]
    for position, word in tokenizer.unknown_symbols(text):
        assert text[position : position + len(word)] == word and word not in symbols
    unknown = [word for word in words_of(text) if word not in symbols]
    assert [word for _, word in tokenizer.unknown_symbols(text)] == unknown


@given(st.lists(st.lists(words, max_size=4), min_size=1, max_size=4), st.booleans())
def test_words_survive_decoding_except_for_white_space(lines, final_newline):
    text = "\n".join(" ".join(line) for line in lines) + "\n" * final_newline
    tokenizer = tokenizer_for("word", text)
    assert tokenizer.decode(tokenizer.encode(text)) == text.replace("<eos>", "\n")


@given(any_text)
def test_characters_survive_decoding(text):
    tokenizer = tokenizer_for("char", text)
    assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize("name", NAMES)
@given(st.data())
def test_a_stream_of_ids_is_decoded_as_early_as_possible(name, data):
    tokenizer = tokenizer_for(name, "ab c\nd é 中")
    ids = data.draw(st.lists(st.integers(0, tokenizer.size - 1), max_size=30))
    decoder = tokenizer.stream_decoder()
    decoded = ""
    for count, id in enumerate(ids, 1):
        decoded += decoder(np.int32(id))
        pending = tokenizer.decode(ids[:count]).removeprefix(decoded)
        assert pending in ("", "\ufffd")  # only an incomplete character may be held back
    assert decoded + decoder.flush() == tokenizer.decode(np.array(ids, np.int64))


def test_stream_decoder_waits_for_whole_characters_and_replaces_broken_ones():
    decoder = ByteTokenizer().stream_decoder()
    assert [decoder(byte) for byte in b"\xe4\xb8\xad\xffa\xe4"] == ["", "", "中", "\ufffd", "a", ""]
    assert decoder.flush() == "\ufffd"


@pytest.mark.parametrize("name", NAMES)
@given(any_text)
def test_tokenizers_survive_json(name, text):
    # JSON merges two adjacent surrogates of a word into one character.
    tokenizer = tokenizer_for(name, re.sub("[\ud800-\udbff]", "", text) if name == "word" else text)
    assert tokenizer.name == name
    again = Tokenizer.from_dict(json.loads(json.dumps(tokenizer.to_dict(), ensure_ascii=True)))
    assert again == tokenizer and type(again) is type(tokenizer)
    assert np.array_equal(again.encode(text), tokenizer.encode(text))


def test_a_pair_of_surrogates_remains_two_characters_in_json():
    tokenizer = tokenizer_for("char", "\udc00\ud83d\ude00😀")
    assert Tokenizer.from_dict(json.loads(json.dumps(tokenizer.to_dict()))) == tokenizer
    assert tokenizer.size == 2 + 4


@pytest.mark.parametrize(
    "values",
    [
        None,
        [],
        {},
        {"name": "syllable"},
        {"name": ["byte"]},
        {"name": "byte", "symbols": []},
        {"name": "char"},
        {"name": "char", "symbols": "<unk>\n"},
        {"name": "char", "symbols": ["<unk>", "\n"], "more": 1},
        {"name": "char", "symbols": ["<unk>", "a", "\n"]},
        {"name": "char", "symbols": ["\n", "a"]},
        {"name": "char", "symbols": ["<unk>", "\n", "ab"]},
        {"name": "char", "symbols": ["<unk>", "\n", ""]},
        {"name": "char", "symbols": ["<unk>", "\n", "a", "a"]},
        {"name": "char", "symbols": ["<unk>", "\n", 5]},
        {"name": "char", "symbols": ["<unk>", "\n", ["a"]]},
        {"name": "word", "symbols": ["<unk>", "\n"]},
        {"name": "word", "symbols": ["<unk>", "<eos>", "a b"]},
        {"name": "word", "symbols": ["<unk>", "<eos>", " a"]},
        {"name": "word", "symbols": ["<unk>", "<eos>", ""]},
        {"name": 3, "symbols": ["<unk>", "<eos>"]},
        {"name": "byte", "line_ends": "crlf"},
        {"name": "char", "symbols": ["<unk>", "\n"], "line_ends": "crlf"},
        {"name": "word", "symbols": ["<unk>", "<eos>"], "line_ends": "crlf"},
    ],
)
def test_from_dict_rejects_invalid_descriptions(values):
    with pytest.raises(VocabularyError, match="expected"):
        Tokenizer.from_dict(values)


@pytest.mark.parametrize("name", NAMES)
def test_ids_outside_the_vocabulary_are_rejected(name):
    tokenizer = tokenizer_for(name, "a b")
    for id in (-1, tokenizer.size):
        for use in (tokenizer.symbol, tokenizer.stream_decoder(), lambda id: tokenizer.decode([0, id])):
            with pytest.raises(VocabularyError, match=f"is {id}, expected 0 to {tokenizer.size - 1}"):
                use(id)
    for ids, message in (([[1]], "1-D"), ([0.5], "float64"), ([True], "bool"), ([[1], [1, 2]], "1-D"), (3, "1-D")):
        with pytest.raises(ShapeError, match=message):
            tokenizer.decode(ids)
    assert tokenizer.decode([]) == ""


@pytest.mark.parametrize("name", NAMES)
def test_symbols_have_printable_names(name):
    tokenizer = tokenizer_for(name, "a\té\u200b \ud800 'b' \u200bx")
    names = [tokenizer.symbol(id) for id in range(tokenizer.size)]
    assert all(shown.isprintable() and shown for shown in names)
    assert len(set(names)) == tokenizer.size
    assert tokenizer.symbol(tokenizer.line_end) == ("<eos>" if name == "word" else r"\n")
    if tokenizer.unknown is not None:
        assert tokenizer.symbol(tokenizer.unknown) == "<unk>"


@pytest.mark.parametrize("name", ["char", "word"])
def test_encoding_rejects_bytes_that_are_not_utf8(name):
    tokenizer = tokenizer_for(name, "é")
    assert tokenizer.encode("é".encode()).tolist() == [2]
    with pytest.raises(CorpusError, match=r"offset 2 is 0xff.*byte"):
        tokenizer.encode(b"ab\xff")


# Corpora


@pytest.mark.parametrize("suffix", [".txt", ".gz"])
@pytest.mark.parametrize("name", NAMES)
@given(text=utf8_text.filter(str.strip), chunk=st.integers(1, 9))
@example(text="a\r\n\r\nb b\r\n", chunk=1)
@example(text="中" * 20 + " 中\n" + "a" * 30, chunk=4)
def test_reading_a_file_in_chunks_yields_the_whole_text(name, suffix, text, chunk):
    config = TextConfig(tokenizer=name)
    content = as_read(text, name)
    assume(words_of(content))
    with in_file(text.encode(), chunk, suffix) as path:
        tokenizer = learn_tokenizer(path, config)
        read = read_corpus(path, tokenizer)
    assert tokenizer == tokenizer_for(name, content)
    assert read.ids.tolist() == tokenizer.encode(content).tolist()
    assert (read.characters, read.bytes) == (len(content), len(content.encode()))
    assert (read.unknown, read.name) == (0, str(path))
    with in_file(text.encode(), chunk, suffix) as path:
        with_bos = read_corpus(path, tokenizer, bos=True)
    assert with_bos.ids.tolist() == [tokenizer.line_end, *read.ids.tolist()]
    assert with_bos.scored[:3] == (len(content), len(content.encode()), 0)
    assert with_bos.scored[:2] == (with_bos.characters, with_bos.bytes)


@pytest.mark.parametrize("name", NAMES)
@given(text=any_text.filter(str.strip))
def test_a_str_is_read_like_a_file(name, text):
    given_text, text = f"{text}\n", as_read(f"{text}\n", name)
    assume(name != "word" or words_of(text))
    tokenizer = learn_tokenizer(given_text, TextConfig(tokenizer=name))
    assert tokenizer == tokenizer_for(name, text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packed, "CHUNK", 3)
        read = read_corpus(given_text, tokenizer)
    assert read.ids.tolist() == tokenizer.encode(text).tolist()
    assert (read.characters, read.bytes) == (len(text), len(text.encode("utf-8", "surrogatepass")))
    assert read.name == "text"


@given(
    data=st.binary(max_size=12).filter(lambda data: not data.startswith(tuple(packed.STARTS))) | st.text("aé中😀", max_size=4).map(lambda text: text.encode()[:-1]),
    chunk=st.integers(1, 5),
    name=st.sampled_from(["char", "word"]),
)
@example(data=codecs.BOM_UTF8 + b"a\xe4\xb8", chunk=2, name="char")
def test_the_first_byte_that_is_not_utf8_is_named(data, chunk, name):
    try:
        data.decode()
    except UnicodeDecodeError as error:
        start = error.start
    else:
        start = None
    assume(start is not None)
    expected = rf"text\.txt' is not UTF-8: the byte at offset {start} is 0x{data[start]:02x}\..*'byte'"
    tokenizer = tokenizer_for(name, "a")
    with in_file(data, chunk) as path:
        for read in (lambda: read_corpus(path, tokenizer), lambda: learn_tokenizer(path, TextConfig(tokenizer=name))):
            with pytest.raises(CorpusError, match=expected):
                read()
        assume(cleaning.clean(data, "keep"))
        assert read_corpus(path, ByteTokenizer()).ids.tobytes() == cleaning.clean(data, "keep")


def test_limited_vocabularies_count_unknown_symbols():
    text = "a a a b b c\na\n"
    tokenizer = learn_tokenizer(text, TextConfig(tokenizer="word", min_count=2))
    assert tokenizer.to_dict()["symbols"] == ["<unk>", "<eos>", "a", "b"]
    assert read_corpus(text, tokenizer).unknown == 1
    tokenizer = learn_tokenizer(text, TextConfig(tokenizer="word", max_vocabulary=3))
    assert tokenizer.to_dict()["symbols"] == ["<unk>", "<eos>", "a"]
    assert read_corpus(text, tokenizer).unknown == 3
    assert read_corpus([0, 2, 0], tokenizer).unknown == 2
    with pytest.raises(ConfigError, match="256"):
        learn_tokenizer(text, TextConfig(tokenizer="byte", min_count=2))


def test_a_long_word_spans_many_chunks(small_pieces):
    text = "x" * 50 + " y\n" * 50 + "z" * 50
    tokenizer = learn_tokenizer(text, TextConfig(tokenizer="word"))
    assert set(tokenizer.to_dict()["symbols"][2:]) == {"x" * 50, "y", "z" * 50}
    assert read_corpus(text, tokenizer).ids.size == 102


@pytest.mark.parametrize(
    ("size", "dtype"),
    [(2, "u1"), (256, "u1"), (257, "u2"), (65536, "u2"), (65537, "i4")],
)
@pytest.mark.parametrize("given_dtype", ["i8", "u1", ">u2", "i4"])
def test_ids_are_compact_and_read_only(size, dtype, given_dtype, small_pieces):
    given_ids = np.array([1, 0, 1, 1, 0, 1, 0], given_dtype)
    for ids in (given_ids, given_ids[::-1], given_ids.tolist()):
        read = read_corpus(ids, None, vocabulary_size=size)
        assert read.ids.dtype == np.dtype(dtype)
        assert read.ids.tolist() == list(ids)
        assert not read.ids.flags.writeable
        assert (read.characters, read.bytes, read.unknown, read.name) == (None, None, 0, "ids")
    assert given_ids.flags.writeable


def test_many_ids_go_to_a_temporary_file(small_pieces):
    text = "abcdefghijk\n"
    in_memory = read_corpus(text[2:], ByteTokenizer()).ids
    on_disk = read_corpus(text, ByteTokenizer()).ids
    assert in_memory.tobytes() == text[2:].encode() and not isinstance(in_memory, np.memmap)
    assert on_disk.tobytes() == text.encode() and isinstance(on_disk, np.memmap)
    assert not in_memory.flags.writeable and not on_disk.flags.writeable
    assert np.array_equal(np.concatenate([x for x, _ in segments(on_disk, 1, 5)])[:, 0], on_disk[:-1])


@pytest.mark.parametrize("name", NAMES)
def test_reading_takes_little_memory(name, tmp_path, monkeypatch):
    path = tmp_path / "long.txt"
    path.write_bytes(b"some words in a long, long line " * 2**16)  # 2 MiB
    monkeypatch.setattr(packed, "CHUNK", 2**14)
    monkeypatch.setattr(mapped, "READ", 2**14)
    monkeypatch.setattr(sources, "MEMORY_BYTES", 2**16)
    tracemalloc.start()
    try:
        tokenizer = learn_tokenizer(path, TextConfig(tokenizer=name))
        read = read_corpus(path, tokenizer)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert read.bytes == 2**21
    assert peak < 2**20


WALK = """
import re, sys
import numpy as np
from numba_rnnlm.text import read_corpus, segments
ids = read_corpus(np.load(sys.argv[1], mmap_mode="r"), None, vocabulary_size=100_000).ids
for inputs, targets in segments(ids, 50, 1000):
    pass
print(re.search("VmHWM: *\\t* *([0-9]+) kB", open("/proc/self/status").read())[1])
"""


@needs.linux
@pytest.mark.parametrize("dtype", ["int32", "int64"])  # used in place; converted to a temporary file of int32
def test_memory_does_not_grow_with_a_file_of_ids(dtype, tmp_path):
    home = str(Path(numba_rnnlm.__file__).parents[1])
    peaks = []
    for megabytes in (100 if dtype == "int64" else 4, 200):
        path = tmp_path / f"{megabytes}.npy"
        ids = np.lib.format.open_memmap(path, "w+", dtype, (megabytes * 10**6 // np.dtype(dtype).itemsize,))
        del ids  # zeros: a sparse file, which occupies no disk space
        finished = subprocess.run([sys.executable, "-c", WALK, str(path)], check=True, capture_output=True, text=True,
                              env={**os.environ, "PYTHONPATH": home})  # fmt: skip
        peaks.append(int(finished.stdout) / 1000)
    assert peaks[1] < peaks[0] + 40


@pytest.mark.parametrize("mode", ["r", "r+", "c"])
@given(data=st.data())
def test_pieces_of_a_mapped_file_are_the_file(mode, data):
    ids = data.draw(arrays(np.uint16, st.integers(1, 60), elements=st.integers(0, 999)))
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(mapped, "READ", data.draw(st.integers(1, 100)))
        np.save(f"{folder}/ids.npy", ids)
        loaded = np.load(f"{folder}/ids.npy", mmap_mode=mode)
        if mode != "r":
            ids = ids[::-1].copy()
            loaded[:] = ids  # giving the pages back must not lose these changes
        for array in (loaded, np.asarray(loaded), loaded.view()):
            assert np.array_equal(np.concatenate(list(mapped.pieces(array))), ids)
            mapped.give_back(array[3:])
            assert np.array_equal(array, ids)
        assert np.array_equal(read_corpus(loaded, None, vocabulary_size=1000).ids, ids)
        del loaded, array


def resident(memory):
    """Which pages of a mapped file are in this process's memory."""
    first, pages = memory.ctypes.data // mmap.PAGESIZE, -(-memory.nbytes // mmap.PAGESIZE)
    return np.fromfile("/proc/self/pagemap", np.uint64, pages, offset=8 * first) >> np.uint64(63) == 1


@needs.linux
@pytest.mark.parametrize("first", [0, 2**20 + 5, 9 * 2**20, 27 * 2**20])
def test_give_back_frees_a_piece_and_little_else(tmp_path, first):
    """It may free pages within 4 MB of the piece, but no more: whatever it frees must be read again."""
    np.zeros(32 * 2**20, np.uint8).tofile(tmp_path / "bytes")
    memory = np.memmap(tmp_path / "bytes", np.uint8, "r")
    assert memory.sum() == 0 and resident(memory).all()
    piece = memory[first : first + 5 * 2**20]
    mapped.give_back(piece)
    left, near = resident(memory), 2 * mapped.LARGE
    assert not left[first // mmap.PAGESIZE : (first + piece.size) // mmap.PAGESIZE].any()
    assert left[: max(0, first - near) // mmap.PAGESIZE].all()
    assert left[-(-(first + piece.size + near) // mmap.PAGESIZE) :].all()


@given(st.integers(1, 50), st.integers(0, 49), st.integers(1, 40))
def test_the_error_names_the_first_bad_id(size, place, read):
    ids = np.zeros(50, np.int64)
    ids[place:] = size
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mapped, "READ", read)
        with pytest.raises(VocabularyError, match=re.escape(f"ids[{place}] is {size}, expected 0 to {size - 1}")):
            read_corpus(ids, None, vocabulary_size=size)


@pytest.mark.parametrize(
    ("ids", "error", "message"),
    [
        ([0, 1, 3, -1], VocabularyError, r"ids\[2\] is 3, expected 0 to 2"),
        (np.array([0, -1]), VocabularyError, r"ids\[1\] is -1"),
        (np.array([2**40]), VocabularyError, r"ids\[0\]"),
        ([], CorpusError, "empty"),
        ([1.0], ShapeError, "float64"),
        (np.array([True]), ShapeError, "bool"),
        (np.zeros((2, 2), int), ShapeError, r"\(2, 2\)"),
        (np.zeros((2, 2)), ShapeError, r"\(2, 2\)"),
        (b"text", CorpusError, "Choose byte, char or word"),
        (["text"], CorpusError, "Choose byte, char or word"),
        (None, CorpusError, "The corpus is None, "),
        ("text\n", CorpusError, "Choose byte, char or word"),
        (Path(__file__), CorpusError, "Choose byte, char or word"),
    ],
)
def test_ids_are_checked(ids, error, message):
    with pytest.raises(error, match=message):
        read_corpus(ids, None, vocabulary_size=3)


def test_vocabulary_size_must_be_known_and_agree():
    with pytest.raises(ConfigError, match="vocabulary_size is None, expected the number of symbols: ids have no tokenizer"):
        read_corpus([1], None)
    with pytest.raises(ConfigError, match="256"):
        read_corpus([1], ByteTokenizer(), vocabulary_size=300)
    with pytest.raises(ConfigError, match="vocabulary_size is 0"):
        read_corpus([1], None, vocabulary_size=0)
    with pytest.raises(VocabularyError, match="256"):
        read_corpus([256], ByteTokenizer())
    assert read_corpus([255], ByteTokenizer(), vocabulary_size=256).ids.tolist() == [255]


def test_a_vocabulary_is_learned_from_text_only():
    with pytest.raises(ConfigError, match="tokenizer is None"):
        learn_tokenizer("a\n", TextConfig(tokenizer=None))
    with pytest.raises(CorpusError, match="ids"):
        learn_tokenizer([1, 2], TextConfig())


def test_a_short_str_without_a_newline_is_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("file.txt").write_text("from the file")
    assert read_corpus("file.txt", ByteTokenizer()).characters == len("from the file")
    with pytest.warns(UserWarning, match=r"'file.txt\\n' is read as text.*pathlib.Path\('file.txt'\) to read the file"):
        assert read_corpus("file.txt\n", ByteTokenizer()).characters == len("file.txt\n")
    assert read_corpus("x" * 1025, ByteTokenizer()).characters == 1025
    for missing in ("To be or not to be", "x" * 1024, "", "nul\0", "\ud800"):
        for read in (lambda text: read_corpus(text, ByteTokenizer()), lambda text: learn_tokenizer(text, TextConfig())):
            with pytest.raises(CorpusError, match=r"(?s)1,024 characters.*end it with '\\n'") as caught:
                read(missing)
            assert repr(missing)[:600] in str(caught.value)


def test_errors_say_why_a_file_cannot_be_read(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "mark").write_bytes(codecs.BOM_UTF8)
    (tmp_path / "no.gz").write_bytes(b"not packed")
    (tmp_path / "cut.gz").write_bytes(gzip.compress(b"packed" * 100)[:-10])
    reasons = {
        "missing": "No such file",
        "folder": "contains no files",
        "empty/below": "Not a directory",
        "empty": "contains no symbols",
        "mark": "contains no symbols",
        "no.gz": "gzip",
        "cut.gz": "ended before",
    }
    for name, reason in reasons.items():
        for read in (
            lambda path: read_corpus(path, tokenizer_for("char", "a")),
            lambda path: learn_tokenizer(path, TextConfig()),
        ):
            with pytest.raises(CorpusError, match=reason) as caught:
                read(tmp_path / name)
            assert repr(str(tmp_path / name)) in str(caught.value)
            assert "1,024" not in str(caught.value)
    with pytest.raises(CorpusError, match="mark' contains no symbols"):
        read_corpus(tmp_path / "mark", ByteTokenizer())
    with pytest.raises(CorpusError, match="contains no symbols"):
        read_corpus("  " * 1024, tokenizer_for("word", "a"))


# Streams


def whole(ids, streams, steps, warm):
    """All segments, concatenated along time."""
    parts = list(segments(ids, streams, steps, warm))
    for inputs, targets in parts:
        assert inputs.dtype == targets.dtype == np.int32
        assert inputs.shape == targets.shape
        assert inputs.shape[1] == streams
        assert 0 < len(inputs) <= steps
    assert all(len(inputs) == steps for inputs, _ in parts[:-1])
    return tuple(np.concatenate(arrays) for arrays in zip(*parts, strict=True))


sizes = st.integers(1, 12)


@given(
    tokens=st.integers(2, 120),
    streams=sizes,
    steps=sizes,
    warm=st.integers(0, 20),
    dtype=st.sampled_from(["uint8", "uint16", "int32", "int64"]),
    read=st.integers(1, 1000),
)
@example(tokens=2, streams=5, steps=3, warm=0, dtype="uint8", read=1)
@example(tokens=5, streams=3, steps=3, warm=4, dtype="uint8", read=1)
@example(tokens=6, streams=3, steps=2, warm=4, dtype="uint8", read=1)
def test_every_token_but_the_first_is_predicted_once(tokens, streams, steps, warm, dtype, read):
    ids = np.arange(1, tokens + 1).astype(dtype)  # an id is its position + 1; 0 can only be padding
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mapped, "READ", read)
        inputs, targets = whole(ids, streams, steps, warm)
    scored = targets != -1
    assert sorted(targets[scored]) == ids[1:].tolist()
    assert np.array_equal(targets[scored], inputs[scored] + 1)
    length = max(-(-(tokens - 1 - warm) // streams), 0)
    for stream, (column, is_scored) in enumerate(zip(inputs.T, scored.T, strict=True)):
        position = stream * length + np.arange(len(column))
        inside = position < tokens - 1
        assert np.array_equal(column, np.where(inside, position + 1, 0))
        assert np.array_equal(is_scored, inside & ((np.arange(len(column)) >= warm) | (stream == 0)))
    assert scored.any(axis=1).all()  # every row has at least one target
    if warm == 0:
        assert len(inputs) == length and segments_per_epoch(tokens, streams, steps) == -(-length // steps)


@given(tokens=st.integers(0, 300), streams=sizes, steps=sizes)
def test_streams_that_fit_is_the_largest_number_of_long_enough_streams(tokens, streams, steps):
    def fits(count):
        return tokens - 1 >= count * steps

    found = streams_that_fit(tokens, streams, steps)
    assert 1 <= found <= streams
    assert found == 1 or fits(found)
    assert not any(fits(more) for more in range(found + 1, streams + 1))


def test_segments_rejects_invalid_arguments():
    ids = np.arange(5)
    for ids_, streams, steps, warm, error in (
        (ids[:1], 1, 1, 0, CorpusError),
        (ids[:0], 1, 1, 0, CorpusError),
        (ids[None], 1, 1, 0, ShapeError),
        (ids, 0, 1, 0, ConfigError),
        (ids, 1, 0, 0, ConfigError),
        (ids, 1, 1, -1, ConfigError),
    ):
        with pytest.raises(error):
            segments(ids_, streams, steps, warm)  # the call itself raises, not the first iteration
    with pytest.raises(CorpusError, match="1 token"):
        segments_per_epoch(1, 1, 1)


# Real texts

DATA = Path(os.environ.get("NUMBA_RNNLM_DATA", ""))


@needs.data
def test_wikitext_2_has_the_published_counts():
    folder = DATA / "wikitext-2"
    tokenizer = learn_tokenizer(folder / "train.txt", TextConfig(tokenizer="word"))
    assert tokenizer.size == 33_278
    for part, tokens in (("train", 2_088_628), ("valid", 217_646), ("test", 245_569)):
        read = read_corpus(folder / f"{part}.txt", tokenizer)
        assert read.ids.size == tokens
        assert read.ids.dtype == np.uint16
        assert read.bytes == (folder / f"{part}.txt").stat().st_size
        assert read.unknown == (folder / f"{part}.txt").read_text(encoding="utf-8").split().count("<unk>")


@needs.data
@pytest.mark.parametrize(
    ("file", "characters", "types"),
    [("tinyshakespeare/input.txt", 1_115_394, 65), ("zh-hongloumeng/train.txt", 757_897, 4_503)],
)
def test_characters_of_real_texts(file, characters, types):
    text = (DATA / file).read_bytes().decode()
    tokenizer = learn_tokenizer(DATA / file, TextConfig(tokenizer="char"))
    assert tokenizer.size == types + 1  # <unk>
    assert Counter(tokenizer.to_dict()["symbols"][1:]) == Counter(set(text))
    read = read_corpus(DATA / file, tokenizer)
    assert read.ids.size == read.characters == len(text) == characters
    assert tokenizer.decode(read.ids) == text


@needs.data
@pytest.mark.parametrize(("part", "size"), [("train", 900_000), ("valid", 50_000), ("test", 50_000)])
def test_bytes_of_real_texts(part, size):
    path = DATA / "enwik6" / f"{part}.txt"
    read = read_corpus(path, ByteTokenizer())
    assert read.ids.size == read.bytes == size
    assert read.ids.tobytes() == path.read_bytes()

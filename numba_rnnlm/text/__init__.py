"""Text as ids: vocabularies, tokenizers, corpora larger than RAM, and the parallel streams to train on."""

from .cleaning import clean
from .corpus import Corpus, learn_tokenizer, read_corpus
from .sources import Bytes, Files, Ids, ManyTexts, OneText, Source, StoredTexts, Text, open_source, sentences, split
from .streams import segments, segments_per_epoch, streams_that_fit
from .tokenizers import ByteTokenizer, CharTokenizer, StreamDecoder, Tokenizer, WordTokenizer, as_text
from .unknown import Sentence, Unknown, encode_sentence, most_frequent
from .vocabulary import Vocabulary, expect_ids

__all__ = [
    "ByteTokenizer",
    "Bytes",
    "CharTokenizer",
    "Corpus",
    "Files",
    "Ids",
    "ManyTexts",
    "OneText",
    "Sentence",
    "Source",
    "StoredTexts",
    "StreamDecoder",
    "Text",
    "Tokenizer",
    "Unknown",
    "Vocabulary",
    "WordTokenizer",
    "as_text",
    "clean",
    "encode_sentence",
    "expect_ids",
    "learn_tokenizer",
    "most_frequent",
    "open_source",
    "read_corpus",
    "segments",
    "segments_per_epoch",
    "sentences",
    "split",
    "streams_that_fit",
]

"""Text as ids: vocabularies, tokenizers, corpora larger than the memory, and the streams that are trained on."""

from .corpus import Corpus, Source, learn_tokenizer, read_corpus
from .streams import segments, segments_per_epoch, streams_that_fit
from .tokenizers import ByteTokenizer, CharTokenizer, StreamDecoder, Tokenizer, WordTokenizer
from .vocabulary import Vocabulary, expect_ids

__all__ = [
    "ByteTokenizer",
    "CharTokenizer",
    "Corpus",
    "Source",
    "StreamDecoder",
    "Tokenizer",
    "Vocabulary",
    "WordTokenizer",
    "expect_ids",
    "learn_tokenizer",
    "read_corpus",
    "segments",
    "segments_per_epoch",
    "streams_that_fit",
]

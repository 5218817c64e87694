"""Text as ids: vocabularies, tokenizers, corpora larger than the memory, and the streams that are trained on."""

from .corpus import Corpus, Source, learn_tokenizer, read_corpus
from .streams import segments, segments_per_epoch, streams_that_fit
from .tokenizers import ByteTokenizer, CharTokenizer, StreamDecoder, Tokenizer, WordTokenizer, as_text
from .unknown import Sentence, Unknown, encode_sentence, most_frequent
from .vocabulary import Vocabulary, expect_ids

__all__ = [
    "ByteTokenizer",
    "CharTokenizer",
    "Corpus",
    "Sentence",
    "Source",
    "StreamDecoder",
    "Tokenizer",
    "Unknown",
    "Vocabulary",
    "WordTokenizer",
    "as_text",
    "encode_sentence",
    "expect_ids",
    "learn_tokenizer",
    "most_frequent",
    "read_corpus",
    "segments",
    "segments_per_epoch",
    "streams_that_fit",
]

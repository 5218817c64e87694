"""Which of two sentences is better? A word model learns agreement from a small grammar, and scores sentences."""

import numpy as np

from numba_rnnlm import LanguageModel

NOUNS = {"dog": "dogs", "cat": "cats", "bird": "birds", "child": "children"}
VERBS = {"sleeps": "sleep", "sings": "sing", "runs": "run"}


def sentence(random: np.random.Generator) -> str:
    """the NOUN (near the NOUN)? VERB, where the verb agrees with the first noun, not with the one before it."""
    plural = random.random() < 0.5
    singular_noun = random.choice(list(NOUNS))
    words = ["the", NOUNS[singular_noun] if plural else singular_noun]
    if random.random() < 0.5:
        words += ["near", "the", random.choice([*NOUNS, *NOUNS.values()])]
    singular_verb = random.choice(list(VERBS))
    return " ".join([*words, VERBS[singular_verb] if plural else singular_verb])


random = np.random.default_rng(1)
corpus = "".join(sentence(random) + "\n" for _ in range(4000))
model = LanguageModel(cell="gru", hidden=32, layers=1, embedding=16, tokenizer="word", seed=1)
model.fit(corpus, epochs=20, streams=20, steps=20, learning_rate=1e-2, verbose=0)
print(f"perplexity {model.perplexity(corpus):.2f}, with {model.tokenizer_.size} words\n")

pairs = [
    ("the dog sleeps", "the dog sleep"),
    ("the dog near the cats runs", "the dog near the cats run"),
    ("the children near the bird sing", "the children near the bird sings"),
]
scores = model.score([text for pair in pairs for text in pair]).reshape(-1, 2)
for (good, bad), (better, worse) in zip(pairs, scores, strict=True):
    print(f"{better:8.2f}  {good}\n{worse:8.2f}  {bad}\n")
    assert better > worse

print("score of each word in nats (? marks words that are not in the vocabulary):")
for token, log_probability, oov in model.full_scores("the dogs near the cow sleeps"):
    print(f"{log_probability:8.2f}  {token}{' ?' * oov}")

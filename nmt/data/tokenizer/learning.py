"""Vocabularies, learned from the training text."""

from __future__ import annotations

import io
import random
import re
from collections.abc import Callable, Iterable

import sentencepiece

from nmt.config.schema import SentencePieceConfig, TokenizerConfig
from nmt.data.tokenizer.model import Tokenizer, TokenizerPair
from nmt.errors import DataError

# A unigram model's last digits depend on the number of threads, and the number is part of the model: it is fixed,
# so that the same text gives the same bytes on every machine.
LEARNING_THREADS = 4
# Longer lines are skipped without a word; SentencePiece's own limit of 4,192 bytes is a long paragraph.
LONGEST_LINE_BYTES = 1 << 20
QUIET = 2


def learn(options: TokenizerConfig, pairs: Callable[[], Iterable[tuple[str, str]]], seed: int) -> TokenizerPair:
    """Learn the vocabulary from the training text, or one for each side.

    `pairs` starts a pass over the text; no more than `training_sentences` of it (of each side, where the vocabulary
    is not shared) are held in memory, drawn by `seed`. The same text, options and seed give the same bytes.
    Raises DataError when the text is empty, or too small or too rich in characters for the size of the vocabulary.
    """
    if options.shared:
        both = (sentence for pair in pairs() for sentence in pair[:2])
        tokenizer = learn_one(options, both, seed, "")
        return TokenizerPair(tokenizer, tokenizer)
    tokenizers: list[Tokenizer] = []
    problems: list[str] = []
    for index, side in enumerate(("source", "target")):
        sentences = (pair[index] for pair in pairs())
        try:
            tokenizers.append(learn_one(options, sentences, seed, f"{side} side: "))
        except DataError as error:
            problems += error.problems
    if problems:
        raise DataError(*problems)
    return TokenizerPair(*tokenizers)


def learn_one(options: SentencePieceConfig, sentences: Iterable[str], seed: int, side: str) -> Tokenizer:
    """One vocabulary from these sentences; `side` begins what messages say of it. Otherwise as `learn`."""
    drawn = draw(sentences, options.training_sentences, seed)
    if not any(sentence.strip() for sentence in drawn):
        raise DataError(f"tokenizer: {side}the training text is empty; there is nothing to learn a vocabulary from")
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(drawn),
            model_writer=model,
            model_type=options.kind,
            vocab_size=options.vocabulary_size,
            character_coverage=options.character_coverage,
            byte_fallback=options.byte_fallback,
            normalization_rule_name=options.normalization,
            user_defined_symbols=options.user_defined_symbols,
            pad_id=0,
            unk_id=1,
            bos_id=2,
            eos_id=3,
            max_sentence_length=LONGEST_LINE_BYTES,
            num_threads=LEARNING_THREADS,
            minloglevel=QUIET,
        )
    except RuntimeError as error:
        raise DataError(_explain(str(error), options, side)) from error
    return Tokenizer(model.getvalue(), f"the {side.removesuffix(' side: ') or 'shared'} tokenizer that was learned")


def draw(sentences: Iterable[str], count: int, seed: int) -> list[str]:
    """`count` sentences, each with the same chance, or all where there are no more (Vitter 1985, algorithm R)."""
    generator = random.Random(seed)
    drawn: list[str] = []
    for number, sentence in enumerate(sentences):
        if number < count:
            drawn.append(sentence)
        elif (place := generator.randrange(number + 1)) < count:
            drawn[place] = sentence
    return drawn


def _explain(message: str, options: SentencePieceConfig, side: str) -> str:
    size = f"tokenizer.vocabulary_size: {side}{options.vocabulary_size} is too"
    if largest := re.search(r"Please set it to a value <= (\d+)", message):
        return f"{size} large for this text; the largest possible is {largest[1]}"
    if smallest := re.search(r"smaller than required_chars\. \d+ vs (\d+)", message):
        return (
            f"{size} small for the characters of this text; the smallest possible is {smallest[1]}, "
            "or lower tokenizer.character_coverage"
        )
    return f"tokenizer: {side}SentencePiece cannot learn from this text with these options ({message})"

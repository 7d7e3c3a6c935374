"""Training that starts from another model: with a new tokenizer, and with weights that stay as they are."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from nmt.checkpoint import find, load_model_files
from nmt.config import TranslationConfig
from nmt.config.schema import TokenizerConfig
from nmt.data.tokenizer import Tokenizer, learn
from nmt.errors import ConfigError
from nmt.tasks.training import check, train
from nmt.tasks.translation.setup import spell, with_vocabulary
from tests.support.training_runs import final_weights, run_config, write_corpus

STILL = ("training.optimizer={kind: sgd, learning_rate: 1e-12}", "training.max_steps=1", "training.ema_decay=0")
TABLES = ("encoder.embedding.table.weight", "decoder.embedding.table.weight", "projection.bias")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_corpus(tmp_path)
    return tmp_path


@pytest.fixture
def base(folder: Path) -> TranslationConfig:
    """A short run on the letters a to h."""
    config = run_config(folder, "training.max_epochs=1", f"run={folder}/base")
    train(config)
    return config


def vocabulary_of(*words: str, **options: object) -> Tokenizer:
    text = [(word, word) for word in words for _ in range(2)]
    return learn(TokenizerConfig.model_validate(options), lambda: text, seed=1).source


def test_pieces_are_spelled_by_the_longest_old_pieces() -> None:
    old = vocabulary_of("a", "b", "c", "ab", "abc", "bc", kind="word")
    new = vocabulary_of("abc", "abcab", "cx", "xyz", kind="word")
    names = [old.pieces(ids) for ids in spell(old, new)]
    spelled = dict(zip(new.pieces(range(new.size)), names, strict=True))
    assert spelled["\u2581abc"] == ["\u2581abc"]
    # Pieces of words begin with a space, so that nothing spells their rest.
    assert spelled["\u2581abcab"] == ["\u2581abc"]
    assert spelled["\u2581cx"] == ["\u2581c"]
    assert spelled["\u2581xyz"] == []
    ids = spell(old, new)
    assert [ids[each] for each in (new.pad, new.unk, new.bos, new.eos)] == [[0], [1], [2], [3]]


def test_subwords_spell_all_of_a_piece() -> None:
    old = vocabulary_of("abab", "cdcd", "abcd", "dcba")
    new = vocabulary_of("abcdcd", "cdab", "ddaa")
    for piece, ids in zip(new.pieces(range(new.size))[4:], spell(old, new)[4:], strict=True):
        assert "".join(old.pieces(ids)) == piece


def test_a_new_tokenizer_keeps_what_the_old_one_knows(folder: Path, base: TranslationConfig) -> None:
    """Letters g to p: of the new pieces the old model knows g and h, and the space before them."""
    for side in ("xx", "yy"):
        text = "g h i j\nk l m n\no p g h\n" * 8
        (folder / f"train.{side}").write_text(text)
    config = run_config(
        folder, *STILL, f"training.start_from={base.run}", "training.start_tokenizer=new", f"run={folder}/next",
        "tokenizer.vocabulary_size=null",
    )  # fmt: skip
    train(config)
    before, after = load_model_files(find(Path(base.run))), load_model_files(find(folder / "next"))
    old, new = before.tokenizers.source, after.tokenizers.source
    spellings = spell(old, new)
    known = {piece for piece, ids in zip(new.pieces(range(new.size)), spellings, strict=True) if len(ids) == 1}
    assert {"g", "h", "<s>", "</s>"} <= {piece.removeprefix("\u2581") for piece in known}
    assert not {"m", "n", "o"} & known
    for name in TABLES:
        table, rows = before.tensors[name], after.tensors[name]
        expected = [table[ids].mean(0) if ids else table.mean(0) for ids in spellings]
        torch.testing.assert_close(rows, torch.stack(expected), rtol=0, atol=1e-9)
    rest = set(before.tensors) - set(TABLES)
    assert len(rest) > 5
    for name in rest:
        torch.testing.assert_close(after.tensors[name], before.tensors[name], rtol=0, atol=1e-9)


def test_a_run_with_a_new_tokenizer_goes_on_as_if_never_stopped(folder: Path, base: TranslationConfig) -> None:
    new = (f"training.start_from={base.run}", "training.start_tokenizer=new", "tokenizer.vocabulary_size=18")
    train(run_config(folder, *new, "training.max_epochs=1", f"run={folder}/twice"))
    train(run_config(folder, *new, "training.max_epochs=2", f"run={folder}/twice"))
    train(run_config(folder, *new, "training.max_epochs=2", f"run={folder}/once"))
    once, twice = final_weights(folder / "once"), final_weights(folder / "twice")
    assert all(once[name].equal(twice[name]) for name in once)


def test_its_own_vocabulary_changes_nothing(base: TranslationConfig) -> None:
    loaded = load_model_files(find(Path(base.run)))
    same = with_vocabulary(loaded, loaded.tokenizers)
    assert all(same.tensors[name].equal(tensor) for name, tensor in loaded.tensors.items())


@pytest.mark.parametrize("kernel", ["auto", "reference"])
def test_frozen_weights_stay_as_they_are(folder: Path, base: TranslationConfig, kernel: str) -> None:
    """Whatever computes the gradients; an average of the weights goes on, and so does a run that was stopped."""
    frozen = ("training.frozen=[encoder, '*embedding.table*']", f"training.start_from={base.run}")
    overrides = (*frozen, f"run={folder}/next", f"runtime.kernel={kernel}")
    train(run_config(folder, *overrides, "training.max_epochs=1"))
    train(run_config(folder, *overrides, "training.max_epochs=2"))
    before, after = load_model_files(find(Path(base.run))).tensors, final_weights(folder / "next")
    changed = {name for name in after if not after[name].equal(before[name])}
    still = {name for name in after if name.startswith("encoder.") or "embedding.table" in name}
    assert changed
    assert not changed & still
    trained = {name for name in after if not name.endswith("scale")} - still
    assert changed == trained


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        (
            ("training.frozen=[encoder, decodr]",),
            "training.frozen.1: no weights are named 'decodr'; the parts of the network are encoder, decoder, "
            "projection",
        ),
        (("training.frozen=['*']",), "training.frozen: leaves no weights to train; name fewer"),
    ],
)
def test_mistakes_in_frozen_parts(folder: Path, overrides: tuple[str, ...], problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check(run_config(folder, *overrides))
    assert caught.value.problems == (problem,)


def test_a_new_tokenizer_needs_a_model_to_start_from(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"training\.start_tokenizer: is new, which needs a model to start from"):
        run_config(folder, "training.start_tokenizer=new")

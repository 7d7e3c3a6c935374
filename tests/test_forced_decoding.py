"""Forced decoding: weights, log-probabilities, order, heads, windows, ensembles, and small memories."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from nmt.config.schema import SearchConfig
from nmt.data.tokenizer import TokenizerPair
from nmt.errors import ConfigError, NmtError
from nmt.tasks.translation.forced_decoding import forced_attention, forced_attention_of_ids, forced_loss
from nmt.tasks.translation.loading import System, build_system, load_model
from nmt.tasks.translation.text_translation import Request, translate_lines
from nmt.visualization.attention_map import AttentionMap
from tests.support.models import CPU, REFERENCES, SOURCES, save_small, small_config, small_translator

SIDES = [SOURCES[4], "", SOURCES[0], "\u00a0", SOURCES[3]], [REFERENCES[4], "a", REFERENCES[1], "b", REFERENCES[3]]
LOCAL = "score: general, window: {kind: local_predictive, half_width: 2}, wiring: {kind: luong, input_feeding: true}"


def system_of(tokenizers: TokenizerPair, *attentions: str, seed: int = 1) -> System:
    """Translators that have learned nothing."""
    translators = [
        small_translator(small_config(attention), tokenizers, seed + number, updates=0)
        for number, attention in enumerate(attentions)
    ]
    return System(tuple(translators), tokenizers, CPU)


def looks_of(system: System, batch_tokens: int = 4096) -> list[AttentionMap]:
    return [one for one in forced_attention(system, *SIDES, batch_tokens) if one is not None]


def test_a_look_says_what_was_looked_at(system: System) -> None:
    found = forced_attention(system, *SIDES, 4096)
    assert [one is None for one in found] == [False, True, False, True, False]
    for one, source, target in zip(found, *SIDES, strict=True):
        if one is None:
            continue
        assert (one.source, one.target) == (source, target)
        assert "".join(one.source_pieces).replace("▁", " ").strip() == source
        assert "".join(one.target_pieces).replace("▁", " ").strip() == target
        assert one.weights_NTS.shape == (1, len(one.target_pieces) + 1, len(one.source_pieces) + 1)
        assert one.weights_NTS.dtype == np.float32
        assert np.allclose(one.weights_NTS.sum(2), 1.0, atol=1e-5)
        assert (one.centers_NT, one.half_width) == (None, None)
        loss = forced_loss(system, [source], [target], 4096)
        assert one.log_probability == pytest.approx(-loss.total, rel=1e-4)


def test_row_t_predicted_piece_t(system: System) -> None:
    """Step by step: the weights with which a piece was predicted, the piece itself not read yet."""
    tokenizers, translator = system.tokenizers, system.translators[0]
    source = torch.tensor([[*tokenizers.source.encode([SOURCES[0]])[0], tokenizers.source.eos]])
    target = [*tokenizers.target.encode([REFERENCES[1]])[0], tokenizers.target.eos]
    rows = []
    with torch.no_grad():
        state = translator.start(translator.encode(source, torch.tensor([source.shape[1]])))
        for previous in [tokenizers.target.bos, *target[:-1]]:
            state, _ = translator.step(state, torch.tensor([[previous]]))
            rows.append(state.attention_BQS[0, 0])
    assert np.allclose(looks_of(system)[1].weights_NTS[0], torch.stack(rows).numpy(), atol=1e-5)


@pytest.mark.parametrize("batch_tokens", [1, 60])
def test_a_look_does_not_depend_on_the_pairs_around_it(system: System, batch_tokens: int) -> None:
    for one, other in zip(looks_of(system), looks_of(system, batch_tokens), strict=True):
        assert one.source == other.source
        assert np.allclose(one.weights_NTS, other.weights_NTS, atol=1e-5)
        assert one.log_probability == pytest.approx(other.log_probability, rel=1e-4)


def test_pieces_without_text(system: System) -> None:
    source = system.tokenizers.source.encode(SIDES[0])
    target = system.tokenizers.target.encode(SIDES[1])
    found = forced_attention_of_ids(system, source, target, 60)
    assert [one.target for one in found] == SIDES[1]
    assert found[1].weights_NTS.tolist() == [[[1.0]] * (len(target[1]) + 1)]
    for one, other in zip([found[0], found[2], found[4]], looks_of(system, 60), strict=True):
        assert np.allclose(one.weights_NTS, other.weights_NTS, atol=1e-5)
    assert forced_attention_of_ids(system, [], [], 60) == []


def test_a_source_that_was_read_backwards_is_shown_in_the_order_of_the_text(
    tokenizers: TokenizerPair, tmp_path: Path
) -> None:
    """From a saved model: it says of a source what the same weights say of the reversed one, and shows it forwards."""
    saved = [save_small(tmp_path / str(reverse), tokenizers, reverse_source=reverse) for reverse in (False, True)]
    models = [load_model(folder, None, CPU) for folder in saved]
    models[0].translator.load_state_dict(models[1].translator.state_dict())
    plain, backwards = (build_system([model], CPU) for model in models)
    source, target = tokenizers.source.encode(SOURCES[:2]), tokenizers.target.encode(REFERENCES[:2])
    expected = forced_attention_of_ids(plain, [ids[::-1] for ids in source], target, 60)
    for ids, one, other in zip(source, forced_attention_of_ids(backwards, source, target, 60), expected, strict=True):
        assert one.source_pieces == tuple(tokenizers.source.pieces(ids))
        order = [*reversed(range(len(ids))), len(ids)]
        assert np.allclose(one.weights_NTS, other.weights_NTS[..., order], atol=1e-5)
        assert one.log_probability == pytest.approx(other.log_probability, rel=1e-4)
    lines = [SOURCES[0]]
    ((best, *_),) = translate_lines(backwards, lines, SearchConfig(beam_size=3), Request(attention=True))
    (shown,) = forced_attention_of_ids(backwards, [best.source_ids], [best.ids], 60)
    assert np.allclose(best.attention, shown.weights_NTS[0], atol=1e-5)


def test_heads_are_kept_apart(tokenizers: TokenizerPair) -> None:
    system = system_of(tokenizers, "{score: additive, heads: 2}")
    for one in looks_of(system):
        assert one.weights_NTS.shape[0] == 2
        assert not np.allclose(one.weights_NTS[0], one.weights_NTS[1], atol=1e-3)
        assert np.allclose(one.weights_NTS.sum(2), 1.0, atol=1e-5)


def test_a_window_that_moves_is_told(tokenizers: TokenizerPair) -> None:
    for one in looks_of(system_of(tokenizers, "{" + LOCAL + "}")):
        assert one.half_width == 2
        assert one.centers_NT is not None
        assert one.centers_NT.shape == one.weights_NTS.shape[:2]
        distance = np.abs(np.arange(one.weights_NTS.shape[2]) - one.centers_NT[..., None])
        assert (one.weights_NTS[distance > 2] == 0).all()
        assert (one.weights_NTS[distance <= 2] > 0).all()


def test_an_ensemble_looks_where_its_members_look_on_average(tokenizers: TokenizerPair) -> None:
    both = system_of(tokenizers, "{score: additive, heads: 2}", "{" + LOCAL + "}", "cho2014")
    alone = [looks_of(System((member,), tokenizers, CPU)) for member in both.translators[:2]]
    for one, first, second in zip(looks_of(both), *alone, strict=True):
        expected = (first.weights_NTS.mean(0) + second.weights_NTS[0]) / 2
        assert one.weights_NTS.shape[0] == 1
        assert np.allclose(one.weights_NTS[0], expected, atol=1e-6)
        assert (one.centers_NT, one.half_width) == (None, None)
        loss = forced_loss(both, [one.source], [one.target], 4096)
        assert one.log_probability == pytest.approx(-loss.total, rel=1e-4)


def test_an_ensemble_has_no_heads(tokenizers: TokenizerPair) -> None:
    both = system_of(tokenizers, "{" + LOCAL + ", heads: 2}", "cho2014")
    alone = looks_of(System(both.translators[:1], tokenizers, CPU))
    for one, other in zip(looks_of(both), alone, strict=True):
        assert np.allclose(one.weights_NTS, other.weights_NTS.mean(0, keepdims=True), atol=1e-6)
        assert (one.centers_NT, one.half_width) == (None, None)


def test_without_attention_there_is_nothing_to_look_at(tokenizers: TokenizerPair) -> None:
    with pytest.raises(ConfigError, match="no model has attention to look at"):
        looks_of(system_of(tokenizers, "sutskever2014", "cho2014"))


def test_long_pairs_are_cut_off_with_a_warning(system: System, caplog: pytest.LogCaptureFixture) -> None:
    done: list[int] = []
    found = forced_attention(system, *SIDES, 60, max_length=9, first_line=41, advance=done.append)
    whole = forced_attention(system, *SIDES, 60)
    assert found[0] is not None
    assert whole[0] is not None
    assert found[0].source_pieces == whole[0].source_pieces[:9]
    assert found[0].target_pieces == whole[0].target_pieces[:9]
    assert found[0].weights_NTS.shape == (1, 10, 10)
    assert found[0].source == SOURCES[4]
    messages = [record.getMessage() for record in caplog.records]
    assert [message.split(" truncated to 9 of its ")[0] for message in messages] == [
        f"line {line}, {side}:" for side in ("source", "target") for line in (41, 43, 45)
    ]
    assert sum(done) == 5


def test_a_batch_that_is_too_large_is_done_in_parts_and_a_pair_is_named(
    system: System, caplog: pytest.LogCaptureFixture
) -> None:
    expected = looks_of(system)

    def refuse(_: object, inputs: tuple[torch.Tensor, ...]) -> None:
        if len(inputs[0]) > 1 or inputs[0].shape[1] > 40:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    with system.translators[0].encoder.register_forward_pre_hook(refuse):
        found = looks_of(system)
        assert [one.source for one in found] == [one.source for one in expected]
        assert "out of memory with 3 sentences at once" in caplog.records[0].getMessage()
        with pytest.raises(NmtError, match=r"^line 8: out of memory on cpu with this pair alone, of .* shorten it$"):
            forced_attention(system, ["", " ".join(SOURCES)], ["a", "b"], 4096, first_line=7)

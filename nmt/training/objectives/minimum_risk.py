"""Minimum risk training: the expected score of the network's own translations (Shen 2016).

Shapes: C candidates of a sentence, K candidates of all sentences, T target positions, N target pieces of all candidates
without padding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from nmt.config.schema import SearchConfig, TrainingConfig
from nmt.data.batching import Batch
from nmt.data.tokenizer import TokenizerPair
from nmt.evaluation.metrics import sentence_scores
from nmt.model.translator import Translator
from nmt.search import translate_batch
from nmt.training.objectives.base import (
    OBJECTIVES,
    LossSums,
    Objective,
    ObjectiveOptions,
    TranslationObjective,
    translating,
)

SEEDS = 2**31 - 1


class MinimumRiskOptions(ObjectiveOptions):
    kind: Literal["minimum_risk"] = "minimum_risk"
    reads_context: ClassVar[bool] = False
    samples: Annotated[int, Field(ge=2, le=1_000)] = 20
    """Translations that are drawn for each source sentence; equal ones count once. A batch needs their memory."""
    sharpness: Annotated[float, Field(gt=0.0, le=100.0)] = 0.005
    """Exponent alpha of a candidate's probability, eq. 9; small values weigh the candidates nearly alike."""
    include_reference: bool = True
    """Whether the reference is one of the candidates."""
    metric: Literal["bleu", "chrf"] = "bleu"
    """Score of a candidate, by sentence: smoothed BLEU, or chrF."""

    def conflicts(self, training: TrainingConfig) -> Iterator[tuple[str, str]]:
        if training.start_from is None:
            yield (
                "start_from",
                "is missing, and objective minimum_risk improves the translations of a trained model; name its run",
            )
        if training.guided_alignment.weight:
            yield (
                "guided_alignment.weight",
                "has no effect with objective minimum_risk, whose translations have no alignments; set it to 0",
            )


@OBJECTIVES.register("minimum_risk", MinimumRiskOptions)
class MinimumRiskObjective(Objective):
    """Expected score of the network's own translations (Shen 2016).

    The loss is the mean over the source sentences x of the risk (eq. 7 to 9)

        sum over y in S(x) of Q(y) D(y, reference),   Q(y) = P(y | x)^alpha / sum over y' in S(x) of P(y' | x)^alpha

    S(x) are translations sampled from the network, each once, and the reference; D is minus the score of a sentence,
    from -1 to 0. Sampling is without dropout, as in translation; P and its gradient are those of the pass that is
    trained.
    """

    terms = ("loss", "score")
    unit = "target tokens"
    has_perplexity = False
    model: Translator

    def __init__(
        self, options: MinimumRiskOptions, translator: Translator, training: TrainingConfig, tokenizers: TokenizerPair
    ) -> None:
        super().__init__(translator)
        self.options = options
        self.tokenizer = tokenizers.target
        self.search = SearchConfig(kind="sampling")

    def without_sampling(self) -> TranslationObjective:
        return TranslationObjective(self.model, label_smoothing=0.0)

    def counts(self, batch: Batch) -> tuple[int, ...]:
        sentences = batch.pairs if batch.weight else 0
        return sentences, sentences

    def tokens(self, batch: Batch) -> int:
        return batch.target_tokens

    def forward(self, batch: Batch) -> LossSums:
        """Returns the sums over the source sentences: the risk, and the mean score of the samples, in percent."""
        references = self._references(batch)
        samples = self.samples(batch)
        texts = self.tokenizer.decode(references)
        candidates, scores, sampled = [], [], 0.0
        for reference, text, drawn in zip(references, texts, samples, strict=True):
            # In order, each once.
            own = list(dict.fromkeys([reference, *drawn] if self.options.include_reference else drawn))
            values = sentence_scores(self.tokenizer.decode(own), [text] * len(own), self.options.metric)
            by_ids = dict(zip(own, values, strict=True))
            sampled += sum(by_ids[ids] for ids in drawn) / len(drawn)
            candidates.append(own)
            scores.append(values)
        log_probabilities = self.log_probabilities(batch, candidates)
        risks = [
            risk(each, each.new_tensor(values) / 100.0, self.options.sharpness)
            for each, values in zip(log_probabilities, scores, strict=True)
        ]
        total = torch.stack(risks).sum()
        return LossSums((total, None), (total, total.new_tensor(sampled)))

    def samples(self, batch: Batch) -> list[list[tuple[int, ...]]]:
        """Returns the pieces of the translations drawn for each sentence, without the end symbol."""
        seed = int(torch.randint(SEEDS, ()))  # of the generator that a checkpoint keeps
        with translating(self.model, batch.source_BS.device):
            hypotheses = translate_batch(
                [self.model],
                batch.source_BS,
                batch.source_lengths_B,
                self.search,
                special=self.tokenizer,
                n_best=self.options.samples,
                seed=seed,
            )
        return [[hypothesis.ids for hypothesis in each] for each in hypotheses]

    def log_probabilities(self, batch: Batch, candidates: Sequence[Sequence[tuple[int, ...]]]) -> tuple[Tensor, ...]:
        """Returns log P of the candidates of each sentence, [C], with gradients. A source is encoded once."""
        device, model = batch.source_BS.device, self.model
        counts = [len(each) for each in candidates]
        flat = [torch.tensor([*ids, self.tokenizer.eos]) for each in candidates for ids in each]
        lengths_K = torch.tensor([len(ids) for ids in flat])
        target_KT = torch.nn.utils.rnn.pad_sequence(flat, batch_first=True, padding_value=self.tokenizer.pad)
        rows_N = (torch.arange(target_KT.shape[1]) < lengths_K.unsqueeze(1)).flatten().nonzero().squeeze(1)
        candidate_N, rows_N = (rows_N // target_KT.shape[1]).to(device), rows_N.to(device)
        sentence_K = torch.repeat_interleave(torch.tensor(counts)).to(device)
        target_KT = target_KT.to(device)
        encoded = model.encode(batch.source_BS, batch.source_lengths_B).select(sentence_K)
        readout_KTR, _ = model.readout(encoded, target_KT)
        log_probability_N = model.kernels.target_log_probabilities(
            readout_KTR.flatten(0, 1).index_select(0, rows_N),
            model.projection.weight,
            model.projection.bias,
            target_KT.flatten().index_select(0, rows_N),
        )
        total_K = log_probability_N.new_zeros(len(flat)).index_add(0, candidate_N, log_probability_N)
        return torch.split(total_K, counts)

    def _references(self, batch: Batch) -> list[tuple[int, ...]]:
        """Returns the pieces of the references, without the end symbol."""
        lengths = (batch.target_lengths_B - 1).tolist()
        return [tuple(ids[:length]) for ids, length in zip(batch.target_BT.tolist(), lengths, strict=True)]


def risk(log_probability_C: Tensor, score_C: Tensor, sharpness: float) -> Tensor:
    """Returns minus the expected score of the candidates of a sentence (Shen 2016, eq. 8 and 9)."""
    return -((sharpness * log_probability_C).softmax(0) * score_C).sum()

"""Greedy search, beam search, minimum Bayes risk and sampling; ensembles and shortlists."""

from nmt.search.decoding import Decoding, DecodingStep, Hypothesis, coverage_penalty, length_penalty, translate_batch
from nmt.search.ensemble import Model

"""Suggestions for wrong names: the nearest name there is, and our key for a word of another toolkit."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence

_WORDS_BY_KEY = {
    "run": "save_model save_dir model_dir output_dir output overwrite name experiment",
    "seed": "random_seed",
    "data.source_language": "src_lang source_lang src_language lang_src language_src",
    "data.target_language": "tgt_lang trg_lang target_lang tgt_language trg_language lang_tgt language_tgt",
    "data.language": "lang",
    "data.train": "train_data train_sets trainset train_set corpora corpus corpus_1 prepared_data train_path",
    "data.train.source": "src source path_src train_src train_source src_train",
    "data.train.target": "tgt trg target path_tgt train_tgt train_trg train_target tgt_train",
    "data.train.docs": "documents texts",
    "data.validation": "dev valid val valid_sets validset devset dev_data valid_data valid_src valid_tgt valid_source "
    "validation_source validation_target dev_path",
    "data.test": "test test_data testset test_set test_sets",
    "data.filters.max_length": "src_seq_length tgt_seq_length max_seq_len max_sent_length max_sentence_length "
    "max_source_positions max_target_positions seq_length",
    "data.filters.max_ratio": "length_ratio src_tgt_ratio",
    "data.workers": "num_workers num_threads data_workers preprocess_workers",
    "tokenizer.vocabulary_size": "vocab_size src_vocab_size tgt_vocab_size voc_limit dim_vocabs num_words n_words "
    "src_vocab_max vocab_limit bpe_operations num_operations num_merges",
    "tokenizer.file": "src_subword_model subword_model sentencepiece_model spm_model bpe_codes src_bpe codes vocab "
    "vocabs vocabulary src_vocab tgt_vocab",
    "tokenizer.kind": "subword_type src_subword_type level bpe_type subword",
    "tokenizer.shared": "share_vocab shared_vocabulary joined_dictionary joint_vocab",
    "tokenizer.sampling": "bpe_dropout subword_alpha src_subword_alpha spm_alpha",
    "model.embedding_size": "emb_size emb_dim embedding_dim embed_dim dim_emb num_embed word_vec_size "
    "src_word_vec_size tgt_word_vec_size encoder_embed_dim decoder_embed_dim embeddings embedding",
    "model.tie": "tied_embeddings tied_softmax share_embeddings share_decoder_embeddings share_all_embeddings "
    "share_decoder_input_output_embed tied_embeddings_all tied_embeddings_src weight_tying weight_tying_type tying",
    "model.layer_normalization": "layer_norm layernorm normalize_before",
    "model.encoder.cell model.decoder.cell model.word.cell model.sentence.cell": "rnn_type cell_type rnn_cell_type "
    "unit_type rnn_cell",
    "model.encoder.cell": "enc_cell encoder_type enc_type",
    "model.decoder.cell": "dec_cell decoder_type dec_type",
    "model.encoder.hidden_size model.decoder.hidden_size model.word.hidden_size model.sentence.hidden_size": "hidden "
    "hidden_dim hidden_units rnn_size rnn_num_hidden dim_rnn hid_size num_hidden",
    "model.encoder.hidden_size": "enc_rnn_size enc_hid_size encoder_hidden_size enc_hidden_size",
    "model.decoder.hidden_size": "dec_rnn_size dec_hid_size decoder_hidden_size dec_hidden_size",
    "model.encoder.layers model.decoder.layers model.word.layers model.sentence.layers": "num_layers n_layers depth",
    "model.encoder.layers": "enc_layers enc_depth encoder_layers num_encoder_layers",
    "model.decoder.layers": "dec_layers dec_depth decoder_layers num_decoder_layers",
    "model.encoder.bidirectional": "brnn encoder_bidirectional bidirectional_encoder",
    "model.decoder.bridge": "init_hidden decoder_init state_init",
    "model.attention": "global_attention attention_type attn_type rnn_attention_type attn attention",
    "model.attention.wiring": "input_feed input_feeding",
    "model.attention.coverage": "coverage_attn use_coverage coverage_type",
    "model.dropout": "dropout dropout_rnn attention_dropout embed_dropout dropout_src dropout_trg hidden_dropout "
    "decoder_dropout encoder_dropout rnn_decoder_hidden_dropout",
    "training.start_from": "train_from load_model restore_file pretrained_model finetune_from_model init_checkpoint "
    "params checkpoint",
    "training.batch_tokens": "batch_size batch_type mini_batch mini_batch_words max_tokens tokens_per_batch "
    "per_device_train_batch_size",
    "training.accumulation": "accum_count update_freq batch_multiplier optimizer_delay update_interval "
    "gradient_accumulation_steps grad_accum",
    "training.max_steps": "train_steps max_update max_updates updates after_batches num_train_steps total_steps steps",
    "training.max_epochs": "epochs epoch max_epoch num_epochs after_epochs max_num_epochs num_train_epochs n_epochs",
    "training.optimizer": "optim optimizer optimiser",
    "training.optimizer.learning_rate": "lr learning_rate learn_rate initial_learning_rate init_lr max_lr",
    "training.optimizer.weight_decay": "weight_decay l2 wd",
    "training.optimizer.betas": "adam_betas adam_beta1 adam_beta2 optimizer_params",
    "training.optimizer.epsilon": "eps adam_eps adam_epsilon",
    "training.optimizer.momentum": "momentum",
    "training.schedule": "lr_scheduler scheduler scheduling decay_method lr_decay learning_rate_decay "
    "learning_rate_scheduler_type lr_scheduler_type lr_schedule",
    "training.schedule.warmup_steps": "warmup warmup_steps warmup_updates lr_warmup learning_rate_warmup "
    "learning_rate_warmup_steps num_warmup_steps",
    "training.schedule.decrease": "decrease_factor lr_shrink learning_rate_reduce_factor",
    "training.clip_norm": "max_grad_norm clip_grad_norm clip_grad gradient_clipping_threshold grad_clip "
    "clip_gradient clip",
    "training.ema_decay": "exponential_smoothing average_decay ema moving_average",
    "training.log_every": "report_every logging_freq log_interval disp_freq log_freq print_every logging_steps",
    "training.validate_every": "valid_steps valid_freq validation_freq validate_interval_updates eval_steps "
    "checkpoint_interval eval_every",
    "training.save_every": "save_checkpoint_steps save_freq save_interval_updates save_steps checkpoint_every",
    "training.keep_last": "keep_checkpoint keep_best_ckpts keep_last_epochs keep_last_params keep_interval_updates "
    "save_total_limit keep_last_ckpts",
    "training.early_stopping": "early_stop stopping",
    "training.early_stopping.metric": "eval_metric early_stopping_metric optimized_metric best_checkpoint_metric "
    "valid_metrics early_stopping_criteria",
    "training.early_stopping.patience": "patience max_num_checkpoint_not_improved",
    "training.guided_alignment.weight": "guided_alignment_weight lambda_align",
    "training.guided_alignment.loss": "guided_alignment_cost",
    "search.kind": "sampling do_sample",
    "search.beam_size": "beam beam_width beams num_beams",
    "search.length_penalty": "beam_alpha alpha lenpen normalize length_penalty_alpha len_penalty",
    "search.coverage_penalty": "beta coverage_penalty_beta",
    "search.no_repeat_ngram": "no_repeat_ngram_size block_ngram_repeat",
    "search.top_k": "sampling_topk random_sampling_topk output_sampling topk",
    "search.top_p": "sampling_topp random_sampling_topp nucleus topp",
    "search.temperature": "random_sampling_temp softmax_temperature temp",
    "search.max_length_ratio": "max_length_factor max_output_length max_len_a",
    "search.max_length_offset": "max_len_b",
    "search.min_length_ratio": "min_length min_output_length",
    "runtime.device": "gpu gpus gpu_ranks use_cuda cuda devices device_ids use_cpu",
    "runtime.precision": "fp16 bf16 amp model_dtype dtype",
    "runtime.threads": "cpu_threads omp_num_threads",
}
SYNONYMS: Mapping[str, tuple[str, ...]] = {
    word: tuple(key for keys, words in _WORDS_BY_KEY.items() if word in words.split() for key in keys.split())
    for word in " ".join(_WORDS_BY_KEY.values()).split()
}
"""Words of OpenNMT-py, JoeyNMT, fairseq, Marian, Sockeye and others -> our keys for the same thing, as dotted paths."""


def synonyms(name: str) -> Sequence[str]:
    """Our keys for a word of another toolkit, however it is written: `--batch-size`, `batch_size`, `batchSize`."""
    word = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name.lstrip("-")).replace("-", "_").lower()
    return SYNONYMS.get(word, ())


def nearest(name: str, choices: Iterable[str]) -> str | None:
    """The choice most like `name`, in whatever case, or None if none is."""
    by_folded = {choice.casefold(): choice for choice in choices}
    found = difflib.get_close_matches(name.casefold(), by_folded, n=1, cutoff=0.6)
    return by_folded[found[0]] if found else None


def advice(name: str, choices: Iterable[str]) -> str:
    """What to write instead of `name`: the nearest choice, and all there are."""
    choices = list(choices)
    near = nearest(name, choices)
    listed = f"choose from {', '.join(choices)}" if choices else "there is none to choose from"
    return f"did you mean {near!r}? ({listed})" if near else listed

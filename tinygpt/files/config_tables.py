"""The fields of config.json that are known, by family; see `tinygpt.io.table` for the four kinds.

The names are those of transformers' `PretrainedConfig`, `GPT2Config` and `LlamaConfig`, of its releases 4 and 5, and a
few that other programs add to files of these families.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from tinygpt.config import GPTConfig
from tinygpt.io.strict import Fields
from tinygpt.io.table import Harmless, Table

DEFAULT_ROPE_THETA = 10000.0
_ANYWHERE = (
    # origin of the file, and the classes that other programs load it with
    "_attn_implementation", "_attn_implementation_autoset", "_commit_hash", "_name_or_path", "architectures",
    "attn_implementation", "keys_to_ignore_at_inference", "tokenizer_class", "transformers_version",
    "transformers.js_config", "unsloth_fixed", "unsloth_version",
    # precision and memory; here weights are float32 unless the command line says otherwise
    "chunk_size_feed_forward", "dtype", "gradient_checkpointing", "torch_dtype", "torchscript", "use_bfloat16",
    "use_cache",
    # training, classification heads, and what a call returns
    "finetuning_task", "id2label", "initializer_range", "label2id", "num_labels", "output_attentions",
    "output_hidden_states", "output_past", "problem_type", "return_dict", "return_dict_in_generate",
    "task_specific_params", "tf_legacy_loss", "_num_labels", "xla_device",
    # ids of special tokens, which the tokenizer's files name, and settings of sampling, which commands have flags for
    "bos_token_id", "decoder_start_token_id", "eos_token_id", "eos_token_ids", "pad_token_id", "sep_token_id",
    "bad_words_ids", "begin_suppress_tokens", "diversity_penalty", "do_sample", "early_stopping",
    "encoder_no_repeat_ngram_size", "exponential_decay_length_penalty", "forced_bos_token_id", "forced_eos_token_id",
    "is_decoder", "length_penalty", "max_length", "max_new_tokens", "min_length", "no_repeat_ngram_size",
    "num_beam_groups", "num_beams", "num_return_sequences", "output_scores", "prefix", "remove_invalid_values",
    "repetition_penalty", "suppress_tokens", "temperature", "top_k", "top_p", "typical_p",
)  # fmt: skip
_REFUSED: dict[str, Harmless] = {
    "add_cross_attention": (False,),
    "auto_map": (),  # names code of its own that computes the model
    "cross_attention_hidden_size": (),
    "is_encoder_decoder": (False,),
    "pruned_heads": ({},),
    "quantization_config": (),
    "tie_encoder_decoder": (False,),
}
GPT2 = Table(
    required=["vocab_size", "n_positions", "n_embd", "n_layer", "n_head"],
    known=["model_type", "n_inner", "tie_word_embeddings", "resid_pdrop", "embd_pdrop", "layer_norm_epsilon",
           "tinygpt"],
    without_effect=[
        *_ANYWHERE, "attn_pdrop", "n_ctx", "n_special", "predict_special_tokens", "reorder_and_upcast_attn",
        "summary_activation", "summary_first_dropout",
        "summary_proj_to_labels", "summary_type", "summary_use_proj",
    ],
    refused={
        **_REFUSED,
        "activation_function": ("gelu_new", "gelu_pytorch_tanh"),  # two names for the tanh form
        "scale_attn_weights": (True,),
        "scale_attn_by_inverse_layer_idx": (False,),
    },
)  # fmt: skip
LLAMA = Table(
    required=["vocab_size", "max_position_embeddings", "hidden_size", "intermediate_size", "num_hidden_layers",
              "num_attention_heads"],
    known=["model_type", "num_key_value_heads", "head_dim", "rms_norm_eps", "rope_theta", "rope_scaling",
           "rope_parameters", "tie_word_embeddings", "tinygpt"],
    without_effect=[*_ANYWHERE, "attention_dropout", "is_llama_config", "max_sequence_length", "pretraining_tp"],
    refused={
        **_REFUSED,
        "hidden_act": ("silu", "swish"),
        "attention_bias": (False,),
        "mlp_bias": (False,),
        "partial_rotary_factor": (1.0,),
        "rope_interleaved": (False,),
        "sliding_window": (),
        "use_sliding_window": (False,),
    },
)  # fmt: skip
ROTARY = Table(
    known=["rope_type", "type", "rope_theta", "factor"],
    without_effect=["original_max_position_embeddings"],
    refused={"partial_rotary_factor": (1.0,)},
)
# A later version's option would change the result, so every option must be there and nothing else.
OWN = Table(
    required=["model_type", *(option.name for option in dataclasses.fields(GPTConfig))],
    without_effect=["architectures", "bos_token_id", "eos_token_id"],
)


def rope_theta(fields: Fields) -> float:
    """Read the rotary base: a field of its own, or within `rope_parameters` since transformers 5.

    Raises
    ------
    ValueError
        The frequencies are scaled, which changes every logit; or two places give two bases.
    """
    found: dict[str, Any] = {"rope_theta": fields.number("rope_theta")} if fields.has("rope_theta") else {}
    for name in ("rope_parameters", "rope_scaling"):
        part = fields.object(name)
        ROTARY.check(part)
        for key in ("rope_type", "type"):
            kind = part.text(key, "default")
            # These two divide positions or frequencies by the factor.
            unscaled = kind in ("linear", "dynamic") and part.number("factor", 0.0) == 1
            if kind != "default" and not unscaled:
                raise part.wrong(key, "'default', the only rotary embedding here")
        if part.has("rope_theta"):
            found[f"{name}.rope_theta"] = part.number("rope_theta")
    if len(set(found.values())) > 1:
        raise ValueError("must give one rotary base, got " + ", ".join(f"'{key}' {found[key]}" for key in found))
    return next(iter(found.values()), DEFAULT_ROPE_THETA)

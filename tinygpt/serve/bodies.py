"""The bodies that the endpoints accept."""

from __future__ import annotations

from tinygpt.serve.fields import MAX_COUNT, Field

MOST_CHOICES = 16
MOST_LOGPROBS = 20

_MODEL = Field("model", "text", "Name of the model as `/v1/models` lists it. Default: the model that is served.")
_SAMPLING = (
    Field("temperature", "number", "Divides the logits; 0 always takes the most likely token.", 1.0, 0, 100),
    Field("top_p", "number", "Sample among the fewest most likely tokens with this probability.", 1.0, 1e-6, 1),
    Field("top_k", "integer", "Sample among this many most likely tokens; 0 means all.", 0, 0, MAX_COUNT),
    Field("min_p", "number", "Sample among tokens with this share of the highest probability.", 0.0, 0, 1),
    Field("repetition_penalty", "number", "Divides positive logits of tokens in the context.", 1.0, 0.01, 100),
    Field("presence_penalty", "number", "Subtracted from the logits of tokens in the context.", 0.0, -100, 100),
    Field("frequency_penalty", "number", "The same, once for each time that the token occurs.", 0.0, -100, 100),
    Field("seed", "integer", "The same seed gives the same text. Default: random.", None, 0, 2**63 - 1),
)
_OPENAI = (
    Field("n", "integer", "Number of texts for each prompt.", 1, 1, MOST_CHOICES),
    Field("stop", "strings", "A text ends before the first of these strings."),
    Field("stream", "boolean", "Send the text as server-sent events while it is generated.", False),
    Field("stream_options", "stream_options", "With include_usage, the last event has the usage."),
)

COMPLETION = (
    _MODEL,
    Field("prompt", "prompts", "Text to continue, or its token ids; several prompts give several choices.", [""]),
    Field("suffix", "text", "Text after the gap to fill; needs a model with fill-in-the-middle tokens."),
    Field("max_tokens", "integer", "Largest number of tokens in a text.", 16, 1, MAX_COUNT),
    Field("logprobs", "integer", "Log-probabilities of this many most likely tokens.", None, 0, MOST_LOGPROBS),
    *_OPENAI,
    *_SAMPLING,
)
CHAT = (
    _MODEL,
    Field("messages", "messages", "The conversation so far.", required=True),
    Field("max_completion_tokens", "integer", "Largest number of tokens in an answer.", None, 1, MAX_COUNT),
    Field("max_tokens", "integer", "Older name of max_completion_tokens.", None, 1, MAX_COUNT),
    Field("logprobs", "boolean", "Report the log-probability of every token.", False),
    Field("top_logprobs", "integer", "Report this many most likely tokens too.", None, 0, MOST_LOGPROBS),
    *_OPENAI,
    *_SAMPLING,
)
INFILL = (
    _MODEL,
    Field("input_prefix", "text", "Text before the gap.", ""),
    Field("prompt", "text", "More text before the gap: the beginning of the current line.", ""),
    Field("input_suffix", "text", "Text after the gap.", ""),
    Field("n_predict", "integer", "Largest number of tokens; -1 means as many as fit.", 128, -1, MAX_COUNT),
    Field("t_max_prompt_ms", "number", "Time for reading the prompt, if t_max_predict_ms is given.", 0, 0, MAX_COUNT),
    Field("t_max_predict_ms", "number", "Return the text so far after this time; 0 means no limit.", 0, 0, MAX_COUNT),
    Field("stop", "strings", "The text ends before the first of these strings."),
    Field("stream", "boolean", "Send the text as server-sent events while it is generated.", False),
    Field("response_fields", "names", "Return only these fields; a/b is field b of object a."),
    *(field for field in _SAMPLING if field.name not in ("temperature", "seed")),
    Field("temperature", "number", "Divides the logits; 0, the default, always takes the most likely.", 0.0, 0, 100),
    Field("seed", "integer", "The same seed gives the same text; -1 is random.", 0, -1, 2**63 - 1),
)
WATCH = (
    Field("prompt", "text", "Text to continue.", ""),
    Field("max_tokens", "integer", "Largest number of tokens.", 64, 1, 4096),
    Field("top", "integer", "Number of alternatives for every token.", 8, 1, MOST_LOGPROBS),
    *_SAMPLING,
)
# Fields of other servers' clients that change nothing about the text.
IGNORED = (
    "user",
    "metadata",
    "store",
    "service_tier",
    "safety_identifier",
    "prompt_cache_key",
    "cache_prompt",
    "id_slot",
    "samplers",
    "n_predict",
    "response_fields",
)

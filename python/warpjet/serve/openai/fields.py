"""What chat and text completions have in common: sampling fields, stream options, usage."""

import re
from collections.abc import Mapping
from typing import Any

from warpjet._native import SamplingParams
from warpjet.common.shown import shown
from warpjet.serve.events import Ended, Started
from warpjet.serve.http.errors import bad_request, from_exception
from warpjet.serve.http.exchange import HttpRequest
from warpjet.serve.http.schema import Field
from warpjet.serve.openai.response_format import FORMATS
from warpjet.serve.serving import Serving

MAX_STOP_STRINGS = 4
_INT32 = 2**31 - 1

# Fields of SamplingParams that a request does not set by themselves.
_NOT_SAMPLING = {"output_kind", "detokenize", "logprobs", "beam_width", "bad_words_token_ids", "stop", "logit_bias"}
_DRAWING = {"temperature", "top_p", "top_k", "min_p"}  # beam search draws nothing
_KINDS = {
    "int": "integer",
    "int | None": "integer",
    "float": "number",
    "bool": "boolean",
    "tuple[str, ...]": "strings",
    "tuple[int, ...]": "integers",
    "tuple[int, ...] | None": "integers",
}

# What the engine takes, for the OpenAPI document; it checks them itself.
_TOKEN_IDS = {"minimum": 0, "maximum": _INT32}
_SHAPES: dict[str, dict[str, Any]] = {
    "n": {"minimum": 1, "maximum": 128},
    "presence_penalty": {"minimum": -2, "maximum": 2},
    "frequency_penalty": {"minimum": -2, "maximum": 2},
    "repetition_penalty": {"exclusiveMinimum": 0},
    "temperature": {"minimum": 0},
    "top_p": {"exclusiveMinimum": 0, "maximum": 1},
    "top_k": {"minimum": -1, "maximum": _INT32},
    "min_p": {"minimum": 0, "maximum": 1},
    "seed": {"minimum": -(2**63), "maximum": 2**63 - 1},
    "stop_token_ids": {"items": {"type": "integer", **_TOKEN_IDS}},
    "max_tokens": {"minimum": 1, "maximum": _INT32},
    "min_tokens": {"minimum": 0, "maximum": _INT32},
    "prompt_logprobs": {"minimum": -1, "maximum": _INT32},
    "spaces_between_special_tokens": {"enum": [True]},
    "allowed_token_ids": {"items": {"type": "integer", **_TOKEN_IDS}, "minItems": 1},
    "bad_words": {"items": {"type": "string", "minLength": 1, "maxLength": 1024}},
    "length_penalty": {"minimum": -100, "maximum": 100},
}
# Entries of lists, which are looked at before anything is made of them.
_MOST = {"stop_token_ids": 256, "bad_words": 128, "allowed_token_ids": 1 << 18}
_STOP = {
    "anyOf": [
        {"type": "string", "minLength": 1, "maxLength": 1024},
        {"type": "array", "items": {"type": "string", "minLength": 1, "maxLength": 1024}, "maxItems": MAX_STOP_STRINGS},
    ]
}
_TOKEN_ID = re.compile(r"0|[1-9][0-9]{0,9}")
_LOGIT_BIAS = {
    "propertyNames": {"pattern": f"^({_TOKEN_ID.pattern})$"},
    "additionalProperties": {"type": "number", "minimum": -100, "maximum": 100},
}

SAMPLING_FIELDS = [
    *(
        Field(name, _KINDS[kind], doc, high=_MOST.get(name), shape=_SHAPES.get(name))
        for name, kind, _, doc in SamplingParams.__fields__
        if name not in _NOT_SAMPLING and kind in _KINDS
    ),
    Field("stop", "string or strings", "strings that end the text", high=1 << 20, shape=_STOP),
    Field("logit_bias", "object", "token id -> value added to its logit, -100 to 100", shape=_LOGIT_BIAS),
    Field("use_beam_search", "boolean", "search with n beams", default=False),
    Field("repeat_penalty", "number", "the same as repetition_penalty", shape=_SHAPES["repetition_penalty"]),
    # Samplers of other servers: the values that turn them off are taken.
    Field("typical_p", "number", "use top_p or min_p", only=(1, 1.0)),
    Field("tfs_z", "number", "use top_p or min_p", only=(1, 1.0)),
    Field("top_a", "number", "use top_p or min_p", only=(0, 0.0)),
    Field("xtc_probability", "number", "use temperature", only=(0, 0.0)),
    Field("dry_multiplier", "number", "use repetition_penalty", only=(0, 0.0)),
    Field("dynatemp_range", "number", "use temperature", only=(0, 0.0)),
    Field("mirostat", "integer", "use temperature and top_p", only=(0,)),
    Field("mirostat_mode", "integer", "use temperature and top_p", only=(0,)),
]
_SAMPLING_NAMES = tuple(
    field.name for field in SAMPLING_FIELDS if field.name in {r[0] for r in SamplingParams.__fields__}
)
PARAMS = frozenset(_SAMPLING_NAMES)

_STREAM_OPTIONS = {
    "properties": {"include_usage": {"type": "boolean"}, "continuous_usage_stats": {"type": "boolean"}},
    "additionalProperties": False,
}
_FORMATS = {"required": ["type"], "properties": {"type": {"enum": list(FORMATS)}}}

COMMON_FIELDS = [
    Field("model", "string", "one of /v1/models; the first if not given"),
    Field("stream", "boolean", "send tokens as they come", default=False),
    Field("stream_options", "object", "include_usage, continuous_usage_stats; only with stream", shape=_STREAM_OPTIONS),
    Field("stream_interval", "integer", "tokens that a stream shows at a time, after the first", low=1, high=1 << 20),
    Field("response_format", "object", f"what the answer must be; its type: {', '.join(FORMATS)}", shape=_FORMATS),
    Field("structured_outputs", "object", "one of json, regex, choice, grammar, json_object, structural_tag"),
    Field("truncate_prompt_tokens", "integer", "keep so many tokens at the prompt's end; -1 is what fits", low=-1),
    Field("add_special_tokens", "boolean", "let the tokenizer add its special tokens"),
    Field("request_id", "string", "names the request; it must not be live", low=1, high=128),
    Field("priority", "integer", "lower runs first, with scheduling_policy priority or fair", low=-_INT32, high=_INT32),
    Field("cache_salt", "string", "requests share cached prefixes only if this is equal", low=1, high=1024),
    Field("return_token_ids", "boolean", "give token ids too", default=False),
    Field("return_tokens_as_token_ids", "boolean", "name tokens in logprobs token_id:N"),
    # Labels of the caller's.
    Field("user", "string", "a label; it changes nothing"),
    Field("safety_identifier", "string", "a label; it changes nothing"),
    Field("prompt_cache_key", "string", "a label; equal prefixes share their cache without it"),
    Field("prompt_cache_retention", "string", "a hint; prefixes are cached while there is room"),
    Field("metadata", "object", "labels; they change nothing"),
    Field("service_tier", "any", "every request is treated alike; use priority", only=("auto", "default")),
    # What others know and this server does not do.
    Field("store", "boolean", "nothing is stored", only=(False,)),
    Field("kv_transfer_params", "object", "each engine keeps its own KV cache", only=()),
    Field("vllm_xargs", "object", "there are no extensions to pass them to", only=({},)),
    Field("extra_args", "object", "there are no extensions to pass them to", only=({},)),
    Field("thinking_token_budget", "integer", "use max_tokens", only=()),
    Field("repetition_detection", "object", "use repetition_penalty", only=()),
    Field("logprob_token_ids", "integers", "use logprobs", only=()),
    Field("mm_processor_kwargs", "object", "prompts are text", only=({},)),
    Field("min_tokens_to_keep", "integer", "use top_k", only=(1,)),
    Field("guided_json", "any", "use structured_outputs, or response_format", only=()),
    Field("guided_regex", "string", "use structured_outputs", only=()),
    Field("guided_choice", "strings", "use structured_outputs", only=()),
    Field("guided_grammar", "string", "use structured_outputs", only=()),
    Field("guided_decoding_backend", "string", "llguidance is what there is", only=()),
    Field("guided_whitespace_pattern", "string", "use structured_outputs", only=()),
    Field("json_schema", "any", "use response_format, or structured_outputs", only=()),
    Field("regex", "string", "use structured_outputs", only=()),
    Field("ebnf", "string", "use structured_outputs, which has it as grammar", only=()),
    Field("grammar", "any", "use structured_outputs", only=()),
]


def sampling_params(serving: Serving, body: Mapping[str, Any], **own: Any) -> SamplingParams:
    """The request's wishes over the server's defaults; `own` has the last word. Raises ServeError 400."""
    given = {name: body[name] for name in _SAMPLING_NAMES if name in body}
    if "logit_bias" in given:
        given["logit_bias"] = _logit_bias(given["logit_bias"])
    if isinstance(given.get("stop"), list) and len(given["stop"]) > MAX_STOP_STRINGS:
        raise bad_request(f"stop may have {MAX_STOP_STRINGS} strings, got {len(given['stop'])}", "stop")
    penalty = body.get("repeat_penalty")
    if penalty is not None and given.setdefault("repetition_penalty", penalty) != penalty:
        raise bad_request("repetition_penalty and repeat_penalty differ; send one", "repeat_penalty")
    given |= own
    defaults = serving.default_sampling
    if body["use_beam_search"]:
        given |= {"beam_width": given.get("n", 1), "n": 1}
        defaults = {name: value for name, value in defaults.items() if name not in _DRAWING}
    given["output_kind"] = "delta" if body["stream"] else "final_only"
    try:
        return SamplingParams(**(defaults | given))
    except (ValueError, TypeError, NotImplementedError) as error:
        raise from_exception(error, PARAMS | {"max_tokens", "logprobs"}) from None


def identity(request: HttpRequest, serving: Serving) -> dict[str, Any]:
    """The request's name, tenant and priority: fields of ChatRequest and CompletionRequest."""
    body = request.body
    wanted = body.get("request_id")
    return {
        "request_id": serving.names.claim(request, wanted),
        "priority": body.get("priority", 0),
        "cache_salt": body.get("cache_salt", ""),
        "tenant": request.tenant,
        "truncate_prompt_tokens": body.get("truncate_prompt_tokens"),
        "stream_interval": body.get("stream_interval", 1),
    }


class StreamOptions:
    """include_usage and continuous_usage_stats. Raises ServeError 400 for options without a stream."""

    def __init__(self, serving: Serving, body: Mapping[str, Any]) -> None:
        options = body.get("stream_options") or {}
        if body.get("stream_options") is not None and not body["stream"]:
            raise bad_request("stream_options needs stream to be true", "stream_options")
        for name, value in options.items():
            if name not in ("include_usage", "continuous_usage_stats", "include_obfuscation"):
                raise bad_request(f"stream_options has no {shown(name)}", "stream_options")
            if not isinstance(value, (bool, type(None))):
                raise bad_request(f"stream_options.{name} must be true or false", "stream_options")
        if options.get("include_obfuscation"):
            raise bad_request("stream_options.include_obfuscation is not supported, only false", "stream_options")
        self.include_usage = bool(options.get("include_usage")) or serving.settings.enable_force_include_usage
        self.continuous = bool(options.get("continuous_usage_stats")) and self.include_usage

    def usage_so_far(self, usage: "Usage") -> dict[str, Any]:
        """The member of every chunk but the last: null, as in OpenAI's API, unless it is asked for."""
        return {"usage": usage.to_dict() if self.continuous else None} if self.include_usage else {}


class Usage:
    """Tokens of one request, over its prompts and samples."""

    def __init__(self) -> None:
        self.prompt_tokens = 0
        self.cached_tokens = 0
        self.completion_tokens = 0
        self.reasoning_tokens = 0

    def start(self, event: Started) -> None:
        self.prompt_tokens += event.prompt_tokens
        self.cached_tokens += event.cached_tokens

    def end(self, event: Ended) -> None:
        self.reasoning_tokens += event.reasoning_tokens

    def to_dict(self) -> dict[str, Any]:
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
            "prompt_tokens_details": {"cached_tokens": self.cached_tokens},
            "completion_tokens_details": {"reasoning_tokens": self.reasoning_tokens},
        }


def _logit_bias(given: Mapping[str, Any]) -> dict[int, float]:
    wrong = next((key for key in given if not _TOKEN_ID.fullmatch(key)), None)
    if wrong is not None:
        raise bad_request(f"logit_bias must have token ids for keys, got {shown(wrong)}", "logit_bias")
    return {int(key): value for key, value in given.items()}

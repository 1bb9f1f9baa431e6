"""What chat and text completions have in common: sampling fields, response_format, usage."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from warpjet._native import SamplingParams
from warpjet.serve.conversation import Ended, Serving, Started
from warpjet.serve.errors import bad_request, from_exception
from warpjet.serve.exchange import HttpRequest
from warpjet.serve.schema import Field

if TYPE_CHECKING:
    from warpjet.structured import StructuredOutputsParams

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
    "repetition_penalty": {"exclusiveMinimum": 0, "maximum": 1000},
    "temperature": {"minimum": 0, "maximum": 1000},
    "top_p": {"exclusiveMinimum": 0, "maximum": 1},
    "top_k": {"minimum": -1, "maximum": _INT32},
    "min_p": {"minimum": 0, "maximum": 1},
    "seed": {"minimum": -(2**63), "maximum": 2**63 - 1},
    "stop_token_ids": {"items": {"type": "integer", **_TOKEN_IDS}, "maxItems": 256},
    "max_tokens": {"minimum": 1, "maximum": _INT32},
    "min_tokens": {"minimum": 0, "maximum": _INT32},
    "prompt_logprobs": {"minimum": -1, "maximum": _INT32},
    "spaces_between_special_tokens": {"enum": [True]},
    "allowed_token_ids": {"items": {"type": "integer", **_TOKEN_IDS}, "minItems": 1},
    "bad_words": {"items": {"type": "string", "minLength": 1, "maxLength": 1024}, "maxItems": 128},
    "length_penalty": {"minimum": -1000, "maximum": 1000},
}
_STOP = {
    "anyOf": [
        {"type": "string", "minLength": 1, "maxLength": 1024},
        {"type": "array", "items": {"type": "string", "minLength": 1, "maxLength": 1024}, "maxItems": MAX_STOP_STRINGS},
    ]
}
_LOGIT_BIAS = {
    "propertyNames": {"pattern": "^(0|[1-9][0-9]*)$"},
    "additionalProperties": {"type": "number", "minimum": -100, "maximum": 100},
}

SAMPLING_FIELDS = [
    *(
        Field(name, _KINDS[kind], doc, shape=_SHAPES.get(name))
        for name, kind, _, doc in SamplingParams.__fields__
        if name not in _NOT_SAMPLING and kind in _KINDS
    ),
    Field("stop", "string or strings", "strings that end the text", high=1 << 20, shape=_STOP),
    Field("logit_bias", "object", "token id -> value added to its logit, -100 to 100", shape=_LOGIT_BIAS),
    Field("use_beam_search", "boolean", "search with n beams", default=False),
]
_SAMPLING_NAMES = tuple(
    field.name for field in SAMPLING_FIELDS if field.name in {r[0] for r in SamplingParams.__fields__}
)
PARAMS = frozenset(_SAMPLING_NAMES)

_STREAM_OPTIONS = {
    "properties": {"include_usage": {"type": "boolean"}, "continuous_usage_stats": {"type": "boolean"}},
    "additionalProperties": False,
}
_FORMATS = {
    "required": ["type"],
    "properties": {"type": {"enum": ["text", "json_object", "json_schema", "structural_tag"]}},
}

COMMON_FIELDS = [
    Field("model", "string", "one of /v1/models; the first if not given"),
    Field("stream", "boolean", "send tokens as they come", default=False),
    Field("stream_options", "object", "include_usage, continuous_usage_stats; only with stream", shape=_STREAM_OPTIONS),
    Field("stream_interval", "integer", "tokens that a stream shows at a time, after the first", low=1, high=1 << 20),
    Field("response_format", "object", "type: text, json_object, json_schema or structural_tag", shape=_FORMATS),
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
]


def sampling_params(serving: Serving, body: Mapping[str, Any], **own: Any) -> SamplingParams:
    """The request's wishes over the server's defaults; `own` has the last word. Raises ServeError 400."""
    given = {name: body[name] for name in _SAMPLING_NAMES if name in body}
    if "logit_bias" in given:
        given["logit_bias"] = _logit_bias(given["logit_bias"])
    if isinstance(given.get("stop"), list) and len(given["stop"]) > MAX_STOP_STRINGS:
        raise bad_request(f"stop may have {MAX_STOP_STRINGS} strings, got {len(given['stop'])}", "stop")
    given |= own
    defaults = serving.default_sampling
    if body["use_beam_search"]:
        given |= {"beam_width": given.get("n", 1), "n": 1}
        defaults = {name: value for name, value in defaults.items() if name not in _DRAWING}
    given["output_kind"] = "delta" if body["stream"] else "final_only"
    try:
        params = SamplingParams(**(defaults | given))
    except (ValueError, TypeError, NotImplementedError) as error:
        raise from_exception(error, PARAMS | {"max_tokens", "logprobs"}) from None
    tokens = params.n * min(params.max_tokens or serving.max_model_len, serving.max_model_len)
    if params.n > 1 and tokens > serving.settings.max_request_tokens:
        raise bad_request(
            f"n x max_tokens is {tokens} tokens; a request may ask for {serving.settings.max_request_tokens}", "n"
        )
    return params


def structured_outputs(body: Mapping[str, Any]) -> "StructuredOutputsParams | None":
    """response_format or structured_outputs. Raises ServeError 400 for both, or for one that is malformed."""
    form, given = body.get("response_format"), body.get("structured_outputs")
    kind = None if form is None else form.get("type")
    constraint: dict[str, Any] = dict(given or {})
    if kind == "json_object":
        constraint["json_object"] = True
    elif kind == "json_schema":
        inner = form.get("json_schema") if form else None
        if not isinstance(inner, dict) or not isinstance(inner.get("schema"), (dict, bool)):
            raise bad_request("response_format.json_schema needs a schema", "response_format")
        constraint["json"] = inner["schema"]
    elif kind in ("structural_tag", "grammar", "regex"):
        constraint[kind] = form if kind == "structural_tag" else (form or {}).get("value") or (form or {}).get(kind)
    elif form is not None and kind != "text":
        raise bad_request(
            "response_format.type must be text, json_object, json_schema or structural_tag", "response_format"
        )
    param = "structured_outputs" if given is not None else "response_format"
    if given and kind not in (None, "text"):
        raise bad_request("response_format and structured_outputs are two constraints; send one", param)
    if not constraint and given is None:
        return None
    from warpjet.structured import StructuredOutputsParams

    try:
        return StructuredOutputsParams(**constraint)
    except (ValueError, TypeError, NotImplementedError) as error:
        raise bad_request(str(error), param) from None


def identity(request: HttpRequest, serving: Serving) -> dict[str, Any]:
    """Who asks, and how urgent it is: fields of ChatRequest and CompletionRequest."""
    body = request.body
    name = body.get("request_id")
    if name is None:
        name = request.request_id
        if serving.llm.is_live(name):  # a header may be sent twice by a proxy; only the body's name must be unique
            name = f"{name}.{serving.llm.session.next_request_id()}"
    return {
        "request_id": name,
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
                raise bad_request(f"stream_options has no {name!r}", "stream_options")
            if not isinstance(value, (bool, type(None))):
                raise bad_request(f"stream_options.{name} must be true or false", "stream_options")
        if options.get("include_obfuscation"):
            raise bad_request("stream_options.include_obfuscation is not supported, only false", "stream_options")
        self.include_usage = bool(options.get("include_usage")) or serving.settings.enable_force_include_usage
        self.continuous = bool(options.get("continuous_usage_stats")) and self.include_usage


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
    try:
        bias = {int(key): value for key, value in given.items() if key.isascii()}
    except ValueError:
        bias = {}
    if len(bias) != len(given):
        raise bad_request("logit_bias must have token ids for keys", "logit_bias")
    return bias

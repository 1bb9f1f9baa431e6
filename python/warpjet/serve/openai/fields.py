"""What chat and text completions have in common: sampling fields, stream options, usage."""

import re
from collections.abc import Mapping
from typing import Any

from warpjet._native import Field as NativeField
from warpjet._native import SamplingParams
from warpjet.common.foreign import rows
from warpjet.common.shown import shown
from warpjet.serve.events import Ended, Started
from warpjet.serve.http.errors import bad_request, from_exception
from warpjet.serve.http.exchange import HttpRequest
from warpjet.serve.http.schema import Field
from warpjet.serve.openai.response_format import FORMATS
from warpjet.serve.serving import Serving

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

_NATIVE = {field.name: field for field in SamplingParams.__fields__}
_LIST_ITEMS = {"strings": "string", "integers": "integer"}

# What the engine takes beside its ranges, for the OpenAPI document.
_ALSO: dict[str, dict[str, Any]] = {
    "spaces_between_special_tokens": {"enum": [True]},
    "allowed_token_ids": {"minItems": 1},
}


def sampling_field(name: str) -> Field:
    """A number or a text is checked by the engine itself; the entries of a list are counted before."""
    field = _NATIVE[name]
    kind = _KINDS[field.type]
    shape = {**field.shape, **_ALSO.get(field.name, {})}
    if "items" in shape:
        shape["items"] = {"type": _LIST_ITEMS[kind], **shape["items"]}
    return Field(field.name, kind, field.doc, high=shape.pop("maxItems", None), shape=shape)


def _one_or_more(field: NativeField) -> dict[str, Any]:
    """A text, or a list of them."""
    text = {"type": "string", **field.shape["items"]}
    return {"anyOf": [text, {"type": "array", "items": text, "maxItems": field.shape["maxItems"]}]}


def _by_token(field: NativeField) -> dict[str, Any]:
    """Numbers by token id, which JSON spells as text."""
    return {
        "propertyNames": {"pattern": f"^({_TOKEN_ID.pattern})$"},
        "additionalProperties": {"type": "number", **field.shape["additionalProperties"]},
        "maxProperties": field.shape["maxProperties"],
    }


def foreign_field(name: str) -> Field:
    """A name of other engines, taken at the values that change nothing."""
    row = _FOREIGN[name]
    whole = [value for value in row.accepted if type(value) is int]
    return Field(name, "any", row.answer(), only=(*row.accepted, *map(float, whole)))


_TOKEN_ID = re.compile(r"0|[1-9][0-9]{0,9}")
_FOREIGN = rows("sampling", "body")
MAX_STOP_STRINGS: int = _NATIVE["stop"].shape["maxItems"]

SAMPLING_FIELDS = [
    *(sampling_field(name) for name, field in _NATIVE.items() if name not in _NOT_SAMPLING and field.type in _KINDS),
    Field("stop", "string or strings", _NATIVE["stop"].doc, high=1 << 20, shape=_one_or_more(_NATIVE["stop"])),
    Field("logit_bias", "object", _NATIVE["logit_bias"].doc, shape=_by_token(_NATIVE["logit_bias"])),
    Field("use_beam_search", "boolean", "search with n beams", default=False),
    Field("repeat_penalty", "number", "the same as repetition_penalty", shape=_NATIVE["repetition_penalty"].shape),
]
_SAMPLING_NAMES = tuple(field.name for field in SAMPLING_FIELDS if field.name in _NATIVE)
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
]
_TAKEN = {field.name for field in (*SAMPLING_FIELDS, *COMMON_FIELDS)} | {"best_of", "logprobs"}
COMMON_FIELDS += [foreign_field(name) for name, row in _FOREIGN.items() if not row.is_alias and name not in _TAKEN]


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

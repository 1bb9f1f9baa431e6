"""The forms a prompt may have, made one: token ids, and the text they came from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Number
from typing import Any, NotRequired, TypedDict

from warpjet.text.tokenizer import Tokenizer


class TextPrompt(TypedDict):
    """A text. cache_salt: only prompts with the same salt share cached blocks."""

    prompt: str
    cache_salt: NotRequired[str | None]


class TokensPrompt(TypedDict):
    """Token ids, and the text they came from if it is known."""

    prompt_token_ids: Sequence[int]
    prompt: NotRequired[str | None]
    cache_salt: NotRequired[str | None]


PromptType = str | TextPrompt | TokensPrompt | Mapping[str, Any] | Sequence[int]
PromptsType = PromptType | Sequence[PromptType]

_KEYS = ("prompt", "prompt_token_ids", "cache_salt")
_UNSUPPORTED_KEYS = ("multi_modal_data", "mm_processor_kwargs", "multi_modal_uuids", "prompt_embeds", "encoder_prompt")


@dataclass(slots=True)
class Prompt:
    """token_ids is None until the text is tokenised. shown_tokens: special tokens that completions show although they
    skip special tokens."""

    text: str | None
    token_ids: list[int] | None
    cache_salt: str = ""
    shown_tokens: frozenset[str] = frozenset()


def parse_prompts(prompts: PromptsType) -> list[Prompt]:
    """One prompt or a list of them. Raises ValueError when there is none, TypeError for another form."""
    if isinstance(prompts, (str, Mapping)) or _is_token_list(prompts):
        return [_parse_prompt(prompts)]
    if not isinstance(prompts, Sequence) or isinstance(prompts, bytes):
        raise TypeError(f"prompts must be a str, a dict or a list of these, got {type(prompts).__name__}")
    if not prompts:
        raise ValueError("prompts must hold at least one prompt")
    return [_parse_prompt(prompt) for prompt in prompts]


def _is_token_list(value: object) -> bool:
    return (
        isinstance(value, Sequence)
        and not isinstance(value, (str, bytes))
        and len(value) > 0
        and (isinstance(value[0], Number) or hasattr(value[0], "__index__"))
    )


def _parse_prompt(prompt: Any) -> Prompt:
    if isinstance(prompt, str):
        return _parse_prompt({"prompt": prompt})
    if isinstance(prompt, Sequence) and not isinstance(prompt, bytes):
        return Prompt(None, list(prompt))
    if not isinstance(prompt, Mapping):
        raise TypeError(
            "a prompt must be a str, a list of token ids, or a dict with 'prompt' or 'prompt_token_ids'; "
            f"got {type(prompt).__name__}"
        )
    for key, value in prompt.items():
        if key in _UNSUPPORTED_KEYS and value is not None:
            raise NotImplementedError(f"{key} is not supported; prompts are text or token ids")
        if key not in _KEYS + _UNSUPPORTED_KEYS:
            raise TypeError(f"a prompt has no key {key!r}; it takes {', '.join(_KEYS)}")
    text, token_ids, salt = (prompt.get(key) for key in _KEYS)
    if text is None and token_ids is None:
        raise ValueError("a prompt needs 'prompt' or 'prompt_token_ids'")
    if text is not None and not isinstance(text, str):
        raise TypeError(f"'prompt' must be a str, got {type(text).__name__}")
    if token_ids is None and not text:
        raise ValueError("the prompt is empty")
    if salt is not None and (not isinstance(salt, str) or not salt):
        raise ValueError("'cache_salt' must be a str that is not empty")
    return Prompt(text, None if token_ids is None else list(token_ids), salt or "")


def tokenize(
    prompts: Sequence[Prompt], tokenizer: Tokenizer | None, max_tokens: int, add_special_tokens: bool = True
) -> None:
    """Fills token_ids where only a text is given. Raises ValueError for a prompt that cannot fit in max_tokens, before
    it costs time that grows with its length, and when there is no tokenizer."""
    for index, prompt in enumerate(prompts):
        length = 0 if prompt.token_ids is None else len(prompt.token_ids)
        if length > max_tokens:
            raise ValueError(f"prompt {index}: {length} tokens, but the context holds {max_tokens} (max_model_len)")
    texts = [(prompt, prompt.text) for prompt in prompts if prompt.token_ids is None and prompt.text is not None]
    if not texts:
        return
    if tokenizer is None:
        raise ValueError("there is no tokenizer (skip_tokenizer_init=True): pass prompt_token_ids")
    limit = max_tokens * tokenizer.longest_token
    for index, (_, text) in enumerate(texts):
        if len(text) > limit:
            raise ValueError(
                f"prompt {index} of {len(text)} characters is longer than max_model_len={max_tokens} tokens can be "
                f"({limit} characters)"
            )
    encoded = tokenizer.encode_batch([text for _, text in texts], add_special_tokens)
    for (prompt, _), token_ids in zip(texts, encoded, strict=True):
        prompt.token_ids = token_ids

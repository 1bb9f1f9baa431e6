"""Conversations to prompts, by the checkpoint's chat template."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from warpjet._native import ModelFormatError
from warpjet.template import MAX_TEMPLATE_BYTES, compile_template
from warpjet.tokenizer import Tokenizer

Message = Mapping[str, Any]
Conversation = Sequence[Message]

_RESERVED = ("messages", "tools", "add_generation_prompt", "continue_final_message")
_FINAL_MARK = "\ue000final\ue001"  # private-use characters: no text holds them by accident


class ChatTemplate:
    """Renders conversations. `sources` are templates by name; "default" is used unless tools are given and there is a
    "tool_use". Raises ValueError for a template that does not compile."""

    def __init__(self, sources: Mapping[str, str], special_tokens: Mapping[str, str]) -> None:
        self._render = {name: compile_template(source) for name, source in sources.items()}
        self._special_tokens = dict(special_tokens)
        self.source = "\n".join(sources.values())

    def render(
        self,
        messages: Conversation,
        *,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> str:
        """The prompt's text. Raises ValueError for messages that are malformed or that the template refuses."""
        conversation = _checked(messages)
        if continue_final_message:
            if add_generation_prompt:
                raise ValueError("continue_final_message needs add_generation_prompt=False: the answer has begun")
            if not isinstance(conversation[-1]["content"], str):
                raise ValueError("continue_final_message needs a final message with text")
            conversation[-1]["content"] += _FINAL_MARK
        extra = dict(chat_template_kwargs or {})
        for name in (*_RESERVED, *self._special_tokens):
            if name in extra:
                raise ValueError(f"chat_template_kwargs must not set {name!r}")
        name = "tool_use" if tools and "tool_use" in self._render else "default"
        variables = {
            **self._special_tokens,
            **extra,
            "messages": conversation,
            "tools": [dict(tool) for tool in tools] if tools else None,
            "documents": extra.get("documents"),
            "add_generation_prompt": add_generation_prompt,
        }
        text = self._render[name](variables)
        if not continue_final_message:
            return text
        if _FINAL_MARK not in text:
            raise ValueError("the chat template changes the final message, so it cannot be continued")
        return text[: text.rindex(_FINAL_MARK)]


def load_chat_template(directory: Path, tokenizer: Tokenizer) -> ChatTemplate | None:
    """The template that a checkpoint brings: chat_template.jinja, else tokenizer_config.json; None without one."""
    path = directory / "chat_template.jinja"
    entry: Any = tokenizer.config.get("chat_template")
    if path.is_file():
        entry = read_template(path)
    else:
        path = directory / "tokenizer_config.json"
    if entry is None:
        return None
    try:
        sources = {"default": entry} if isinstance(entry, str) else {e["name"]: e["template"] for e in entry}
        if not all(isinstance(source, str) for source in sources.values()) or "default" not in sources:
            raise ValueError("named templates need one called 'default'")
        return ChatTemplate(sources, tokenizer.special_tokens)
    except (KeyError, TypeError, ValueError) as error:
        raise ModelFormatError(f"{path}: chat_template: {error}") from None


def read_template(path: Path) -> str:
    """A template from a file of its own."""
    if path.stat().st_size > MAX_TEMPLATE_BYTES:
        raise ValueError(f"{path} has {path.stat().st_size} bytes, more than {MAX_TEMPLATE_BYTES}")
    return path.read_text(encoding="utf-8")


def is_conversation(value: object) -> bool:
    """True for one list of messages, false for a list of conversations."""
    return isinstance(value, Sequence) and all(isinstance(item, Mapping) for item in value)


def _checked(messages: Conversation) -> list[dict[str, Any]]:
    """Copies with a role and a text each."""
    if not isinstance(messages, Sequence) or isinstance(messages, str) or not messages:
        raise ValueError("messages must be a list with at least one message")
    out = []
    for index, message in enumerate(messages):
        where = f"messages[{index}]"
        if not isinstance(message, Mapping):
            raise ValueError(f"{where} must be a dict with role and content, got {type(message).__name__}")
        if not isinstance(message.get("role"), str) or not message["role"]:
            raise ValueError(f"{where} needs a role (system, user, assistant, tool)")
        content = message.get("content")
        if content is None and not message.get("tool_calls"):
            raise ValueError(f"{where} needs content")
        out.append({**message, "content": _text_of(content, where)})
    return out


def _text_of(content: Any, where: str) -> str | None:
    if content is None or isinstance(content, str):
        return content
    if not isinstance(content, Sequence):
        raise ValueError(f"{where}: content must be a string or a list of parts, got {type(content).__name__}")
    texts = []
    for part in content:
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind != "text" or not isinstance(part.get("text"), str):
            raise ValueError(f"{where}: only parts of type 'text' are supported, got {kind or part!r}")
        texts.append(part["text"])
    return "\n".join(texts)

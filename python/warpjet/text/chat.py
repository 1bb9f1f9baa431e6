"""Conversations to prompts, by the checkpoint's chat template."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from warpjet._native import ModelFormatError
from warpjet.text.abilities import Abilities, find_abilities
from warpjet.text.default_tools import with_default_tools
from warpjet.text.messages import Conversation as Conversation
from warpjet.text.messages import checked_messages
from warpjet.text.template import MAX_SECONDS, MAX_TEMPLATE_BYTES, compile_template
from warpjet.text.template_values import content_for
from warpjet.text.tools import check_tools

_RESERVED = ("messages", "tools", "add_generation_prompt", "continue_final_message")
_FINAL_MARK = "\ue000final\ue001"  # private-use characters: no text holds them by accident


CONTENT_FORMATS = ("auto", "string", "openai")


class ChatTemplate:
    """Renders conversations. `sources` are templates by name, and `source` is all they say; "default" is used unless
    tools are given and there is a "tool_use". Tools, calls and results that a template does not write stand in its
    messages as text (default_tools). Raises ValueError for a template that does not compile."""

    def __init__(self, sources: Mapping[str, str], special_tokens: Mapping[str, str]) -> None:
        self._render = {name: compile_template(source) for name, source in sources.items()}
        self._special_tokens = dict(special_tokens)
        self.source = "\n".join(sources.values())
        self._abilities: dict[str, Abilities] = {}

    @property
    def writes_tools(self) -> bool:
        """False where tools stand in the messages, in the default format."""
        return self._able(self._name_for([{}])).writes_tools

    def render(
        self,
        messages: Conversation,
        *,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        content_format: str = "auto",
    ) -> str:
        """The prompt's text. content_format: "string" or "openai" (a list of parts) is how the template gets content,
        "auto" is a list where it goes through one. Raises ValueError for messages or tools that are malformed, or
        refused by the template."""
        if tools is not None:
            check_tools(tools)
        if content_format not in CONTENT_FORMATS:
            raise ValueError(
                f"chat_template_content_format must be {', '.join(CONTENT_FORMATS)}, got {content_format!r}"
            )
        conversation = checked_messages(messages, add_generation_prompt, "developer" in self.source)
        if continue_final_message:
            if add_generation_prompt:
                raise ValueError("continue_final_message needs add_generation_prompt=False: the answer has begun")
            conversation[-1]["content"] = _marked(conversation[-1]["content"])
        if not isinstance(chat_template_kwargs, (Mapping, type(None))):
            raise ValueError(f"chat_template_kwargs must be an object, got {type(chat_template_kwargs).__name__}")
        extra = dict(chat_template_kwargs or {})
        for name in (*_RESERVED, *self._special_tokens):
            if name in extra:
                raise ValueError(f"chat_template_kwargs must not set {name!r}")
        name = self._name_for(tools)
        conversation = self._written(name, conversation, tools, content_format)
        variables = {
            **extra,
            "messages": conversation,
            "tools": [dict(tool) for tool in tools] if tools else None,
            "documents": extra.get("documents"),
            "add_generation_prompt": add_generation_prompt,
        }
        text = self._render[name](self._special_tokens | variables, MAX_SECONDS)
        if not continue_final_message:
            return text
        if _FINAL_MARK not in text:
            raise ValueError("the chat template changes the final message, so it cannot be continued")
        return text[: text.rindex(_FINAL_MARK)]

    def _name_for(self, tools: Sequence[Mapping[str, Any]] | None) -> str:
        return "tool_use" if tools and "tool_use" in self._render else "default"

    def _able(self, name: str) -> Abilities:
        if name not in self._abilities:

            def render(messages: Sequence[dict[str, Any]], tools: Any, seconds: float) -> str:
                variables = {"messages": messages, "tools": tools, "documents": None, "add_generation_prompt": False}
                return self._render[name](self._special_tokens | variables, seconds)

            self._abilities[name] = find_abilities(render)
        return self._abilities[name]

    def _written(
        self,
        name: str,
        conversation: list[dict[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None,
        content_format: str,
    ) -> list[dict[str, Any]]:
        """Messages in the form that this template wants."""
        able = self._able(name)
        conversation = with_default_tools(conversation, tools, able)
        if content_format == "openai":
            parts = [_as_parts(message) for message in conversation]
            return [message | {"content": content_for(message["content"], parts_read=2)} for message in parts]
        parts_read = able.parts_read if content_format == "auto" else 0
        return [message | {"content": content_for(message["content"], parts_read)} for message in conversation]


def _as_parts(message: dict[str, Any]) -> dict[str, Any]:
    text = message["content"]
    return message | {"content": [{"type": "text", "text": text}]} if isinstance(text, str) else message


def _marked(content: Any) -> Any:
    """The final message with a mark at its end."""
    if isinstance(content, str):
        return content + _FINAL_MARK
    if not content:
        raise ValueError("continue_final_message needs a final message with text")
    return [*content[:-1], content[-1] | {"text": content[-1]["text"] + _FINAL_MARK}]


def load_chat_template(
    directory: Path, tokenizer_config: Mapping[str, Any], special_tokens: Mapping[str, str]
) -> ChatTemplate | None:
    """The template that a checkpoint brings: chat_template.jinja, else tokenizer_config.json; None without one."""
    path = directory / "chat_template.jinja"
    entry: Any = tokenizer_config.get("chat_template")
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
        return ChatTemplate(sources, special_tokens)
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

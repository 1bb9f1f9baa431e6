"""The formats in which models write tool calls. A new one is a row."""

import secrets
import string
from dataclasses import dataclass

from warpjet.parsing.answer import MakeId
from warpjet.parsing.harmony import CHANNEL, CONSTRAIN, MESSAGE, Harmony
from warpjet.parsing.marked import Marked
from warpjet.parsing.pythonic import Pythonic
from warpjet.parsing.tagged import Tagged
from warpjet.parsing.xml_calls import Xml


def new_call_id() -> str:
    """As OpenAI writes them."""
    return "call_" + secrets.token_hex(12)


def _new_short_id() -> str:
    """As Mistral's templates require them: 9 letters or digits."""
    return "".join(secrets.choice(string.ascii_letters + string.digits) for _ in range(9))


@dataclass(frozen=True, slots=True)
class Layout:
    """How calls are written, for a model that must write some: before, calls with what is between them, after.

    A call is (before its name, before its arguments, after them). between: None where there is one call at most."""

    call: tuple[str, str, str]
    before: str = ""
    between: str | None = ""
    after: str = ""


@dataclass(frozen=True, slots=True)
class ToolParser:
    """signs: what the source of a chat template has in it, all of it, if its model writes this format."""

    format: Marked | Harmony
    layout: Layout
    signs: tuple[str, ...] = ()
    make_id: MakeId = new_call_id


DEFAULT_TOOL_PARSER = "hermes"  # reads the format of warpjet.text.default_tools

_NAME, _ARGUMENTS, _PARAMETERS = '{"name": "', '", "arguments": ', '", "parameters": '
_OBJECT = (_NAME, _ARGUMENTS, "}")
_PYTHON = ("", "(", ")")

_MISTRAL = Tagged(
    opens=("[TOOL_CALLS]",),
    header=r"(?P<name>[^\s\[{]+)\s*(?:\[CALL_ID\](?P<id>[a-zA-Z0-9]{9})\s*)?(?:\[ARGS\])?\s*",
    inner_tokens=("[CALL_ID]", "[ARGS]"),
)

# Where several rows have their signs in a template, the first is taken.
TOOL_PARSERS: dict[str, ToolParser] = {
    "openai": ToolParser(
        Harmony(),
        Layout((CHANNEL + "commentary to=functions.", f" {CONSTRAIN}json{MESSAGE}", ""), between=None),
        (CHANNEL, "functions"),
    ),
    "deepseek_v3": ToolParser(
        Tagged(
            section="<｜tool▁calls▁begin｜>",
            opens=("<｜tool▁call▁begin｜>",),
            closes=("<｜tool▁call▁end｜>", "<｜tool▁calls▁end｜>"),
            objects=False,
            header=r"function<｜tool▁sep｜>(?P<name>[^\s<]+)\n```json\n\s*",
            tail="\n```",
            inner_tokens=("<｜tool▁sep｜>",),
        ),
        Layout(
            ("<｜tool▁call▁begin｜>function<｜tool▁sep｜>", "\n```json\n", "\n```<｜tool▁call▁end｜>"),
            before="<｜tool▁calls▁begin｜>",
            between="\n",
            after="<｜tool▁calls▁end｜>",
        ),
        ("<｜tool▁sep｜>", "```json"),
    ),
    "deepseek_v31": ToolParser(
        Tagged(
            section="<｜tool▁calls▁begin｜>",
            opens=("<｜tool▁call▁begin｜>",),
            closes=("<｜tool▁call▁end｜>", "<｜tool▁calls▁end｜>"),
            objects=False,
            header=r"(?P<name>[^\s<]+)<｜tool▁sep｜>\s*",
            inner_tokens=("<｜tool▁sep｜>",),
        ),
        Layout(
            ("<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>"),
            before="<｜tool▁calls▁begin｜>",
            after="<｜tool▁calls▁end｜>",
        ),
        ("<｜tool▁sep｜>",),
    ),
    "kimi_k2": ToolParser(
        Tagged(
            section="<|tool_calls_section_begin|>",
            opens=("<|tool_call_begin|>",),
            closes=("<|tool_call_end|>", "<|tool_calls_section_end|>"),
            objects=False,
            header=r"(?P<id>(?:functions\.)?(?P<name>[^\s<]+):\d+)\s*<\|tool_call_argument_begin\|>\s*",
            inner_tokens=("<|tool_call_argument_begin|>",),
        ),
        Layout(
            ("<|tool_call_begin|>functions.", ":0<|tool_call_argument_begin|>", "<|tool_call_end|>"),
            before="<|tool_calls_section_begin|>",
            after="<|tool_calls_section_end|>",
        ),
        ("<|tool_call_argument_begin|>",),
    ),
    "mistral_v11": ToolParser(
        _MISTRAL, Layout(("[TOOL_CALLS]", "[ARGS]", "")), ("[TOOL_CALLS]", "[ARGS]"), _new_short_id
    ),
    "mistral": ToolParser(
        _MISTRAL,
        Layout(_OBJECT, before="[TOOL_CALLS][", between=", ", after="]"),
        ("[TOOL_CALLS]",),
        _new_short_id,
    ),
    "deepseek_v32": ToolParser(
        Xml(
            section="<｜DSML｜function_calls>",
            opens=('<｜DSML｜invoke name="',),
            closes=("</｜DSML｜invoke>", "</｜DSML｜function_calls>"),
            name_end='">',
            key='<｜DSML｜parameter name="',
            key_ends=('" string="true">', '" string="false">'),
            value_end="</｜DSML｜parameter>",
            typed=True,
            inner_tokens=("｜DSML｜",),
        ),
        Layout(
            ('<｜DSML｜invoke name="', '">\n', "</｜DSML｜invoke>"),
            before="<｜DSML｜function_calls>\n",
            between="\n",
            after="\n</｜DSML｜function_calls>",
        ),
        ("｜DSML｜",),
    ),
    "minimax_m2": ToolParser(
        Xml(
            section="<minimax:tool_call>",
            opens=('<invoke name="',),
            closes=("</invoke>", "</minimax:tool_call>"),
            name_end='">',
            key='<parameter name="',
            key_ends=('">',),
            value_end="</parameter>",
        ),
        Layout(
            ('<invoke name="', '">\n', "</invoke>"),
            before="<minimax:tool_call>\n",
            between="\n",
            after="\n</minimax:tool_call>",
        ),
        ("<minimax:tool_call>",),
    ),
    "seed_oss": ToolParser(
        Xml(
            section="<seed:tool_call>",
            opens=("<function=",),
            closes=("</function>", "</seed:tool_call>"),
            name_end=">",
            key="<parameter=",
            key_ends=(">",),
            value_end="</parameter>",
        ),
        Layout(
            ("<seed:tool_call>\n<function=", ">\n", "</function>\n</seed:tool_call>"),
            between="\n",
        ),
        ("<seed:tool_call>",),
    ),
    "glm45": ToolParser(
        Xml(
            opens=("<tool_call>",),
            closes=("</tool_call>",),
            key="<arg_key>",
            key_ends=("</arg_key>\n<arg_value>", "</arg_key><arg_value>"),
            value_end="</arg_value>",
            inner_tokens=("<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"),
        ),
        Layout(("<tool_call>", "\n", "</tool_call>"), between="\n"),
        ("<arg_key>",),
    ),
    "qwen3_coder": ToolParser(
        Xml(
            section="<tool_call>",
            opens=("<function=",),
            closes=("</function>", "</tool_call>"),
            name_end=">",
            key="<parameter=",
            key_ends=(">",),
            value_end="</parameter>",
            padded=True,
        ),
        Layout(("<tool_call>\n<function=", ">\n", "</function>\n</tool_call>"), between="\n"),
        ("<tool_call>", "<function="),
    ),
    "phi4_mini_json": ToolParser(
        Tagged(opens=("functools", "<|tool_call|>"), closes=("<|/tool_call|>",)),
        Layout(_OBJECT, before="functools[", between=", ", after="]"),
        ("<|/tool_call|>",),
    ),
    "granite": ToolParser(
        Tagged(opens=("<|tool_call|>", "<tool_call>"), closes=("</tool_call>",)),
        Layout(_OBJECT, before="<|tool_call|>[", between=", ", after="]"),
        ("<|tool_call|>",),
    ),
    "granite-20b-fc": ToolParser(
        Tagged(opens=("<function_call>",)),
        Layout(("<function_call> " + _NAME, _ARGUMENTS, "}"), between="\n"),
        ("<function_call>",),
    ),
    "hermes": ToolParser(
        Tagged(opens=("<tool_call>",), closes=("</tool_call>",)),
        Layout(("<tool_call>\n" + _NAME, _ARGUMENTS, "}\n</tool_call>"), between="\n"),
        ("<tool_call>",),
    ),
    "internlm": ToolParser(
        Tagged(
            opens=("<|action_start|><|plugin|>",),
            closes=("<|action_end|>",),
            inner_tokens=("<|action_start|>", "<|plugin|>"),
        ),
        Layout(("<|action_start|><|plugin|>\n" + _NAME, _PARAMETERS, "}<|action_end|>"), between="\n"),
        ("<|action_start|>", "<|plugin|>"),
    ),
    "jamba": ToolParser(
        Tagged(opens=("<tool_calls>",), closes=("</tool_calls>",)),
        Layout(_OBJECT, before="<tool_calls>[", between=", ", after="]</tool_calls>"),
        ("<tool_calls>",),
    ),
    "nemotron_json": ToolParser(
        Tagged(opens=("<TOOLCALL>",), closes=("</TOOLCALL>",)),
        Layout(_OBJECT, before="<TOOLCALL>[", between=", ", after="]</TOOLCALL>"),
        ("<TOOLCALL>",),
    ),
    "lfm2": ToolParser(
        Pythonic(opens=("<|tool_call_start|>",), closes=("<|tool_call_end|>",)),
        Layout(_PYTHON, before="<|tool_call_start|>[", between=", ", after="]<|tool_call_end|>"),
        ("<|tool_call_start|>",),
    ),
    "olmo3": ToolParser(
        Pythonic(opens=("<function_calls>",), closes=("</function_calls>",)),
        Layout(_PYTHON, before="<function_calls>", between="\n", after="</function_calls>"),
        ("<function_calls>",),
    ),
    "llama4_pythonic": ToolParser(
        Pythonic(opens=("<|python_start|>",), closes=("<|python_end|>",), bare="["),
        Layout(_PYTHON, before="[", between=", ", after="]"),
        ("<|python_start|>",),
    ),
    "pythonic": ToolParser(
        Pythonic(bare="["),
        Layout(_PYTHON, before="[", between=", ", after="]"),
        ("[func_name1(",),
    ),
    "llama3_json": ToolParser(
        Tagged(opens=("<|python_tag|>",), bare="{"),
        Layout((_NAME, _PARAMETERS, "}"), between="; "),
        ('{"name": function name, "parameters":',),
    ),
    "xlam": ToolParser(Tagged(bare="["), Layout(_OBJECT, before="[", between=", ", after="]")),
}

# Other engines' names of the same formats.
TOOL_PARSERS |= {
    "deepseekv3": TOOL_PARSERS["deepseek_v3"],
    "deepseekv31": TOOL_PARSERS["deepseek_v31"],
    "gpt-oss": TOOL_PARSERS["openai"],
    "llama3": TOOL_PARSERS["llama3_json"],
    "llama4_json": TOOL_PARSERS["llama3_json"],
    "qwen25": TOOL_PARSERS["hermes"],
}

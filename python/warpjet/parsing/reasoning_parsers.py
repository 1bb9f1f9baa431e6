"""The formats in which models write their reasoning. A new one is a row."""

from dataclasses import dataclass

from warpjet.parsing.harmony import CHANNEL, Harmony
from warpjet.parsing.reasoning import TagPair


@dataclass(frozen=True, slots=True)
class ReasoningParser:
    """signs: what the source of a chat template has in it, all of it, if its model writes this format."""

    format: TagPair | Harmony
    signs: tuple[str, ...] = ()


_THINK = TagPair(opens=("<think>",), closes=("</think>",))

# Where several rows have their signs in a template, the first is taken.
REASONING_PARSERS: dict[str, ReasoningParser] = {
    "openai_gptoss": ReasoningParser(Harmony(), (CHANNEL, "analysis")),
    "mistral": ReasoningParser(TagPair(opens=("[THINK]",), closes=("[/THINK]",), anywhere=True), ("[THINK]",)),
    "granite": ReasoningParser(
        TagPair(
            opens=("Here is my thought process:", "Here's my thought process:"),
            closes=("Here is my response:", "Here's my response:"),
        ),
        ("Here is my thought process:",),
    ),
    "seed_oss": ReasoningParser(
        TagPair(
            opens=("<seed:think>", "<seed:think><seed:cot_budget_reflect>"),
            closes=("</seed:think>",),
        ),
        ("</seed:think>",),
    ),
    "kimi": ReasoningParser(TagPair(opens=("◁think▷",), closes=("◁/think▷",)), ("◁/think▷",)),
    # Whether an answer begins with reasoning, its prompt says, or its own first marker. deepseek_r1 takes it for
    # granted, as old templates need it; but an answer to a tool's result may have none.
    "deepseek_r1": ReasoningParser(TagPair(opens=_THINK.opens, closes=_THINK.closes, assumed=True)),
    "deepseek_v3": ReasoningParser(_THINK, ("<｜Assistant｜>", "</think>")),
    "glm45": ReasoningParser(_THINK, ("</think>", "<arg_key>")),
    "qwen3": ReasoningParser(_THINK, ("</think>",)),
    "think": ReasoningParser(_THINK),
}

# Other engines' names of the same formats.
REASONING_PARSERS |= {
    "deepseek-r1": REASONING_PARSERS["deepseek_r1"],
    "deepseek-v3": REASONING_PARSERS["deepseek_v3"],
    "gpt-oss": REASONING_PARSERS["openai_gptoss"],
}

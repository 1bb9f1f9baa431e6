"""Whole answers of LLM.chat(): what is asked of the model for their sake, and what they mean."""

from collections.abc import Sequence
from dataclasses import dataclass

from warpjet._native import SamplingParams
from warpjet.parsing.chat_parser import ChatParser, shown_tokens
from warpjet.parsing.constraint import completion_constraint
from warpjet.parsing.detection import ParserNames
from warpjet.requests.outputs import RequestOutput
from warpjet.text.prompts import Prompt
from warpjet.text.tokenizer import Tokenizer
from warpjet.text.tools import ToolChoice, Tools


@dataclass(frozen=True, slots=True)
class AnswerReader:
    """Of one chat() call."""

    names: ParserNames
    tools: Tools | None
    tool_choice: ToolChoice
    parallel: bool
    continued: bool

    def prepare(
        self, prompts: Sequence[Prompt], params: SamplingParams | Sequence[SamplingParams], tokenizer: Tokenizer
    ) -> SamplingParams | list[SamplingParams]:
        """The sampling of each prompt, with what it and tool_choice constrain; markers become visible. Raises
        ValueError where that cannot be granted."""
        for prompt in prompts:
            prompt.shown_tokens = shown_tokens(*self.names)
        each = [params] * len(prompts) if isinstance(params, SamplingParams) else params
        if len(each) != len(prompts):
            raise ValueError(f"sampling_params has {len(each)} entries for {len(prompts)} prompts")
        return [self._constrained(p, prompt, tokenizer) for p, prompt in zip(each, prompts, strict=True)]

    def read(self, outputs: Sequence[RequestOutput]) -> None:
        """Fills in what the completions mean."""
        for output in outputs:
            for completion in output.outputs:
                parser = ChatParser(
                    self.names.reasoning,
                    self.names.tool,
                    self.tools,
                    self.tool_choice,
                    output.prompt or "",
                    parallel=self.parallel,
                    continued=self.continued,
                )
                answer = parser.parse(completion.text, is_whole=completion.is_whole)
                completion.content = answer.content
                completion.reasoning = answer.reasoning if self.names.reasoning else None
                completion.tool_calls = answer.tool_calls if self.names.tool else None

    def _constrained(self, params: SamplingParams, prompt: Prompt, tokenizer: Tokenizer) -> SamplingParams:
        constraint = completion_constraint(
            self.names,
            self.tools,
            self.tool_choice,
            params.structured_outputs,
            parallel=self.parallel,
            prompt=prompt.text or "",
            continued=self.continued,
            token_id=tokenizer.token_id,
        )
        return params if constraint is None else params.replace(structured_outputs=constraint)

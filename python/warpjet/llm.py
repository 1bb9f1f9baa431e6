"""LLM: generate text from many prompts at once."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NoReturn, Unpack

from warpjet._native import SamplingParams
from warpjet.requests.background import Background, Generation
from warpjet.requests.batch import Answer, Batch, ParamsType, Requests, one_each
from warpjet.requests.beams import BeamSearchOutput, BeamSearchParams, beam_search_output
from warpjet.requests.chat_call import AnswerReader, ChatCall, ChatKeywords, ChatOptions
from warpjet.requests.embedding import EmbeddingBatch, PoolingType
from warpjet.requests.opened import OpenedModel
from warpjet.requests.outputs import EmbeddingRequestOutput, RequestOutput
from warpjet.text.chat import Conversation
from warpjet.text.prompts import Prompt, PromptsType, PromptType
from warpjet.text.tools import ToolChoice, Tools


class LLM(OpenedModel):
    """A model that completes prompts. May be used from several threads, and as a context manager.

    model: directory of a Hugging Face checkpoint or of an engine, or a name of the hub, org/name or
    org/name@revision, that the local cache has; None is the small model that comes with warpjet.
    tokenizer: another directory to take the tokenizer from. chat_template: a Jinja template or its path.
    reasoning_parser, tool_call_parser: names of the formats in which the model writes its reasoning and its tool calls,
    "auto" for those that fit its chat template, or None; chat() reads its answers with them.
    generation_config: "auto" takes the default sampling from the checkpoint, "vllm" or "warpjet" neutral values.
    Other keywords are the fields of EngineConfig (max_model_len, max_num_seqs, seed, ...); None is the default. Names
    that other engines know are accepted where they change nothing.

    Raises FileNotFoundError, ModelFormatError, ValueError, TypeError or NotImplementedError, naming the cause."""

    def _start(self) -> None:
        self._background = Background(self._session)
        self._session.readers.append(self._background.join)
        self._enqueued: deque[Batch] = deque()

    def generate(
        self,
        prompts: PromptsType,
        sampling_params: ParamsType | None = None,
        *,
        use_tqdm: bool = True,
        lora_request: None = None,
        priority: int | Sequence[int] | None = None,
        tokenization_kwargs: None = None,
    ) -> list[RequestOutput]:
        """Complete each prompt; order is kept.

        prompts: a str, {"prompt": ...}, {"prompt_token_ids": [...]}, token ids, or a list of these. sampling_params:
        one for all or one for each; None is get_default_sampling_params(). priority: lower runs first, with
        scheduling_policy="priority". Raises ValueError, TypeError or NotImplementedError for a request that cannot
        run; nothing of the call goes on then. A failure while it runs gives that completion's finish_reason "error"."""
        _require_none(lora_request=lora_request, tokenization_kwargs=tokenization_kwargs)
        return self._complete(self._session.prepare(prompts), sampling_params, priority, use_tqdm)

    def chat(
        self,
        messages: Conversation | Sequence[Conversation],
        sampling_params: ParamsType | None = None,
        use_tqdm: bool = True,
        lora_request: None = None,
        chat_template: str | None = None,
        chat_template_content_format: str | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        tools: Tools | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        tool_choice: ToolChoice = "auto",
        parallel_tool_calls: bool = True,
        add_special_tokens: bool = False,
    ) -> list[RequestOutput]:
        """Answer one conversation or a list of them: lists of {"role": ..., "content": ...}. Raises as generate().

        chat_template_content_format: the template gets content as a "string", as a list of parts ("openai"), or as it
        reads it ("auto", or None). tools: functions that the model may call, as OpenAI's API has them; a template that
        knows no tools gets them as text of the system message, in the format of Hermes. tool_choice: "auto", "none",
        "required", or {"type": "function", "function": {"name": ...}}; the last two constrain the answer.
        add_special_tokens: the tokenizer adds its own to those that the template writes. With the parsers on, outputs
        have content, reasoning and tool_calls."""
        _require_none(lora_request=lora_request)
        options = ChatOptions(
            chat_template=chat_template,
            chat_template_content_format=chat_template_content_format,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=continue_final_message,
            tools=tools,
            chat_template_kwargs=chat_template_kwargs,
            tool_choice=tool_choice,
            parallel_tool_calls=parallel_tool_calls,
            add_special_tokens=add_special_tokens,
        )
        calls = self._session.prepare_chat(messages, options)
        params = self._sampling(calls, sampling_params)
        outputs = self._complete([call.prompt for call in calls], params, None, use_tqdm)
        return [AnswerReader(call).read(output) for call, output in zip(calls, outputs, strict=True)]

    def stream(
        self,
        prompts: PromptsType,
        sampling_params: ParamsType | None = None,
        *,
        priority: int | Sequence[int] | None = None,
    ) -> Iterator[RequestOutput]:
        """Outputs as they come, by each request's output_kind; request_id tells them apart ("0" is the first prompt of
        a fresh LLM). Closing the iterator cancels what still runs."""
        return Batch(self._session, self._session.prepare(prompts), sampling_params, priority).outputs()

    def stream_chat(
        self,
        messages: Conversation | Sequence[Conversation],
        sampling_params: ParamsType | None = None,
        **chat_options: Unpack[ChatKeywords],
    ) -> Iterator[RequestOutput]:
        """stream() for conversations; chat_options are those of chat(). A tool call is in an output when it is
        complete: in each one from then on, or in a stream of deltas in that one alone."""
        calls = self._session.prepare_chat(messages, ChatOptions(**chat_options))
        params = self._sampling(calls, sampling_params)
        batch = Batch(self._session, [call.prompt for call in calls], params, None)
        readers = [
            AnswerReader(call, deltas=one.output_kind == "delta") for call, one in zip(calls, params, strict=True)
        ]
        return _read(batch, readers)

    def generate_async(
        self,
        prompt: PromptType,
        sampling_params: SamplingParams | None = None,
        *,
        lora_request: None = None,
        streaming: bool | None = None,
        priority: int = 0,
    ) -> Generation:
        """Submits one prompt and returns at once, with a handle: result(timeout), await, or iteration by the request's
        output_kind; streaming: whether that gives outputs as they come, or the last alone. Raises as generate(), and
        QueueFullError when the engine takes no more at the moment."""
        _require_none(lora_request=lora_request)
        prompts = self._session.prepare(prompt)
        if len(prompts) != 1:
            raise ValueError("generate_async() takes one prompt; call it once for each")
        params = self._session.default_params if sampling_params is None else sampling_params
        if streaming is not None and streaming == (params.output_kind == "final_only"):
            params = params.replace(output_kind="cumulative" if streaming else "final_only")
        return self._background.submit(prompts[0], params, priority)

    def enqueue(
        self,
        prompts: PromptsType,
        sampling_params: ParamsType | None = None,
        *,
        lora_request: None = None,
        priority: int | Sequence[int] | None = None,
    ) -> list[str]:
        """Starts what generate() would run and returns the request ids; wait_for_completion() gives the outputs. What
        the engine's queue has no room for starts then. Raises as generate()."""
        _require_none(lora_request=lora_request)
        batch = Batch(self._session, self._session.prepare(prompts), sampling_params, priority, kind="final_only")
        try:
            batch.submit()
        except BaseException:
            batch.cancel()
            raise
        self._enqueued.append(batch)
        return batch.request_ids

    def wait_for_completion(self, *, use_tqdm: bool = True) -> list[RequestOutput]:
        """The final outputs of all that was enqueued and not waited for yet, in that order."""
        outputs: list[RequestOutput] = []
        with contextlib.suppress(IndexError):
            while True:
                outputs += self._collect(self._enqueued.popleft(), use_tqdm)
        return outputs

    def beam_search(
        self,
        prompts: PromptsType,
        params: BeamSearchParams,
        lora_request: None = None,
        use_tqdm: bool = False,
    ) -> list[BeamSearchOutput]:
        """The beam_width most likely continuations of each prompt. Raises as generate(); EngineError when the engine
        fails on the way."""
        _require_none(lora_request=lora_request)
        if not isinstance(params, BeamSearchParams):
            raise TypeError(f"params must be BeamSearchParams, got {type(params).__name__}")
        outputs = self._complete(self._session.prepare(prompts), params.sampling_params(), None, use_tqdm)
        return [beam_search_output(output, params, self._session.tokenizer) for output in outputs]

    def embed(
        self,
        prompts: PromptsType,
        *,
        use_tqdm: bool = True,
        pooling_params: PoolingType | None = None,
        lora_request: None = None,
        priority: int | Sequence[int] | None = None,
    ) -> list[EmbeddingRequestOutput]:
        """Each prompt as a vector, of the model's hidden states after its last norm; order is kept. pooling_params: one
        for all or one for each; None takes the last token's, at length one. Raises as generate(); EngineError when the
        engine fails on the way."""
        _require_none(lora_request=lora_request)
        batch = EmbeddingBatch(self._session, self._session.prepare(prompts), pooling_params, priority)
        return self._collect(batch, use_tqdm)

    def reset_prefix_cache(self) -> bool:
        """Forgets the KV blocks of finished requests."""
        self._session.engine.reset_prefix_cache()
        return True

    def encode(self, *_: object, **__: object) -> NoReturn:
        """Refused: embed() gives the vector of a prompt, get_tokenizer().encode() its token ids."""
        raise NotImplementedError(
            "encode() is not supported: embed() gives vectors, get_tokenizer().encode() token ids"
        )

    def score(self, *_: object, **__: object) -> NoReturn:
        """Refused: there are no heads for pairs; compare the vectors of embed()."""
        raise NotImplementedError("score() is not supported: compare the vectors of embed()")

    def classify(self, *_: object, **__: object) -> NoReturn:
        """Refused: every model generates text; SamplingParams(structured_outputs={"choice": ...}) chooses a label."""
        raise NotImplementedError('classify() is not supported: generate() with structured_outputs={"choice": [...]}')

    def reward(self, *_: object, **__: object) -> NoReturn:
        """Refused: there are no reward heads."""
        raise NotImplementedError("reward() is not supported: every model here generates text")

    def _sampling(self, calls: list[ChatCall], params: ParamsType | None) -> list[SamplingParams]:
        """Of each call, with what it constrains."""
        given = self._session.default_params if params is None else params
        each = one_each("sampling_params", given, len(calls))
        return [call.sampling(one) for call, one in zip(calls, each, strict=True)]

    def _complete(
        self,
        prompts: list[Prompt],
        sampling_params: ParamsType | None,
        priority: int | Sequence[int] | None,
        use_tqdm: bool,
    ) -> list[RequestOutput]:
        return self._collect(Batch(self._session, prompts, sampling_params, priority, kind="final_only"), use_tqdm)

    def _collect(self, batch: Requests[Answer], use_tqdm: bool) -> list[Answer]:
        """Runs all and returns the final outputs in order, with a progress bar if it takes more than a second."""
        done: dict[int, Answer] = {}
        tokens = 0
        total = len(batch.request_ids)
        with contextlib.closing(batch.run()) as stream, _progress_bar(total, use_tqdm) as bar:
            for index, output in stream:
                done[index] = output
                tokens += _tokens_of(output)
                if not bar.disable:
                    seconds = max(bar.format_dict["elapsed"], 1e-3)
                    bar.set_postfix_str(f"{tokens / seconds:.0f} tok/s", refresh=False)
                bar.update()
        return [done[index] for index in range(total)]


def _read(batch: Batch, readers: list[AnswerReader]) -> Iterator[RequestOutput]:
    with contextlib.closing(batch.run()) as outputs:
        for index, output in outputs:
            yield readers[index].read(output)


def _require_none(**values: object) -> None:
    for name, value in values.items():
        if value is not None:
            raise NotImplementedError(f"{name} is not supported, only None")


def _tokens_of(answer: Any) -> int:
    """Those that the engine made, or read of a prompt to be embedded."""
    if isinstance(answer, RequestOutput):
        return sum(len(completion.token_ids) for completion in answer.outputs)
    return len(answer.prompt_token_ids)


def _progress_bar(total: int, wanted: bool) -> Any:
    from tqdm import tqdm  # type: ignore[import-untyped, unused-ignore]

    # disable=None: only where a person can see it; delay: only when it takes long.
    return tqdm(total=total, desc="prompts", unit="prompt", disable=None if wanted else True, delay=1)

"""An opened model: engine, tokenizer, chat template and default sampling. LLM and AsyncLLM stand on it."""

import asyncio
import atexit
import itertools
import os
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from warpjet._native import Engine, ModelFormatError, OutputQueue, PoolingParams, SamplingParams
from warpjet.common.files import check_writable
from warpjet.common.foreign import rows
from warpjet.parsing.detection import find_parsers, parsers_for
from warpjet.requests.arguments import engine_config
from warpjet.requests.assembly import native_params, require_sampling_params
from warpjet.requests.chat_call import ChatCall, ChatOptions
from warpjet.requests.locate import find_directory, find_model
from warpjet.text.chat import ChatTemplate, Conversation, is_conversation, load_chat_template, read_template
from warpjet.text.prompts import Prompt, PromptsType, parse_prompts, tokenize
from warpjet.text.tokenizer import Tokenizer
from warpjet.text.tokenizer_files import read_json

if TYPE_CHECKING:
    from warpjet.guided.grammars import Grammar, Job
    from warpjet.guided.guides import Guides

# What generation_config.json may recommend, by its names.
_RECOMMENDED = ("repetition_penalty", "temperature", "top_k", "top_p", "min_p", "max_new_tokens")

_NATIVE = {field.name: field for field in SamplingParams.__fields__}
_MAX_STOP_TOKENS = _NATIVE["stop_token_ids"].shape["maxItems"]
_MAX_AT_ONCE = 4096  # characters of bad_words that an event loop tokenises


@dataclass(slots=True)
class Guided:
    """What the engine is asked for when structured_outputs say what the text must be."""

    params: SamplingParams
    grammar: "Grammar"


NativeParams = SamplingParams | Guided

_open_sessions: "weakref.WeakSet[Session]" = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """Engine threads must be gone before the interpreter is."""
    for session in list(_open_sessions):
        session.close()


class Session:
    """Safe to use from several threads. After a fork, the child's calls raise EngineError."""

    def __init__(
        self,
        model: str | Path | None,
        *,
        tokenizer: str | Path | None = None,
        skip_tokenizer_init: bool = False,
        chat_template: str | Path | None = None,
        generation_config: str | Path = "auto",
        parsers: tuple[str | None, str | None] = (None, None),
        options: Mapping[str, Any],
    ) -> None:
        find_parsers("", names_given=parsers)  # a wrong name is known before anything is loaded
        config = engine_config(options)
        if config.trace:
            check_writable(config.trace, "trace")
        self.directory = find_model(model, weights=config.device != "null" and config.load_format != "dummy")
        self.tokenizer: Tokenizer | None = None
        if not skip_tokenizer_init:
            self.tokenizer = Tokenizer(self.directory if tokenizer is None else find_directory(tokenizer))
        self.chat_template = self._find_chat_template(chat_template)
        if self.tokenizer is not None:
            self.tokenizer.chat_template = self.chat_template
        self.parsers = parsers_for(self.chat_template, self.tokenizer, parsers)
        defaults = default_params(self.directory, generation_config)
        self.engine = Engine.open(self.directory, config)
        # A recommendation is no wish: it gives way to a shorter context.
        limit = self.engine.model.max_model_len
        self.default_params = defaults.replace(max_tokens=min(defaults.max_tokens or limit, limit))
        self._guides: Guides | None = None
        self._guides_lock = threading.Lock()
        self.content_format = "auto"  # in which chat templates get content
        self.readers: list[Callable[[], None]] = []  # wait for threads that end when the engine has ended
        self._numbers = itertools.count()
        self._process = os.getpid()
        _open_sessions.add(self)

    def next_request_id(self) -> str:
        """ "0", "1", ..."""
        return str(next(self._numbers))

    def prepare(self, prompts: PromptsType, add_special_tokens: bool = True) -> list[Prompt]:
        """Prompts with token ids. Raises ValueError for one that the context cannot hold."""
        parsed = parse_prompts(prompts)
        tokenize(parsed, self.tokenizer, self.engine.model.max_model_len, add_special_tokens)
        return parsed

    def prepare_chat(
        self,
        messages: Conversation | Sequence[Conversation],
        options: ChatOptions,
        template: ChatTemplate | None = None,
    ) -> list[ChatCall]:
        """One conversation or a list of them, with their prompts. `template` comes before that of the options. Raises
        ValueError without a chat template."""
        conversations: Any = [messages] if is_conversation(messages) else messages
        if template is None:
            given = options.chat_template
            template = self.chat_template if given is None else self._compile(given)
        if template is None or self.tokenizer is None:
            raise ValueError(
                "the model has no chat template; pass chat_template (--chat-template), a Jinja template or its path"
            )
        texts = [
            template.render(
                conversation,
                add_generation_prompt=options.add_generation_prompt,
                continue_final_message=options.continue_final_message,
                tools=options.offered_tools,
                chat_template_kwargs=options.chat_template_kwargs,
                content_format=options.chat_template_content_format or self.content_format,
            )
            for conversation in conversations
        ]
        prompts = self.prepare(texts, options.add_special_tokens)
        return [ChatCall(prompt, options, self.parsers, self.tokenizer) for prompt in prompts]

    def submit(
        self,
        prompt: Prompt,
        params: NativeParams,
        queue: OutputQueue,
        priority: int = 0,
        tenant: str = "",
        pooling: PoolingParams | None = None,
    ) -> int:
        """Hands a prepared prompt to the engine; params are native_params()."""
        token_ids = prompt.token_ids or ()
        options: dict[str, Any] = {"priority": priority, "cache_salt": prompt.cache_salt, "tenant": tenant}
        if isinstance(params, SamplingParams):
            return self.engine.submit(token_ids, params, queue, pooling=pooling, **options)
        sampling = params.params
        return self._open_guides().submit(
            params.grammar,
            sampling,
            lambda mask, guide: self.engine.submit(token_ids, sampling, queue, mask=mask, guide_queue=guide, **options),
        )

    def native_params(self, params: SamplingParams) -> NativeParams:
        """What the engine is asked for. Compiles structured_outputs, which may take seconds: on an event loop, use
        native_params_async(). Raises ValueError, ModuleNotFoundError without llguidance."""
        native, job = self._lower(params)
        return native if job is None else Guided(native, job.wait())

    async def native_params_async(self, params: SamplingParams) -> NativeParams:
        """The same, without blocking the event loop."""
        if isinstance(params, SamplingParams) and sum(map(len, params.bad_words)) > _MAX_AT_ONCE:
            native, job = await asyncio.to_thread(self._lower, params)
        else:
            native, job = self._lower(params)
        return native if job is None else Guided(native, await job.wait_async())

    def _lower(self, params: SamplingParams) -> "tuple[SamplingParams, Job | None]":
        require_sampling_params(params)
        native = self._ended(native_params(params, self.tokenizer))
        if (structured := params.structured_outputs) is None:
            return native, None
        if params.beam_width > 1:
            raise ValueError("structured_outputs does not go with beam_width above 1")
        return native.replace(structured_outputs=None), self._open_guides().compile(structured)

    def _ended(self, params: SamplingParams) -> SamplingParams:
        """With the tokenizer's end of text where the checkpoint's configs leave it out: chat models end their turns
        with it."""
        model, eos = self.engine.model, self.tokenizer.eos_token_id if self.tokenizer else None
        if eos is None or eos in model.eos_token_ids or eos >= model.vocab_size:
            return params
        stops = list(params.stop_token_ids)
        if params.ignore_eos or eos in stops or len(stops) >= _MAX_STOP_TOKENS:
            return params
        return params.replace(stop_token_ids=[*stops, eos])

    def _open_guides(self) -> "Guides":
        from warpjet.guided.guides import Guides

        if self.tokenizer is None:
            raise ValueError("structured_outputs needs a tokenizer, but skip_tokenizer_init is True")
        with self._guides_lock:
            if self._guides is None:
                self._guides = Guides(self.engine, self.tokenizer)
            return self._guides

    def close(self) -> None:
        """Ends live requests with abort and joins the engine's threads. Idempotent; nothing in a forked child."""
        _open_sessions.discard(self)
        if os.getpid() == self._process:
            self.engine.close()
            if self._guides is not None:
                self._guides.join()
            for join in self.readers:
                join()

    def _find_chat_template(self, given: str | Path | None) -> ChatTemplate | None:
        if self.tokenizer is None:
            return None
        if given is not None:
            return self._compile(given)
        return load_chat_template(self.directory, self.tokenizer.config, self.tokenizer.special_tokens)

    def _compile(self, template: str | Path) -> ChatTemplate:
        if self.tokenizer is None:
            raise ValueError("a chat template needs a tokenizer, but skip_tokenizer_init is True")
        source = str(template)
        if isinstance(template, Path) or ("{" not in source and "\n" not in source):
            source = read_template(Path(template))
        return ChatTemplate({"default": source}, self.tokenizer.special_tokens)


def default_params(directory: Path, generation_config: str | Path) -> SamplingParams:
    """The sampling that a checkpoint recommends ("auto", or another directory), or neutral ("vllm", "warpjet")."""
    if generation_config in ("vllm", "warpjet"):
        return SamplingParams()
    source = directory if generation_config == "auto" else find_directory(generation_config)
    path = source / "generation_config.json"
    values = read_json(path, required=generation_config != "auto")
    foreign = rows("sampling")
    ours = {name: name if name in _NATIVE else foreign[name].ours for name in _RECOMMENDED}
    known = {ours[name]: values[name] for name in _RECOMMENDED if values.get(name) is not None}
    try:
        return SamplingParams.from_dict(known)
    except (TypeError, ValueError) as error:
        raise ModelFormatError(f"{path}: {error}; pass generation_config='warpjet' to leave it unread") from None

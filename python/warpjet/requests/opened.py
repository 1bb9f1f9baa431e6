"""The part that LLM and AsyncLLM share: opening a model, its properties and figures, and closing it."""

from pathlib import Path
from types import TracebackType
from typing import NoReturn, Self, Unpack

from warpjet._native import ModelInfo, SamplingParams
from warpjet.requests.engine_options import EngineArgs, OtherOptions
from warpjet.requests.session import Session
from warpjet.text.tokenizer import Tokenizer


class OpenedModel:
    """An opened model, and a context manager that closes it. LLM documents the arguments."""

    def __init__(
        self,
        model: str | Path | None = None,
        *,
        tokenizer: str | Path | None = None,
        skip_tokenizer_init: bool = False,
        chat_template: str | Path | None = None,
        generation_config: str | Path = "auto",
        reasoning_parser: str | None = None,
        tool_call_parser: str | None = None,
        **options: Unpack[OtherOptions],
    ) -> None:
        self._session = Session(
            model,
            tokenizer=tokenizer,
            skip_tokenizer_init=skip_tokenizer_init,
            chat_template=chat_template,
            generation_config=generation_config,
            parsers=(reasoning_parser, tool_call_parser),
            options=options,
        )
        self._start()

    def _start(self) -> None:
        """Sets up what a subclass has beside its session, which is open."""

    @classmethod
    def from_engine_args(cls, engine_args: EngineArgs) -> Self:
        """The class called with **engine_args, and raises as that."""
        return cls(**engine_args)

    @property
    def session(self) -> Session:
        """Engine, tokenizer and chat template."""
        return self._session

    def get_tokenizer(self) -> Tokenizer:
        """Raises ValueError when there is none (skip_tokenizer_init=True)."""
        if self._session.tokenizer is None:
            raise ValueError("there is no tokenizer: skip_tokenizer_init is True")
        return self._session.tokenizer

    def get_default_sampling_params(self) -> SamplingParams:
        """What generate() uses without sampling_params: a copy."""
        return self._session.default_params.replace()

    def get_model_info(self) -> ModelInfo:
        """Architecture, sizes and limits of the model."""
        return self._session.engine.model

    def get_load_report(self) -> dict[str, int | float | str]:
        """How the weights were loaded: source, bytes, threads, seconds."""
        return self._session.engine.load_report

    def get_metrics(self) -> dict[str, int]:
        """Counters and gauges of the engine: steps, tokens, preemptions, queue and KV blocks."""
        return self._session.engine.stats()

    def get_prometheus_metrics(self) -> str:
        """Counters, gauges and histograms in Prometheus' text format."""
        return self._session.engine.metrics()

    def shutdown(self) -> None:
        """Ends live requests with finish_reason "abort", which their streams still yield, and frees the threads.
        Idempotent."""
        self._session.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.shutdown()

    def __repr__(self) -> str:
        model, config = self.get_model_info(), self._session.engine.config
        return (
            f"{type(self).__name__}(model={str(self._session.directory)!r}, device={config.device!r}, "
            f"dtype={config.dtype!r}, max_model_len={model.max_model_len}, max_num_seqs={config.max_num_seqs})"
        )

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"an {type(self).__name__} cannot be pickled; open it in the worker")

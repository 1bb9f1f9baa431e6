"""Prompts as vectors: what is asked of the engine, and what comes back."""

from collections.abc import Sequence

from warpjet._native import EngineError, Output, PoolingParams, SamplingParams
from warpjet.requests.batch import Requests, one_each
from warpjet.requests.outputs import EmbeddingOutput, EmbeddingRequestOutput, RequestMetrics
from warpjet.requests.session import Session
from warpjet.text.prompts import Prompt

PoolingType = PoolingParams | Sequence[PoolingParams]

NO_SAMPLING = SamplingParams()


class Embedding:
    """One request from submission to its answer. Raises EngineError when the engine could not give one."""

    unread_tokens, begun, token_work = 0, False, 1  # nothing is shown before the end

    def __init__(self, request_id: str, prompt: Prompt) -> None:
        self._request_id = request_id
        self._prompt = prompt
        self._final: Output | None = None

    @property
    def finished(self) -> bool:
        return self._final is not None

    def feed(self, output: Output) -> bool:
        """There is one output only, and nothing to be cancelled after it."""
        self._final = output
        return False

    def catch_up(self, most: float = 0) -> bool:
        """There is nothing that is read later."""
        return False

    def take(self) -> EmbeddingRequestOutput | None:
        final = self._final
        if final is None:
            return None
        if final.finish != "stop":
            cause = final.error or "it was aborted"
            raise EngineError(f"there is no embedding of request {self._request_id}: {cause}")
        return EmbeddingRequestOutput(
            request_id=self._request_id,
            outputs=EmbeddingOutput(final.embedding),
            prompt_token_ids=list(self._prompt.token_ids or ()),
            num_cached_tokens=final.cached_tokens,
            metrics=RequestMetrics(final.queue_ms, final.ttft_ms),
        )


class EmbeddingBatch(Requests[EmbeddingRequestOutput]):
    """Prompts to be embedded."""

    def __init__(
        self,
        session: Session,
        prompts: list[Prompt],
        pooling_params: PoolingType | None,
        priority: int | Sequence[int] | None = None,
    ) -> None:
        self._pooling = [check_pooling(p) for p in one_each("pooling_params", pooling_params, len(prompts))]
        super().__init__(session, prompts, priority)

    def _submit_one(self, index: int) -> int:
        pooling, priority = self._pooling[index], self._priorities[index]
        return self._session.submit(self._prompts[index], NO_SAMPLING, self._queue, priority, pooling=pooling)

    def _collector(self, index: int) -> Embedding:
        return Embedding(self.request_ids[index], self._prompts[index])


def check_pooling(params: object) -> PoolingParams:
    """None is the default."""
    if params is None:
        return PoolingParams()
    if not isinstance(params, PoolingParams):
        raise TypeError(f"pooling_params must be PoolingParams, got {type(params).__name__}")
    return params

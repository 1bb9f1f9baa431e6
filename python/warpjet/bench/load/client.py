"""One request to an OpenAI endpoint, streamed, and when its tokens came."""

import json
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from warpjet.bench.load.datasets import LoadRequest

_KEEP_ALIVE_S = 2.0  # less than any server's: a connection is never used while the server closes it
_READ_BYTES = 1 << 18
_CONTENT = ("content", "reasoning", "reasoning_content", "tool_calls")


@dataclass(frozen=True, slots=True)
class Target:
    """Where requests go, and what all of them say. body: merged into each; None removes a field."""

    base_url: str
    endpoint: str
    model: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Mapping[str, Any] = field(default_factory=dict)
    timeout_s: float = 600.0
    insecure: bool = False

    @property
    def is_chat(self) -> bool:
        return self.endpoint.endswith("/chat/completions")

    def encode(self, request: LoadRequest) -> bytes:
        """The body of a request. Raises ValueError for a chat that goes to completions."""
        body: dict[str, Any] = {"model": self.model, "max_tokens": request.output_tokens}
        if self.is_chat:
            text = [{"role": "user", "content": request.prompt}]
            body["messages"] = text if isinstance(request.prompt, str) else request.prompt
        elif isinstance(request.prompt, str):
            body["prompt"] = request.prompt
        else:
            raise ValueError("messages need --endpoint /v1/chat/completions")
        body |= {"stream": True, "stream_options": {"include_usage": True}, **self.body}
        return json.dumps({key: value for key, value in body.items() if value is not None}).encode()


@dataclass(slots=True)
class Outcome:
    """What became of a request. Moments are perf_counter()'s, in seconds; a chunk is an event with text in it, and may
    hold several tokens. asked_tokens: the most that the answer may have. error: "" for success."""

    sent: float
    error: str = ""
    chunks: list[float] = field(default_factory=list)
    ended: float = 0.0
    input_tokens: int | None = None
    output_tokens: int | None = None
    asked_tokens: int | None = None
    cached_tokens: int = 0
    text: list[str] = field(default_factory=list)
    complete: bool = False

    @property
    def ttft(self) -> float:
        return (self.chunks[0] if self.chunks else self.ended) - self.sent

    @property
    def e2el(self) -> float:
        return self.ended - self.sent

    @property
    def tpot(self) -> float | None:
        """Mean seconds of a token after the first; None where there is no more than one."""
        count = self.output_tokens or 0
        return (self.e2el - self.ttft) / (count - 1) if count > 1 else None


class Client:
    """Connections to one server, for one event loop. keep_text: outcomes hold the text, for counting its tokens."""

    def __init__(self, target: Target, keep_text: bool = False) -> None:
        self.target = target
        self._keep_text = keep_text
        self._url = target.base_url + target.endpoint
        context: ssl.SSLContext | bool = not target.insecure
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEP_ALIVE_S, ssl=context),
            headers={"Content-Type": "application/json", **target.headers},
            timeout=aiohttp.ClientTimeout(total=target.timeout_s, sock_connect=min(30.0, target.timeout_s)),
            read_bufsize=_READ_BYTES,
            auto_decompress=True,
        )

    async def close(self) -> None:
        await self._session.close()

    async def models(self) -> list[str]:
        """Names of the models that are served. Raises OSError or ValueError."""
        try:
            async with self._session.get(self.target.base_url + "/v1/models") as response:
                if response.status != 200:
                    raise ValueError(f"/v1/models answers {await _said(response)}; pass --model")
                return [str(entry["id"]) for entry in (await response.json())["data"]]
        except (KeyError, TypeError, json.JSONDecodeError, aiohttp.ContentTypeError) as error:
            raise ValueError(f"/v1/models is not understood ({error!r}); pass --model") from None
        except aiohttp.ClientError as error:
            raise OSError(f"{self.target.base_url} does not answer: {error}") from None

    async def send(self, body: bytes) -> Outcome:
        """Sends and reads to the end. What goes wrong is the outcome's error; only a cancellation is raised."""
        outcome = Outcome(sent=time.perf_counter())
        try:
            async with self._session.post(self._url, data=body) as response:
                if response.status != 200:
                    outcome.error = await _said(response)
                else:
                    await self._read(response, outcome)
        except TimeoutError:
            outcome.error = f"no end within {self.target.timeout_s:g} s"
        except (aiohttp.ClientError, OSError, ValueError) as error:
            outcome.error = str(error) or type(error).__name__
        if not outcome.error and not outcome.complete:
            outcome.error = "the stream ended before the answer did"
        outcome.ended = outcome.ended or time.perf_counter()
        return outcome

    async def _read(self, response: aiohttp.ClientResponse, outcome: Outcome) -> None:
        rest = b""
        async for data in response.content.iter_any():
            now = time.perf_counter()
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                if line.startswith(b"data:"):
                    self._take(line[5:].strip(), now, outcome)
            if outcome.error:
                return

    def _take(self, data: bytes, now: float, outcome: Outcome) -> None:
        """One event. Raises ValueError for what is not JSON."""
        if data == b"[DONE]":
            outcome.complete = True
            return
        event = json.loads(data)
        if error := event.get("error"):
            outcome.error = str(error.get("message", error) if isinstance(error, dict) else error)
            return
        for choice in event.get("choices") or ():
            delta = choice.get("delta")
            text = choice.get("text") if delta is None else next(filter(None, map(delta.get, _CONTENT)), None)
            if text:
                outcome.chunks.append(now)
                outcome.ended = now
                if self._keep_text and isinstance(text, str):
                    outcome.text.append(text)
            if choice.get("finish_reason"):
                outcome.ended = now
                outcome.complete = True
        if usage := event.get("usage"):
            outcome.input_tokens = usage.get("prompt_tokens")
            outcome.output_tokens = usage.get("completion_tokens")
            outcome.cached_tokens = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0


async def _said(response: aiohttp.ClientResponse) -> str:
    """HTTP 503 Service Unavailable: the server's message."""
    text = (await response.content.read(1000)).decode(errors="replace")
    try:
        error = json.loads(text)["error"]
        text = error["message"] if isinstance(error, dict) else str(error)
    except (ValueError, KeyError, TypeError):
        pass
    return f"HTTP {response.status} {response.reason}: {' '.join(text.split())[:300]}"

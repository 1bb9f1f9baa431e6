"""Large answers are encoded piece by piece, none of them long, and are the same JSON."""

import asyncio
from typing import Any

import pytest

from warpjet.serve.http import exchange
from warpjet.serve.http.exchange import json_in_pieces, to_json

_ROW = {
    "token": 'a"\n',
    "logprob": -1.25,
    "bytes": [97, 34, 10],
    "top_logprobs": [{"token": "b", "logprob": -2.0}] * 20,
}
_LARGE: list[Any] = [
    {"choices": [{"index": 0, "logprobs": {"content": [_ROW] * 2000, "refusal": None}}], "usage": {}},
    [[]] * 50_000,
    {str(i): [i] for i in range(20_000)},
    [{"embedding": [0.5] * 600}] * 100,
    ["x" * 1000] * 500,
    {"": [], "d": {}, "n": None, "many": [1] * 100_000, "last": [[1] * 100_000]},
]


@pytest.mark.parametrize("value", [*_LARGE, {}, [], None, "x", [{}], {"a": [1]}])
def test_pieces_are_the_same_json(value: Any) -> None:
    assert asyncio.run(json_in_pieces(value)).body == to_json(value)


@pytest.mark.parametrize("value", _LARGE)
def test_no_piece_is_long(value: Any) -> None:
    pieces = list(exchange._pieces(value))
    assert len(pieces) > 4
    assert max(map(len, pieces)) < 4 * exchange._PIECE_BYTES


def test_the_loop_has_turns_between_pieces() -> None:
    async def turns() -> int:
        count, task = 0, asyncio.create_task(json_in_pieces(_LARGE[0]))
        while not task.done():
            count += 1
            await asyncio.sleep(0)
        return count

    assert asyncio.run(turns()) > len(to_json(_LARGE[0])) // (4 * exchange._PIECE_BYTES)

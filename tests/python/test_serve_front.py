"""What a request meets before any handler: routes, names, keys, pages of other sites, content types, and the share of
memory that its body has."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest
from serving import Server, error_of

pytest.importorskip("httptools")

from api_server import endpoints

from warpjet.common.json_size import memory_bytes
from warpjet.serve.http.app import App
from warpjet.serve.http.auth import Keys, load_keys
from warpjet.serve.http.errors import ServeError
from warpjet.serve.http.exchange import EventStream, HttpRequest, Response
from warpjet.serve.http.limits import Bodies
from warpjet.serve.http.router import Router
from warpjet.serve.http.schema import Endpoint, Field, Schema
from warpjet.serve.http.sites import Sites
from warpjet.serve.http.state import ServerState
from warpjet.serve.settings import Settings

CHAT = "/v1/chat/completions"
ENDPOINTS = endpoints()
ROUTER = Router(ENDPOINTS)


# --- Routes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["tiny", "org/name", "/models/a b/é", "a%2Fb", "..", "x" * 500])
@pytest.mark.parametrize("escape_slashes", [True, False])
def test_a_models_name_may_hold_anything(name: str, escape_slashes: bool) -> None:
    from urllib.parse import quote

    path = "/v1/models/" + quote(name, safe="" if escape_slashes else "/")
    endpoint, values = ROUTER.find("GET", path)
    assert endpoint.path == "/v1/models/{model:path}"
    assert values["model"] == (name if escape_slashes else name.lstrip("/"))


def test_every_name_in_a_path_may_hold_an_escaped_slash() -> None:
    for endpoint in ENDPOINTS:
        parts = ["a%2Fb" if part.startswith("{") else part for part in endpoint.path.split("/")]
        found, values = ROUTER.find(endpoint.method, "/".join(parts))
        assert found is endpoint and set(values.values()) <= {"a/b"}


@pytest.mark.parametrize("path", ["/v1/models/", "//v1/models", "/v1//models///"])
def test_empty_segments_do_not_count(path: str) -> None:
    assert ROUTER.find("GET", path)[0].path == "/v1/models"


@pytest.mark.parametrize(
    ("path", "near"),
    [
        ("/chat/completions", CHAT),
        ("/v1/v1/chat/completions", CHAT),
        ("/v1/chat/completion", CHAT),
        ("/docs", "/openapi.json"),
        ("/v1", "/v1/models"),
        ("/ping", "/health"),
        ("/api/tags", "/v1/models"),
        ("/embeddings", "/v1/embeddings"),
    ],
)
def test_an_unknown_route_names_the_nearest(path: str, near: str) -> None:
    with pytest.raises(ServeError) as caught:
        ROUTER.find("POST", path)
    assert caught.value.status == 404 and caught.value.message == f"there is no route {path!r}; did you mean {near}?"


def test_an_unknown_route_like_no_other_names_itself() -> None:
    with pytest.raises(ServeError, match=r"there is no route '/qqqqqq'$"):
        ROUTER.find("GET", "/qqqqqq")


# --- Keys -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("user", ["secret", "a:secret", "a: secret ", " secret"])
@pytest.mark.parametrize("admin", ["secret", "root:secret", "root: secret"])
@pytest.mark.parametrize("in_file", [True, False])
def test_no_key_is_a_users_and_an_administrators(user: str, admin: str, in_file: bool, tmp_path: Any) -> None:
    (tmp_path / "keys").write_text(f"# keys\nb:other\n {user}\n")
    given: dict[str, Any] = {"api_key_file": str(tmp_path / "keys")} if in_file else {"api_key": (user,)}
    with pytest.raises(ValueError, match="must differ"):
        load_keys(Settings(admin_api_key=(admin,), admin_port=1, **given))


def test_a_key_stands_for_one_tenant() -> None:
    Keys(("a:k", "a: k"))
    with pytest.raises(ValueError, match="one key"):
        Keys(("a:k", "b:k"))


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
@pytest.mark.parametrize("written", ["team: clé ", "team:clé"])
def test_a_key_may_have_spaces_around_it_and_any_letters(encoding: str, written: str) -> None:
    header = "clé".encode(encoding).decode("latin-1")
    assert Keys((written,)).tenant({"authorization": f"Bearer  {header}"}, "user") == "team"
    assert Keys((written,)).tenant({"x-api-key": header}, "user") == "team"


def test_a_key_file_that_everybody_reads_is_logged(tmp_path: Any, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "keys"
    path.write_text("a:k\n")
    for mode, said in ((0o600, False), (0o440, False), (0o644, True)):
        path.chmod(mode)
        caplog.clear()
        load_keys(Settings(api_key_file=str(path)))
        assert ("can be read by every user" in caplog.text) is said


# --- Pages of other sites ---------------------------------------------------------------------------------------------

PAGES = [
    {"origin": "https://evil.example"},
    {"origin": "null"},
    {"origin": "http://127.0.0.1:1", "sec-fetch-site": "same-site"},
    {"sec-fetch-site": "cross-site"},
    {"origin": "https://evil.example", "sec-fetch-site": "cross-site", "content-type": "text/plain"},
]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server("--served-model-name", "org/name", "short") as running:
        yield running


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda one: f"{one.method} {one.path}")
def test_no_route_answers_a_page_of_another_site(endpoint: Endpoint, server: Server) -> None:
    path = endpoint.path.replace("{", "").replace("}", "").replace(":path", "")
    refused = [] if path == "/" else [({}, headers) for headers in PAGES]
    for host in ("evil.example", "evil.example:8000", "127.0.0.1.evil.example", "evil.example."):
        refused.append(({"host": host}, {}))
        refused.append(({"host": host}, {"origin": f"http://{host}", "sec-fetch-site": "same-origin"}))
    for host, headers in refused:
        answer = server.http.request(endpoint.method, path, headers={**host, **headers}, content=b"{}")
        error_of(answer, 403)


@pytest.mark.parametrize(
    "host", ["127.0.0.1:1", "localhost", "LOCALHOST:80", "[::1]:80", "10.0.0.5", "warpjet", "a.local"]
)
def test_local_names_and_programs_are_answered(host: str, server: Server) -> None:
    for headers in ({}, {"sec-fetch-site": "none"}, {"sec-fetch-site": "same-origin"}, {"origin": f"http://{host}"}):
        assert server.http.get("/v1/models", headers={"host": host, **headers}).status_code == 200
    assert server.http.get("/", headers={"host": host, "sec-fetch-site": "cross-site"}).status_code == 200


def test_what_is_allowed_by_name_may_ask() -> None:
    sites = Sites(True, ("llm.example",), ("https://chat.example/",))
    sites.check(
        "/v1/models", {"host": "llm.example:80", "origin": "https://chat.example", "sec-fetch-site": "cross-site"}
    )
    with pytest.raises(ServeError, match="--allowed-hosts"):
        sites.check("/v1/models", {"host": "other.example"})
    with pytest.raises(ServeError, match="--allowed-origins"):
        sites.check("/v1/models", {"host": "llm.example", "origin": "https://other.example"})
    Sites(True, ("*",), ("*",)).check("/live", {"host": "a.example", "origin": "https://b.example"})


def test_a_refused_preflight_is_logged_once(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    app, _ = app_with(Endpoint("GET", "/x", _never))
    headers = [(b"origin", b"http://localhost:3000"), (b"access-control-request-method", b"POST")]
    for _ in range(3):
        asyncio.run(call(app, "OPTIONS", "/x", headers))
    assert caplog.text.count("--allowed-origins http://localhost:3000") == 1


# --- What is asked for ------------------------------------------------------------------------------------------------


def test_model_names(server: Server) -> None:
    names = [card["id"] for card in server.http.get("/v1/models").json()["data"]]
    assert names == ["org/name", "short"]
    for name in ("org/name", "org%2Fname", "short", "short/"):
        assert server.http.get(f"/v1/models/{name}").json()["id"] in names
    for name in ("dummy", "tgi", "short", None):
        answer = server.complete(model=name)
        assert answer["model"] == (name if name == "short" else "org/name")
    error = error_of(server.post("/v1/completions", {"prompt": "a", "model": "/srv/gpt-4"}), 404)
    assert error["message"] == "there is no model '/srv/gpt-4' here, only org/name, short"


def test_every_model_name_is_taken_if_wished() -> None:
    with Server("--served-model-name", "*") as server:
        assert [card["id"] for card in server.http.get("/v1/models").json()["data"]] == ["tiny"]
        assert server.complete(model="claude-x")["model"] == "claude-x"


@pytest.mark.parametrize(
    ("headers", "status", "says"),
    [
        ({}, 415, "the header Content-Type is missing; send Content-Type: application/json"),
        (
            {"content-type": "application/x-www-form-urlencoded"},
            415,
            "Content-Type is 'application/x-www-form-urlencoded'",
        ),
        ({"content-type": "application/json", "content-encoding": "gzip"}, 415, "Content-Encoding: gzip"),
    ],
)
def test_content_that_is_not_read_is_named(headers: dict[str, str], status: int, says: str, server: Server) -> None:
    error = error_of(server.http.post(CHAT, content=b"{}", headers=headers), status)
    assert says in error["message"]


@pytest.mark.parametrize("name", ["Authorization", "X-Api-Key", "Host", "Origin", "Content-Type"])
def test_a_header_that_means_one_thing_comes_once(name: str, server: Server) -> None:
    head = f"GET /v1/models HTTP/1.1\r\nHost: x\r\n{name}: a\r\n{name}: a\r\nConnection: close\r\n\r\n"
    assert server.raw(head.encode()).startswith(b"HTTP/1.1 400 ")


# --- A body's share of memory -----------------------------------------------------------------------------------------


async def _never(request: HttpRequest) -> Response:
    raise AssertionError("the handler was called")


def app_with(endpoint: Endpoint, **settings: Any) -> tuple[App, ServerState]:
    state = ServerState(Settings(**settings))
    return App(state, [endpoint], Keys()), state


async def call(app: App, method: str, path: str, headers: list[tuple[bytes, bytes]], body: bytes = b"") -> list[Any]:
    sent: list[Any] = []
    scope = {"type": "http", "method": method, "raw_path": path.encode(), "query_string": b"", "headers": headers}

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    await app(scope, receive, send)
    return sent


@pytest.mark.parametrize("ends", ["whole", "cancelled", "failed"])
def test_a_body_counts_until_its_answer_has_ended(ends: str) -> None:
    body = b'{"a": "' + b"x" * 100 + b'"}'
    goes_on = asyncio.Event()

    async def stream() -> AsyncIterator[bytes]:
        yield b"first"
        await goes_on.wait()
        if ends == "failed":
            raise ValueError("x")
        yield b"last"

    async def handler(request: HttpRequest) -> EventStream:
        assert request.body_bytes == len(body)
        return EventStream(stream())

    async def main() -> None:
        endpoint = Endpoint("POST", "/x", handler, Schema("X", [Field("a", "string")]))
        app, _ = app_with(endpoint, max_bodies_bytes=memory_bytes(body) + 10)
        json = [(b"content-type", b"application/json")]
        first = asyncio.create_task(call(app, "POST", "/x", json, body))
        for _ in range(10):
            await asyncio.sleep(0)
        assert app._bodies.held_bytes == memory_bytes(body)
        assert (await call(app, "POST", "/x", json, body))[0]["status"] == 503  # there is no room beside it
        if ends == "cancelled":
            first.cancel()
        goes_on.set()
        await first
        assert app._bodies.held_bytes == 0

    asyncio.run(main())


def test_one_large_body_is_taken_beside_none_alone() -> None:
    bodies = Bodies(max_bytes=1000, seconds=60, total_bytes=100)
    bodies.held_bytes = 50
    assert bodies.weigh(50, 900) == 900
    bodies.held_bytes += 10
    with pytest.raises(ServeError, match="too many large requests"):
        bodies.weigh(10, 20)
    assert bodies.held_bytes == 910


def test_the_page_and_its_feed_are_served_to_itself(server: Server) -> None:
    own = {"sec-fetch-site": "same-origin", "origin": server.url}
    assert server.http.get("/page/app.js", headers=own).status_code == 200
    with httpx.stream("GET", f"{server.url}/live", headers=own) as answer:
        assert answer.status_code == 200

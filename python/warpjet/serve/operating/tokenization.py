"""/tokenize and /detokenize."""

from functools import partial

from warpjet._native import SamplingParams
from warpjet.serve.events import ChatRequest, CompletionRequest
from warpjet.serve.http.errors import bad_request
from warpjet.serve.http.exchange import HttpRequest, Response, json_in_pieces, json_response
from warpjet.serve.http.schema import Endpoint, Field, Schema
from warpjet.serve.openai.custom_tools import as_functions, with_function_calls
from warpjet.serve.openai.messages import MESSAGES, TOOLS
from warpjet.serve.serving import Serving

_TOKENIZE = Schema(
    "TokenizeRequest",
    [
        Field("model", "string"),
        Field("prompt", "string", "text; or else messages"),
        Field("messages", "objects", "a conversation, as the chat template writes it", low=1, shape=MESSAGES),
        Field("tools", "objects", shape=TOOLS),
        Field("add_special_tokens", "boolean", "true for a prompt, false for messages, if not given"),
        Field("add_generation_prompt", "boolean"),
        Field("continue_final_message", "boolean", default=False),
        Field("chat_template", "string", "a chat template of the request's own; use the server's", only=()),
        Field("chat_template_kwargs", "object", "variables of the chat template"),
        Field("return_token_strs", "boolean", "give each token's text too", default=False),
    ],
)
_DETOKENIZE = Schema(
    "DetokenizeRequest",
    [
        Field("model", "string"),
        Field(
            "tokens",
            "integers",
            "token ids",
            required=True,
            high=1 << 20,
            shape={"items": {"type": "integer", "minimum": 0, "maximum": 2**31 - 1}},
        ),
    ],
)


async def _tokenize(serving: Serving, request: HttpRequest) -> Response:
    body = request.body
    serving.check_model(body.get("model"))
    if ("prompt" in body) == ("messages" in body):
        raise bad_request("tokenize takes either prompt or messages", "prompt")
    if "prompt" in body:
        plain = CompletionRequest(body["prompt"], _ANY, add_special_tokens=body.get("add_special_tokens", True))
        prompt = await serving.prepare(plain)
    else:
        continued = body["continue_final_message"]
        chat = ChatRequest(
            with_function_calls(body["messages"]),
            _ANY,
            tools=as_functions(body.get("tools") or []) or None,
            add_special_tokens=body.get("add_special_tokens", False),
            add_generation_prompt=body.get("add_generation_prompt", not continued),
            continue_final_message=continued,
            chat_template_kwargs=body.get("chat_template_kwargs"),
        )
        prompt = await serving.prepare_chat(chat)
    tokens = prompt.token_ids or []
    texts = None
    if body.get("return_token_strs"):
        piece = serving.tokenizer.piece
        texts = await serving.read(request, lambda: [piece(token) for token in tokens])
    counts = {"count": len(tokens), "max_model_len": serving.max_model_len}
    return await json_in_pieces({**counts, "tokens": tokens, "token_strs": texts})


async def _detokenize(serving: Serving, request: HttpRequest) -> Response:
    serving.check_model(request.body.get("model"))
    return json_response({"prompt": await serving.read(request, lambda: _decoded(serving, request.body["tokens"]))})


def _decoded(serving: Serving, tokens: list[int]) -> str:
    size = serving.llm.session.engine.model.vocab_size
    if wrong := next((token for token in tokens if not 0 <= token < size), None):
        raise bad_request(f"tokens must be in [0, {size}), got {wrong}", "tokens")
    return serving.tokenizer.decode(tokens, skip_special_tokens=False)


_ANY = SamplingParams(max_tokens=1)


def routes(serving: Serving) -> list[Endpoint]:
    return [
        Endpoint("POST", "/tokenize", partial(_tokenize, serving), _TOKENIZE, "token ids of a text or a conversation"),
        Endpoint("POST", "/detokenize", partial(_detokenize, serving), _DETOKENIZE, "text of token ids"),
    ]

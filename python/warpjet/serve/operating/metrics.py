"""/metrics: the engine's metrics, the server's counters, and the names of other servers for them."""

import re
from collections.abc import Iterator
from functools import partial

from warpjet.serve.http.exchange import HttpRequest, Response
from warpjet.serve.http.schema import Endpoint
from warpjet.serve.serving import Serving

_MODEL_NAME = re.compile(r'model_name="[^"\\]*+(?:\\.[^"\\]*+)*+"?+')

# Other servers' name: ours, of a metric that means the same. vLLM's names are ours with another prefix.
_COMPAT: dict[str, dict[str, str]] = {
    "sglang": {
        "sglang:num_running_reqs": "num_requests_running",
        "sglang:num_queue_reqs": "num_requests_waiting",
        "sglang:num_paused_reqs": "num_requests_paused",
        "sglang:token_usage": "kv_cache_usage_perc",
        "sglang:prompt_tokens_total": "prompt_tokens_total",
        "sglang:generation_tokens_total": "generation_tokens_total",
        "sglang:cached_tokens_total": "prefix_cache_hits_total",
        "sglang:num_retractions_total": "num_preemptions_total",
        "sglang:num_requests_total": "request_success_total",
        "sglang:time_to_first_token_seconds": "time_to_first_token_seconds",
        "sglang:inter_token_latency_seconds": "inter_token_latency_seconds",
        "sglang:e2e_request_latency_seconds": "e2e_request_latency_seconds",
        "sglang:queue_time_seconds": "request_queue_time_seconds",
        "sglang:prompt_tokens_histogram": "request_prompt_tokens",
        "sglang:generation_tokens_histogram": "request_generation_tokens",
    },
    "tgi": {
        "tgi_queue_size": "num_requests_waiting",
        "tgi_batch_current_size": "num_requests_running",
        "tgi_request_success": "request_success_total",
        "tgi_request_duration": "e2e_request_latency_seconds",
        "tgi_request_queue_duration": "request_queue_time_seconds",
        "tgi_request_inference_duration": "request_inference_time_seconds",
        "tgi_request_mean_time_per_token_duration": "request_time_per_output_token_seconds",
        "tgi_request_input_length": "request_prompt_tokens",
        "tgi_request_generated_tokens": "request_generation_tokens",
        "tgi_request_max_new_tokens": "request_params_max_tokens",
    },
}


def engine_text(serving: Serving) -> str:
    """The engine's metrics, under the model's first served name and, if asked for, under others' names."""
    name = serving.model_names[0].replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    text = _MODEL_NAME.sub(lambda _: f'model_name="{name}"', serving.llm.session.engine.metrics())
    compat = serving.settings.metrics_compat
    if compat == "vllm":
        return text + text.replace("warpjet:", "vllm:") + _vllm_extras(serving, name)
    return text + "".join(_renamed(text, _COMPAT[compat])) if compat else text


def _renamed(text: str, names: dict[str, str]) -> Iterator[str]:
    by_ours: dict[str, list[str]] = {}
    for theirs, ours in names.items():
        by_ours.setdefault(ours, []).append(theirs)
    for block in text.split("# HELP warpjet:")[1:]:
        ours = block.partition(" ")[0]
        for theirs in by_ours.get(ours, ()):
            yield ("# HELP warpjet:" + block).replace(f"warpjet:{ours}", theirs)


def _vllm_extras(serving: Serving, name: str) -> str:
    config = serving.llm.session.engine.config
    facts = {
        "block_size": config.block_size,
        "num_gpu_blocks": serving.llm.get_metrics()["kv_blocks"],
        "gpu_memory_utilization": config.gpu_memory_utilization,
        "enable_prefix_caching": config.enable_prefix_caching,
    }
    labels = ",".join(f'{key}="{value}"' for key, value in facts.items())
    return (
        "# HELP vllm:cache_config_info What the KV cache is.\n# TYPE vllm:cache_config_info gauge\n"
        f'vllm:cache_config_info{{{labels},model_name="{name}",engine="0"}} 1\n'
    )


async def _metrics(serving: Serving, request: HttpRequest) -> Response:
    text = engine_text(serving) + serving.server.metrics.text(serving.server.live)
    return Response(text.encode(), content_type="text/plain; version=0.0.4; charset=utf-8")


def routes(serving: Serving) -> list[Endpoint]:
    return [
        Endpoint(
            "GET",
            "/metrics",
            partial(_metrics, serving),
            summary="counters, gauges and histograms in Prometheus' format",
        )
    ]

// Every knob of Warpjet: how to sample, how to run an engine, how to build one. Plain structs; defaults live here only.
#pragma once

#include <warpjet/error.h>
#include <warpjet/fields.h>

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace warpjet {

// The values of fields that take few.
namespace choices {
inline constexpr std::string_view kOutputKind[] = {"cumulative", "delta", "final_only"};
inline constexpr std::string_view kPooling[] = {"last", "mean"};
inline constexpr std::string_view kDevice[] = {"auto", "cpu", "cuda", "cuda:N", "null"};
inline constexpr std::string_view kDtype[] = {"auto", "bfloat16", "float16", "float32"};
inline constexpr std::string_view kLoadFormat[] = {"auto", "safetensors", "dummy"};
inline constexpr std::string_view kSchedulingPolicy[] = {"fcfs", "priority", "fair"};
inline constexpr std::string_view kPreemptionMode[] = {"auto", "swap", "recompute"};
inline constexpr std::string_view kBuildDevice[] = {"auto", "cpu", "cuda", "cuda:N"};
inline constexpr int kBlockSize[] = {16, 32, 64};
inline constexpr std::string_view kScheme[] = {"auto", "bf16", "fp16", "fp32", "fp8_block"};
inline constexpr std::string_view kPlainScheme[] = {"auto", "bf16", "fp16", "fp32"};
inline constexpr std::string_view kGpu[] = {"A100", "H100", "H200",     "B200",     "GH200",       "L4",
                                            "L40S", "A10G", "RTX 4090", "RTX 5090", "RTX PRO 6000"};
}  // namespace choices

// JSON that travels with a config and is read elsewhere; empty: none.
struct JsonText {
  std::string text;
  bool operator==(const JsonText&) const = default;
};

// How one request is sampled. Stages run in this order: logprobs are read from the raw logits; then repetition,
// presence and frequency penalties; logit_bias; allowed_token_ids, bad_words, min_tokens; temperature; min_p; top_k;
// top_p; the draw. The draw is argmax(logit + Gumbel noise) and the noise depends on (seed, sample, position, token id)
// alone, so a request's tokens never depend on its neighbours.
struct SamplingParams {
  int n = 1;
  double presence_penalty = 0.0;
  double frequency_penalty = 0.0;
  double repetition_penalty = 1.0;
  double temperature = 1.0;
  double top_p = 1.0;
  int top_k = 0;
  double min_p = 0.0;
  std::optional<std::int64_t> seed;
  std::vector<std::string> stop;
  std::vector<std::int32_t> stop_token_ids;
  bool ignore_eos = false;
  std::optional<int> max_tokens = 16;
  int min_tokens = 0;
  std::optional<int> logprobs;
  std::optional<int> prompt_logprobs;
  bool detokenize = true;
  bool skip_special_tokens = true;
  bool spaces_between_special_tokens = true;
  bool include_stop_str_in_output = false;
  std::string output_kind = "cumulative";
  std::map<std::int32_t, double> logit_bias;
  std::optional<std::vector<std::int32_t>> allowed_token_ids;
  std::vector<std::string> bad_words;
  std::vector<std::vector<std::int32_t>> bad_words_token_ids;
  JsonText structured_outputs;
  bool skip_reading_prefix_cache = false;
  int beam_width = 1;
  double length_penalty = 1.0;

  bool operator==(const SamplingParams&) const = default;

  static constexpr auto fields() {
    using C = SamplingParams;
    return std::tuple{
        Field{"n", &C::n, between(1, 128), "completions per prompt"},
        Field{"presence_penalty", &C::presence_penalty, between(-2, 2),
              "subtracted once from each token already generated"},
        Field{"frequency_penalty", &C::frequency_penalty, between(-2, 2),
              "subtracted per occurrence in the generated text"},
        Field{"repetition_penalty", &C::repetition_penalty, above(0),
              "divides positive and multiplies negative logits of tokens in prompt or output; 1 is off"},
        Field{"temperature", &C::temperature, at_least(0), "divides the logits; 0 is greedy"},
        Field{"top_p", &C::top_p, above(0, 1), "keep the smallest set of most likely tokens with this mass"},
        Field{"top_k", &C::top_k, at_least(-1), "keep the k most likely tokens; 0 and -1 are off"},
        Field{"min_p", &C::min_p, between(0, 1), "drop tokens less likely than this times the most likely one"},
        Field{"seed", &C::seed, "64-bit seed; None draws one"},
        Field{"stop", &C::stop, entries(16, between(1, 1024)), "strings that end the text"},
        Field{"stop_token_ids", &C::stop_token_ids, entries(256, at_least(0)), "token ids that end the text"},
        Field{"ignore_eos", &C::ignore_eos, "go on after the model's end-of-sequence token"},
        Field{"max_tokens", &C::max_tokens, at_least(0),
              "most tokens to generate; None is up to the context length, 0 only with prompt_logprobs"},
        Field{"min_tokens", &C::min_tokens, at_least(0), "no end-of-sequence or stop token before this many tokens"},
        Field{"logprobs", &C::logprobs, at_least(-1),
              "log-probabilities of this many most likely tokens per position; -1 is all"},
        Field{"prompt_logprobs", &C::prompt_logprobs, at_least(-1), "the same for the prompt's tokens"},
        Field{"detokenize", &C::detokenize, "produce text; False returns token ids alone"},
        Field{"skip_special_tokens", &C::skip_special_tokens, "leave special tokens out of the text"},
        Field{"spaces_between_special_tokens", &C::spaces_between_special_tokens,
              "put spaces between special tokens; cannot be turned off"},
        Field{"include_stop_str_in_output", &C::include_stop_str_in_output,
              "keep the stop string or token in the text"},
        Field{"output_kind", &C::output_kind, one_of(choices::kOutputKind), "what a stream yields"},
        Field{"logit_bias", &C::logit_bias, entries(4096, between(-100, 100)), "token id -> value added to its logit"},
        Field{"allowed_token_ids", &C::allowed_token_ids, entries(1 << 18, at_least(0)),
              "only these tokens can be drawn"},
        Field{"bad_words", &C::bad_words, entries(128, between(1, 1024)), "strings that must not be generated"},
        Field{"bad_words_token_ids", &C::bad_words_token_ids, entries(1024, at_least(0)),
              "token sequences that must not be generated, of 4096 tokens in all"},
        Field{"structured_outputs", &C::structured_outputs,
              "what the text must be: {\"json\": SCHEMA}, {\"regex\": TEXT}, {\"choice\": [TEXT, ...]}, {\"grammar\": "
              "TEXT}"},
        Field{"skip_reading_prefix_cache", &C::skip_reading_prefix_cache, "compute the whole prompt anew"},
        Field{"beam_width", &C::beam_width, between(1, 16),
              "above 1: beam search, which returns this many completions, the best first"},
        Field{"length_penalty", &C::length_penalty, between(-100, 100),
              "of beams: ranked by log-probability / length ** length_penalty, length in output tokens"},
    };
  }
};

// Throws invalid_argument naming the field, what it got and what it takes. Needs no model: token ids are checked when
// the request is submitted.
WJ_API void validate(const SamplingParams& params);

// What a request is answered with that wants its prompt as one vector: of the hidden states after the last norm.
struct PoolingParams {
  std::string pooling = "last";
  bool normalize = true;
  std::optional<int> dimensions;

  bool operator==(const PoolingParams&) const = default;

  static constexpr auto fields() {
    using C = PoolingParams;
    return std::tuple{
        Field{"pooling", &C::pooling, one_of(choices::kPooling),
              "last: the last token's hidden state; mean: of all tokens'"},
        Field{"normalize", &C::normalize, "scale the embedding to a length of one"},
        Field{"dimensions", &C::dimensions, at_least(1),
              "keep only the first ones, before it is normalized; for models that were trained for it"},
    };
  }
};

WJ_API void validate(const PoolingParams& params);

// How an engine runs. 0 means "chosen from the model and the machine".
struct EngineConfig {
  std::string device = "auto";
  std::string dtype = "auto";
  std::string load_format = "auto";
  std::string hf_overrides;
  int max_model_len = 0;
  int max_num_seqs = 256;
  int max_num_batched_tokens = 2048;
  int block_size = 32;
  double gpu_memory_utilization = 0.92;
  std::int64_t kv_cache_memory_bytes = 0;
  int num_gpu_blocks_override = 0;
  bool enforce_eager = false;
  bool enable_prefix_caching = true;
  bool enable_chunked_prefill = true;
  int max_num_queued_reqs = 16384;
  std::int64_t max_num_queued_tokens = 64ll << 20;
  int max_logprobs = 20;
  std::string scheduling_policy = "fcfs";
  int max_steps_in_flight = 2;
  double admission_quantile = 0.9;
  std::string preemption_mode = "auto";
  double kv_offloading_size = 0;
  double itl_target_ms = 0;
  int max_num_queued_reqs_per_tenant = 0;
  int max_unread_tokens = 65536;
  int kv_events = 0;
  double guide_timeout = 10;
  double watchdog_timeout = 300;
  std::string trace;
  std::int64_t seed = 0;
  int num_threads = 0;

  bool operator==(const EngineConfig&) const = default;

  static constexpr auto fields() {
    using C = EngineConfig;
    return std::tuple{
        Field{"device", &C::device, named(choices::kDevice),
              "where to run: auto is the first GPU if there is one; null reads no weights, computes nothing and makes "
              "tokens up, to measure everything else"},
        Field{"dtype", &C::dtype, named(choices::kDtype),
              "compute type; auto is the checkpoint's; bf16, fp16 and fp32 are names of them too"},
        Field{"load_format", &C::load_format, one_of(choices::kLoadFormat),
              "the model's files, or dummy: random weights, for which config.json is enough"},
        Field{"hf_overrides", &C::hf_overrides,
              "keys of config.json as they should be, a JSON object; null drops a key that the checkpoint has"},
        Field{"max_model_len", &C::max_model_len, at_least(0), "tokens",
              "longest prompt plus output; 0 is the model's own limit"},
        Field{"max_num_seqs", &C::max_num_seqs, between(1, 1 << 16), "most sequences in one step"},
        Field{"max_num_batched_tokens", &C::max_num_batched_tokens, between(1, 1 << 20), "most tokens in one step"},
        Field{"block_size", &C::block_size, one_of(choices::kBlockSize), "tokens", "length of a KV block"},
        Field{"gpu_memory_utilization", &C::gpu_memory_utilization, above(0, 1),
              "share of a GPU's memory that weights, activations and KV cache may take together"},
        Field{"kv_cache_memory_bytes", &C::kv_cache_memory_bytes, at_least(0), "bytes",
              "memory for the KV cache; 0 is chosen"},
        Field{"num_gpu_blocks_override", &C::num_gpu_blocks_override, at_least(0),
              "KV blocks, instead of a size in bytes"},
        Field{"enforce_eager", &C::enforce_eager, "start every kernel by itself instead of replaying CUDA graphs"},
        Field{"enable_prefix_caching", &C::enable_prefix_caching, "reuse the KV blocks of equal prefixes"},
        Field{"enable_chunked_prefill", &C::enable_chunked_prefill, "let a long prompt span several steps"},
        Field{"max_num_queued_reqs", &C::max_num_queued_reqs, at_least(1),
              "requests accepted and not yet finished, at most"},
        Field{"max_num_queued_tokens", &C::max_num_queued_tokens, at_least(1),
              "prompt tokens of those requests, at most"},
        Field{"max_logprobs", &C::max_logprobs, at_least(-1),
              "highest logprobs a request may ask for; -1 is the vocabulary"},
        Field{"scheduling_policy", &C::scheduling_policy, one_of(choices::kSchedulingPolicy),
              "order of requests: by arrival; by priority, lower first; or fair (tenants share, priorities age)"},
        Field{"max_steps_in_flight", &C::max_steps_in_flight, between(1, 3),
              "steps planned ahead of their results; 1 is one after another"},
        Field{
            "admission_quantile", &C::admission_quantile, between(0, 1),
            "outputs are expected to be as long as this share of past ones; 1 never preempts, 0 admits what fits now"},
        Field{"preemption_mode", &C::preemption_mode, one_of(choices::kPreemptionMode),
              "what becomes of a preempted sequence's KV: swap (to host memory), recompute, or auto (swap if it can)"},
        Field{"kv_offloading_size", &C::kv_offloading_size, between(0, 1 << 20), "GiB",
              "host memory for KV blocks; 0 is off"},
        Field{"itl_target_ms", &C::itl_target_ms, between(0, 1e6), "ms",
              "prompts get only as many tokens as keep steps this short; 0 is off"},
        Field{"max_num_queued_reqs_per_tenant", &C::max_num_queued_reqs_per_tenant, at_least(0),
              "requests of one tenant accepted and not yet finished, at most; 0 is no limit of its own"},
        Field{"max_unread_tokens", &C::max_unread_tokens, at_least(1), "a request with this many unread tokens pauses"},
        Field{"kv_events", &C::kv_events, between(0, 1 << 24),
              "changes of the prefix cache to keep for kv_events(); 0 keeps none"},
        Field{"guide_timeout", &C::guide_timeout, above(0, 1e6), "seconds",
              "time after which a guided sample without an answer ends"},
        Field{"watchdog_timeout", &C::watchdog_timeout, above(0), "seconds",
              "time without progress after which the engine fails"},
        Field{"trace", &C::trace, "file for a trace of steps and requests, written at the end; opens in Perfetto"},
        Field{"seed", &C::seed, "seeds the draws of requests that bring no seed"},
        Field{"num_threads", &C::num_threads, between(0, 1024), "CPU threads; 0 is one per core"},
    };
  }
};

WJ_API void validate(const EngineConfig& config);

// How a checkpoint is compiled into an engine directory.
struct BuildConfig {
  std::string device = "auto";
  std::string scheme = "auto";
  std::string kv_cache_dtype = "auto";
  std::string hf_overrides;
  bool overwrite = false;

  bool operator==(const BuildConfig&) const = default;

  static constexpr auto fields() {
    using C = BuildConfig;
    return std::tuple{
        Field{"device", &C::device, named(choices::kBuildDevice), "what the engine will run on, from this machine"},
        Field{"scheme", &C::scheme, named(choices::kScheme), "precision of the weights; auto is the checkpoint's"},
        Field{"kv_cache_dtype", &C::kv_cache_dtype, named(choices::kPlainScheme),
              "precision of the KV cache; auto is that of the weights"},
        Field{"hf_overrides", &C::hf_overrides,
              "keys of config.json as they should be, a JSON object; null drops a key that the checkpoint has"},
        Field{"overwrite", &C::overwrite, "replace an engine directory that is already there"},
    };
  }
};

WJ_API void validate(const BuildConfig& config);

}  // namespace warpjet

// The engine: build one from a checkpoint, open it, submit requests, poll outputs.
//
//   auto engine = warpjet::Engine::open("path-to-checkpoint-or-engine", {});
//   warpjet::OutputQueue queue;
//   engine->submit({.prompt = ids, .sampling = {.max_tokens = 32}}, queue);
//   while (...) for (const warpjet::Output& out : queue.poll(timeout)) ...
#pragma once

#include <warpjet/config.h>
#include <warpjet/error.h>
#include <warpjet/tensor.h>

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace warpjet {

using RequestId = std::uint64_t;  // unique per engine, never reused
using Clock = std::chrono::steady_clock;

// Why a sample ended; none while it runs.
enum class FinishReason : std::uint8_t { none, stop, length, abort, error };
WJ_API std::string_view to_string(FinishReason reason);

class OutputQueue;

struct Request {
  std::vector<std::int32_t> prompt;  // token ids, at least one
  SamplingParams sampling;
  std::optional<PoolingParams>
      pooling;             // the answer is an embedding of the prompt, and no text; sampling is left as it is
  int priority = 0;        // lower runs first under the policies "priority" and "fair"; else it must be 0
  std::string tenant;      // whose request it is: the policy "fair" shares the engine between tenants
  std::string cache_salt;  // requests share prefix blocks only if their salts are equal
  int cache_priority = 3;  // 0 to 7: its blocks leave the prefix cache after those of lower ones
  Clock::time_point deadline = Clock::time_point::max();  // ends with error when passed

  // A guided request: what its text may be is decided outside, token by token. `mask` is for the first token of each
  // sample: ceil(vocab_size / 32) words, bit t % 32 of word t / 32 set = token t is allowed; `guide` gets every token
  // as soon as it is known, and the final outputs. Both or neither. See Engine::guide().
  std::vector<std::int32_t> mask;
  OutputQueue* guide = nullptr;
};

// What a guide says of one sample, when it has seen `position` tokens of it.
struct Guidance {
  enum class Kind : std::uint8_t {
    go_on,  // with one of the tokens that `mask` allows
    stop,   // the text is complete: finish = stop
    fail,   // finish = error, with `error`
  };
  RequestId id = 0;
  int sample = 0;
  int position = 0;
  Kind kind = Kind::go_on;
  std::vector<std::int32_t> mask;  // as in Request
  std::string error;
};

// Where the time of one sample went, in milliseconds. The parts add up to the total.
struct RequestTimes {
  double queue_ms = 0;      // waiting to run for the first time
  double prefix_ms = 0;     // waiting for another request to compute their common prefix
  double prefill_ms = 0;    // running, until the first token
  double decode_ms = 0;     // running, after that
  double preempted_ms = 0;  // waiting for KV blocks after having run
  double paused_ms = 0;     // paused by the caller, or because nobody read its outputs
  double total_ms = 0;      // submit -> final output
  int preemptions = 0;

  static constexpr auto fields() {
    using C = RequestTimes;
    return std::tuple{Field{"queue_ms", &C::queue_ms, "waiting to run for the first time"},
                      Field{"prefix_ms", &C::prefix_ms, "waiting for another request's prefix"},
                      Field{"prefill_ms", &C::prefill_ms, "running, until the first token"},
                      Field{"decode_ms", &C::decode_ms, "running, after the first token"},
                      Field{"preempted_ms", &C::preempted_ms, "waiting again after a preemption"},
                      Field{"paused_ms", &C::paused_ms, "paused"},
                      Field{"total_ms", &C::total_ms, "from submission to the final output"},
                      Field{"preemptions", &C::preemptions, "times it lost its KV blocks"}};
  }
};

struct TokenLogprob {
  std::int32_t token = 0;
  float logprob = 0;      // natural logarithm, from the raw logits
  std::int32_t rank = 0;  // 1 = the most likely
};

// What happened to one sample of one request since its last output. A token's entry in `logprobs` holds that token
// first, then the most likely ones in order (the token itself may appear again there).
struct Output {
  RequestId id = 0;
  int sample = 0;                                          // 0 .. n-1
  std::uint32_t sequence = 0;                              // 0, 1, 2, ... per (id, sample), without a gap
  std::vector<std::int32_t> tokens;                        // new tokens; a stop token is included
  std::vector<std::vector<TokenLogprob>> logprobs;         // one entry a token when asked for
  std::vector<std::vector<TokenLogprob>> prompt_logprobs;  // with sample 0's first output; entry 0 is empty
  FinishReason finish = FinishReason::none;                // set in the final output, which comes exactly once
  std::int32_t stop_token = -1;                            // the id that ended it when listed in stop_token_ids
  ErrorCode error_code = ErrorCode::internal;              // meaningful when finish == error
  std::string error;
  bool retriable = false;         // with an error or abort: not the request's fault, the same one may succeed elsewhere
  int prompt_tokens = 0;          // these facts are in a sample's first and in its final output
  int cached_tokens = 0;          // prompt tokens found in the prefix cache
  double queue_ms = 0;            // submit -> first scheduled
  double ttft_ms = 0;             // submit -> first token
  double cumulative_logprob = 0;  // of a beam; else 0
  std::vector<float> embedding;   // in the final output of a request with `pooling`, whose finish is stop
  RequestTimes times;             // in the final output

  bool is_final() const { return finish != FinishReason::none; }
};

// Where outputs arrive. Any number of requests may share a queue; any thread may poll. Keep it alive as long as its
// requests are (the engine holds the shared state, so destroying it early loses outputs but nothing else).
class WJ_API OutputQueue {
 public:
  OutputQueue();
  ~OutputQueue();
  OutputQueue(OutputQueue&&) noexcept;
  OutputQueue& operator=(OutputQueue&&) noexcept;

  // Waits until there is something or the time is over; returns everything there is.
  std::vector<Output> poll(std::chrono::nanoseconds timeout);

  // A file descriptor that becomes readable when outputs are waiting, for event loops. poll() resets it.
  int wait_fd() const;

  struct State;

 private:
  friend class Engine;
  std::shared_ptr<State> state_;
};

// degraded: there is work, and no step has ended for longer than ten expected steps and 2 s.
enum class Health : std::uint8_t { serving, degraded, failed, closed };
WJ_API std::string_view to_string(Health health);

struct Stats {
  std::int64_t steps = 0;
  std::int64_t prompt_tokens = 0;  // computed, cache hits excluded
  std::int64_t generated_tokens = 0;
  std::int64_t cached_tokens = 0;  // prompt tokens served from the prefix cache
  std::int64_t preemptions = 0;
  std::int64_t finished = 0;  // final outputs delivered
  int running = 0;
  int waiting = 0;
  int kv_blocks = 0;
  int kv_blocks_used = 0;  // referenced by a live sequence
  int kv_blocks_cached = 0;
  int paused = 0;
  int steps_in_flight = 0;
  int kv_host_blocks = 0;
  int kv_host_blocks_used = 0;           // keeping something: swapped sequences or cached blocks
  std::int64_t kv_blocks_offloaded = 0;  // copied to the host
  std::int64_t kv_blocks_restored = 0;   // and back
  std::int64_t swaps = 0;                // preemptions that kept the KV
  std::int64_t device_us = 0;            // the device worked
  std::int64_t host_us = 0;              // the engine thread worked

  static constexpr auto fields() {
    using C = Stats;
    return std::tuple{
        Field{"steps", &C::steps, "steps run"},
        Field{"prompt_tokens", &C::prompt_tokens, "prompt tokens computed"},
        Field{"generated_tokens", &C::generated_tokens, "tokens generated"},
        Field{"cached_tokens", &C::cached_tokens, "prompt tokens found in the prefix cache"},
        Field{"preemptions", &C::preemptions, "sequences put back to wait for KV blocks"},
        Field{"finished", &C::finished, "final outputs delivered"},
        Field{"running", &C::running, "sequences running now"},
        Field{"waiting", &C::waiting, "sequences waiting now"},
        Field{"kv_blocks", &C::kv_blocks, "KV blocks in the pool"},
        Field{"kv_blocks_used", &C::kv_blocks_used, "KV blocks held by live sequences"},
        Field{"kv_blocks_cached", &C::kv_blocks_cached, "KV blocks kept for reuse"},
        Field{"paused", &C::paused, "sequences paused now"},
        Field{"steps_in_flight", &C::steps_in_flight, "steps planned and not yet retired"},
        Field{"kv_host_blocks", &C::kv_host_blocks, "KV blocks in host memory"},
        Field{"kv_host_blocks_used", &C::kv_host_blocks_used, "KV blocks in host memory that keep something"},
        Field{"kv_blocks_offloaded", &C::kv_blocks_offloaded, "KV blocks copied to host memory"},
        Field{"kv_blocks_restored", &C::kv_blocks_restored, "KV blocks copied back"},
        Field{"swaps", &C::swaps, "preemptions that kept the KV in host memory"},
        Field{"device_us", &C::device_us, "microseconds that the device worked"},
        Field{"host_us", &C::host_us, "microseconds that the engine thread worked"},
    };
  }
};

// What the prefix cache holds, told as changes.
struct KvEvent {
  enum class Kind : std::uint8_t { stored, removed };
  enum class Where : std::uint8_t { device, host };
  std::uint64_t number = 0;  // 0, 1, 2, ...
  Kind kind = Kind::stored;
  Where where = Where::device;
  std::uint64_t key = 0, parent_key = 0;  // of the text up to and before this block; a first block's parent is its salt
  int num_tokens = 0;                     // of the block
  int group = 0;                          // of layers; blocks of several groups hold one text, each for its layers
};

struct Snapshot;  // snapshot.h

// How the weights came into memory.
struct LoadReport {
  std::string source;      // checkpoint, engine, dummy or none
  std::int64_t bytes = 0;  // of weights
  int threads = 0;
  double seconds = 0;  // planning included

  static constexpr auto fields() {
    using C = LoadReport;
    return std::tuple{
        Field{"source", &C::source, "checkpoint, engine, dummy or none"}, Field{"bytes", &C::bytes, "bytes of weights"},
        Field{"threads", &C::threads, "threads that read them"}, Field{"seconds", &C::seconds, "how long it took"}};
  }
};

// What a caller needs to know of the model it opened.
struct ModelInfo {
  std::string architecture;
  std::string scheme;
  int vocab_size = 0;
  int max_model_len = 0;
  int num_layers = 0;
  int hidden_size = 0;  // of an embedding
  std::int64_t parameters = 0;
  std::int64_t weight_bytes = 0;
  std::int64_t kv_bytes_per_token = 0;
  std::vector<std::int32_t> eos_token_ids;
  std::int32_t bos_token_id = -1;
  bool generates = true;  // false: it has no output head, and embeds only
};

// The contract between the engine and whoever submits to it:
//   C1  submit() either throws and has no effect, or returns an id that gets exactly one final output for each of its
//       samples, and nothing after it.
//   C2  The outputs of a sample are numbered 0, 1, 2, ... without a gap; their tokens, joined, are its text; nothing is
//       delivered twice.
//   C3  After cancel() the final output comes with the engine's next turn, whatever the device does: within a step. A
//       natural end that came first is reported as such.
//   C4  When the device or the engine fails, every live request ends with finish = error and the cause, retriable set;
//       then health() is failed, and submit() throws closed. No call waits for ever, and nothing ends the process.
//   C5  What goes wrong with one request (a broken row, no memory to start it, a slow reader, a guide that is late or
//       wrong, a deadline) ends or holds up that request alone, and changes no other's tokens.
//   C6  health() tells of progress, not of intentions: degraded when there is work and no step has ended for longer
//       than ten expected steps and 2 s; failed, with C4, after watchdog_timeout.
//   C7  close() and the destructor deliver every final output that is still owed, then join the threads. They wait for
//       the step that the device is running, not for those behind it.
class WJ_API Engine {
 public:
  // Opens a checkpoint directory (packed in memory) or an engine directory. Throws io, corrupt, unsupported,
  // invalid_argument or out_of_memory; every cause is named.
  static std::unique_ptr<Engine> open(const std::filesystem::path& model, const EngineConfig& config);

  // Cancels what is live, delivers every final output, joins the threads.
  ~Engine();

  // Throws invalid_argument or unsupported (the request), overloaded (try again; the message says when) or closed.
  // Never waits. Any thread.
  RequestId submit(Request request, OutputQueue& queue);

  // Ends the request's live samples, or only the named one, with finish = abort. Idempotent; an unknown or finished id
  // or sample is no error. Any thread.
  void cancel(RequestId id, std::optional<int> sample = std::nullopt);

  // Takes a request off the device until resume(); its KV may be lost and computed anew. Idempotent, as cancel() is.
  void pause(RequestId id);
  void resume(RequestId id);

  // Answers of whoever guides requests: the next token of a guided sample is drawn when its guide has said what it may
  // be, and nobody else waits for that. The engine's own end tokens are no exception: they end the text where the mask
  // allows them. The guide's mask, allowed_token_ids, bad_words and min_tokens must leave a token together, else the
  // sample ends with an error, as it does when the guide is silent for guide_timeout. An answer that comes too late, or
  // to another position than where the sample is, has no effect. Answers that come together are planned together.
  // Throws invalid_argument, and nothing has happened, for a mask of another size. Never waits. Any thread.
  //
  //   OutputQueue guides;
  //   engine->submit({.prompt = ids, .sampling = ..., .mask = first, .guide = &guides}, queue);
  //   while (...) for (const Output& out : guides.poll(timeout)) {     // on a thread of its own
  //     if (out.is_final()) forget(out.id, out.sample);
  //     else engine->guide({{.id = out.id, .sample = out.sample, .position = tokens so far, .mask = next mask}});
  //   }
  void guide(std::vector<Guidance> answers);

  // Drops every cached prefix block that no live sequence holds.
  void reset_prefix_cache();

  // The changes of the prefix cache from `number` on (config.kv_events of them are kept), oldest first. Replayed from
  // 0 on an empty set they give the cache's contents; a first number above the one asked for means that some are lost:
  // start anew from what reset_prefix_cache() leaves, or treat the cache as unknown.
  std::vector<KvEvent> kv_events(std::uint64_t number = 0) const;

  // What it is doing now, and what of the last steps is newer than `since_step`: those are recorded from one call until
  // 2 s after the latest, so the first call tells of none, and an engine that nobody looks at records nothing. The
  // engine thread answers between two steps, in some 60 us when 256 sequences are live. Throws closed.
  Snapshot snapshot(std::uint64_t since_step = 0) const;

  Stats stats() const;
  std::string metrics() const;  // in Prometheus' text format
  Health health() const;
  const ModelInfo& model() const;
  const EngineConfig& config() const;  // as resolved: no zeros left
  const LoadReport& load_report() const;

  // Stops accepting, ends live requests with abort, joins. Idempotent.
  void close();

 private:
  struct Impl;
  explicit Engine(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

// Progress of a build: bytes of packed weights written so far, of how many.
using BuildProgress = std::function<void(std::int64_t done, std::int64_t total)>;

struct BuildReport {
  std::string scheme;
  std::int64_t weight_bytes = 0;
  std::int64_t peak_rss_bound = 0;  // bytes the build promised not to exceed
  double seconds = 0;
};

// Compiles a Hugging Face checkpoint directory into an engine directory, streaming: memory stays under
// peak_rss_bound whatever the checkpoint's size. The directory appears whole (atomic rename) or not at all.
WJ_API BuildReport build_engine(const std::filesystem::path& checkpoint, const std::filesystem::path& out,
                                const BuildConfig& config, const BuildProgress& progress = {});

// The bound that build_engine() keeps, in bytes: the same for every checkpoint, since tensors are never held whole.
WJ_API std::int64_t build_peak_rss_bound();

// What a checkpoint or an engine is, as JSON text, without loading weights: the model, its parameters, KV memory by
// context length, and the plan step by step with bytes, flops and roofline time for `gpu` (one of choices::kGpu) at
// `tokens` tokens a step over `context` tokens of KV each. Throws invalid_argument for an unknown GPU name.
struct DescribeOptions {
  std::string gpu = "H100";
  int tokens = 1;
  int context = 1024;
};
WJ_API std::string describe(const std::filesystem::path& model, const DescribeOptions& options);

}  // namespace warpjet

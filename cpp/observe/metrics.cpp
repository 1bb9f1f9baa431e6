// What an engine measures, and how Prometheus reads it: one table of metrics, printed in the text exposition format
// 0.0.4. Names, labels and meanings follow vLLM's where both have them, so that dashboards need only another prefix.
#include "core/core.h"
#include "observe/observe.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <variant>

namespace warpjet {
namespace {

// Bounds of the histograms. Latencies have vLLM's bounds and finer ones below: a small model's token takes 2 ms.
constexpr double kFirstTokenSeconds[] = {0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75,
                                         1,     2.5,   5,    7.5,  10,   20,   40,   80,  160,  640, 2560};
constexpr double kTokenSeconds[] = {0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3,
                                    0.4,   0.5,    0.75,  1,    2.5,   5,    7.5,   10,  20,   40,  80};
constexpr double kRequestSeconds[] = {0.001, 0.005, 0.01, 0.05, 0.1, 0.3, 0.5, 0.8, 1,   1.5, 2,   2.5,  5,
                                      10,    15,    20,   30,   40,  50,  60,  120, 240, 480, 960, 1920, 7680};
constexpr double kStepSeconds[] = {1e-6,  5e-6, 1e-5,  2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 0.001, 0.0025,
                                   0.005, 0.01, 0.025, 0.05,   0.1,  0.25, 0.5,    1,    2.5,   10};
constexpr double kIdleSeconds[] = {1e-6, 2e-6, 3e-6, 4e-6, 6e-6,   8e-6, 1e-5, 1.5e-5, 2e-5, 3e-5,
                                   4e-5, 5e-5, 1e-4, 2e-4, 0.0005, 1e-3, 0.01, 0.1,    1,    10};
constexpr double kStepTokens[] = {1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768};
constexpr double kRequestTokens[] = {1,    2,    5,     10,    20,    50,     100,    200,    500,    1000,
                                     2000, 5000, 10000, 20000, 50000, 100000, 200000, 500000, 1000000};
constexpr double kSamples[] = {1, 2, 5, 10, 20, 50, 100};

// One counter for each value of an enum, with that value's name as label. Any thread.
template <class Enum, Enum kFirst, Enum kLast>
struct CountersBy {
  static constexpr int kBegin = static_cast<int>(kFirst), kEnd = static_cast<int>(kLast) + 1;

  void add(Enum value) { counts[static_cast<int>(value)].fetch_add(1, std::memory_order_relaxed); }
  std::int64_t count(int value) const { return counts[value].load(std::memory_order_relaxed); }

  std::string_view label;
  std::array<std::atomic<std::int64_t>, kEnd> counts{};
};
using CountersByFinish = CountersBy<FinishReason, FinishReason::stop, FinishReason::error>;
using CountersByError = CountersBy<ErrorCode, ErrorCode::invalid_argument, ErrorCode::internal>;

struct Measured {
  Histogram first_token{kFirstTokenSeconds}, next_token{kTokenSeconds}, output_token{kTokenSeconds};
  Histogram e2e{kRequestSeconds}, queue{kRequestSeconds}, prefix{kRequestSeconds}, prefill{kRequestSeconds},
      decode{kRequestSeconds}, inference{kRequestSeconds}, preempted{kRequestSeconds}, paused{kRequestSeconds};
  Histogram prompt_tokens{kRequestTokens}, output_tokens{kRequestTokens}, max_tokens{kRequestTokens}, n{kSamples};
  Histogram step_tokens{kStepTokens}, step_seqs{kStepTokens};
  Histogram step_device{kStepSeconds}, step_host{kStepSeconds}, step_idle{kIdleSeconds};
  std::atomic<std::int64_t> accepted{0};
  CountersByFinish finished{.label = "finished_reason"};
  CountersByError rejected{.label = "reason"};
};

// A row of THE TABLE of metrics: where its value is.
using Source =
    std::variant<int Stats::*, std::int64_t Stats::*, double (*)(const Stats&), std::atomic<std::int64_t> Measured::*,
                 Histogram Measured::*, CountersByFinish Measured::*, CountersByError Measured::*>;
struct Metric {
  std::string_view name, kind, help;
  Source source;
};

double kv_cache_usage(const Stats& stats) {
  return stats.kv_blocks > 0 ? static_cast<double>(stats.kv_blocks_used) / stats.kv_blocks : 0;
}
double prefix_cache_queries(const Stats& stats) {
  return static_cast<double>(stats.prompt_tokens + stats.cached_tokens);
}

using M = Measured;
constexpr Metric kMetrics[] = {
    {"num_requests_running", "gauge", "Sequences running now.", &Stats::running},
    {"num_requests_waiting", "gauge", "Sequences waiting to run now.", &Stats::waiting},
    {"num_requests_paused", "gauge", "Sequences paused now.", &Stats::paused},
    {"kv_cache_usage_perc", "gauge", "KV blocks held by live sequences; 1 is all of them.", kv_cache_usage},
    {"prompt_tokens_total", "counter", "Prompt tokens computed; prefix cache hits are not.", &Stats::prompt_tokens},
    {"generation_tokens_total", "counter", "Tokens generated.", &Stats::generated_tokens},
    {"prefix_cache_queries_total", "counter", "Prompt tokens looked for in the prefix cache.", prefix_cache_queries},
    {"prefix_cache_hits_total", "counter", "Prompt tokens found in the prefix cache.", &Stats::cached_tokens},
    {"num_preemptions_total", "counter", "Sequences put back to wait for KV blocks.", &Stats::preemptions},
    {"kv_blocks_offloaded_total", "counter", "KV blocks copied to host memory.", &Stats::kv_blocks_offloaded},
    {"kv_blocks_restored_total", "counter", "KV blocks copied back from host memory.", &Stats::kv_blocks_restored},
    {"engine_steps_total", "counter", "Steps run.", &Stats::steps},
    {"samples_accepted_total", "counter", "Samples of accepted requests; each of them ends once.", &M::accepted},
    {"request_success_total", "counter", "Samples that ended, by reason.", &M::finished},
    {"admission_rejections_total", "counter", "Requests refused at submission, by error code.", &M::rejected},
    {"time_to_first_token_seconds", "histogram", "From submission to the first token.", &M::first_token},
    {"inter_token_latency_seconds", "histogram", "From one token of a sample to its next.", &M::next_token},
    {"request_time_per_output_token_seconds", "histogram", "Mean time of a sample's tokens after its first.",
     &M::output_token},
    {"e2e_request_latency_seconds", "histogram", "From submission to the final output.", &M::e2e},
    {"request_queue_time_seconds", "histogram", "Waiting to run for the first time.", &M::queue},
    {"request_prefix_time_seconds", "histogram", "Waiting for another request's prefix.", &M::prefix},
    {"request_prefill_time_seconds", "histogram", "Running, until the first token.", &M::prefill},
    {"request_decode_time_seconds", "histogram", "Running, after the first token.", &M::decode},
    {"request_inference_time_seconds", "histogram", "Running: prefill and decode.", &M::inference},
    {"request_preempted_time_seconds", "histogram", "Waiting for KV blocks after having run.", &M::preempted},
    {"request_paused_time_seconds", "histogram", "Paused.", &M::paused},
    {"request_prompt_tokens", "histogram", "Tokens of a sample's prompt.", &M::prompt_tokens},
    {"request_generation_tokens", "histogram", "Tokens generated for a sample.", &M::output_tokens},
    {"request_params_n", "histogram", "Samples asked for.", &M::n},
    {"request_params_max_tokens", "histogram", "max_tokens asked for.", &M::max_tokens},
    {"iteration_tokens_total", "histogram", "Tokens of a step.", &M::step_tokens},
    {"iteration_sequences", "histogram", "Sequences in a step.", &M::step_seqs},
    {"step_device_seconds", "histogram", "The device's work on a step.", &M::step_device},
    {"step_host_seconds", "histogram", "The engine thread's work on a step.", &M::step_host},
    {"device_idle_between_steps_seconds", "histogram", "The device without work before a step.", &M::step_idle},
};

// A value between the quotes of a label.
std::string escape_label(std::string_view value) {
  std::string out;
  for (const char c : value) {
    if (c == '\n') {
      out += "\\n";
      continue;
    }
    if (c == '\\' || c == '"') out += '\\';
    out += c;
  }
  return out;
}

// The exposition format: the lines of one metric after another.
class Exposition {
 public:
  Exposition(const Stats& stats, const Measured& measured, std::string_view model_name)
      : stats_(stats),
        measured_(measured),
        labels_(cat("model_name=\"", escape_label(model_name), "\",engine=\"0\"")) {}

  void add(const Metric& metric) {
    name_ = cat("warpjet:", metric.name);
    put("# HELP ", name_, " ", metric.help, "\n# TYPE ", name_, " ", metric.kind, "\n");
    std::visit([this](auto source) { value(source); }, metric.source);
  }
  std::string take() { return std::move(text_); }

 private:
  template <class T>
  void value(T Stats::*member) {
    sample("", "", "", number(std::int64_t{stats_.*member}));
  }
  void value(std::atomic<std::int64_t> Measured::*member) {
    sample("", "", "", number((measured_.*member).load(std::memory_order_relaxed)));
  }
  void value(double (*compute)(const Stats&)) { sample("", "", "", number(compute(stats_))); }

  // The count is the sum of the buckets as they were read, whatever is added meanwhile.
  void value(Histogram Measured::*member) {
    const Histogram& histogram = measured_.*member;
    std::int64_t total = 0;
    for (std::size_t i = 0; i < histogram.bounds().size(); ++i) {
      total += histogram.count(i);
      sample("_bucket", "le", number(histogram.bounds()[i]), number(total));
    }
    total += histogram.count(histogram.bounds().size());
    sample("_bucket", "le", "+Inf", number(total));
    sample("_sum", "", "", number(histogram.sum()));
    sample("_count", "", "", number(total));
  }

  template <class Enum, Enum kFirst, Enum kLast>
  void value(CountersBy<Enum, kFirst, kLast> Measured::*member) {
    const auto& counters = measured_.*member;
    for (int i = counters.kBegin; i < counters.kEnd; ++i) {
      sample("", counters.label, to_string(static_cast<Enum>(i)), number(counters.count(i)));
    }
  }

  void sample(std::string_view suffix, std::string_view label, std::string_view label_value, std::string_view value) {
    put(name_, suffix, "{", labels_);
    if (!label.empty()) put(",", label, "=\"", label_value, "\"");
    put("} ", value, "\n");
  }

  // The shortest text without exponent that reads back as the same number, in any locale.
  static std::string number(double value) {
    std::array<char, 512> buffer;  // 343 characters are the most that a double takes
    return {buffer.data(), std::to_chars(buffer.begin(), buffer.end(), value, std::chars_format::fixed).ptr};
  }
  static std::string number(std::int64_t value) { return std::to_string(value); }

  template <class... Parts>
  void put(const Parts&... parts) {
    (text_.append(parts), ...);
  }

  const Stats& stats_;
  const Measured& measured_;
  std::string labels_, name_, text_;
};

// Only the engine thread adds, so a load and a store will do.
template <class T>
void increase(std::atomic<T>& total, T value) {
  total.store(total.load(std::memory_order_relaxed) + value, std::memory_order_relaxed);
}

}  // namespace

void Histogram::add(double value) {
  const auto bucket = std::ranges::lower_bound(bounds_, value) - bounds_.begin();  // an upper bound is inclusive
  increase(counts_[static_cast<std::size_t>(bucket)], std::int64_t{1});
  increase(sum_, value);
}

struct Metrics::State : Measured {};

Metrics::Metrics() : state_(std::make_shared<State>()) {}

void Metrics::step(int tokens, int seqs, double device_us, double host_us, double idle_us) {
  state_->step_tokens.add(tokens);
  state_->step_seqs.add(seqs);
  state_->step_device.add(device_us * 1e-6);
  state_->step_host.add(host_us * 1e-6);
  if (idle_us >= 0) state_->step_idle.add(idle_us * 1e-6);
}

void Metrics::first_token(double ttft_s) {
  state_->first_token.add(ttft_s);
}

void Metrics::next_token(double seconds) {
  state_->next_token.add(seconds);
}

void Metrics::finished(FinishReason reason, const SamplingParams& params, int prompt_tokens, int output_tokens,
                       const RequestTimes& times) {
  State& state = *state_;
  state.finished.add(reason);
  state.n.add(params.n);
  if (params.max_tokens) state.max_tokens.add(*params.max_tokens);
  state.prompt_tokens.add(prompt_tokens);
  state.output_tokens.add(output_tokens);
  state.e2e.add(times.total_ms * 1e-3);
  state.queue.add(times.queue_ms * 1e-3);
  state.prefix.add(times.prefix_ms * 1e-3);
  state.prefill.add(times.prefill_ms * 1e-3);
  state.decode.add(times.decode_ms * 1e-3);
  state.inference.add((times.prefill_ms + times.decode_ms) * 1e-3);
  state.preempted.add(times.preempted_ms * 1e-3);
  state.paused.add(times.paused_ms * 1e-3);
  if (output_tokens > 1) state.output_token.add(times.decode_ms * 1e-3 / (output_tokens - 1));
}

void Metrics::accepted(int samples) {
  state_->accepted.fetch_add(samples, std::memory_order_relaxed);
}

void Metrics::rejected(ErrorCode code) {
  state_->rejected.add(code);
}

std::string Metrics::prometheus(const Stats& stats, std::string_view model_name) const {
  Exposition exposition(stats, *state_, model_name);
  for (const Metric& metric : kMetrics) exposition.add(metric);
  return exposition.take();
}

}  // namespace warpjet

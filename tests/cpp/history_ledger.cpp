#include "history_ledger.h"

#include <algorithm>
#include <cmath>

#include "ops/sampling.h"

namespace warpjet::history {
namespace {

Micros micros(Clock::time_point time) {
  return std::chrono::duration_cast<std::chrono::microseconds>(time.time_since_epoch()).count();
}

std::string text_of(const Tokens& tokens) {
  std::string text;
  for (const std::int32_t token : tokens) text += cat(text.empty() ? "[" : " ", token);
  return text + "]";
}

bool equal(const Logprobs& a, const Logprobs& b) {
  return std::ranges::equal(a, b, [](const TokenLogprob& x, const TokenLogprob& y) {
    return x.token == y.token && x.logprob == y.logprob && x.rank == y.rank;
  });
}

}  // namespace

// --- What happens ---------------------------------------------------------------------------------------------------

void Ledger::accepted(const Request& request, RequestId id, int queue) {
  const auto [at, is_new] = promises_.try_emplace(id);
  WJ_CHECK(is_new && id > 0, "id ", id, " was given twice");
  Promise& promise = at->second;
  promise.id = id;
  promise.request = request;
  promise.queue = queue;
  const std::uint64_t seed =
      random_key(static_cast<std::uint64_t>(config_.engine_seed), static_cast<std::uint32_t>(id));
  for (Ending& ending : run_alone(request, config_.rules, seed))
    promise.samples.push_back({.expected = std::move(ending)});
  if (request.sampling.prompt_logprobs) promise.prompt_logprobs = prompt_logprobs(request, config_.rules);
  promise.num_live = static_cast<int>(promise.samples.size());
  num_live_ += promise.num_live;
}

void Ledger::canceled(RequestId id, std::optional<int> sample) {
  const auto found = promises_.find(id);
  if (found == promises_.end()) return;
  Promise& promise = found->second;
  if (!sample) {
    promise.canceled = true;
  } else if (*sample >= 0 && std::cmp_less(*sample, promise.samples.size())) {
    promise.samples[*sample].canceled = true;
    promise.canceled |= promise.request.sampling.beam_width > 1;  // beams stand and fall together
  }
}

void Ledger::turned(Micros now) {
  now_ = now;
  for (auto& [id, promise] : promises_) {
    const bool late = promise.request.deadline != Clock::time_point::max() && micros(promise.request.deadline) <= now;
    for (Sample& sample : promise.samples) sample.must_have_ended |= promise.canceled || sample.canceled || late;
  }
}

int Ledger::live_requests(const std::string* tenant) const {
  return static_cast<int>(std::ranges::count_if(promises_, [&](const auto& entry) {
    return entry.second.num_live > 0 && (!tenant || entry.second.request.tenant == *tenant);
  }));
}

std::int64_t Ledger::live_tokens() const {
  std::int64_t tokens = 0;
  for (const auto& [id, promise] : promises_) {
    if (promise.num_live > 0) tokens += std::ssize(promise.request.prompt);
  }
  return tokens;
}

std::int64_t Ledger::work() const {
  std::int64_t tokens = 0;
  for (const auto& [id, promise] : promises_) tokens += promise.num_live * max_length(promise.request, config_.rules);
  return tokens;
}

// --- What comes -----------------------------------------------------------------------------------------------------

void Ledger::take(const std::vector<Output>& outputs, int queue) {
  for (const Output& output : outputs) take(output, queue);
}

// A request whose reader is away pauses: what has piled up is bounded.
void Ledger::take_all(const std::vector<Output>& outputs, int queue) {
  std::map<RequestId, std::int64_t> unread;
  for (const Output& output : outputs) unread[output.id] += std::ssize(output.tokens);
  take(outputs, queue);
  for (const auto& [id, tokens] : unread) {
    const Promise& promise = promises_.at(id);
    const std::int64_t surplus = std::ssize(promise.samples) * (config_.depth + 1);
    WJ_CHECK(promise.request.sampling.beam_width > 1 || tokens <= config_.max_unread + surplus, "request ", id, " had ",
             tokens, " unread tokens");
  }
  for (const auto& [id, promise] : promises_) {
    if (promise.queue != queue || promise.num_live == 0) continue;
    WJ_CHECK(!closed_, "request ", id, " has no final output after the engine's end");
    for (const Sample& sample : promise.samples) {
      WJ_CHECK(sample.ended || !sample.must_have_ended || config_.faults, "request ", id, " was canceled or is late");
    }
  }
}

void Ledger::take(const Output& output, int queue) {
  const auto found = promises_.find(output.id);
  WJ_CHECK(found != promises_.end(), "an output of request ", output.id, ", which nobody has submitted");
  Promise& promise = found->second;
  WJ_CHECK(promise.queue == queue, "request ", output.id, " came out of another queue");
  WJ_CHECK(output.sample >= 0 && std::cmp_less(output.sample, promise.samples.size()), "sample=", output.sample);
  Sample& sample = promise.samples[output.sample];
  WJ_CHECK(!sample.ended, "request ", output.id, ".", output.sample, " goes on after its final output");
  WJ_CHECK(output.sequence == sample.outputs++, "request ", output.id, ".", output.sample, " has output ",
           output.sequence, " as number ", sample.outputs - 1);
  WJ_CHECK(output.is_final() || !output.tokens.empty(), "an output that says nothing");
  if (sample.outputs == 1) check_prompt(promise, sample, output);
  WJ_CHECK(sample.outputs == 1 || output.prompt_logprobs.empty(), "log-probabilities of the prompt come twice");
  check_tokens(promise, sample, output);
  num_tokens_ += std::ssize(output.tokens);
  if (!output.is_final()) return;
  sample.ended = true;
  check_final(promise, sample, output);
  --promise.num_live;
  --num_live_;
  ++num_finals_;
  num_cached_ += output.cached_tokens;
  ++finals_[static_cast<int>(output.finish)];
  if (output.finish == FinishReason::error) ++errors_[static_cast<int>(output.error_code)];
}

void Ledger::check_tokens(const Promise& promise, Sample& sample, const Output& output) {
  const std::size_t before = sample.tokens.size();
  const Ending& expected = sample.expected;
  sample.tokens.insert(sample.tokens.end(), output.tokens.begin(), output.tokens.end());
  if (!expected.sure) return;
  WJ_CHECK(sample.tokens.size() <= expected.tokens.size() &&
               std::equal(sample.tokens.begin(), sample.tokens.end(), expected.tokens.begin()),
           "request ", output.id, ".", output.sample, " gets ", text_of(sample.tokens), " instead of ",
           text_of(expected.tokens));
  if (!promise.request.sampling.logprobs) return;
  WJ_CHECK(output.logprobs.size() == output.tokens.size(), output.logprobs.size(), " log-probabilities for ",
           output.tokens.size(), " tokens");
  for (std::size_t i = 0; i < output.logprobs.size(); ++i) {
    WJ_CHECK(equal(output.logprobs[i], expected.logprobs[before + i]), "the log-probabilities of token ", before + i);
  }
}

void Ledger::check_prompt(const Promise& promise, const Sample& sample, const Output& output) const {
  const int length = static_cast<int>(promise.request.prompt.size());
  const SamplingParams& p = promise.request.sampling;
  WJ_CHECK(output.prompt_tokens == length, "prompt_tokens=", output.prompt_tokens);
  const bool reads_cache =
      config_.caching && !p.skip_reading_prefix_cache && !(p.prompt_logprobs && output.sample == 0);
  const bool inherits = config_.caching && !p.skip_reading_prefix_cache && output.sample > 0;
  WJ_CHECK(output.cached_tokens >= 0 && output.cached_tokens < length, "cached_tokens=", output.cached_tokens);
  WJ_CHECK(output.cached_tokens == 0 || reads_cache || inherits, "cached_tokens=", output.cached_tokens);
  const bool wanted = p.prompt_logprobs && output.sample == 0;
  if (!wanted || (output.is_final() && output.finish != sample.expected.finish)) return;  // it may have ended before
  if (output.finish == FinishReason::error) return;
  WJ_CHECK(std::ranges::equal(output.prompt_logprobs, promise.prompt_logprobs, equal), "request ", output.id,
           " gets other log-probabilities of its prompt");
}

void Ledger::check_final(const Promise& promise, const Sample& sample, const Output& output) {
  const Ending& expected = sample.expected;
  check_times(output);
  switch (output.finish) {
    case FinishReason::none:
      break;
    case FinishReason::abort:
      WJ_CHECK(promise.canceled || sample.canceled || closed_, "request ", output.id, " was aborted by nobody");
      return;
    case FinishReason::error:
      return check_error(promise, sample, output);
    case FinishReason::stop:
    case FinishReason::length:
      results_[{output.id, output.sample}] = sample.tokens;
      if (!expected.sure) return;
      WJ_CHECK(output.finish == expected.finish && output.stop_token == expected.stop_token, "request ", output.id, ".",
               output.sample, " ended with ", to_string(output.finish), " ", output.stop_token, ", should with ",
               to_string(expected.finish), " ", expected.stop_token);
      WJ_CHECK(sample.tokens.size() == expected.tokens.size(), "request ", output.id, " ended after ",
               sample.tokens.size(), " tokens instead of ", expected.tokens.size());
      WJ_CHECK(output.cumulative_logprob == expected.log_probability, "cumulative_logprob=", output.cumulative_logprob);
  }
}

void Ledger::check_error(const Promise& promise, const Sample& sample, const Output& output) const {
  const Ending& expected = sample.expected;
  const auto described = [&] {
    return cat("request ", output.id, ".", output.sample, ": ", to_string(output.error_code), ": ", output.error);
  };
  WJ_CHECK(!output.error.empty() || config_.faults, described());
  switch (output.error_code) {
    case ErrorCode::deadline_exceeded:
      WJ_CHECK(micros(promise.request.deadline) <= now_, described());
      return;
    case ErrorCode::invalid_argument:
      if (output.error == kGuideFailed) {
        WJ_CHECK(expected.finish == FinishReason::error && sample.tokens.size() == expected.tokens.size(), described());
        return;
      }
      WJ_CHECK(!fits(promise) && sample.tokens.empty(), described());
      return;
    case ErrorCode::internal:
      if (!expected.sure) return;
      WJ_CHECK(expected.finish == FinishReason::error && sample.tokens.size() == expected.tokens.size(), described());
      return;
    default:
      WJ_CHECK(config_.faults, described());
  }
}

bool Ledger::fits(const Promise& promise) const {
  return max_length(promise.request, config_.rules) <= config_.capacity;
}

void Ledger::check_times(const Output& output) const {
  const RequestTimes& t = output.times;
  const std::array<double, 6> parts = {t.queue_ms, t.prefix_ms, t.prefill_ms, t.decode_ms, t.preempted_ms, t.paused_ms};
  double sum = 0;
  for (const double part : parts) {
    WJ_CHECK(part >= 0, "a negative time: ", part);
    sum += part;
  }
  WJ_CHECK(std::abs(sum - t.total_ms) < 1e-3, "the parts of the time add up to ", sum, " of ", t.total_ms);
}

}  // namespace warpjet::history

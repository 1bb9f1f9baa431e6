// The life of a request on the engine thread: adopted, started, fed tokens, finished, delivered.
#include <algorithm>

#include "runtime/step_loop.h"

namespace warpjet {
namespace {

double milliseconds(Clock::duration d) {
  return std::chrono::duration<double, std::milli>(d).count();
}

}  // namespace

// From here on every sample of the request is owed a final output.
StepLoop::State::Live& StepLoop::State::adopt(std::unique_ptr<Live> owned) {
  Live& live = *owned;
  live_.emplace(live.id, std::move(owned));
  live.num_running = live.request.sampling.n;
  live.samples.resize(live.num_running);
  for (int i = 0; i < live.num_running; ++i) {
    live.samples[i].live = &live;
    live.samples[i].index = i;
  }
  if (live.request.deadline != Clock::time_point::max()) deadlines_.emplace(live.request.deadline, live.id);
  return live;
}

void StepLoop::State::start(Live& live) {
  const SamplingParams& p = live.request.sampling;
  const int vocab = config_.model.vocab_size;
  const auto resolved = [&](const std::optional<int>& count) {
    return !count ? -1 : *count < 0 ? vocab : std::min(*count, vocab);
  };
  if (!p.ignore_eos) live.banned_before_min = config_.model.eos_token_ids;
  live.banned_before_min.insert(live.banned_before_min.end(), p.stop_token_ids.begin(), p.stop_token_ids.end());

  // Without a seed of its own a request is seeded by the engine's seed and its number.
  const std::uint64_t seed =
      p.seed ? static_cast<std::uint64_t>(*p.seed)
             : random_key(static_cast<std::uint64_t>(config_.engine.seed), static_cast<std::uint32_t>(live.id));
  const SequenceId leader = next_sequence_;
  for (Sample& sample : live.samples) {
    sample.state = {.params = &p,
                    .key = random_key(seed, static_cast<std::uint32_t>(sample.index)),
                    .banned_before_min = live.banned_before_min,
                    .logprobs = resolved(p.logprobs),
                    .prompt_logprobs = sample.index == 0 ? resolved(p.prompt_logprobs) : -1};
    auto sequence = make_sequence(live, static_cast<int>(live.request.prompt.size()));
    sequence->id = next_sequence_++;
    // The logits of cached prompt tokens are gone, so whoever wants them computes the prompt anew.
    sequence->read_prefix_cache = !p.skip_reading_prefix_cache && sample.state.prompt_logprobs < 0;
    sequence->leader = sample.index == 0 ? 0 : leader;
    sequence->user = &sample;
    try {
      sample.sequence = &scheduler_.add(std::move(sequence));
    } catch (const Error& e) {
      return finish_request(live.id, FinishReason::error, e.code(), e.message());
    }
  }
}

std::unique_ptr<Sequence> StepLoop::State::make_sequence(const Live& live, int prompt_length) const {
  const SamplingParams& p = live.request.sampling;
  const std::int64_t limit = config_.model.max_model_len;
  auto sequence = std::make_unique<Sequence>();
  sequence->tokens = live.request.prompt;
  sequence->prompt_length = prompt_length;
  const std::int64_t wanted = p.max_tokens ? std::int64_t{prompt_length} + std::max(1, *p.max_tokens) : limit;
  sequence->max_length = static_cast<int>(std::min(limit, wanted));
  sequence->priority = live.request.priority;
  sequence->salt = live.request.cache_salt;
  if (config_.rope_original > 0 && prompt_length > config_.rope_original) {
    sequence->salt += cat('\0', "rope length ", prompt_length);
  }
  return sequence;
}

void StepLoop::State::expire() {
  if (deadlines_.empty()) return;
  const Clock::time_point now = Clock::now();
  while (!deadlines_.empty() && deadlines_.begin()->first <= now) {
    const RequestId id = deadlines_.begin()->second;
    deadlines_.erase(deadlines_.begin());
    finish_request(id, FinishReason::error, ErrorCode::deadline_exceeded, "the deadline has passed");
  }
}

// A preempted sequence computes its prompt again; the log-probabilities are kept by position, so twice is harmless.
void StepLoop::State::take_prompt_logprobs(Live& live, const Chunk& chunk, std::size_t& next_scored) {
  if (chunk.start >= chunk.sequence->prompt_length) return;
  live.prompt_logprobs.resize(live.request.prompt.size());
  for (int i = 0; i < num_scored(chunk); ++i) {
    live.prompt_logprobs[chunk.start + 1 + i] = std::move(result_.scored[next_scored++].logprobs);
  }
}

void StepLoop::State::take_token(Sample& sample, SampledRow& row) {
  Live& live = *sample.live;
  const SamplingParams& p = live.request.sampling;
  const Sequence& sequence = *sample.sequence;
  if (row.token < 0) {
    return finish(sample, FinishReason::error, ErrorCode::internal,
                  "the model gave no finite logit for the next token (broken weights, or every token banned)");
  }
  const bool first = live.first_token == Clock::time_point{};
  if (first) live.first_token = Clock::now();
  Output& output = pending_output(sample);
  if (p.max_tokens && *p.max_tokens == 0) return finish(sample, FinishReason::length);  // only the prompt was wanted

  output.tokens.push_back(row.token);
  if (sample.state.logprobs >= 0) output.logprobs.push_back(std::move(row.logprobs));
  ++counters_.generated_tokens;

  const auto contains = [&](const std::vector<std::int32_t>& ids) {
    return std::find(ids.begin(), ids.end(), row.token) != ids.end();
  };
  if (sequence.output_length() >= p.min_tokens) {
    if (!p.ignore_eos && contains(config_.model.eos_token_ids)) return finish(sample, FinishReason::stop);
    if (contains(p.stop_token_ids)) {
      output.stop_token = row.token;
      return finish(sample, FinishReason::stop);
    }
  }
  if (sequence.length() >= sequence.max_length) finish(sample, FinishReason::length);
}

Output& StepLoop::State::pending_output(Sample& sample) {
  if (!sample.pending) {
    Live& live = *sample.live;
    outputs_.emplace_back(&sample, std::make_unique<Output>());
    sample.pending = outputs_.back().second.get();
    Output& output = *sample.pending;
    output.id = live.id;
    output.sample = sample.index;
    output.sequence = sample.outputs++;
    output.prompt_tokens = static_cast<int>(live.request.prompt.size());
    output.cached_tokens = sample.sequence ? sample.sequence->cached : 0;
    if (live.scheduled != Clock::time_point{}) output.queue_ms = milliseconds(live.scheduled - live.submitted);
    if (live.first_token != Clock::time_point{}) output.ttft_ms = milliseconds(live.first_token - live.submitted);
    if (sample.index == 0) output.prompt_logprobs = std::exchange(live.prompt_logprobs, {});
  }
  return *sample.pending;
}

void StepLoop::State::finish(Sample& sample, FinishReason reason, ErrorCode code, std::string error) {
  Output& output = pending_output(sample);
  output.finish = reason;
  output.error_code = code;
  output.error = std::move(error);
  ++counters_.finished;
  sample.ended = true;
  if (sample.sequence) {
    counters_.cached_tokens += sample.sequence->cached;
    // After a failure the scheduler may have been left in the middle of a step: nobody touches it again.
    if (health() != Health::failed) scheduler_.remove(*sample.sequence);
    sample.sequence = nullptr;
  }

  Live& live = *sample.live;
  if (--live.num_running > 0) return;
  unreserve(static_cast<std::int64_t>(live.request.prompt.size()));
  if (live.request.deadline != Clock::time_point::max()) {
    const auto [begin, end] = deadlines_.equal_range(live.request.deadline);
    const auto entry = std::find_if(begin, end, [&](const auto& item) { return item.second == live.id; });
    if (entry != end) deadlines_.erase(entry);
  }
  const auto found = live_.find(live.id);
  ended_.push_back(std::move(found->second));
  live_.erase(found);
}

void StepLoop::State::finish_sample(RequestId id, int index) {
  const auto found = live_.find(id);
  if (found == live_.end() || index < 0 || index >= std::ssize(found->second->samples)) return;
  Sample& sample = found->second->samples[index];
  if (!sample.ended) finish(sample, FinishReason::abort);
}

void StepLoop::State::finish_request(RequestId id, FinishReason reason, ErrorCode code, std::string error) {
  const auto found = live_.find(id);
  if (found == live_.end()) return;
  Live& live = *found->second;
  for (Sample& sample : live.samples) {
    if (!sample.ended) finish(sample, reason, code, error);
  }
}

// Runs when the loop has ended: after this nothing is live and nothing can be submitted.
void StepLoop::State::finish_all(FinishReason reason, ErrorCode code, const std::string& error) {
  {
    const std::lock_guard lock(inbox_mutex_);
    closing_ = true;
    for (Command& command : inbox_) commands_.push_back(std::move(command));
    inbox_.clear();
  }
  for (Command& command : commands_) {
    if (command.live) adopt(std::move(command.live));
    if (command.done) command.done->set_value();
  }
  commands_.clear();
  std::vector<RequestId> ids;
  for (const auto& [id, live] : live_) ids.push_back(id);
  std::sort(ids.begin(), ids.end());
  for (RequestId id : ids) finish_request(id, reason, code, error);
  publish_stats();
  deliver();
}

// One push, hence one wake-up, for each queue that has something.
void StepLoop::State::deliver() {
  const auto by_queue = [](const auto& a, const auto& b) { return a.first->live->queue < b.first->live->queue; };
  std::stable_sort(outputs_.begin(), outputs_.end(), by_queue);
  for (std::size_t i = 0; i < outputs_.size();) {
    OutputQueue::State* queue = outputs_[i].first->live->queue.get();
    delivery_.clear();
    for (; i < outputs_.size() && outputs_[i].first->live->queue.get() == queue; ++i) {
      outputs_[i].first->pending = nullptr;
      delivery_.push_back(outputs_[i].second.get());
    }
    queue->push(delivery_);
  }
  outputs_.clear();
  ended_.clear();
}

}  // namespace warpjet

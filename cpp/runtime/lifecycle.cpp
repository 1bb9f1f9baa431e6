// The life of a request on the engine thread: adopted, started, fed tokens, finished, delivered, forgotten.
#include <algorithm>
#include <cmath>

#include "runtime/step_loop.h"

namespace warpjet {
namespace {

// Not the request's fault: another engine, or this one at another time, may well run it.
bool is_retriable(FinishReason reason, ErrorCode code) {
  if (reason != FinishReason::error && code != ErrorCode::closed) return false;
  return code == ErrorCode::device || code == ErrorCode::peer || code == ErrorCode::out_of_memory ||
         code == ErrorCode::closed;
}

double milliseconds(Micros us) {
  return 1e-3 * static_cast<double>(us);
}

// Devices that compute nothing leave such lists empty.
template <class T>
T take(std::vector<T>& list, int index) {
  return list.empty() ? T() : std::move(list[index]);
}

Pooling pooling_of(const Request& request) {
  if (!request.pooling) return Pooling::none;
  return request.pooling->pooling == "mean" ? Pooling::mean : Pooling::last;
}

}  // namespace

// --- Coming -------------------------------------------------------------------------------------------------------

// From here on every sample of the request is owed a final output. Throws bad_alloc and leaves the request to the
// caller, or takes it.
void StepLoop::State::adopt(std::unique_ptr<Live>& owned) {
  Live& live = *owned;
  if (live.request.deadline != Clock::time_point::max() && !live.has_deadline) {
    deadlines_.emplace(live.request.deadline, live.id);
    live.has_deadline = true;
  }
  live_.reserve(live_.size() + 1);
  const std::size_t most_ended = ended_.size() + live_.size() + 1;
  if (ended_.capacity() < most_ended) ended_.reserve(2 * most_ended);
  if (live.guided()) masks_.add(live.samples.size());
  live_.emplace(live.id, std::move(owned));
}

void StepLoop::State::start(Command& command) {
  const RequestId id = command.live->id;
  adopt(command.live);
  std::vector<std::unique_ptr<Sequence>> sequences;
  try {
    sequences = make_sequences(*live_.at(id));
  } catch (const std::bad_alloc&) {
    return finish_request(id, FinishReason::error, ErrorCode::out_of_memory, "no memory to start this request");
  }
  try {
    for (auto& sequence : sequences) {
      Sample& sample = *static_cast<Sample*>(sequence->user);
      sample.sequence = &scheduler_.add(std::move(sequence), now_);
    }
  } catch (const Error& e) {
    finish_request(id, FinishReason::error, e.code(), e.message());
  }
}

std::vector<std::unique_ptr<Sequence>> StepLoop::State::make_sequences(Live& live) {
  const SamplingParams& p = live.request.sampling;
  const int vocab = config_.model.vocab_size;
  const auto resolved = [&](const std::optional<int>& count) {
    return !count ? -1 : *count < 0 ? vocab : std::min(*count, vocab);
  };
  if (p.prompt_logprobs) live.prompt_logprobs.resize(live.prompt_length);
  if (!p.ignore_eos) live.stop_ids = config_.model.eos_token_ids;
  live.stop_ids.insert(live.stop_ids.end(), p.stop_token_ids.begin(), p.stop_token_ids.end());

  // Without a seed of its own a request is seeded by the engine's seed and its number.
  const std::uint64_t seed =
      p.seed ? static_cast<std::uint64_t>(*p.seed)
             : random_key(static_cast<std::uint64_t>(config_.engine.seed), static_cast<std::uint32_t>(live.id));
  for (Sample& sample : live.samples) {
    sample.words = pack_record({.params = p,
                                .prompt_length = live.prompt_length,
                                .key = random_key(seed, static_cast<std::uint32_t>(sample.index)),
                                .stop_ids = live.beams() ? std::span<const std::int32_t>() : live.stop_ids,
                                .logprobs = live.beams() ? std::min(2 * p.beam_width, vocab) : resolved(p.logprobs),
                                .prompt_logprobs = sample.index == 0 ? resolved(p.prompt_logprobs) : -1,
                                .guide_mask = live.request.mask,
                                .pooling = pooling_of(live.request)},
                               vocab);
    sample.record = read_record(sample.words);
  }
  // Beams fork from the first when its prompt has been computed. The prompt itself moves into the last sequence made.
  const int count = live.beams() ? 1 : static_cast<int>(live.samples.size());
  const SequenceId leader = next_sequence_;
  std::vector<std::unique_ptr<Sequence>> sequences;
  for (int i = 0; i < count; ++i) {
    const bool last = i == count - 1;
    auto prompt = last ? std::move(live.request.prompt) : live.request.prompt;
    sequences.push_back(make_sequence(live.samples[i], std::move(prompt)));
    if (i > 0) sequences.back()->leader = leader;
  }
  return sequences;
}

std::unique_ptr<Sequence> StepLoop::State::make_sequence(Sample& sample, std::vector<std::int32_t> tokens) {
  const Live& live = *sample.live;
  const SamplingParams& p = live.request.sampling;
  const std::int64_t limit = config_.model.max_model_len;
  const std::optional<int> asked = live.request.pooling ? 1 : p.max_tokens;
  const std::int64_t wanted = asked ? std::int64_t{live.prompt_length} + std::max(1, *asked) : limit;
  auto sequence = std::make_unique<Sequence>();
  sequence->id = next_sequence_++;
  sequence->tokens = std::move(tokens);
  sequence->prompt_length = live.prompt_length;
  sequence->max_length = static_cast<int>(std::min(limit, wanted));
  sequence->priority = live.request.priority;
  sequence->tenant = live.request.tenant;
  sequence->cache_class = live.request.cache_priority;
  sequence->domain.salt = live.request.cache_salt;
  if (config_.rope_original > 0 && live.prompt_length > config_.rope_original) {
    sequence->domain.salt += cat('\0', "rope length ", live.prompt_length);
  }
  // The logits and hidden states of cached tokens are gone, so a request for them computes its whole prompt.
  const bool is_mean = sample.record.pooling == Pooling::mean;
  sequence->read_prefix_cache = !p.skip_reading_prefix_cache && sample.record.prompt_logprobs < 0 && !is_mean;
  sequence->swappable = !is_mean;
  sequence->lockstep = live.beams();
  sequence->guided = live.guided();
  sequence->record = sample.words;
  sequence->user = &sample;
  return sequence;
}

// --- Waiting and pausing ------------------------------------------------------------------------------------------

void StepLoop::State::expire() {
  const Clock::time_point time{std::chrono::microseconds(now_)};
  while (!deadlines_.empty() && deadlines_.begin()->first <= time) {
    const RequestId id = deadlines_.begin()->second;
    const auto found = live_.find(id);
    if (found == live_.end()) {
      deadlines_.erase(deadlines_.begin());
    } else {
      finish_request(id, FinishReason::error, ErrorCode::deadline_exceeded, "the deadline has passed");
    }
  }
}

void StepLoop::State::set_paused(RequestId id, bool paused) {
  const auto found = live_.find(id);
  if (found == live_.end()) return;
  found->second->paused = paused;
  apply_pause(*found->second);
}

void StepLoop::State::apply_pause(Live& live) {
  for (Sample& sample : live.samples) {
    if (!sample.sequence) continue;
    if (live.paused || live.unread) {
      scheduler_.pause(*sample.sequence, now_, live.unread ? WaitReason::reader : WaitReason::queue);
    } else {
      scheduler_.resume(*sample.sequence, now_);
    }
  }
}

// A request whose reader fell behind goes on when half of what was too much has been read.
void StepLoop::State::watch_readers() {
  std::erase_if(unread_, [&](RequestId id) {
    const auto found = live_.find(id);
    if (found == live_.end()) return true;
    Live& live = *found->second;
    live.read = live.reader.credit->read.load(std::memory_order_acquire);
    if (live.pushed - live.read > config_.engine.max_unread_tokens / 2) return false;
    live.reader.credit->wanted.store(false, std::memory_order_relaxed);
    live.unread = false;
    apply_pause(live);
    return true;
  });
}

// --- Guides -------------------------------------------------------------------------------------------------------

void StepLoop::State::take_guidance(const Guidance& answer) {
  const auto found = live_.find(answer.id);
  if (found == live_.end() || answer.sample < 0 || answer.sample >= std::ssize(found->second->samples)) return;
  Live& live = *found->second;
  Sample& sample = live.samples[answer.sample];
  if (sample.held_index < 0 || sample.sequence->output_length() != answer.position) return;
  switch (answer.kind) {
    case Guidance::Kind::go_on:
      masks_.release(sample);
      scheduler_.let_go_on(*sample.sequence, pack_mask(live.request.sampling, answer.mask, sample.words));
      if (!live.paused && !live.unread) scheduler_.resume(*sample.sequence, now_);
      return;
    case Guidance::Kind::stop:
      return finish(sample, FinishReason::stop);
    case Guidance::Kind::fail:
      return finish(sample, FinishReason::error, ErrorCode::invalid_argument, answer.error);
  }
}

void StepLoop::State::watch_guides() {
  masks_.visit_late(now_, [&](Sample& sample) {
    finish(sample, FinishReason::error, ErrorCode::deadline_exceeded,
           cat("the guide has not answered for ", config_.engine.guide_timeout, " s (guide_timeout)"));
  });
}

// --- Tokens -------------------------------------------------------------------------------------------------------

// A preempted sequence computes its prompt again, perhaps after they were handed over.
void StepLoop::State::take_prompt_logprobs(Live& live, const Scheduler::Row& row, TokenRanges& scored, Range range) {
  if (live.prompt_logprobs.empty()) return;
  for (int i = 0; i < range.count; ++i) {
    live.prompt_logprobs[row.start + 1 + i] = std::move(scored.logprobs[range.first + i]);
  }
}

// The sequence has all of the tokens already.
void StepLoop::State::take_sample(Sample& sample, StepResult& result, int index) {
  Live& live = *sample.live;
  if (live.request.pooling) return take_embedding(sample, take(result.embeddings, index));
  TokenRanges& sampled = result.sampled;
  const Range range = sampled.range(index);
  WJ_CHECK(range.count > 0, "no token for a sequence that has not ended, request ", live.id);
  if (live.beams()) return take_choices(sample, sampled.tokens[range.first], take(sampled.logprobs, range.first));
  int length = sample.sequence->length() - range.count;
  for (int i = range.first; i < range.first + range.count && !sample.ended; ++i) {
    take_token(sample, sampled.tokens[i], take(sampled.logprobs, i), ++length);
  }
  if (sample.ended) return;
  if (live.guided()) masks_.wait(sample, now_);
  if (live.unread || is_read(live)) return;
  live.unread = true;
  unread_.push_back(live.id);
  live.reader.credit->wanted.store(true);
  apply_pause(live);
}

// With this token the text is so long.
void StepLoop::State::take_token(Sample& sample, std::int32_t token, std::vector<TokenLogprob> logprobs, int length) {
  Live& live = *sample.live;
  const SamplingParams& p = live.request.sampling;
  if (token == kBrokenToken)
    return finish(sample, FinishReason::error, ErrorCode::internal, live.guided() ? kNothingAllowed : kBrokenRow);
  const bool first = sample.last_token == 0;
  if (first) {
    sample.prefill = sample.sequence->time_in(SequenceState::running, now_);
    sample.first_token = now_;
    if (sample.index == 0) first_token(live);
  } else {
    metrics_.next_token(1e-6 * static_cast<double>(now_ - sample.last_token));
  }
  sample.last_token = now_;
  if (p.max_tokens && *p.max_tokens == 0) return finish(sample, FinishReason::length);  // only the prompt was wanted

  const bool wants_logprobs = sample.record.sampling.logprobs >= 0;
  std::unique_ptr<Output> details;
  if (first || wants_logprobs) details = make_details(sample);
  if (first && sample.index == 0) details->prompt_logprobs = std::exchange(live.prompt_logprobs, {});
  if (wants_logprobs) details->logprobs.push_back(std::move(logprobs));
  push_token(sample, token, std::move(details));

  if (is_stop(sample.record, token, length - live.prompt_length)) {
    const auto& eos = config_.model.eos_token_ids;
    const bool is_eos = !p.ignore_eos && std::ranges::find(eos, token) != eos.end();
    return finish(sample, FinishReason::stop, ErrorCode::internal, {}, is_eos ? -1 : token);
  }
  if (length >= sample.sequence->max_length) finish(sample, FinishReason::length);
}

// An embedding is the one output of its request.
void StepLoop::State::take_embedding(Sample& sample, std::vector<float> values) {
  const PoolingParams& p = *sample.live->request.pooling;
  sample.prefill = sample.sequence->time_in(SequenceState::running, now_);
  sample.first_token = now_;
  std::vector<float>& embedding = sample.said.final->embedding;
  embedding = std::move(values);
  if (p.dimensions) embedding.resize(*p.dimensions);
  double squares = 0;
  for (const float value : embedding) squares += double{value} * value;
  if (!std::isfinite(squares)) {
    embedding.clear();
    return finish(sample, FinishReason::error, ErrorCode::internal,
                  "the model gave an embedding that is not finite (broken weights)");
  }
  const double scale = p.normalize && squares > 0 ? 1 / std::sqrt(squares) : 1;
  for (float& value : embedding) value = static_cast<float>(value * scale);
  finish(sample, FinishReason::stop);
}

void StepLoop::State::first_token(const Live& live) {
  const Micros passed = now_ - live.submitted;
  metrics_.first_token(1e-6 * static_cast<double>(passed));
  recorder_.first_token({.id = live.id, .ttft_ms = milliseconds(passed)}, now_);
}

// The reader's counter is looked at only when the request has gone on long enough without.
bool StepLoop::State::is_read(Live& live) {
  if (live.pushed - live.read <= config_.engine.max_unread_tokens) return true;
  live.read = live.reader.credit->read.load(std::memory_order_acquire);
  return live.pushed - live.read <= config_.engine.max_unread_tokens;
}

void StepLoop::State::push_token(Sample& sample, std::int32_t token, std::unique_ptr<Output> details) {
  Live& live = *sample.live;
  if (live.guided()) {
    OutputEvent event = {.id = live.id, .credit = live.guide.credit, .sample = sample.index, .token = token};
    outbox_.push(live.guide, sample.told, event);
  }
  OutputEvent event = {.id = live.id,
                       .credit = live.reader.credit,
                       .sample = sample.index,
                       .token = token,
                       .details = std::move(details)};
  outbox_.push(live.reader, sample.said, event);
  ++live.pushed;
  ++counters_.generated_tokens;
}

std::unique_ptr<Output> StepLoop::State::make_details(const Sample& sample) const {
  auto details = std::make_unique<Output>();
  fill_details(sample, *details);
  return details;
}

void StepLoop::State::fill_details(const Sample& sample, Output& details) const {
  const Live& live = *sample.live;
  details.id = live.id;
  details.sample = sample.index;
  details.prompt_tokens = live.prompt_length;
  details.cached_tokens = sample.sequence ? sample.sequence->cached : 0;
  if (live.scheduled >= 0) details.queue_ms = milliseconds(live.scheduled - live.submitted);
  if (sample.first_token > 0) details.ttft_ms = milliseconds(sample.first_token - live.submitted);
}

RequestTimes StepLoop::State::times_of(const Sample& sample) const {
  RequestTimes times;
  const Micros total = now_ - sample.live->submitted;
  times.total_ms = milliseconds(total);
  if (!sample.sequence) {
    times.queue_ms = times.total_ms;
    return times;
  }
  const Sequence& s = *sample.sequence;
  const Micros running = s.time_in(SequenceState::running, now_);
  const Micros prefix = s.time_in(SequenceState::parked, now_), paused = s.time_in(SequenceState::paused, now_);
  const Micros waiting = total - running - prefix - paused;  // the inbox included
  const Micros prefill = sample.first_token > 0 ? sample.prefill : running;
  const Micros queue = s.admitted ? std::min(waiting, s.queued) : waiting;
  times.prefill_ms = milliseconds(prefill);
  times.decode_ms = milliseconds(running - prefill);
  times.prefix_ms = milliseconds(prefix);
  times.paused_ms = milliseconds(paused);
  times.queue_ms = milliseconds(queue);
  times.preempted_ms = milliseconds(waiting - queue);
  times.preemptions = s.preemptions;
  return times;
}

// --- Ends ---------------------------------------------------------------------------------------------------------

int StepLoop::State::output_length(const Sample& sample, const Sequence* sequence) const {
  const std::vector<Hypothesis>& hypotheses = sample.live->hypotheses;
  if (sample.live->beams() && std::cmp_less(sample.index, hypotheses.size())) {
    return static_cast<int>(hypotheses[sample.index].tokens.size());
  }
  return sequence ? sequence->output_length() : 0;
}

// THE place where a sample ends: its one final output goes out, and then its sequence goes.
void StepLoop::State::finish(Sample& sample, FinishReason reason, ErrorCode code, std::string_view error,
                             std::int32_t stop_token) {
  Live& live = *sample.live;
  Output& final = *sample.said.final;
  fill_details(sample, final);
  final.finish = reason;
  final.error_code = code;
  final.error = error;
  final.retriable = is_retriable(reason, code);
  final.stop_token = stop_token;
  const RequestTimes times = final.times = times_of(sample);
  if (sample.index == 0) final.prompt_logprobs.swap(live.prompt_logprobs);
  Sequence* const sequence = sample.sequence;
  if (sample.told.final) {
    sample.told.final->finish = reason;
    outbox_.push_final(live.guide, sample.told, live.id, sample.index);
  }
  outbox_.push_final(live.reader, sample.said, live.id, sample.index);
  if (sample.held_index >= 0) masks_.release(sample);
  sample.ended = true;
  sample.sequence = nullptr;
  ++counters_.finished;
  if (sequence) counters_.cached_tokens += sequence->cached;
  const int output_tokens = output_length(sample, sequence);
  metrics_.finished(reason, live.request.sampling, live.prompt_length, output_tokens, times);
  recorder_.finished({.id = live.id,
                      .sample = sample.index,
                      .reason = reason,
                      .output_tokens = output_tokens,
                      .total_ms = times.total_ms},
                     now_);
  if (--live.num_running == 0) end(live);
  if (sequence) scheduler_.remove(*sequence, now_);
}

void StepLoop::State::finish_sample(RequestId id, int index) {
  const auto found = live_.find(id);
  if (found == live_.end() || index < 0 || index >= std::ssize(found->second->samples)) return;
  if (found->second->beams()) return finish_request(id, FinishReason::abort);  // beams stand and fall together
  Sample& sample = found->second->samples[index];
  if (!sample.ended) finish(sample, FinishReason::abort);
}

void StepLoop::State::finish_request(RequestId id, FinishReason reason, ErrorCode code, std::string_view error) {
  const auto found = live_.find(id);
  if (found == live_.end()) return;
  Live& live = *found->second;
  for (Sample& sample : live.samples) {
    if (!sample.ended) finish(sample, reason, code, error);
  }
}

// The record stays until the turn is over: the caller may still look at it.
void StepLoop::State::end(Live& live) {
  limits_.release(live.prompt_length, live.request.tenant);
  if (live.has_deadline) {
    const auto [begin, last] = deadlines_.equal_range(live.request.deadline);
    const auto entry = std::find_if(begin, last, [&](const auto& item) { return item.second == live.id; });
    if (entry != last) deadlines_.erase(entry);
  }
  if (live.guided()) masks_.remove(live.samples.size());
  const auto found = live_.find(live.id);
  ended_.push_back(std::move(found->second));
  live_.erase(found);
}

}  // namespace warpjet

// The step loop over a mock executor whose tokens are a pure function of the prefix: the life of requests, exactly one
// final output each, cancels, deadlines, limits, faults and shutdown.
#include "runtime/runtime.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <fstream>
#include <map>
#include <random>
#include <thread>

namespace warpjet {
namespace {

using namespace std::chrono_literals;
constexpr int kVocab = 97;
constexpr std::int32_t kEos = 2;
constexpr int kMaskWords = (kVocab + 31) / 32;

// Never kEos unless the prefix's length is a multiple of 61.
std::int32_t next_token(std::span<const std::int32_t> prefix, std::uint64_t key) {
  const auto bytes = std::as_bytes(prefix);
  const auto token = static_cast<std::int32_t>(hash64(bytes, key) % (kVocab - 3));
  return prefix.size() % 61 == 0 ? kEos : token + 3;
}

// The first one from `token` on, and then from 0.
std::int32_t first_allowed(std::span<const std::int32_t> mask, std::int32_t token) {
  for (int i = 0; i < kVocab; ++i) {
    const std::int32_t candidate = (token + i) % kVocab;
    if ((static_cast<std::uint32_t>(mask[candidate / 32]) >> (candidate % 32) & 1) != 0) return candidate;
  }
  return kBrokenToken;
}

// Keeps the slots as a device does, without keys and values.
class MockRunner final : public StepRunner {
 public:
  void start(const Batch& batch, StepResult& result) override {
    if (fail.load()) WJ_FAIL(device, "injected fault");
    while (hang.load()) std::this_thread::sleep_for(1ms);
    if (delay > 0us) std::this_thread::sleep_for(delay);
    for (const SlotChange& change : batch.changes) apply(change, batch);
    ASSERT_EQ(std::ssize(decoding_), batch.num_decodes);
    result.sampled.clear();
    result.scored.clear();
    for (const Slot slot : decoding_) sample(slot, result);
    auto next = batch.sample_slots.begin();
    for (const Chunk& chunk : batch.chunks) {
      const SlotState& slot = slots_[chunk.slot];
      const int scored = slot.record().prompt_logprobs >= 0 ? num_scored(chunk, slot.prompt_length()) : 0;
      for (int i = 0; i < scored; ++i) {
        const std::int32_t token = slot.text[chunk.start + 1 + i];
        result.scored.tokens.push_back(token);
        result.scored.logprobs.push_back({{token, -1.0f, 1}});
      }
      result.scored.end_range();
      for (int i = 0; i < chunk.num_samples; ++i) sample(*next++, result);
    }
  }
  std::atomic<bool> fail{false}, hang{false};
  std::chrono::microseconds delay = 0us;

 private:
  struct SlotState {
    std::vector<std::int32_t> text;
    std::vector<std::int32_t> words;  // of its record
    std::vector<std::int32_t> mask;   // as the device has it
    bool alive = false;
    RecordView record() const { return read_record(words); }
    int prompt_length() const { return record().sampling.prompt_length; }
  };
  static std::vector<std::int32_t> copy_of(std::span<const std::int32_t> words) { return {words.begin(), words.end()}; }
  void apply(const SlotChange& change, const Batch& batch) {
    SlotState& slot = slots_[change.slot];
    switch (change.kind) {
      case SlotChange::Kind::join: {
        const Join& join = batch.joins[change.a];
        std::vector<std::int32_t> text;
        if (join.prefix > 0)
          text.assign(slots_[join.source].text.begin(), slots_[join.source].text.begin() + join.prefix);
        const std::span<const std::int32_t> tokens = batch.at(join.tokens), record = batch.at(join.record);
        text.insert(text.end(), tokens.begin(), tokens.end());
        slot = {std::move(text), copy_of(record), copy_of(read_record(record).mask), true};
        return;
      }
      case SlotChange::Kind::token:
        slot.text.resize(change.a);
        slot.text.push_back(change.b);
        slot.alive = true;
        return;
      case SlotChange::Kind::decode:
        decoding_.push_back(change.slot);
        return;
      case SlotChange::Kind::pause:
        *std::ranges::find(decoding_, change.slot) = decoding_.back();
        decoding_.pop_back();
        return;
      case SlotChange::Kind::leave:
        slot = {};
        return;
      case SlotChange::Kind::mask:
        slot.mask = copy_of(batch.at({change.a, change.b}));
        return;
      case SlotChange::Kind::block:
        return;
    }
  }
  void sample(Slot index, StepResult& result) {
    SlotState& slot = slots_[index];
    if (slot.alive) result.sampled.tokens.push_back(draw(slot));
    result.sampled.end_range();
  }
  static std::int32_t draw(SlotState& slot) {
    std::int32_t token = slot.text[0] == 1 ? kBrokenToken : next_token(slot.text, slot.record().sampling.key);
    if (!slot.mask.empty() && token >= 0) token = first_allowed(slot.mask, token);
    if (token >= 0) slot.text.push_back(token);
    const int output = static_cast<int>(slot.text.size()) - slot.prompt_length();
    slot.alive = token >= 0 && !is_stop(slot.record(), token, output);
    return token;
  }
  std::map<Slot, SlotState> slots_;
  std::vector<Slot> decoding_;
};

StepLoop::Config small_config() {
  StepLoop::Config config;
  config.engine.max_model_len = 200;
  config.engine.max_num_seqs = 8;
  config.engine.max_num_batched_tokens = 24;
  config.engine.block_size = 16;
  config.engine.max_num_queued_reqs = 1000;
  config.model.vocab_size = kVocab;
  config.model.max_model_len = 200;
  config.model.eos_token_ids = {kEos};
  config.num_blocks = 40;
  config.check = true;
  return config;
}

struct Loop {
  explicit Loop(const StepLoop::Config& config = small_config(), std::chrono::microseconds delay = 0us) {
    auto runner = std::make_unique<MockRunner>();
    runner->delay = delay;
    mock = runner.get();
    auto bell = std::make_shared<Doorbell>();
    auto device = std::make_unique<DeviceThread>(std::move(runner), config.engine.max_steps_in_flight, bell);
    loop = std::make_unique<StepLoop>(config, std::move(device), bell);
  }

  RequestId submit(std::vector<std::int32_t> prompt, SamplingParams params) {
    return loop->submit({.prompt = std::move(prompt), .sampling = std::move(params)}, queue);
  }

  // Gathers everything until `count` final outputs are there; checks the numbering of outputs.
  using Key = std::pair<RequestId, int>;
  struct Result {
    std::vector<std::int32_t> tokens;
    Output last;
    int finals = 0;
  };
  std::map<Key, Result> gather(int count, std::chrono::seconds limit = 300s) {
    std::map<Key, Result> results;
    const auto end = Clock::now() + limit;
    while (count > 0 && Clock::now() < end) {
      for (Output& output : poll(100ms)) {
        Result& result = results[{output.id, output.sample}];
        EXPECT_EQ(result.finals, 0) << "an output after the final one";
        EXPECT_EQ(output.sequence, (next_sequence_[{output.id, output.sample}]++));
        result.tokens.insert(result.tokens.end(), output.tokens.begin(), output.tokens.end());
        result.finals += output.is_final();
        count -= output.is_final();
        result.last = std::move(output);
      }
    }
    EXPECT_EQ(count, 0) << "final outputs are missing";
    return results;
  }

  std::vector<Output> poll(std::chrono::nanoseconds timeout) { return queue->poll(timeout); }

  std::shared_ptr<OutputQueue::State> queue = std::make_shared<OutputQueue::State>();
  MockRunner* mock = nullptr;  // owned by the loop
  std::unique_ptr<StepLoop> loop;

 private:
  std::map<Key, std::uint32_t> next_sequence_;
};

std::vector<std::int32_t> expected_tokens(std::vector<std::int32_t> prefix, std::uint64_t key, int count) {
  const std::size_t start = prefix.size();
  for (int i = 0; i < count; ++i) {
    prefix.push_back(next_token(prefix, key));
    if (prefix.back() == kEos) break;
  }
  return {prefix.begin() + static_cast<std::ptrdiff_t>(start), prefix.end()};
}

TEST(StepLoop, GeneratesWhatTheModelSays) {
  Loop loop;
  const RequestId id = loop.submit({5, 6, 7}, {.seed = 11, .max_tokens = 20});
  auto results = loop.gather(1);
  EXPECT_EQ((results[{id, 0}].tokens), expected_tokens({5, 6, 7}, random_key(11, 0), 20));
  EXPECT_EQ((results[{id, 0}].last.finish), FinishReason::length);
  EXPECT_EQ((results[{id, 0}].last.prompt_tokens), 3);
}

TEST(StepLoop, StopsAtTheEndToken) {
  Loop loop;
  const std::vector<std::int32_t> prompt(55, 9);
  const RequestId id = loop.submit(prompt, {.seed = 1, .max_tokens = 100});
  auto results = loop.gather(1);
  EXPECT_EQ((results[{id, 0}].last.finish), FinishReason::stop);
  EXPECT_EQ((results[{id, 0}].tokens.back()), kEos);
  EXPECT_EQ((results[{id, 0}].tokens.size()), 7u);
  EXPECT_EQ((results[{id, 0}].last.stop_token), -1);
}

TEST(StepLoop, IgnoreEosRunsOn) {
  Loop loop;
  const RequestId id = loop.submit(std::vector<std::int32_t>(55, 9), {.seed = 1, .ignore_eos = true, .max_tokens = 30});
  EXPECT_EQ((loop.gather(1)[{id, 0}].tokens.size()), 30u);
}

TEST(StepLoop, AStopTokenIsNamed) {
  Loop loop;
  const auto tokens = expected_tokens({5, 6, 7}, random_key(11, 0), 20);
  const RequestId id = loop.submit({5, 6, 7}, {.seed = 11, .stop_token_ids = {tokens[4]}, .max_tokens = 20});
  auto results = loop.gather(1);
  EXPECT_EQ((results[{id, 0}].last.stop_token), tokens[4]);
  EXPECT_EQ((results[{id, 0}].last.finish), FinishReason::stop);
}

TEST(StepLoop, TextEndsAtTheContext) {
  Loop loop;
  const RequestId id =
      loop.submit(std::vector<std::int32_t>(190, 4), {.seed = 3, .ignore_eos = true, .max_tokens = std::nullopt});
  auto results = loop.gather(1);
  EXPECT_EQ((results[{id, 0}].tokens.size()), 10u);
  EXPECT_EQ((results[{id, 0}].last.finish), FinishReason::length);
}

TEST(StepLoop, SamplesDifferByTheirKeyOnly) {
  Loop loop;
  const RequestId id = loop.submit(std::vector<std::int32_t>(40, 8), {.n = 3, .seed = 7, .max_tokens = 12});
  auto results = loop.gather(3);
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ((results[{id, i}].tokens), expected_tokens(std::vector<std::int32_t>(40, 8), random_key(7, i), 12)) << i;
  }
  EXPECT_EQ(loop.loop->stats().prompt_tokens, 40) << "siblings share the prompt";
}

TEST(StepLoop, PromptLogprobsComeOnceInOrder) {
  Loop loop;
  const std::vector<std::int32_t> prompt = {3, 4, 5, 6, 7};
  loop.submit(prompt, {.max_tokens = 2, .prompt_logprobs = 0});
  std::vector<std::vector<TokenLogprob>> scored;
  for (int finals = 0; finals < 1;) {
    for (Output& output : loop.poll(1s)) {
      if (!output.prompt_logprobs.empty()) {
        EXPECT_TRUE(scored.empty());
        scored = output.prompt_logprobs;
      }
      finals += output.is_final();
    }
  }
  ASSERT_EQ(scored.size(), prompt.size());
  EXPECT_TRUE(scored[0].empty());
  for (std::size_t i = 1; i < prompt.size(); ++i) EXPECT_EQ(scored[i].at(0).token, prompt[i]);
}

TEST(StepLoop, NoTokensAreGeneratedWhenOnlyThePromptIsWanted) {
  Loop loop;
  const RequestId id = loop.submit({3, 4, 5}, {.max_tokens = 0, .prompt_logprobs = 0});
  auto results = loop.gather(1);
  EXPECT_TRUE((results[{id, 0}].tokens.empty()));
  EXPECT_EQ((results[{id, 0}].last.finish), FinishReason::length);
  EXPECT_EQ((results[{id, 0}].last.prompt_logprobs.size()), 3u);
}

TEST(StepLoop, ABrokenRowEndsItsRequestAlone) {
  Loop loop;
  const RequestId bad = loop.submit({1, 5}, {.max_tokens = 5});
  const RequestId good = loop.submit({5, 6}, {.seed = 4, .max_tokens = 5});
  auto results = loop.gather(2);
  EXPECT_EQ((results[{bad, 0}].last.finish), FinishReason::error);
  EXPECT_EQ((results[{good, 0}].tokens), expected_tokens({5, 6}, random_key(4, 0), 5));
}

TEST(StepLoop, RefusesBadRequestsWithoutEffect) {
  Loop loop;
  const auto refused = [&](std::vector<std::int32_t> prompt, SamplingParams params) {
    try {
      loop.submit(std::move(prompt), std::move(params));
    } catch (const Error& e) {
      return e.code() == ErrorCode::invalid_argument || e.code() == ErrorCode::unsupported;
    }
    return false;
  };
  EXPECT_TRUE(refused({}, {}));
  EXPECT_TRUE(refused({kVocab}, {}));
  EXPECT_TRUE(refused({-1}, {}));
  EXPECT_TRUE(refused(std::vector<std::int32_t>(200, 5), {}));
  EXPECT_TRUE(refused({5}, {.max_tokens = 201}));
  EXPECT_TRUE(refused({5}, {.top_k = kVocab + 1}));
  EXPECT_TRUE(refused({5}, {.stop_token_ids = {kVocab}}));
  EXPECT_TRUE(refused({5}, {.logprobs = 21}));
  EXPECT_TRUE(refused({5}, {.logprobs = -1}));
  EXPECT_TRUE(refused({5}, {.logit_bias = {{-4, 1.0}}}));
  EXPECT_TRUE(refused({5}, {.allowed_token_ids = std::vector<std::int32_t>{kVocab}}));
  EXPECT_TRUE(refused({5}, {.bad_words_token_ids = {{kVocab}}}));
  EXPECT_TRUE(refused({5}, {.stop = {"x"}}));
  EXPECT_TRUE(refused({5}, {.temperature = -1.0}));
  EXPECT_EQ(loop.loop->stats().running + loop.loop->stats().waiting, 0);
  loop.submit({5}, {.max_tokens = 2});
  loop.gather(1);
}

TEST(StepLoop, QueueLimitsAreErrorsAndRecover) {
  StepLoop::Config config = small_config();
  config.engine.max_num_queued_reqs = 3;
  Loop loop(config, 2ms);
  for (int i = 0; i < 3; ++i) loop.submit({5, 6}, {.seed = i, .ignore_eos = true, .max_tokens = 150});
  try {
    loop.submit({5, 6}, {});
    ADD_FAILURE() << "the fourth request was accepted";
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::overloaded);
  }
  loop.gather(3);
  loop.submit({5, 6}, {});
  loop.gather(1);
}

TEST(StepLoop, CancelEndsEverySampleOnce) {
  Loop loop(small_config(), 5ms);
  const RequestId id = loop.submit({5, 6}, {.n = 2, .seed = 1, .ignore_eos = true, .max_tokens = 150});
  loop.loop->cancel(id);
  loop.loop->cancel(id);
  loop.loop->cancel(123456);
  auto results = loop.gather(2);
  EXPECT_EQ((results[{id, 0}].last.finish), FinishReason::abort);
  EXPECT_EQ((results[{id, 1}].last.finish), FinishReason::abort);
}

TEST(StepLoop, CancelOfOneSampleLeavesTheOthers) {
  Loop loop(small_config(), 5ms);
  const RequestId id = loop.submit({5, 6}, {.n = 3, .seed = 1, .ignore_eos = true, .max_tokens = 60});
  loop.loop->cancel(id, 1);
  loop.loop->cancel(id, 7);
  auto results = loop.gather(3);
  EXPECT_EQ((results[{id, 0}].last.finish), FinishReason::length);
  EXPECT_EQ((results[{id, 1}].last.finish), FinishReason::abort);
  EXPECT_EQ((results[{id, 2}].last.finish), FinishReason::length);
}

TEST(StepLoop, DeadlinesEndRequests) {
  Loop loop(small_config(), 2ms);
  const RequestId id = loop.loop->submit(
      {.prompt = {5}, .sampling = {.ignore_eos = true, .max_tokens = 190}, .deadline = Clock::now() + 20ms},
      loop.queue);
  auto results = loop.gather(1);
  EXPECT_EQ((results[{id, 0}].last.finish), FinishReason::error);
  EXPECT_EQ((results[{id, 0}].last.error_code), ErrorCode::deadline_exceeded);
}

TEST(StepLoop, AFaultAnswersEveryoneAndClosesTheDoor) {
  Loop loop(small_config(), 5ms);
  std::vector<RequestId> ids;
  for (int i = 0; i < 20; ++i) ids.push_back(loop.submit({5, 6, i + 7}, {.ignore_eos = true, .max_tokens = 100}));
  loop.mock->fail = true;
  auto results = loop.gather(20);
  for (RequestId id : ids) {
    EXPECT_EQ((results[{id, 0}].last.finish), FinishReason::error);
    EXPECT_NE((results[{id, 0}].last.error.find("injected fault")), std::string::npos);
  }
  EXPECT_EQ(loop.loop->health(), Health::failed);
  EXPECT_THROW(loop.submit({5}, {}), Error);
}

TEST(StepLoop, CloseAnswersEveryone) {
  Loop loop(small_config(), 1ms);
  for (int i = 0; i < 30; ++i) loop.submit({5, i}, {.ignore_eos = true, .max_tokens = 150});
  loop.loop->close();
  for (auto& [key, result] : loop.gather(30, 1s)) EXPECT_EQ(result.last.finish, FinishReason::abort);
  EXPECT_THROW(loop.submit({5}, {}), Error);
  EXPECT_EQ(loop.loop->health(), Health::closed);
}

TEST(StepLoop, ManyThreadsManyRequestsOneFinalEach) {
  StepLoop::Config config = small_config();
  config.num_blocks = 20;  // tight
  Loop loop(config);
  constexpr int kThreads = 4, kEach = 100;
  std::mutex mutex;
  std::map<RequestId, std::vector<std::int32_t>> expected;
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      std::mt19937 rng(t);
      for (int i = 0; i < kEach; ++i) {
        std::vector<std::int32_t> prompt(1 + rng() % 60, static_cast<std::int32_t>(3 + rng() % 4));
        const int count = 1 + static_cast<int>(rng() % 40);
        const std::lock_guard lock(mutex);
        const RequestId id = loop.submit(prompt, {.seed = i, .max_tokens = count});
        expected[id] = expected_tokens(prompt, random_key(i, 0), count);
        if (rng() % 8 == 0) {
          loop.loop->cancel(id);
          expected[id].clear();
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  auto results = loop.gather(kThreads * kEach, 60s);
  for (auto& [key, result] : results) {
    if (result.last.finish == FinishReason::abort) continue;
    if (!expected[key.first].empty()) {
      EXPECT_EQ(result.tokens, expected[key.first]);
    }
  }
  EXPECT_EQ(loop.loop->stats().kv_blocks_used, 0);
}

TEST(StepLoop, PreemptionChangesNoToken) {
  StepLoop::Config config = small_config();
  config.num_blocks = 20;
  Loop loop(config, 500us);  // slow enough that all are there before the blocks run out
  std::map<RequestId, std::vector<std::int32_t>> expected;
  for (std::int32_t i = 0; i < 8; ++i) {
    const std::vector<std::int32_t> prompt(16, 10 + i);
    const RequestId id = loop.submit(prompt, {.seed = i, .max_tokens = 150});
    expected[id] = expected_tokens(prompt, random_key(i, 0), 150);
  }
  for (auto& [key, result] : loop.gather(8, 60s)) EXPECT_EQ(result.tokens, expected[key.first]);
  EXPECT_GT(loop.loop->stats().preemptions, 0);
  EXPECT_EQ(loop.loop->stats().kv_blocks_used, 0);
}

// --- Guides -------------------------------------------------------------------------------------------------------

std::vector<std::int32_t> only(std::int32_t token) {
  std::vector<std::int32_t> mask(kMaskWords);
  mask[token / 32] = static_cast<std::int32_t>(1u << (token % 32));
  return mask;
}

const std::vector<std::int32_t> kAll(kMaskWords, -1);

struct GuidedLoop : Loop {
  using Loop::Loop;
  RequestId submit_guided(std::vector<std::int32_t> prompt, SamplingParams params, std::vector<std::int32_t> mask) {
    Request request = {.prompt = std::move(prompt), .sampling = std::move(params), .mask = std::move(mask)};
    return loop->submit(std::move(request), queue, guides);
  }
  // The next token that the guide hears of.
  Output hear(std::chrono::seconds limit = 300s) {
    const auto end = Clock::now() + limit;
    while (heard.empty() && Clock::now() < end) {
      for (Output& output : guides->poll(100ms)) heard.push_back(std::move(output));
    }
    if (heard.empty()) return {};
    Output first = std::move(heard.front());
    heard.erase(heard.begin());
    return first;
  }
  std::shared_ptr<OutputQueue::State> guides = std::make_shared<OutputQueue::State>();
  std::vector<Output> heard;
};

TEST(Guides, SayEveryTokenAndTheEnd) {
  GuidedLoop loop;
  const RequestId id = loop.submit_guided({5, 6}, {.seed = 1, .max_tokens = 50}, only(40));
  for (int position = 1; position <= 9; ++position) {
    const Output output = loop.hear();
    ASSERT_EQ(output.tokens, std::vector<std::int32_t>{39 + position});
    ASSERT_EQ(output.id, id);
    if (position < 9) {
      loop.loop->guide({{.id = id, .position = position, .mask = only(40 + position)}});
    } else {
      loop.loop->guide({{.id = id, .position = position, .kind = Guidance::Kind::stop}});
    }
  }
  EXPECT_TRUE(loop.hear().is_final());
  const auto results = loop.gather(1);
  EXPECT_EQ(results.at({id, 0}).tokens, (std::vector<std::int32_t>{40, 41, 42, 43, 44, 45, 46, 47, 48}));
  EXPECT_EQ(results.at({id, 0}).last.finish, FinishReason::stop);
  EXPECT_EQ(results.at({id, 0}).last.stop_token, -1);
}

TEST(Guides, AnEndTokenEndsTheTextWhereTheMaskAllowsIt) {
  GuidedLoop loop;
  const RequestId id = loop.submit_guided({5, 6}, {.seed = 1, .max_tokens = 50}, only(40));
  loop.hear();
  loop.loop->guide({{.id = id, .position = 1, .mask = only(kEos)}});
  const Output last = loop.hear();
  EXPECT_EQ(last.tokens, std::vector<std::int32_t>{kEos});
  EXPECT_EQ(last.finish, FinishReason::stop);
  EXPECT_EQ(loop.gather(1).at({id, 0}).last.finish, FinishReason::stop);
}

TEST(Guides, AnswersToOtherPlacesHaveNoEffect) {
  GuidedLoop loop;
  const RequestId id = loop.submit_guided({5, 6}, {.seed = 1, .max_tokens = 3}, only(40));
  for (int position = 1; position <= 2; ++position) {
    loop.hear();
    for (const int other : {position - 1, position + 1, -1}) {
      loop.loop->guide({{.id = id, .position = other, .mask = only(9)},
                        {.id = id, .position = other, .kind = Guidance::Kind::stop},
                        {.id = id, .sample = 1, .position = position, .kind = Guidance::Kind::stop},
                        {.id = id, .sample = -1, .position = position, .kind = Guidance::Kind::stop},
                        {.id = id + 1, .position = position, .kind = Guidance::Kind::fail}});
    }
    const Guidance right = {.id = id, .position = position, .mask = only(50)};
    loop.loop->guide({right, right});
  }
  const auto results = loop.gather(1);
  EXPECT_EQ(results.at({id, 0}).tokens, (std::vector<std::int32_t>{40, 50, 50}));
  loop.loop->guide({{.id = id, .position = 3, .mask = only(50)}});
}

TEST(Guides, FailTheirOwnSample) {
  GuidedLoop loop;
  const RequestId id = loop.submit_guided({5, 6}, {.n = 2, .seed = 1, .max_tokens = 3}, kAll);
  const RequestId other = loop.submit({7, 8}, {.seed = 4, .max_tokens = 9});
  for (int i = 0; i < 2; ++i) {
    const int sample = loop.hear().sample;
    if (sample == 0) {
      loop.loop->guide({{.id = id, .position = 1, .kind = Guidance::Kind::fail, .error = "no rule for this"}});
    } else {
      loop.loop->guide({{.id = id, .sample = 1, .position = 1, .mask = std::vector<std::int32_t>(kMaskWords)}});
    }
  }
  const auto results = loop.gather(3);
  EXPECT_EQ(results.at({id, 0}).last.error, "no rule for this");
  EXPECT_NE(results.at({id, 1}).last.error.find("allows no token at position 1"), std::string::npos);
  EXPECT_EQ(results.at({id, 1}).last.error_code, ErrorCode::invalid_argument);
  EXPECT_EQ(results.at({other, 0}).tokens, expected_tokens({7, 8}, random_key(4, 0), 9));
}

TEST(Guides, WhoIsSilentLosesItsOwnRequest) {
  StepLoop::Config config = small_config();
  config.engine.guide_timeout = 0.05;
  GuidedLoop loop(config);
  const RequestId id = loop.submit_guided({5, 6}, {.seed = 1, .ignore_eos = true, .max_tokens = 50}, kAll);
  const RequestId good = loop.submit_guided({5, 6}, {.seed = 2, .ignore_eos = true, .max_tokens = 50}, kAll);
  const RequestId free = loop.submit({7, 8}, {.seed = 4, .ignore_eos = true, .max_tokens = 150});
  int position = 0, finals = 0;
  while (finals < 2) {
    const Output output = loop.hear();
    ASSERT_GT(output.id, 0u);
    finals += output.is_final();
    if (output.id == good) loop.loop->guide({{.id = good, .position = ++position, .mask = kAll}});
  }
  const auto results = loop.gather(3);
  EXPECT_EQ(results.at({id, 0}).last.error_code, ErrorCode::deadline_exceeded);
  EXPECT_EQ(results.at({id, 0}).tokens.size(), 1u);
  EXPECT_EQ(results.at({good, 0}).tokens.size(), 50u);
  EXPECT_EQ(results.at({free, 0}).tokens.size(), 150u);
  EXPECT_EQ(loop.loop->stats().kv_blocks_used, 0);
}

TEST(Guides, WhoWaitsForOneGivesWayToOthersBeforeLong) {
  StepLoop::Config config = small_config();
  config.engine.max_num_seqs = 1;
  GuidedLoop loop(config);
  const RequestId held = loop.submit_guided({5, 6}, {.seed = 1, .max_tokens = 2}, only(40));
  EXPECT_EQ(loop.hear().tokens.size(), 1u);
  const RequestId other = loop.submit({7, 8}, {.seed = 4, .max_tokens = 20});
  EXPECT_EQ(loop.gather(1).at({other, 0}).tokens, expected_tokens({7, 8}, random_key(4, 0), 20));
  EXPECT_EQ(loop.loop->stats().preemptions, 1);
  loop.loop->guide({{.id = held, .position = 1, .mask = only(41)}});
  EXPECT_EQ(loop.gather(1).at({held, 0}).tokens.back(), 41);
}

TEST(Guides, WaitingForOneIsNoFaultOfTheEngines) {
  StepLoop::Config config = small_config();
  config.engine.watchdog_timeout = 0.02;
  std::atomic<Micros> clock{1'000'000};
  config.clock = &clock;
  GuidedLoop loop(config);
  const RequestId id = loop.submit_guided({5, 6}, {.seed = 1, .max_tokens = 2}, only(40));
  EXPECT_EQ(loop.hear().tokens.size(), 1u);
  clock += 9'000'000;
  for (int turn = 0; turn < 3; ++turn) loop.loop->metrics();  // each answer is of a turn that looked at the clock
  EXPECT_EQ(loop.loop->health(), Health::serving);
  loop.loop->guide({{.id = id, .position = 1, .mask = only(41)}});
  EXPECT_EQ(loop.gather(1).at({id, 0}).last.finish, FinishReason::length);
}

TEST(Guides, PausingAndCancellingGoOnMeanwhile) {
  GuidedLoop loop;
  const RequestId id = loop.submit_guided({5, 6}, {.n = 2, .seed = 1, .ignore_eos = true, .max_tokens = 3}, only(40));
  loop.hear();
  loop.hear();
  loop.loop->pause(id);
  loop.loop->guide(
      {{.id = id, .position = 1, .mask = only(41)}, {.id = id, .sample = 1, .position = 1, .mask = only(42)}});
  loop.loop->cancel(id, 1);
  EXPECT_TRUE(loop.hear().is_final());
  loop.loop->resume(id);
  EXPECT_EQ(loop.hear().tokens, std::vector<std::int32_t>{41});
  loop.loop->cancel(id);
  EXPECT_TRUE(loop.hear().is_final());
  const auto results = loop.gather(2);
  EXPECT_EQ(results.at({id, 0}).last.finish, FinishReason::abort);
  EXPECT_EQ(results.at({id, 1}).tokens, std::vector<std::int32_t>{40});
}

TEST(Guides, RequestsThatMakeNoSenseAreRefused) {
  GuidedLoop loop;
  const auto says = [&](Request request, std::shared_ptr<OutputQueue::State> guides) -> std::string {
    try {
      loop.loop->submit(std::move(request), loop.queue, std::move(guides));
    } catch (const Error& e) {
      return e.message();
    }
    return "";
  };
  EXPECT_NE(says({.prompt = {5}, .mask = kAll}, nullptr).find("mask and guide"), std::string::npos);
  EXPECT_NE(says({.prompt = {5}, .mask = kAll}, loop.queue).find("mask and guide"), std::string::npos);
  EXPECT_NE(says({.prompt = {5}}, loop.guides).find("mask and guide"), std::string::npos);
  EXPECT_NE(says({.prompt = {5}, .mask = {1}}, loop.guides).find("mask: 1 words"), std::string::npos);
  std::vector<std::int32_t> beyond(kMaskWords);
  beyond.back() = static_cast<std::int32_t>(~0u << (kVocab % 32));
  EXPECT_NE(says({.prompt = {5}, .mask = beyond}, loop.guides).find("allows no token"), std::string::npos);
  EXPECT_NE(
      says({.prompt = {5}, .sampling = {.temperature = 0, .beam_width = 2}, .mask = kAll}, loop.guides).find("beam"),
      std::string::npos);
  EXPECT_NE(says({.prompt = {5}, .sampling = {.structured_outputs = {"{}"}}}, nullptr).find("structured_outputs"),
            std::string::npos);
  EXPECT_THROW(loop.loop->guide({{.id = 1, .mask = {1}}}), Error);
}

TEST(Guides, ClosingTellsThemOfEveryEnd) {
  GuidedLoop loop;
  for (int i = 0; i < 20; ++i) loop.submit_guided({5, i + 3}, {.n = 2, .max_tokens = 9}, kAll);
  loop.hear();
  loop.loop->close();
  int finals = 0;
  for (const Output& output : loop.heard) finals += output.is_final();
  for (const Output& output : loop.guides->poll(0s)) finals += output.is_final();
  EXPECT_EQ(finals, 40);
  loop.gather(40);
  loop.loop->guide({{.id = 1, .position = 1, .mask = kAll}});
}

// With a guide that allows everything and answers at once the tokens are those of a request without one, whatever else
// is going on.
TEST(Guides, AllowingEverythingChangesNothing) {
  StepLoop::Config config = small_config();
  config.num_blocks = 20;  // tight
  GuidedLoop loop(config);
  std::map<RequestId, std::vector<std::int32_t>> expected;
  std::atomic<bool> done{false};
  std::thread guide([&] {
    std::map<RequestId, int> positions;
    while (!done.load()) {
      std::vector<Guidance> answers;
      for (const Output& output : loop.guides->poll(1ms)) {
        const int position = positions[output.id] += static_cast<int>(output.tokens.size());
        if (!output.is_final()) answers.push_back({.id = output.id, .position = position, .mask = kAll});
      }
      if (!answers.empty()) loop.loop->guide(std::move(answers));
    }
  });
  for (int i = 0; i < 60; ++i) {
    const std::vector<std::int32_t> prompt(1 + i % 40, 3 + i % 4);
    const SamplingParams params = {.seed = i, .max_tokens = 60};
    const RequestId id = i % 3 == 0 ? loop.submit(prompt, params) : loop.submit_guided(prompt, params, kAll);
    expected[id] = expected_tokens(prompt, random_key(i, 0), 60);
  }
  for (auto& [key, result] : loop.gather(60, 60s)) EXPECT_EQ(result.tokens, expected[key.first]);
  done = true;
  guide.join();
  EXPECT_GT(loop.loop->stats().preemptions, 0);
  EXPECT_EQ(loop.loop->stats().kv_blocks_used, 0);
}

TEST(StepLoop, ResetPrefixCacheForgets) {
  Loop loop;
  const std::vector<std::int32_t> prompt(64, 5);
  loop.submit(prompt, {.max_tokens = 1});
  loop.gather(1);
  EXPECT_GT(loop.loop->stats().kv_blocks_cached, 0);
  loop.loop->reset_prefix_cache();
  const RequestId id = loop.submit(prompt, {.max_tokens = 1});
  EXPECT_EQ((loop.gather(1)[{id, 0}].last.cached_tokens), 0);
  const RequestId again = loop.submit(prompt, {.max_tokens = 1});
  EXPECT_EQ((loop.gather(1)[{again, 0}].last.cached_tokens), 63);
}

TEST(StepLoop, SaltsKeepPrefixesApart) {
  Loop loop;
  const std::vector<std::int32_t> prompt(64, 5);
  const auto cached = [&](const std::string& salt) {
    const RequestId id =
        loop.loop->submit({.prompt = prompt, .sampling = {.max_tokens = 1}, .cache_salt = salt}, loop.queue);
    return loop.gather(1)[{id, 0}].last.cached_tokens;
  };
  EXPECT_EQ(cached("a"), 0);
  EXPECT_EQ(cached("b"), 0);
  EXPECT_EQ(cached("a"), 63);
}

TEST(StepLoop, ASlowReaderParksItsOwnRequestOnly) {
  StepLoop::Config config = small_config();
  config.engine.max_unread_tokens = 10;
  Loop loop(config);
  const auto slow_queue = std::make_shared<OutputQueue::State>();
  const RequestId slow =
      loop.loop->submit({.prompt = {5, 6}, .sampling = {.seed = 1, .ignore_eos = true, .max_tokens = 150}}, slow_queue);
  const RequestId quick = loop.submit({7, 8}, {.seed = 2, .ignore_eos = true, .max_tokens = 150});
  std::vector<std::int32_t> tokens;
  while (tokens.size() < 150) {
    for (const Output& output : loop.poll(1s)) tokens.insert(tokens.end(), output.tokens.begin(), output.tokens.end());
  }
  EXPECT_EQ(loop.loop->stats().paused, 1);
  EXPECT_EQ(loop.loop->stats().kv_blocks_used, 0);
  EXPECT_LE(loop.loop->stats().generated_tokens - 150, 11 + 1) << "its limit, and what was in flight";
  tokens.clear();
  Output last;
  while (!last.is_final()) {
    for (Output& output : slow_queue->poll(1s)) {
      tokens.insert(tokens.end(), output.tokens.begin(), output.tokens.end());
      last = std::move(output);
    }
  }
  EXPECT_EQ(tokens.size(), 150u);
  EXPECT_GT(last.times.paused_ms, 0);
  EXPECT_NE(slow, quick);
}

TEST(StepLoop, PauseAndResumeChangeNoToken) {
  Loop loop(small_config(), 1ms);
  const RequestId id = loop.submit({5, 6, 7}, {.seed = 11, .ignore_eos = true, .max_tokens = 60});
  for (int i = 1; i <= 5; ++i) {
    while (loop.loop->stats().generated_tokens < i) std::this_thread::yield();
    loop.loop->pause(id);
    loop.loop->pause(id);
    while (loop.loop->stats().steps_in_flight > 0) std::this_thread::yield();
    loop.loop->resume(id);
  }
  auto results = loop.gather(1);
  std::vector<std::int32_t> expected = {5, 6, 7};
  while (expected.size() < 63) expected.push_back(next_token(expected, random_key(11, 0)));
  EXPECT_EQ((results[{id, 0}].tokens), std::vector<std::int32_t>(expected.begin() + 3, expected.end()));
}

TEST(StepLoop, HealthShowsADeviceThatHangsAndTheWatchdogAnswersEveryone) {
  StepLoop::Config config = small_config();
  std::atomic<Micros> clock{1'000'000};
  config.clock = &clock;
  config.engine.watchdog_timeout = 60;
  Loop loop(config);
  loop.mock->hang = true;
  const RequestId id = loop.submit({5, 6}, {.max_tokens = 5});
  while (loop.loop->stats().steps_in_flight == 0) std::this_thread::yield();
  EXPECT_EQ(loop.loop->health(), Health::serving);
  clock += 3'000'000;
  EXPECT_EQ(loop.loop->health(), Health::degraded);
  clock += 60'000'000;
  loop.loop->cancel(id + 1);  // wakes the loop
  auto results = loop.gather(1);
  EXPECT_EQ((results[{id, 0}].last.finish), FinishReason::error);
  EXPECT_EQ((results[{id, 0}].last.error_code), ErrorCode::device);
  EXPECT_EQ(loop.loop->health(), Health::failed);
  loop.mock->hang = false;
}

TEST(StepLoop, ATenantHasALimitOfItsOwn) {
  StepLoop::Config config = small_config();
  config.engine.max_num_queued_reqs_per_tenant = 2;
  Loop loop(config, 1ms);
  const auto submit = [&](const std::string& tenant) {
    return loop.loop->submit({.prompt = {5}, .sampling = {.ignore_eos = true, .max_tokens = 50}, .tenant = tenant},
                             loop.queue);
  };
  submit("a");
  submit("a");
  EXPECT_THROW(submit("a"), Error);
  submit("b");
  loop.gather(3);
  submit("a");
  loop.gather(1);
}

TEST(StepLoop, TimesOfARequestAddUp) {
  Loop loop(small_config(), 1ms);
  const RequestId id = loop.submit({5, 6, 7}, {.ignore_eos = true, .max_tokens = 20});
  auto results = loop.gather(1);
  const RequestTimes& t = results[{id, 0}].last.times;
  EXPECT_NEAR(t.queue_ms + t.prefix_ms + t.prefill_ms + t.decode_ms + t.preempted_ms + t.paused_ms, t.total_ms, 0.01);
  EXPECT_GT(t.decode_ms, t.prefill_ms);
  EXPECT_GT(t.prefill_ms, 0);
}

TEST(StepLoop, TenThousandQueuedRequestsAreSmall) {
  StepLoop::Config config = small_config();
  config.engine.max_num_queued_reqs = 20000;
  config.model.max_model_len = config.engine.max_model_len = 2000;
  config.num_blocks = 200;
  config.check = false;
  Loop loop(config);
  loop.mock->hang = true;
  const auto resident = [] {
    std::int64_t pages = 0, ignored = 0;
    std::ifstream("/proc/self/statm") >> ignored >> pages;
    return pages * sysconf(_SC_PAGESIZE);
  };
  const std::int64_t before = resident();
  for (int i = 0; i < 10000; ++i) loop.submit(std::vector<std::int32_t>(1000, 5 + i % 80), {.max_tokens = 1});
  loop.loop->kv_events(0);  // the loop has taken them all
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  constexpr double kMost = 1e9;  // with the sanitizer's own books
#else
  constexpr double kMost = 100e6;
#endif
  EXPECT_LT(static_cast<double>(resident() - before), kMost);
  loop.mock->hang = false;
  loop.loop->close();
  loop.gather(10000);
}

TEST(StepLoop, EventsTellWhatTheCacheHolds) {
  StepLoop::Config config = small_config();
  config.engine.kv_events = 1000;
  Loop loop(config);
  loop.submit(std::vector<std::int32_t>(64, 5), {.max_tokens = 1});
  loop.gather(1);
  const std::vector<KvEvent> stored = loop.loop->kv_events(0);
  ASSERT_EQ(stored.size(), 4u);
  for (std::size_t i = 0; i < stored.size(); ++i) {
    EXPECT_EQ(stored[i].number, i);
    EXPECT_EQ(stored[i].kind, KvEvent::Kind::stored);
    if (i > 0) {
      EXPECT_EQ(stored[i].parent_key, stored[i - 1].key);
    }
  }
  loop.loop->reset_prefix_cache();
  EXPECT_EQ(loop.loop->kv_events(4).size(), 4u);
}

}  // namespace
}  // namespace warpjet

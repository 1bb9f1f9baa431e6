// Slots, texts and sampling of the real runner, on the embedded model: however a prompt is cut and shared, the tokens
// are the same.
#include "error_kit.h"
#include "execute/execute.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <new>

namespace {
std::atomic<std::int64_t> allocations{0};
}

// Not inlined: the compiler would see a malloc() that is freed by delete.
[[gnu::noinline]] void* operator new(std::size_t bytes) {
  ++allocations;
  if (void* data = std::malloc(bytes)) return data;
  throw std::bad_alloc();
}
[[gnu::noinline]] void* operator new(std::size_t bytes, const std::nothrow_t&) noexcept {
  ++allocations;
  return std::malloc(bytes);
}
[[gnu::noinline]] void operator delete(void* data) noexcept {
  std::free(data);
}
[[gnu::noinline]] void operator delete(void* data, std::size_t) noexcept {
  std::free(data);
}

namespace warpjet {
namespace {

using Tokens = std::vector<std::int32_t>;
constexpr int kBlockSize = 16, kMaxModelLen = 80, kSlots = 4, kMaxSeqs = 4, kMaxTokens = 64;
constexpr int kSlotBlocks = (kMaxModelLen + kBlockSize) / kBlockSize;

class ModelRunnerTest : public testing::Test {
 protected:
  ModelRunnerTest() {
    register_reference(catalogs_);
    OpenedModel model = open_model(std::filesystem::path(WARPJET_MODELS) / "tiny", {}, catalogs_, device_->info());
    const CacheSpec& cache = model.plan.caches.front();
    const KvCache::Config kv = {.layers = static_cast<int>(model.plan.caches.size()),
                                .kv_heads = cache.kv_heads,
                                .head_dim = cache.head_dim,
                                .block_size = kBlockSize,
                                .num_blocks = 1 + kSlots * kSlotBlocks,
                                .dtype = cache.dtype};
    Weights weights = model.load(*device_);
    Runner runner(std::move(model.plan), std::move(weights), catalogs_, *device_, kMaxTokens, kMaxSeqs, kBlockSize);
    runner_ = std::make_unique<ModelRunner>(ModelRunner::Config{.max_tokens = kMaxTokens,
                                                                .max_seqs = kMaxSeqs,
                                                                .max_model_len = kMaxModelLen,
                                                                .num_slots = kSlots,
                                                                .max_logprobs = 20},
                                            std::move(runner), KvCache(kv, catalogs_, *device_), catalogs_, *device_);
    params_.temperature = 0;
    sampling_.params = &params_;
    for (int i = 0; i < 21; ++i) prompt_.push_back(100 + 37 * i);
  }

  // --- The plan in the making

  static BlockId block_of(Slot slot, int index) { return 1 + slot * kSlotBlocks + index; }
  void change(SlotChange::Kind kind, Slot slot, int a = 0, int b = 0) { plan_.changes.push_back({kind, slot, a, b}); }
  void join(Slot slot, const Tokens& text, const SampleState& sampling, Slot source = kNoSlot, int prefix = 0) {
    change(SlotChange::Kind::join, slot, static_cast<int>(plan_.joins.size()));
    plan_.joins.push_back({.source = source,
                           .prefix = prefix,
                           .first = static_cast<std::int32_t>(plan_.tokens.size()),
                           .count = static_cast<std::int32_t>(text.size()),
                           .prompt_length = static_cast<std::int32_t>(prompt_.size()),
                           .sampling = &sampling});
    plan_.tokens.insert(plan_.tokens.end(), text.begin(), text.end());
    for (int i = 0; i < kSlotBlocks; ++i) change(SlotChange::Kind::block, slot, i, block_of(slot, i));
  }
  void decode(Slot slot) {
    change(SlotChange::Kind::decode, slot);
    ++num_decodes_;
  }
  void pause(Slot slot) {
    change(SlotChange::Kind::pause, slot);
    --num_decodes_;
  }
  void chunk(Slot slot, int start, int count, const std::vector<Slot>& sampled = {}) {
    plan_.chunks.push_back({slot, start, count, static_cast<std::int32_t>(sampled.size())});
    plan_.sample_slots.insert(plan_.sample_slots.end(), sampled.begin(), sampled.end());
  }
  void run() {
    runner_->start(plan_, result_);
    runner_->finish();
  }
  Tokens step() {
    plan_.num_decodes = num_decodes_;
    plan_.num_tokens = num_decodes_;
    for (const Chunk& chunk : plan_.chunks) plan_.num_tokens += chunk.count;
    run();
    plan_.clear();
    Tokens tokens;
    for (const SampledRow& row : result_.sampled) tokens.push_back(row.token);
    return tokens;
  }

  // What the model says when the prompt runs whole and alone, in this slot.
  Tokens alone(int count, Slot slot = 0) {
    join(slot, prompt_, sampling_);
    chunk(slot, 0, length(), {slot});
    Tokens tokens = step();
    decode(slot);
    while (std::ssize(tokens) < count) tokens.push_back(step()[0]);
    pause(slot);
    change(SlotChange::Kind::leave, slot);
    return tokens;
  }
  int length() const { return static_cast<int>(prompt_.size()); }

  Catalogs catalogs_;
  std::unique_ptr<Device> device_ = make_cpu_device(1);
  std::unique_ptr<ModelRunner> runner_;
  SamplingParams params_;
  SampleState sampling_;
  Tokens prompt_;
  StepPlan plan_;
  StepResult result_;
  int num_decodes_ = 0;
};

// --- Prompts

TEST_F(ModelRunnerTest, ChunksOfAPromptGiveTheTokensOfTheWhole) {
  const Tokens expected = alone(16);
  join(1, prompt_, sampling_);
  for (int start = 0; start < 15; start += 5) {
    chunk(1, start, 5);
    EXPECT_TRUE(step().empty());
  }
  chunk(1, 15, length() - 15, {1});
  Tokens tokens = step();
  decode(1);
  while (tokens.size() < expected.size()) tokens.push_back(step()[0]);
  EXPECT_EQ(tokens, expected);
}

// Whole blocks are shared; the last one is copied before either of the two writes into it.
TEST_F(ModelRunnerTest, ASiblingGoesOnFromItsLeadersPrompt) {
  const Tokens expected = alone(16);
  join(1, prompt_, sampling_);
  join(2, {}, sampling_, 1, length());
  change(SlotChange::Kind::block, 2, 0, block_of(1, 0));
  chunk(1, 0, length(), {1, 2});
  Tokens leader, sibling;
  const auto take = [&](const Tokens& tokens) {
    ASSERT_EQ(tokens.size(), 2u);
    leader.push_back(tokens[0]);
    sibling.push_back(tokens[1]);
  };
  take(step());
  plan_.copies.push_back({.source = block_of(1, 1), .target = block_of(2, 1)});
  decode(1);
  decode(2);
  while (leader.size() < expected.size()) take(step());
  EXPECT_EQ(leader, expected);
  EXPECT_EQ(sibling, expected);
}

TEST_F(ModelRunnerTest, SiblingsDrawWithTheirOwnParametersFromTheSameRow) {
  const Tokens expected = alone(1);
  SamplingParams other_params = params_;
  other_params.logit_bias = {{expected[0], -100.0}};
  SampleState other = sampling_;
  other.params = &other_params;
  join(1, prompt_, other);
  join(2, {}, sampling_, 1, length());
  chunk(1, 0, length(), {1, 2});
  const Tokens tokens = step();
  EXPECT_NE(tokens[0], expected[0]);
  EXPECT_EQ(tokens[1], expected[0]);
}

TEST_F(ModelRunnerTest, PromptLogprobsDoNotDependOnTheCut) {
  SampleState scoring = sampling_;
  scoring.prompt_logprobs = 2;
  join(0, prompt_, scoring);
  join(1, prompt_, sampling_);
  chunk(1, 0, 3);
  chunk(0, 0, length(), {0});
  step();
  EXPECT_EQ(result_.scored_ends, std::vector<std::size_t>({0, prompt_.size() - 1}));
  const std::vector<SampledRow> whole = result_.scored;
  ASSERT_EQ(whole.size(), prompt_.size() - 1);
  std::vector<SampledRow> cut;
  join(2, prompt_, scoring);
  for (const auto& [start, count] : {std::pair(0, 7), std::pair(7, 13), std::pair(20, 1)}) {
    chunk(2, start, count);
    step();
    cut.insert(cut.end(), result_.scored.begin(), result_.scored.end());
  }
  ASSERT_EQ(cut.size(), whole.size());
  for (std::size_t i = 0; i < cut.size(); ++i) {
    EXPECT_EQ(cut[i].token, prompt_[i + 1]);
    ASSERT_EQ(cut[i].logprobs.size(), 3u);
    EXPECT_NEAR(cut[i].logprobs[0].logprob, whole[i].logprobs[0].logprob, 1e-2);
  }
}

TEST(NumScored, CountsTheTokensThatAnotherOneOfThePromptFollows) {
  EXPECT_EQ(num_scored({.start = 0, .count = 4}, 10), 4);
  EXPECT_EQ(num_scored({.start = 4, .count = 6}, 10), 5);
  EXPECT_EQ(num_scored({.start = 9, .count = 1}, 10), 0);
  EXPECT_EQ(num_scored({.start = 12, .count = 3}, 10), 0);
}

// --- Decoding

TEST_F(ModelRunnerTest, RowsAfterAStopAreSurplus) {
  const Tokens expected = alone(8);
  const auto first = std::find(expected.begin() + 2, expected.end(), expected[3]) - expected.begin();
  const Tokens stop_ids = {expected[3]};
  params_.min_tokens = 3;  // or an earlier one of these would end it
  SamplingParams free_params = params_;
  free_params.min_tokens = 0;
  SampleState stopping = sampling_, free = sampling_;
  stopping.stop_ids = stop_ids;
  free.params = &free_params;
  join(0, prompt_, stopping);
  join(1, prompt_, free);
  chunk(0, 0, length(), {0});
  chunk(1, 0, length(), {1});
  Tokens tokens = step(), other = {tokens[1]};
  tokens.pop_back();
  decode(0);
  decode(1);
  while (std::ssize(tokens) < first + 3) {
    const Tokens both = step();
    tokens.push_back(both[0]);
    other.push_back(both[1]);
  }
  EXPECT_TRUE(std::equal(tokens.begin(), tokens.begin() + first + 1, expected.begin()));
  EXPECT_EQ(tokens[first + 1], kSurplusToken);
  EXPECT_EQ(tokens[first + 2], kSurplusToken);
  EXPECT_TRUE(std::equal(other.begin(), other.end(), expected.begin()));
}

TEST_F(ModelRunnerTest, ABrokenRowEndsItsText) {
  params_.allowed_token_ids = Tokens{};
  join(0, prompt_, sampling_);
  chunk(0, 0, length(), {0});
  EXPECT_EQ(step(), Tokens({kBrokenToken}));
  decode(0);
  EXPECT_EQ(step(), Tokens({kSurplusToken}));
}

TEST_F(ModelRunnerTest, AMaskHoldsUntilItChanges) {
  const Tokens expected = alone(4);
  const std::int32_t forced = (expected[2] + 1) % 3072;
  Tokens mask(3072 / 32, -1);
  SampleState guided = sampling_;
  guided.guide_mask = mask.data();
  join(0, prompt_, guided);
  join(1, prompt_, sampling_);
  chunk(0, 0, length(), {0});
  chunk(1, 0, length(), {1});
  EXPECT_EQ(step(), Tokens({expected[0], expected[0]}));
  decode(0);
  decode(1);
  EXPECT_EQ(step(), Tokens({expected[1], expected[1]}));
  std::ranges::fill(mask, 0);
  mask[forced / 32] = static_cast<std::int32_t>(1u << (forced % 32));
  change(SlotChange::Kind::mask, 0);
  EXPECT_EQ(step(), Tokens({forced, expected[2]}));
  std::ranges::fill(mask, -1);  // not told: the device has the old one
  EXPECT_EQ(step(), Tokens({forced, expected[3]}));
  params_.allowed_token_ids = Tokens{forced, forced == 9 ? 8 : 9};
  mask[forced / 32] = 0;
  change(SlotChange::Kind::mask, 0);
  EXPECT_EQ(step()[0], forced == 9 ? 8 : 9);
}

TEST_F(ModelRunnerTest, TheLastDecodingSlotTakesThePlaceOfOneThatPauses) {
  const Tokens expected = alone(6);
  for (Slot slot = 0; slot < 3; ++slot) {
    join(slot, prompt_, sampling_);
    chunk(slot, 0, length(), {slot});
    EXPECT_EQ(step(), Tokens({expected[0]}));  // the others do not decode yet
  }
  for (Slot slot = 0; slot < 3; ++slot) decode(slot);
  EXPECT_EQ(step(), Tokens(3, expected[1]));
  pause(0);
  change(SlotChange::Kind::leave, 0);
  Tokens shorter = prompt_;
  shorter.push_back(expected[0]);
  join(0, shorter, sampling_);  // comes back, a token behind
  chunk(0, 0, length() + 1, {0});
  EXPECT_EQ(step(), Tokens({expected[2], expected[2], expected[1]}));
  pause(2);
  decode(0);
  EXPECT_EQ(step(), Tokens({expected[3], expected[2]}));  // slots 1 and 0
}

TEST_F(ModelRunnerTest, ATokenFromOutsideTakesThePlaceOfTheSampledOne) {
  const Tokens expected = alone(6);
  const std::int32_t forced = expected[2] == 500 ? 501 : 500;
  Tokens text = prompt_;
  text.insert(text.end(), {expected[0], expected[1], forced});
  join(1, text, sampling_);
  chunk(1, 0, static_cast<int>(text.size()), {1});
  const Tokens next = step();

  join(0, prompt_, sampling_);
  chunk(0, 0, length(), {0});
  step();
  decode(0);
  step();
  step();
  change(SlotChange::Kind::token, 0, length() + 2, forced);
  EXPECT_EQ(step(), next);
}

TEST_F(ModelRunnerTest, SteadyDecodingAllocatesNothing) {
  for (Slot slot = 0; slot < 3; ++slot) {
    join(slot, prompt_, sampling_);
    chunk(slot, 0, length(), {slot});
    step();
    decode(slot);
  }
  step();
  plan_.num_decodes = plan_.num_tokens = 3;
  const std::int64_t before = allocations;
  for (int i = 0; i < 20; ++i) run();
  EXPECT_EQ(allocations, before);
  EXPECT_GT(result_.us, 0);
}

TEST_F(ModelRunnerTest, RefusesPlansThatDoNotFit) {
  join(0, prompt_, sampling_);
  expect_error(ErrorCode::internal, "planned 1", [&] {
    plan_.num_decodes = 1;
    run();
  });
  plan_.clear();
  chunk(0, 0, kMaxTokens + 1);
  expect_error(ErrorCode::internal, "for 4 and 64", [&] { step(); });
  plan_.clear();
  chunk(3, 0, 1);
  expect_error(ErrorCode::internal, "slot 3 is empty", [&] { step(); });
}

}  // namespace
}  // namespace warpjet

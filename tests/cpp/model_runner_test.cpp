// Slots, texts and sampling of the real runner, on the embedded model: however a prompt is cut and shared, the tokens
// are the same.
#include "error_kit.h"
#include "execute/execute.h"
#include "execute/memory_plan.h"

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
    const KvCache::Config kv = {
        .layout = layout_of(model.plan, {}), .block_size = kBlockSize, .num_blocks = 1 + kSlots * kSlotBlocks};
    Weights weights = model.load(*device_);
    Runner runner(std::move(model.plan), std::move(weights), catalogs_, *device_, kMaxTokens, kMaxSeqs, kBlockSize);
    runner_ = std::make_unique<ModelRunner>(ModelRunner::Config{.max_tokens = kMaxTokens,
                                                                .max_seqs = kMaxSeqs,
                                                                .max_model_len = kMaxModelLen,
                                                                .num_slots = kSlots,
                                                                .max_logprobs = 20},
                                            std::move(runner), KvCache(kv, catalogs_, *device_), catalogs_, *device_);
    params_.temperature = 0;
    for (int i = 0; i < 21; ++i) prompt_.push_back(100 + 37 * i);
  }

  // --- The batch in the making

  static BlockId block_of(Slot slot, int index) { return 1 + slot * kSlotBlocks + index; }
  void change(SlotChange::Kind kind, Slot slot, int a = 0, int b = 0) {
    batch_.changes.push_back({.kind = kind, .slot = slot, .a = a, .b = b});
  }
  SampleOptions sampling() const { return {.params = params_, .prompt_length = length()}; }
  void join(Slot slot, const Tokens& text, const SampleOptions& sampling, Slot source = kNoSlot, int prefix = 0) {
    change(SlotChange::Kind::join, slot, static_cast<int>(batch_.joins.size()));
    batch_.joins.push_back({.source = source,
                            .prefix = prefix,
                            .tokens = batch_.add(text),
                            .record = batch_.add(pack_record(sampling, 3072))});
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
    batch_.chunks.push_back({slot, start, count, static_cast<std::int32_t>(sampled.size())});
    batch_.sample_slots.insert(batch_.sample_slots.end(), sampled.begin(), sampled.end());
  }
  void run() { run(batch_); }
  void run(const Batch& batch) {
    runner_->start(batch, result_);
    runner_->finish();
  }
  Tokens step() {
    batch_.num_decodes = num_decodes_;
    batch_.num_tokens = num_decodes_;
    for (const Chunk& chunk : batch_.chunks) batch_.num_tokens += chunk.count;
    run();
    batch_.clear();
    return result_.sampled.tokens;
  }

  // What the model says when the prompt runs whole and alone, in this slot.
  Tokens alone(int count, Slot slot = 0) {
    join(slot, prompt_, sampling());
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
  Tokens prompt_;
  Batch batch_;
  StepResult result_;
  int num_decodes_ = 0;
};

// --- Prompts

TEST_F(ModelRunnerTest, ChunksOfAPromptGiveTheTokensOfTheWhole) {
  const Tokens expected = alone(16);
  join(1, prompt_, sampling());
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
  join(1, prompt_, sampling());
  join(2, {}, sampling(), 1, length());
  change(SlotChange::Kind::block, 2, 0, block_of(1, 0));
  chunk(1, 0, length(), {1, 2});
  Tokens leader, sibling;
  const auto take = [&](const Tokens& tokens) {
    ASSERT_EQ(tokens.size(), 2u);
    leader.push_back(tokens[0]);
    sibling.push_back(tokens[1]);
  };
  take(step());
  batch_.copies.push_back({.source = block_of(1, 1), .target = block_of(2, 1)});
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
  SampleOptions other = {.params = other_params, .prompt_length = length()};
  join(1, prompt_, other);
  join(2, {}, sampling(), 1, length());
  chunk(1, 0, length(), {1, 2});
  const Tokens tokens = step();
  EXPECT_NE(tokens[0], expected[0]);
  EXPECT_EQ(tokens[1], expected[0]);
}

TEST_F(ModelRunnerTest, PromptLogprobsDoNotDependOnTheCut) {
  SampleOptions scoring = sampling();
  scoring.prompt_logprobs = 2;
  join(0, prompt_, scoring);
  join(1, prompt_, sampling());
  chunk(1, 0, 3);
  chunk(0, 0, length(), {0});
  step();
  EXPECT_EQ(result_.scored.ends, Tokens({0, length() - 1}));
  const TokenRanges whole = result_.scored;
  ASSERT_EQ(whole.tokens.size(), prompt_.size() - 1);
  ASSERT_EQ(whole.logprobs.size(), prompt_.size() - 1);
  std::size_t next = 0;
  join(2, prompt_, scoring);
  for (const auto& [start, count] : {std::pair(0, 7), std::pair(7, 13), std::pair(20, 1)}) {
    chunk(2, start, count);
    step();
    for (std::size_t i = 0; i < result_.scored.tokens.size(); ++i, ++next) {
      EXPECT_EQ(result_.scored.tokens[i], prompt_[next + 1]);
      ASSERT_EQ(result_.scored.logprobs[i].size(), 3u);
      EXPECT_NEAR(result_.scored.logprobs[i][0].logprob, whole.logprobs[next][0].logprob, 1e-2);
    }
  }
  EXPECT_EQ(next, prompt_.size() - 1);
}

TEST(NumScored, CountsTheTokensThatAnotherOneOfThePromptFollows) {
  EXPECT_EQ(num_scored({.start = 0, .count = 4}, 10), 4);
  EXPECT_EQ(num_scored({.start = 4, .count = 6}, 10), 5);
  EXPECT_EQ(num_scored({.start = 9, .count = 1}, 10), 0);
  EXPECT_EQ(num_scored({.start = 12, .count = 3}, 10), 0);
}

TEST_F(ModelRunnerTest, ABatchThatCameAsBytesGivesTheSameResult) {
  params_.temperature = 1;
  params_.logit_bias = {{7, 2.0}};
  params_.allowed_token_ids = Tokens{7, 8, 9, 300};
  SampleOptions wanted = sampling();
  wanted.logprobs = 3;
  for (const bool sent : {false, true}) {
    join(sent, prompt_, wanted);
    chunk(sent, 0, length(), {sent});
    batch_.num_tokens = length();
    std::vector<std::byte> bytes;
    to_bytes(batch_, bytes);
    Batch copy;
    from_bytes(bytes, copy);
    EXPECT_EQ(digest(copy), digest(batch_));
    if (sent) batch_ = Batch();  // the runner has nothing but the copy
    const StepResult expected = result_;
    run(copy);
    if (sent) {
      EXPECT_EQ(result_.sampled.tokens, expected.sampled.tokens);
      ASSERT_EQ(result_.sampled.logprobs[0].size(), 4u);
      for (int i = 0; i < 4; ++i) {
        EXPECT_EQ(result_.sampled.logprobs[0][i].token, expected.sampled.logprobs[0][i].token);
        EXPECT_EQ(result_.sampled.logprobs[0][i].logprob, expected.sampled.logprobs[0][i].logprob);
      }
    }
    batch_.clear();
  }
}

// --- Decoding

TEST_F(ModelRunnerTest, RowsAfterAStopAreSurplus) {
  const Tokens expected = alone(8);
  const auto first = std::find(expected.begin() + 2, expected.end(), expected[3]) - expected.begin();
  const Tokens stop_ids = {expected[3]};
  params_.min_tokens = 3;  // or an earlier one of these would end it
  SamplingParams free_params = params_;
  free_params.min_tokens = 0;
  SampleOptions stopping = sampling();
  stopping.stop_ids = stop_ids;
  const SampleOptions free = {.params = free_params, .prompt_length = length()};
  join(0, prompt_, stopping);
  join(1, prompt_, free);
  chunk(0, 0, length(), {0});
  chunk(1, 0, length(), {1});
  Tokens tokens = step(), other = {tokens[1]};
  tokens.pop_back();
  decode(0);
  decode(1);
  int surplus = 0;
  while (surplus < 2) {
    step();
    for (const std::int32_t token : result_.sampled.at(0)) tokens.push_back(token);
    surplus += result_.sampled.at(0).empty();
    other.push_back(result_.sampled.at(1)[0]);
  }
  EXPECT_EQ(tokens, Tokens(expected.begin(), expected.begin() + first + 1));
  EXPECT_TRUE(std::equal(other.begin(), other.end(), expected.begin()));
}

TEST_F(ModelRunnerTest, ABrokenRowEndsItsText) {
  params_.allowed_token_ids = Tokens{};
  join(0, prompt_, sampling());
  chunk(0, 0, length(), {0});
  EXPECT_EQ(step(), Tokens({kBrokenToken}));
  decode(0);
  EXPECT_TRUE(step().empty());
  EXPECT_EQ(result_.sampled.size(), 1);
}

TEST_F(ModelRunnerTest, AMaskHoldsUntilItChanges) {
  const Tokens expected = alone(4);
  const std::int32_t forced = (expected[2] + 1) % 3072;
  const Tokens all(3072 / 32, -1);
  Tokens one(3072 / 32, 0);
  one[forced / 32] = static_cast<std::int32_t>(1u << (forced % 32));
  SampleOptions guided = sampling();
  guided.guide_mask = all;
  Tokens record = pack_record(guided, 3072);
  const auto set_mask = [&](const SamplingParams& params, const Tokens& mask) {
    const Range words = batch_.add(pack_mask(params, mask, record));
    change(SlotChange::Kind::mask, 0, words.first, words.count);
  };
  join(0, prompt_, guided);
  join(1, prompt_, sampling());
  chunk(0, 0, length(), {0});
  chunk(1, 0, length(), {1});
  EXPECT_EQ(step(), Tokens({expected[0], expected[0]}));
  decode(0);
  decode(1);
  EXPECT_EQ(step(), Tokens({expected[1], expected[1]}));
  set_mask(params_, one);
  EXPECT_EQ(step(), Tokens({forced, expected[2]}));
  EXPECT_EQ(step(), Tokens({forced, expected[3]}));  // it holds until it changes
  const std::int32_t other = forced == 9 ? 8 : 9;
  SamplingParams params = params_;
  params.allowed_token_ids = Tokens{forced, other};
  Tokens all_but_one = all;
  all_but_one[forced / 32] = ~one[forced / 32];
  set_mask(params, all_but_one);
  EXPECT_EQ(step()[0], other);
}

TEST_F(ModelRunnerTest, TheLastDecodingSlotTakesThePlaceOfOneThatPauses) {
  const Tokens expected = alone(6);
  for (Slot slot = 0; slot < 3; ++slot) {
    join(slot, prompt_, sampling());
    chunk(slot, 0, length(), {slot});
    EXPECT_EQ(step(), Tokens({expected[0]}));  // the others do not decode yet
  }
  for (Slot slot = 0; slot < 3; ++slot) decode(slot);
  EXPECT_EQ(step(), Tokens(3, expected[1]));
  pause(0);
  change(SlotChange::Kind::leave, 0);
  Tokens shorter = prompt_;
  shorter.push_back(expected[0]);
  join(0, shorter, sampling());  // comes back, a token behind
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
  join(1, text, sampling());
  chunk(1, 0, static_cast<int>(text.size()), {1});
  const Tokens next = step();

  join(0, prompt_, sampling());
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
    join(slot, prompt_, sampling());
    chunk(slot, 0, length(), {slot});
    step();
    decode(slot);
  }
  step();
  batch_.num_decodes = batch_.num_tokens = 3;
  const std::int64_t before = allocations;
  for (int i = 0; i < 20; ++i) run();
  EXPECT_EQ(allocations, before);
  EXPECT_GT(result_.us, 0);
}

TEST_F(ModelRunnerTest, RefusesBatchesThatDoNotFit) {
  join(0, prompt_, sampling());
  expect_error(ErrorCode::internal, "planned 1", [&] {
    batch_.num_decodes = 1;
    run();
  });
  batch_.clear();
  chunk(0, 0, kMaxTokens + 1);
  expect_error(ErrorCode::internal, "for 4 and 64", [&] { step(); });
  batch_.clear();
  chunk(3, 0, 1);
  expect_error(ErrorCode::internal, "slot 3 is empty", [&] { step(); });
}

}  // namespace
}  // namespace warpjet

// The sampler: every SamplingParams field that reaches it, the order of its ops, and that slots do not mix.
#include "decode/decode.h"

#include "kit.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <new>
#include <set>

namespace {
std::atomic<std::int64_t> allocations{0};
}  // namespace

// Counts what the sampler allocates. Not inlined, or the compiler sees malloc() meet a delete and warns.
[[gnu::noinline]] void* operator new(std::size_t bytes) {
  ++allocations;
  if (void* memory = std::malloc(bytes)) return memory;
  throw std::bad_alloc();
}
[[gnu::noinline]] void* operator new(std::size_t bytes, const std::nothrow_t&) noexcept {
  ++allocations;
  return std::malloc(bytes);
}
[[gnu::noinline]] void operator delete(void* memory) noexcept {
  std::free(memory);
}
[[gnu::noinline]] void operator delete(void* memory, std::size_t) noexcept {
  std::free(memory);
}

namespace warpjet {
namespace {

using kit::Random;

constexpr std::int64_t kVocab = 40;
constexpr std::int64_t kMaxRows = 8;

// A few slots on a device that works at once.
class SamplerTest : public testing::Test {
 protected:
  static constexpr std::int64_t kSlots = kMaxRows + 2, kMaxText = 512;

  SamplerTest() : device_(make_cpu_device(2)), texts_(kSlots * kMaxText), lengths_(kSlots), alive_(kSlots) {
    register_reference(catalogs_);
    sampler_ = std::make_unique<Sampler>(
        catalogs_, *device_, Sampler::Config{.slots = kSlots, .rows = kMaxRows, .vocab = kVocab, .max_top = kVocab});
    Random random(1);
    for (std::int64_t i = 0; i < kVocab; ++i) base_.push_back(static_cast<float>(2 * random.normal()));
  }

  struct Sequence {
    const SamplingParams* params = nullptr;
    std::vector<std::int32_t> text = {1, 2, 3};
    int prompt_length = 3;
    int logprobs = -1;
    std::uint64_t key = random_key(7, 0);
  };

  struct Drawn {
    std::int32_t token = kBrokenToken;
    std::vector<TokenLogprob> logprobs;
  };

  std::vector<std::int32_t> record_of(const Sequence& sequence) const {
    return pack_record({.params = *sequence.params,
                        .prompt_length = sequence.prompt_length,
                        .key = sequence.key,
                        .stop_ids = stops_,
                        .logprobs = sequence.logprobs},
                       kVocab);
  }

  void join(int slot, const Sequence& sequence) {
    std::copy(sequence.text.begin(), sequence.text.end(), texts_.begin() + slot * kMaxText);
    lengths_[slot] = static_cast<std::int32_t>(sequence.text.size());
    alive_[slot] = 1;
    sampler_->join(slot, read_record(record_of(sequence)));
  }

  SlotTexts texts() {
    return {.texts = kit::view_of(texts_, kSlots), .lengths = kit::view_of(lengths_), .alive = kit::view_of(alive_)};
  }

  // One step: row r gets logits_[r] and works for the slot order[r], which got sequences[r].
  std::vector<Drawn> step(const std::vector<Sequence>& sequences, std::vector<std::int32_t> order) {
    const std::int64_t rows = std::ssize(order);
    SampleNeeds needs;
    for (const Sequence& sequence : sequences) {
      needs.edits |= read_record(record_of(sequence)).edits != 0;
      needs.logprobs |= sequence.logprobs >= 0;
    }
    const TensorView tokens = sampler_->sample(kit::view_of(logits_, rows), kit::view_of(order), texts(), needs);
    std::vector<Drawn> out;
    for (std::int64_t r = 0; r < rows; ++r) {
      out.push_back({.token = tokens.as<std::int32_t>()[r]});
      if (sequences[r].logprobs < 0) continue;
      out.back().logprobs = read_logprobs(sampler_->logprobs(rows), r, sequences[r].logprobs);
    }
    return out;
  }

  // One row from a copy of `base_`, which the ops may change.
  Drawn sample(const SamplingParams& params, std::vector<std::int32_t> text = {1, 2, 3}, int prompt_length = 3,
               int logprobs = -1) {
    const Sequence sequence = {
        .params = &params, .text = std::move(text), .prompt_length = prompt_length, .logprobs = logprobs};
    logits_ = base_;
    join(5, sequence);
    return step({sequence}, {5})[0];
  }

  // The tokens that 500 positions of a text give.
  std::set<std::int32_t> drawn(const SamplingParams& params) {
    std::set<std::int32_t> tokens;
    std::vector<std::int32_t> text;
    for (int i = 0; i < 500; ++i) {
      text.push_back(0);
      tokens.insert(sample(params, text, 1).token);
    }
    return tokens;
  }

  // Ids from the most to the least likely.
  std::vector<std::int32_t> order() const {
    std::vector<std::int32_t> ids;
    for (std::int32_t i = 0; i < kVocab; ++i) ids.push_back(i);
    std::stable_sort(ids.begin(), ids.end(), [&](auto a, auto b) { return base_[a] > base_[b]; });
    return ids;
  }

  static SamplingParams greedy() {
    SamplingParams params;
    params.temperature = 0;
    return params;
  }

  Catalogs catalogs_;
  std::unique_ptr<Device> device_;
  std::unique_ptr<Sampler> sampler_;
  std::vector<float> base_, logits_;
  std::vector<std::int32_t> texts_, lengths_, alive_, stops_;
};

// --- Parameters
// ---------------------------------------------------------------------------------------------------------

TEST_F(SamplerTest, TemperatureZeroIsGreedyAndLeavesTheLogitsAlone) {
  EXPECT_EQ(sample(greedy()).token, order()[0]);
  EXPECT_EQ(logits_, base_);
}

TEST_F(SamplerTest, TemperatureFlattensOrSharpens) {
  SamplingParams params;
  params.temperature = 0.01;
  EXPECT_EQ(drawn(params).size(), 1u);
  params.temperature = 1;
  const std::size_t at_one = drawn(params).size();
  params.temperature = 20;
  EXPECT_GT(drawn(params).size(), at_one);
}

TEST_F(SamplerTest, TopKKeepsTheMostLikely) {
  SamplingParams params;
  params.temperature = 5;
  const std::vector<std::int32_t> ids = order();
  params.top_k = 3;
  EXPECT_EQ(drawn(params), std::set<std::int32_t>(ids.begin(), ids.begin() + 3));
  params.top_k = -1;
  EXPECT_GT(drawn(params).size(), 20u);
}

TEST_F(SamplerTest, TopPKeepsTheSmallestSetWithTheMass) {
  SamplingParams params;
  params.temperature = 5;
  params.top_p = 0.3;
  double total = 0, mass = 0;
  for (const float logit : base_) total += std::exp(logit / 5);
  std::set<std::int32_t> kept;
  for (const std::int32_t id : order()) {
    if (mass >= 0.3 * total) break;
    kept.insert(id);
    mass += std::exp(base_[id] / 5);
  }
  EXPECT_EQ(drawn(params), kept);
}

TEST_F(SamplerTest, MinPDropsTheUnlikely) {
  SamplingParams params;
  params.temperature = 5;
  params.min_p = 0.6;
  std::set<std::int32_t> kept;
  for (const std::int32_t id : order()) {
    if (std::exp((base_[id] - base_[order()[0]]) / 5) >= 0.6) kept.insert(id);
  }
  EXPECT_EQ(drawn(params), kept);
}

TEST_F(SamplerTest, RepetitionPenaltyCountsPromptAndOutput) {
  SamplingParams params = greedy();
  params.repetition_penalty = 2;
  sample(params, {0, 5, 5, 9}, 2);
  for (std::int32_t i = 0; i < kVocab; ++i) {
    const bool seen = i == 0 || i == 5 || i == 9;
    EXPECT_FLOAT_EQ(logits_[i], !seen ? base_[i] : base_[i] > 0 ? base_[i] / 2 : base_[i] * 2);
  }
}

TEST_F(SamplerTest, PresenceAndFrequencyPenaltiesCountTheOutputAlone) {
  SamplingParams params = greedy();
  params.presence_penalty = 0.5;
  params.frequency_penalty = 0.25;
  sample(params, {0, 5, 5, 9, 5}, 2);
  EXPECT_FLOAT_EQ(logits_[0], base_[0]);
  EXPECT_FLOAT_EQ(logits_[5], base_[5] - 0.5f - 2 * 0.25f);
  EXPECT_FLOAT_EQ(logits_[9], base_[9] - 0.5f - 0.25f);
  EXPECT_FLOAT_EQ(logits_[1], base_[1]);
}

TEST_F(SamplerTest, LogitBiasIsAddedAfterPenalties) {
  SamplingParams params = greedy();
  params.repetition_penalty = 2;
  params.logit_bias = {{1, 100.0}, {4, -3.5}};
  EXPECT_EQ(sample(params).token, 1);
  EXPECT_FLOAT_EQ(logits_[1], (base_[1] > 0 ? base_[1] / 2 : base_[1] * 2) + 100);
  EXPECT_FLOAT_EQ(logits_[4], base_[4] - 3.5f);
}

TEST_F(SamplerTest, AllowedTokenIdsExcludeAllOthers) {
  SamplingParams params;
  params.temperature = 10;
  params.allowed_token_ids = {{0, 31, 32, 39}};
  EXPECT_EQ(drawn(params), (std::set<std::int32_t>{0, 31, 32, 39}));
}

TEST_F(SamplerTest, BadWordsBanTheLastTokenWhereTheTextMatches) {
  const std::int32_t best = order()[0], second = order()[1];
  SamplingParams params = greedy();
  params.bad_words_token_ids = {{2, 3, best}};
  EXPECT_EQ(sample(params, {1, 2, 3}).token, second);
  EXPECT_EQ(sample(params, {1, 2, 3, 3}).token, best);
  EXPECT_EQ(sample(params, {3}, 1).token, best);  // shorter than the sequence
  params.bad_words_token_ids = {{best}};
  EXPECT_EQ(sample(params, {3}, 1).token, second);
}

TEST_F(SamplerTest, MinTokensBansEndTokensUntilThen) {
  stops_ = {order()[0], order()[1]};
  SamplingParams params = greedy();
  params.min_tokens = 2;
  EXPECT_EQ(sample(params, {1, 2, 3}, 3).token, order()[2]);
  EXPECT_EQ(sample(params, {1, 2, 3, 4}, 3).token, order()[2]);
  EXPECT_EQ(sample(params, {1, 2, 3, 4, 5}, 3).token, order()[0]);
}

TEST_F(SamplerTest, BansWinOverBiasAndARowWithNothingLeftYieldsMinusOne) {
  stops_ = {6};
  SamplingParams params = greedy();
  params.min_tokens = 1;
  params.logit_bias = {{6, 100.0}};
  EXPECT_NE(sample(params).token, 6);
  params.allowed_token_ids = {{6}};
  const Drawn row = sample(params, {1}, 1, 3);
  EXPECT_EQ(row.token, -1);
  EXPECT_TRUE(row.logprobs.empty());
}

TEST_F(SamplerTest, KeyAndPositionDecideTheDraw) {
  SamplingParams params;
  params.temperature = 3;
  std::set<std::int32_t> by_position;
  for (std::size_t length = 1; length < 40; ++length) {
    const std::int32_t token = sample(params, std::vector<std::int32_t>(length, 5), 1).token;
    EXPECT_EQ(sample(params, std::vector<std::int32_t>(length, 9), 1).token, token)
        << "the text itself does not matter";
    by_position.insert(token);
  }
  EXPECT_GT(by_position.size(), 5u);
}

// --- Log-probabilities ----------------------------------------------------------------------------------------------

TEST_F(SamplerTest, LogprobsComeFromTheRawLogits) {
  const std::vector<std::int32_t> ids = order();
  double sum = 0;
  for (const float logit : base_) sum += std::exp(logit);
  SamplingParams params = greedy();
  params.logit_bias = {{ids[4], 100.0}};
  params.temperature = 0.5;
  const Drawn row = sample(params, {1}, 1, 3);
  EXPECT_EQ(row.token, ids[4]);
  ASSERT_EQ(row.logprobs.size(), 4u);
  EXPECT_EQ(row.logprobs[0].token, ids[4]);
  EXPECT_EQ(row.logprobs[0].rank, 5);
  EXPECT_NEAR(row.logprobs[0].logprob, base_[ids[4]] - std::log(sum), 1e-5);
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(row.logprobs[i + 1].token, ids[i]);
    EXPECT_EQ(row.logprobs[i + 1].rank, i + 1);
    EXPECT_NEAR(row.logprobs[i + 1].logprob, base_[ids[i]] - std::log(sum), 1e-5);
  }
}

TEST_F(SamplerTest, LogprobsMayBeTheWholeVocabularyOrTheTokenAlone) {
  EXPECT_EQ(sample(greedy(), {1}, 1, kVocab).logprobs.size(), static_cast<std::size_t>(kVocab + 1));
  EXPECT_EQ(sample(greedy(), {1}, 1, 0).logprobs.size(), 1u);
  EXPECT_TRUE(sample(greedy(), {1}, 1, -1).logprobs.empty());
}

TEST_F(SamplerTest, EqualLogitsShareARank) {
  base_.assign(kVocab, 0.0f);
  const Drawn row = sample(greedy(), {1}, 1, 5);
  for (const TokenLogprob& entry : row.logprobs) EXPECT_EQ(entry.rank, 1);
}

TEST_F(SamplerTest, ScoreReadsGivenTokensAndChangesNothing) {
  Random random(3);
  std::vector<float> logits;
  std::vector<std::int32_t> tokens;
  for (std::int64_t i = 0; i < kMaxRows * kVocab; ++i) logits.push_back(static_cast<float>(random.normal()));
  for (std::int64_t r = 0; r < kMaxRows; ++r) tokens.push_back(r == 3 ? -1 : random.below(kVocab));
  const std::vector<float> before = logits;
  const LogprobViews views = sampler_->score(kit::view_of(logits, kMaxRows), kit::view_of(tokens), 2);
  EXPECT_EQ(logits, before);
  for (std::int64_t r = 0; r < kMaxRows; ++r) {
    const std::vector<TokenLogprob> entries = read_logprobs(views, r, 2);
    if (r == 3) {
      EXPECT_TRUE(entries.empty());
      continue;
    }
    double sum = 0;
    for (std::int64_t i = 0; i < kVocab; ++i) sum += std::exp(logits[r * kVocab + i]);
    ASSERT_EQ(entries.size(), 3u);
    EXPECT_EQ(entries[0].token, tokens[r]);
    EXPECT_NEAR(entries[0].logprob, logits[r * kVocab + tokens[r]] - std::log(sum), 1e-5);
    EXPECT_GE(entries[1].logprob, entries[2].logprob);
  }
}

// --- Slots ----------------------------------------------------------------------------------------------------------

TEST_F(SamplerTest, SlotsOfAStepDoNotMix) {
  std::vector<SamplingParams> params(kMaxRows);
  std::vector<Sequence> sequences;
  stops_ = {order()[0]};
  params[1].temperature = 0;
  params[2].top_k = 5;
  params[2].repetition_penalty = 1.5;
  params[3].allowed_token_ids = {{3, 4, 5}};
  params[4].min_tokens = 100;
  params[5].logit_bias = {{8, 50.0}};
  params[6].bad_words_token_ids = {{order()[0]}};
  params[7].frequency_penalty = 1;
  for (std::int32_t r = 0; r < kMaxRows; ++r) {
    sequences.push_back({.params = &params[r],
                         .text = {r, 5, order()[1], order()[1], r},
                         .prompt_length = 2,
                         .logprobs = r % 3 == 0 ? static_cast<int>(r) : -1,
                         .key = random_key(3, static_cast<std::uint32_t>(r))});
  }
  const auto run = [&](const std::vector<std::int32_t>& which) {
    std::vector<Sequence> chosen;
    std::vector<std::int32_t> slots;
    logits_.clear();
    for (const std::int32_t r : which) {
      logits_.insert(logits_.end(), base_.begin(), base_.end());
      chosen.push_back(sequences[r]);
      slots.push_back((r * 3 + 1) % kSlots);
      join(slots.back(), sequences[r]);
    }
    return step(chosen, slots);
  };
  const std::vector<Drawn> together = run({0, 1, 2, 3, 4, 5, 6, 7}), reversed = run({7, 6, 5, 4, 3, 2, 1, 0});
  for (std::int32_t r = 0; r < kMaxRows; ++r) {
    const Drawn alone = run({r})[0];
    for (const Drawn& other : {together[r], reversed[kMaxRows - 1 - r]}) {
      EXPECT_EQ(other.token, alone.token) << "row " << r;
      ASSERT_EQ(other.logprobs.size(), alone.logprobs.size()) << "row " << r;
      for (std::size_t i = 0; i < alone.logprobs.size(); ++i) {
        EXPECT_EQ(other.logprobs[i].token, alone.logprobs[i].token);
        EXPECT_EQ(other.logprobs[i].logprob, alone.logprobs[i].logprob);
        EXPECT_EQ(other.logprobs[i].rank, alone.logprobs[i].rank);
      }
    }
  }
}

TEST_F(SamplerTest, ABrokenRowEndsItsTextAndHarmsNoOther) {
  const SamplingParams params = greedy();
  const Sequence sequence = {.params = &params, .text = {1}, .prompt_length = 1, .logprobs = 2};
  logits_.assign(2 * kVocab, std::numeric_limits<float>::quiet_NaN());
  std::copy(base_.begin(), base_.end(), logits_.begin() + kVocab);
  join(0, sequence);
  join(1, sequence);
  const std::vector<Drawn> out = step({sequence, sequence}, {0, 1});
  EXPECT_EQ(out[0].token, kBrokenToken);
  EXPECT_TRUE(out[0].logprobs.empty());
  EXPECT_EQ(alive_[0], 0);
  EXPECT_EQ(out[1].token, order()[0]);
  EXPECT_EQ(out[1].logprobs.size(), 3u);
  EXPECT_EQ(alive_[1], 1);
}

TEST_F(SamplerTest, TextsGrowUntilTheyEndAndAreSurplusThen) {
  const SamplingParams params = greedy();
  const Sequence sequence = {.params = &params, .text = {9, 9}, .prompt_length = 1, .logprobs = 0};
  stops_ = {order()[0]};
  join(2, sequence);
  logits_ = base_;
  logits_[order()[1]] += 100;
  EXPECT_EQ(step({sequence}, {2})[0].token, order()[1]);
  logits_ = base_;
  EXPECT_EQ(step({sequence}, {2})[0].token, order()[0]);
  EXPECT_EQ(lengths_[2], 4);
  EXPECT_EQ(texts_[2 * kMaxText + 2], order()[1]);
  EXPECT_EQ(texts_[2 * kMaxText + 3], order()[0]);
  logits_ = base_;
  const Drawn surplus = step({sequence}, {2})[0];
  EXPECT_EQ(surplus.token, kSurplusToken);
  EXPECT_TRUE(surplus.logprobs.empty());
  EXPECT_EQ(lengths_[2], 4);
  logits_ = base_;
  EXPECT_EQ(step({sequence}, {-1})[0].token, kSurplusToken);
}

TEST_F(SamplerTest, MoreJoinsThanAreStagedKeepTheirRecords) {
  std::vector<SamplingParams> params(kSlots, greedy());
  for (int round = 0; round < Sampler::kStaged; ++round) {
    for (std::int32_t slot = 0; slot < kSlots; ++slot) {
      params[slot].allowed_token_ids = {{(slot + round) % static_cast<std::int32_t>(kVocab)}};
      join(slot, {.params = &params[slot]});
    }
  }
  for (std::int32_t slot = 0; slot < kSlots; ++slot) {
    logits_ = base_;
    EXPECT_EQ(step({{.params = &params[slot]}}, {slot})[0].token, (slot + Sampler::kStaged - 1) % kVocab);
  }
}

TEST_F(SamplerTest, StepsAllocateNothing) {
  SamplingParams params;
  params.repetition_penalty = 1.5;
  const Sequence sequence = {.params = &params, .text = {1, 2, 3}};
  for (std::int32_t slot = 0; slot < kMaxRows; ++slot) join(slot, sequence);
  std::vector<std::int32_t> order(kMaxRows);
  for (std::int32_t r = 0; r < kMaxRows; ++r) order[r] = r;
  logits_.assign(kMaxRows * kVocab, 0.5f);
  const TensorView logits = kit::view_of(logits_, kMaxRows), slots = kit::view_of(order);
  const SlotTexts where = texts();
  const std::vector<std::int32_t> record = record_of(sequence);
  for (const bool logprobs : {false, true}) {
    const std::int64_t before = allocations;
    for (int i = 0; i < 10; ++i) sampler_->sample(logits, slots, where, {.edits = true, .logprobs = logprobs});
    sampler_->join(0, read_record(record));
    EXPECT_EQ(allocations, before);
  }
}

TEST_F(SamplerTest, RefusesMoreRowsThanItHasRoomFor) {
  std::vector<std::int32_t> order(kMaxRows + 1, -1);
  logits_.assign((kMaxRows + 1) * kVocab, 0.0f);
  EXPECT_THROW(sampler_->sample(kit::view_of(logits_, kMaxRows + 1), kit::view_of(order), texts(), {}), Error);
  EXPECT_THROW(sampler_->score(kit::view_of(logits_, kMaxRows + 1), kit::view_of(order), 0), Error);
  EXPECT_THROW(sampler_->join(kSlots, {}), Error);
}

// --- Records --------------------------------------------------------------------------------------------------------

TEST(Records, TheLargestRequestFitsAndOneMoreWordIsRefused) {
  SamplingParams params;
  for (int i = 0; i < kMaxBiases; ++i) params.logit_bias[i] = 1;
  params.bad_words_token_ids.assign(kMaxBadWordEnds, std::vector<std::int32_t>(kMaxBadWordTokens / kMaxBadWordEnds, 1));
  validate(params);
  std::vector<std::int32_t> stop_ids(kMaxStopIds, 2);
  EXPECT_EQ(pack_record({.params = params, .stop_ids = stop_ids}, kVocab).size(), kRecordWords + kListWords);
  stop_ids.push_back(2);
  EXPECT_THROW(pack_record({.params = params, .stop_ids = stop_ids}, kVocab), Error);
}

TEST(Records, OnlyWhatChangesLogitsNeedsEdits) {
  const auto edited = [](auto change) {
    SamplingParams params;
    change(params);
    return read_record(pack_record({.params = params, .stop_ids = params.stop_token_ids}, kVocab)).edits != 0;
  };
  EXPECT_FALSE(edited([](auto& p) {
    p.temperature = 0.5;
    p.top_k = 3;
    p.stop_token_ids = {3};
    p.logprobs = 4;
  }));
  EXPECT_TRUE(edited([](auto& p) { p.repetition_penalty = 1.1; }));
  EXPECT_TRUE(edited([](auto& p) { p.presence_penalty = 0.1; }));
  EXPECT_TRUE(edited([](auto& p) { p.frequency_penalty = 0.1; }));
  EXPECT_TRUE(edited([](auto& p) { p.logit_bias[1] = 0.1; }));
  EXPECT_TRUE(edited([](auto& p) { p.allowed_token_ids = {{1}}; }));
  EXPECT_TRUE(edited([](auto& p) { p.bad_words_token_ids = {{1}}; }));
  EXPECT_TRUE(edited([](auto& p) { p.min_tokens = 1; }));
}

TEST(Records, ListsAndMasksComeBackAsTheyWere) {
  SamplingParams params;
  params.logit_bias = {{4, 1.5}};
  params.bad_words_token_ids = {{7, 8}, {9}};
  const std::vector<std::int32_t> stop_ids = {2, 6}, guide = {-1, 0b101};
  std::vector<std::int32_t> words =
      pack_record({.params = params, .stop_ids = stop_ids, .guide_mask = guide, .pooling = Pooling::mean}, kVocab);
  const RecordView record = read_record(words);
  const std::vector<std::int32_t> lists(record.lists.begin(), record.lists.end());
  EXPECT_EQ(lists, (std::vector<std::int32_t>{2, 6, 4, std::bit_cast<std::int32_t>(1.5f), 2, 3, 7, 8, 9}));
  EXPECT_TRUE(std::ranges::equal(record.stop_ids(), stop_ids));
  EXPECT_TRUE(std::ranges::equal(record.mask, guide));
  EXPECT_EQ(record.pooling, Pooling::mean);

  params.allowed_token_ids = {{33, 34}};
  const std::vector<std::int32_t> next = {-1, 0b110};
  EXPECT_TRUE(std::ranges::equal(pack_mask(params, next, words), std::vector<std::int32_t>{0, 0b110}));
  EXPECT_TRUE(std::ranges::equal(read_record(words).mask, std::vector<std::int32_t>{0, 0b110}));
  EXPECT_THROW(pack_mask(params, guide, std::span(words).first(kRecordWords)), Error) << "cut short";
  words.pop_back();
  EXPECT_THROW(read_record(words), Error);
}

TEST(IsStop, OnlyListedTokensEndATextAndNotBeforeMinTokens) {
  const std::vector<std::int32_t> stop_ids = {2, 6};
  SamplingParams params;
  params.min_tokens = 3;
  const std::vector<std::int32_t> words = pack_record({.params = params, .stop_ids = stop_ids}, kVocab);
  const RecordView record = read_record(words);
  EXPECT_FALSE(is_stop(record, 6, 2));
  EXPECT_TRUE(is_stop(record, 6, 3));
  EXPECT_TRUE(is_stop(record, 2, 9));
  EXPECT_FALSE(is_stop(record, 5, 9));
}

}  // namespace
}  // namespace warpjet

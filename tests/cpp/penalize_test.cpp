// What slots do to their logits, and how their texts grow, against brute force.
#include "slot_kit.h"

#include <algorithm>
#include <set>
#include <span>

namespace warpjet {
namespace {

using kit::Random;
using kit::SlotCase;
using kit::view_of;

constexpr float kNever = -std::numeric_limits<float>::infinity();

std::vector<std::int32_t> random_tokens(Random& random, int count, std::int64_t vocab) {
  std::vector<std::int32_t> tokens;
  for (int i = 0; i < count; ++i) tokens.push_back(random.below(vocab));
  return tokens;
}

std::vector<float> random_logits(Random& random, std::int64_t count) {
  std::vector<float> logits;
  for (std::int64_t i = 0; i < count; ++i) logits.push_back(static_cast<float>(3 * random.normal()));
  return logits;
}

bool ends_with(std::span<const std::int32_t> text, std::span<const std::int32_t> tail) {
  return tail.size() <= text.size() && std::equal(tail.rbegin(), tail.rend(), text.rbegin());
}

// What a row becomes, by the words of the op's comment.
std::vector<float> edited(const SlotCase& c, std::vector<float> logits) {
  const std::int64_t vocab = std::ssize(logits), output = std::ssize(c.text) - c.prompt_length;
  std::set<std::int32_t> banned;
  for (const auto& word : c.bad_words) {
    if (ends_with(c.text, std::span(word).first(word.size() - 1))) banned.insert(word.back());
  }
  if (output < c.sampling.min_tokens) banned.insert(c.stops.begin(), c.stops.end());
  for (std::int32_t token = 0; token < vocab; ++token) {
    float& logit = logits[static_cast<std::size_t>(token)];
    const auto in_prompt = std::count(c.text.begin(), c.text.begin() + c.prompt_length, token);
    const auto in_output = std::count(c.text.begin() + c.prompt_length, c.text.end(), token);
    const float r = c.sampling.repetition;
    if (in_prompt + in_output > 0) logit = logit > 0 ? logit / r : logit * r;
    if (in_output > 0) logit -= c.sampling.presence + c.sampling.frequency * static_cast<float>(in_output);
    if (c.biases.contains(token)) logit += c.biases.at(token);
    const bool allowed = c.allowed.empty() || std::find(c.allowed.begin(), c.allowed.end(), token) != c.allowed.end();
    if (!allowed || banned.contains(token)) logit = kNever;
  }
  return logits;
}

SlotCase random_case(Random& random, std::int64_t vocab) {
  SlotCase c;
  c.prompt_length = random.below(20);
  c.text = random_tokens(random, c.prompt_length + random.below(20), vocab);
  if (random.below(2)) c.sampling.repetition = static_cast<float>(random.uniform(0.5, 2));
  if (random.below(2)) c.sampling.presence = static_cast<float>(random.uniform(-2, 2));
  if (random.below(2)) c.sampling.frequency = static_cast<float>(random.uniform(-2, 2));
  if (random.below(2)) c.sampling.min_tokens = random.below(20);
  if (random.below(2)) c.sampling.logprobs = random.below(5);
  for (int i = random.below(5); i > 0; --i) c.biases[random.below(vocab)] = static_cast<float>(random.uniform(-9, 9));
  for (int i = random.below(5); i > 0; --i) c.bad_words.push_back(random_tokens(random, 1 + random.below(3), vocab));
  for (const std::size_t tail : {1, 2, 5}) {  // some that the text is about to complete
    if (tail <= c.text.size() && random.below(2)) {
      c.bad_words.emplace_back(c.text.end() - static_cast<std::ptrdiff_t>(tail), c.text.end());
      c.bad_words.back().push_back(random.below(vocab));
    }
  }
  c.stops = random_tokens(random, random.below(4), vocab);
  if (random.below(2)) c.allowed = random_tokens(random, 1 + random.below(2 * vocab), vocab);
  c.alive = random.below(8) > 0;
  return c;
}

// --- Penalize -------------------------------------------------------------------------------------------------------

using PenalizeTest = kit::KernelTest;

TEST_F(PenalizeTest, EqualsTheFormulaRowByRow) {
  Random random(5);
  SCOPED_TRACE(random.trace());
  for (const std::int64_t vocab : {1, 5, 32, 70, 300}) {
    for (int round = 0; round < 20; ++round) {
      constexpr int kSlots = 6;
      std::vector<SlotCase> cases;
      for (int i = 0; i < kSlots; ++i) cases.push_back(random_case(random, vocab));
      std::vector<std::int32_t> order = {5, 3, -1, 0, 2};
      const std::int64_t rows = std::ssize(order);
      const std::vector<float> before = random_logits(random, rows * vocab);
      const std::vector<float> untouched(before.size(), -777.0f);
      for_each_kernel<Penalize>({.rows = rows, .vocab = vocab}, [&](auto launch) {
        kit::Slots slots(cases, vocab);
        std::vector<float> logits = before, raw = untouched;
        std::vector<std::int32_t> workspace(before.size(), 0);
        launch({.problem = {.rows = rows, .vocab = vocab},
                .logits = view_of(logits, rows),
                .slots = view_of(order),
                .views = slots.views(),
                .raw = view_of(raw, rows),
                .workspace = view_of(workspace)});
        for (std::int64_t r = 0; r < rows; ++r) {
          const auto row_of = [&](const std::vector<float>& all) {
            return std::vector<float>(all.begin() + r * vocab, all.begin() + (r + 1) * vocab);
          };
          const SlotCase* c = order[r] >= 0 && cases[order[r]].alive ? &cases[order[r]] : nullptr;
          const std::vector<float> want = c ? edited(*c, row_of(before)) : row_of(before), got = row_of(logits);
          for (std::int64_t i = 0; i < vocab; ++i) {
            ASSERT_TRUE(got[i] == want[i] || std::abs(got[i] - want[i]) < 1e-5)
                << "row " << r << ", token " << i << ": " << got[i] << ", not " << want[i];
          }
          EXPECT_EQ(row_of(raw), row_of(c && c->sampling.logprobs >= 0 ? before : untouched)) << "row " << r;
        }
        EXPECT_TRUE(std::all_of(workspace.begin(), workspace.end(), [](auto count) { return count == 0; }));
      });
      if (HasFailure()) return;
    }
  }
}

TEST_F(PenalizeTest, ASlotThatWantsNothingKeepsItsBits) {
  Random random(6);
  const std::vector<float> before = random_logits(random, 50);
  for_each_kernel<Penalize>({.rows = 1, .vocab = 50}, [&](auto launch) {
    kit::Slots slots({{.text = {1, 2, 3}, .prompt_length = 1, .stops = {4}}}, 50);
    std::vector<float> logits = before;
    std::vector<std::int32_t> order = {0}, workspace(50, 0);
    launch({.problem = {.rows = 1, .vocab = 50},
            .logits = view_of(logits, 1),
            .slots = view_of(order),
            .views = slots.views(),
            .workspace = view_of(workspace)});
    EXPECT_EQ(logits, before);
  });
}

// --- AppendTokens ---------------------------------------------------------------------------------------------------

using AppendTokensTest = kit::KernelTest;

TEST_F(AppendTokensTest, TextsGrowAndEndAtTheirStops) {
  const std::vector<SlotCase> cases = {
      {.text = {1, 2, 3}, .prompt_length = 2, .stops = {7, 9}},                           // goes on
      {.text = {4}, .prompt_length = 1, .stops = {7, 9}},                                 // ends
      {.sampling = {.min_tokens = 3}, .text = {4, 5}, .prompt_length = 1, .stops = {9}},  // too early to end
      {.sampling = {.min_tokens = 2}, .text = {4, 5}, .prompt_length = 1, .stops = {9}},  // just late enough
      {.text = {6}, .prompt_length = 1},                                                  // broken
      {.text = {8}, .prompt_length = 1, .stops = {9}, .alive = false},                    // ended before
      {.text = {5}, .prompt_length = 1, .stops = {9}},                                    // without a row
  };
  std::vector<std::int32_t> order = {3, -1, 0, 1, 2, 5, 4}, tokens = {9, kSurplusToken, 5, 7, 9, kSurplusToken, -1};
  for_each_kernel<AppendTokens>({.rows = std::ssize(order)}, [&](auto launch) {
    kit::Slots slots(cases, 10);
    std::vector<std::int32_t> results(order.size(), -7);
    launch({.problem = {.rows = std::ssize(order)},
            .slots = view_of(order),
            .tokens = view_of(tokens),
            .views = slots.views(),
            .results = view_of(results)});
    EXPECT_EQ(results, tokens);
    const std::vector<std::vector<std::int32_t>> texts = {{1, 2, 3, 5}, {4, 7}, {4, 5, 9}, {4, 5, 9}, {6}, {8}, {5}};
    const std::vector<std::int32_t> alive = {1, 0, 1, 0, 0, 0, 1};
    for (std::size_t i = 0; i < cases.size(); ++i) {
      EXPECT_EQ(slots.text(i), texts[i]) << "slot " << i;
      EXPECT_EQ(slots.alive(i), alive[i]) << "slot " << i;
    }
  });
}

}  // namespace
}  // namespace warpjet

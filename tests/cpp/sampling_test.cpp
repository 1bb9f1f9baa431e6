// The sampling kernels against brute force: cuts, the draw and its noise, log-probabilities.
#include "slot_kit.h"

#include <algorithm>
#include <array>
#include <numeric>
#include <set>

namespace warpjet {
namespace {

using kit::Random;
using kit::view_of;

using SamplingTest = kit::KernelTest;

constexpr float kNever = -std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

std::vector<float> random_logits(Random& random, std::int64_t count, double spread = 3.0) {
  std::vector<float> logits;
  for (std::int64_t i = 0; i < count; ++i) logits.push_back(static_cast<float>(spread * random.normal()));
  return logits;
}

// --- Noise ----------------------------------------------------------------------------------------------------------

// Known answers published with Random123 (Salmon et al. 2011).
TEST(Noise, PhiloxGivesThePublishedAnswers) {
  using Words = std::array<std::uint32_t, 4>;
  EXPECT_EQ(philox({0, 0, 0, 0}, 0), (Words{0x6627e8d5u, 0xe169c58du, 0xbc57ac4cu, 0x9b00dbd8u}));
  EXPECT_EQ(philox({~0u, ~0u, ~0u, ~0u}, ~0ull), (Words{0x408f276du, 0x41c83b0eu, 0xa20bc7c6u, 0x6d5451fdu}));
  EXPECT_EQ(philox({0x243f6a88u, 0x85a308d3u, 0x13198a2eu, 0x03707344u}, 0x299f31d0a4093822ull),
            (Words{0xd16cfe09u, 0x94fdccebu, 0x5001e420u, 0x24126ea1u}));
}

TEST(Noise, KeysOfSamplesAreSplitMix64) {
  EXPECT_EQ(random_key(0, 0), 0xe220a8397b1dcdafull);  // the generator's first outputs from seed 0
  EXPECT_EQ(random_key(0, 1), 0x6e789e6aa1b965f4ull);
  std::set<std::uint64_t> keys;
  for (std::uint64_t seed = 0; seed < 100; ++seed) {
    for (std::uint32_t sample = 0; sample < 100; ++sample) keys.insert(random_key(seed, sample));
  }
  EXPECT_EQ(keys.size(), 10'000u);
}

TEST(Noise, GumbelIsTheFormulaOfItsWord) {
  for (std::uint32_t token = 0; token < 10'000; ++token) {
    const std::uint32_t word = philox({token / 4, 7, 0, 0}, 42)[token % 4];
    const float w = std::min((static_cast<float>(word) + 0.5f) * 0x1p-32f, 1.0f - 0x1p-24f);
    const double exact = -std::log(-std::log1p(-static_cast<double>(w)));
    ASSERT_NEAR(gumbel(42, 7, token), exact, 2e-6 * std::max(1.0, std::abs(exact))) << "word " << word;
  }
}

TEST(Noise, GumbelHasItsMeanAndVariance) {
  double sum = 0, squares = 0;
  constexpr int kDraws = 400'000;
  for (int i = 0; i < kDraws; ++i) {
    const double g =
        gumbel(random_key(1, 0), static_cast<std::uint32_t>(i / 1000), static_cast<std::uint32_t>(i % 1000));
    sum += g;
    squares += g * g;
  }
  const double mean = sum / kDraws, variance = squares / kDraws - mean * mean;
  EXPECT_NEAR(mean, 0.57721566, 5 * 1.2825 / std::sqrt(kDraws));
  EXPECT_NEAR(variance, M_PI * M_PI / 6, 0.03);
}

// --- Select ---------------------------------------------------------------------------------------------------------

// What one row of Select reads.
struct Draw {
  std::vector<float> logits;
  float temperature = 1, top_p = 1, min_p = 0;
  std::int32_t top_k = 0;
  std::uint64_t key = 1;
  std::int32_t position = 0;
  std::int32_t logprobs = -1;
  bool alive = true;
};

// The ids that survive min_p, top_k and top_p, by sorting.
std::vector<std::int32_t> survivors(const Draw& draw) {
  std::vector<std::int32_t> ids;
  for (std::size_t i = 0; i < draw.logits.size(); ++i) {
    if (std::isfinite(draw.logits[i])) ids.push_back(static_cast<std::int32_t>(i));
  }
  std::stable_sort(ids.begin(), ids.end(), [&](auto a, auto b) { return draw.logits[a] > draw.logits[b]; });
  if (ids.empty()) return ids;
  const double max = draw.logits[ids[0]];
  const auto p = [&](std::int32_t id) { return std::exp((draw.logits[id] - max) / draw.temperature); };
  while (p(ids.back()) < draw.min_p) ids.pop_back();
  if (draw.top_k > 0 && ids.size() > static_cast<std::size_t>(draw.top_k)) ids.resize(draw.top_k);
  double total = 0, mass = 0;
  for (const std::int32_t id : ids) total += p(id);
  for (std::size_t i = 0; draw.top_p < 1 && i < ids.size(); ++i) {
    mass += p(ids[i]);
    if (mass >= draw.top_p * total) ids.resize(i + 1);
  }
  return ids;
}

std::int32_t brute_force(const Draw& draw) {
  std::vector<std::int32_t> ids = survivors(draw);
  if (ids.empty()) return -1;
  if (draw.temperature == 0) return ids[0];
  const auto score = [&](std::int32_t id) {
    return static_cast<double>(draw.logits[id]) / draw.temperature + gumbel(draw.key, draw.position, id);
  };
  return *std::max_element(ids.begin(), ids.end(), [&](auto a, auto b) { return score(a) < score(b); });
}

struct Drawn {
  std::vector<std::int32_t> tokens, scored;
};

// Runs Select on rows of one length; row r works for slot order[r].
Drawn select(const Kernel<Select>& kernel, Stream& stream, const std::vector<Draw>& draws,
             std::vector<std::int32_t> order) {
  const std::int64_t rows = std::ssize(order), vocab = std::ssize(draws[0].logits);
  std::vector<kit::SlotCase> cases;
  for (const Draw& draw : draws) {
    cases.push_back({.sampling = {.temperature = draw.temperature,
                                  .top_p = draw.top_p,
                                  .min_p = draw.min_p,
                                  .top_k = draw.top_k,
                                  .logprobs = draw.logprobs,
                                  .key = draw.key},
                     .text = std::vector<std::int32_t>(static_cast<std::size_t>(draw.position), 0),
                     .alive = draw.alive});
  }
  kit::Slots slots(cases, vocab);
  std::vector<float> logits;
  for (const std::int32_t slot : order) {
    const std::vector<float> nothing(static_cast<std::size_t>(vocab), kNan);
    const std::vector<float>& from = slot < 0 ? nothing : draws[static_cast<std::size_t>(slot)].logits;
    logits.insert(logits.end(), from.begin(), from.end());
  }
  Drawn drawn = {std::vector<std::int32_t>(order.size(), -7), std::vector<std::int32_t>(order.size(), -7)};
  kernel.launch({.problem = {.rows = rows, .vocab = vocab},
                 .logits = view_of(logits, rows),
                 .slots = view_of(order),
                 .views = slots.views(),
                 .tokens = view_of(drawn.tokens),
                 .scored = view_of(drawn.scored)},
                stream);
  return drawn;
}

class SelectTest : public SamplingTest {
 protected:
  Drawn run(const std::vector<Draw>& draws, const std::vector<std::int32_t>& order) {
    return select(catalogs_.of<Select>().find("ref.select"), device_->stream(), draws, order);
  }
  std::vector<std::int32_t> run(const std::vector<Draw>& draws) {
    std::vector<std::int32_t> order(draws.size());
    std::iota(order.begin(), order.end(), 0);
    return run(draws, order).tokens;
  }
  std::int32_t run(const Draw& draw) { return run(std::vector<Draw>{draw})[0]; }
};

TEST_F(SelectTest, GreedyTakesTheLargestAndOfEqualsTheFirst) {
  Random random(1);
  for (const std::int64_t vocab : {1, 5, 16, 255, 1000, 4099}) {
    Draw draw = {.logits = random_logits(random, vocab), .temperature = 0};
    const auto largest = std::max_element(draw.logits.begin(), draw.logits.end()) - draw.logits.begin();
    EXPECT_EQ(run(draw), largest);
    draw.logits[static_cast<std::size_t>(vocab - 1)] = draw.logits[static_cast<std::size_t>(largest)];
    EXPECT_EQ(run(draw), largest);
  }
}

TEST_F(SelectTest, EqualsBruteForceForEveryFilter) {
  Random random(2);
  SCOPED_TRACE(random.trace());
  for (int round = 0; round < 600; ++round) {
    const std::int64_t vocab = 1 + random.below(round % 10 == 0 ? 5000 : 600);
    std::vector<Draw> draws;
    for (int r = 0; r < 5; ++r) {
      Draw draw = {.logits = random_logits(random, vocab, random.uniform(0.1, 6)),
                   .temperature = static_cast<float>(random.uniform(0.2, 2)),
                   .key = static_cast<std::uint64_t>(random.below(1ll << 30)),
                   .position = random.below(4096)};
      if (random.below(2)) draw.top_p = static_cast<float>(random.uniform(0.05, 1));
      if (random.below(2)) draw.min_p = static_cast<float>(random.uniform(0, 0.5));
      if (random.below(2)) draw.top_k = random.below(vocab + 3);
      draws.push_back(std::move(draw));
    }
    const std::vector<std::int32_t> tokens = run(draws);
    for (std::size_t r = 0; r < draws.size(); ++r) {
      ASSERT_EQ(tokens[r], brute_force(draws[r]))
          << "round " << round << ", vocab " << vocab << ", temperature " << draws[r].temperature << ", top_p "
          << draws[r].top_p << ", min_p " << draws[r].min_p << ", top_k " << draws[r].top_k;
    }
  }
}

// Every survivor is drawn sooner or later from a flat row, and nothing else is.
TEST_F(SelectTest, CutsKeepTheRightTokensAndOfTiesTheFirst) {
  const std::vector<float> flat(40, 0.0f);
  std::vector<float> steps;
  for (int i = 0; i < 40; ++i) steps.push_back(static_cast<float>(-(i % 8)));  // five of each
  const auto drawn = [&](Draw draw) {
    std::set<std::int32_t> ids;
    for (draw.position = 0; draw.position < 4000; ++draw.position) ids.insert(run(draw));
    return ids;
  };
  const std::set<std::int32_t> first_three = {0, 1, 2}, five_largest = {0, 8, 16, 24, 32};
  EXPECT_EQ(drawn({.logits = flat, .top_k = 3}), first_three);
  EXPECT_EQ(drawn({.logits = flat, .top_p = 0.07f}), first_three);  // 3 / 40 = 0.075 is the first mass to reach it
  EXPECT_EQ(drawn({.logits = steps, .top_k = 5}), five_largest);
  EXPECT_EQ(drawn({.logits = steps, .min_p = 0.5f}), five_largest);
  EXPECT_EQ(drawn({.logits = steps, .top_k = 2}), (std::set<std::int32_t>{0, 8}));
  EXPECT_EQ(drawn({.logits = steps, .top_p = 1e-6f}), (std::set<std::int32_t>{0}));
  // top_p counts the mass of what top_k left: of six tokens {5 of 1, 1 of e^-1}, 0.9 of the mass is five.
  EXPECT_EQ(drawn({.logits = steps, .top_p = 0.9f, .top_k = 6}), five_largest);
}

TEST_F(SelectTest, NeverDrawsWhatIsNotFinite) {
  Random random(3);
  for (const float temperature : {0.0f, 1.0f}) {
    for (const float top_p : {1.0f, 0.9f}) {
      std::vector<Draw> draws;
      for (std::int32_t position = 0; position < 300; ++position) {
        Draw draw = {.logits = {kNan, 1.0f, kNever, -kNever, 0.5f, kNan},
                     .temperature = temperature,
                     .top_p = top_p,
                     .position = position};
        draws.push_back(draw);
      }
      for (const std::int32_t token : run(draws)) EXPECT_TRUE(token == 1 || token == 4) << token;
    }
  }
}

TEST_F(SelectTest, ARowWithoutAFiniteLogitYieldsMinusOneAndHarmsNoOther) {
  for (const float temperature : {0.0f, 1.0f}) {
    const std::vector<std::int32_t> tokens = run({{.logits = {kNan, kNan, kNan}, .temperature = temperature},
                                                  {.logits = {kNever, 2.0f, kNever}, .temperature = temperature},
                                                  {.logits = {kNever, kNever, kNever}, .temperature = temperature}});
    EXPECT_EQ(tokens, (std::vector<std::int32_t>{-1, 1, -1}));
  }
}

TEST_F(SelectTest, SurvivesExtremeTemperaturesAndLogits) {
  EXPECT_EQ(run({.logits = {1.0f, 2.0f, 1.5f}, .temperature = 1e-30f}), 1);
  EXPECT_EQ(run({.logits = {-3e38f, 3e38f, 0.0f}, .temperature = 1.0f}), 1);
  EXPECT_EQ(run({.logits = {-3e38f, 3e38f, 0.0f}, .temperature = 1e-30f, .top_p = 0.5f, .top_k = 2}), 1);
  EXPECT_GE(run({.logits = {1.0f, 2.0f, 1.5f}, .temperature = 1e30f}), 0);
}

// Pearson's chi-square of many draws; 99.99 % of right samplers stay below these bounds, and the seed is fixed.
TEST_F(SelectTest, DrawsFollowTheProbabilities) {
  const std::vector<float> logits = {0.0f, 1.0f, -1.0f, 2.0f, 0.5f, -0.5f, 1.5f, -3.0f};
  constexpr int kDraws = 100'000;
  for (const float temperature : {0.7f, 1.0f, 1.8f}) {
    std::vector<Draw> draws;
    for (int i = 0; i < kDraws; ++i) {
      draws.push_back(
          {.logits = logits, .temperature = temperature, .key = random_key(5, i / 100), .position = i % 100});
    }
    std::vector<double> count(logits.size(), 0.0), p;
    for (const std::int32_t token : run(draws)) count[static_cast<std::size_t>(token)] += 1;
    for (const float logit : logits) p.push_back(std::exp(logit / temperature));
    const double total = std::accumulate(p.begin(), p.end(), 0.0);
    double chi_square = 0;
    for (std::size_t i = 0; i < p.size(); ++i) {
      const double expected = kDraws * p[i] / total;
      chi_square += (count[i] - expected) * (count[i] - expected) / expected;
    }
    EXPECT_LT(chi_square, 29.9) << "temperature " << temperature;  // 7 degrees of freedom
  }
}

TEST_F(SelectTest, ARowDoesNotDependOnItsNeighbours) {
  Random random(4);
  std::vector<Draw> draws;
  for (int r = 0; r < 20; ++r) {
    draws.push_back({.logits = random_logits(random, 777),
                     .temperature = 0.3f * static_cast<float>(r % 4),
                     .top_p = r % 3 ? 1.0f : 0.8f,
                     .top_k = r % 5 * 10,
                     .key = random_key(9, r),
                     .position = r});
  }
  const std::vector<std::int32_t> together = run(draws);
  for (std::size_t r = 0; r < draws.size(); ++r) EXPECT_EQ(run(draws[r]), together[r]);
}

TEST_F(SelectTest, SlotsSayHowARowIsSampledAndWhichHaveNoWork) {
  const std::vector<Draw> draws = {{.logits = {1.0f, 2.0f, 0.0f}, .temperature = 0, .logprobs = 0},
                                   {.logits = {3.0f, 2.0f, 0.0f}, .temperature = 0},
                                   {.logits = {0.0f, 2.0f, 3.0f}, .temperature = 0, .logprobs = 5, .alive = false},
                                   {.logits = {kNan, kNever, kNan}, .temperature = 0, .logprobs = 5}};
  const Drawn drawn = run(draws, {2, -1, 1, 0, 3});
  EXPECT_EQ(drawn.tokens, (std::vector<std::int32_t>{kSurplusToken, kSurplusToken, 0, 1, kBrokenToken}));
  EXPECT_EQ(drawn.scored, (std::vector<std::int32_t>{-1, -1, -1, 1, -1}));
}

// --- Log-probabilities ----------------------------------------------------------------------------------------------

TEST_F(SamplingTest, LogprobEqualsTheFormulaAndSkipsRowsWithoutAToken) {
  Random random(6);
  constexpr std::int64_t kRows = 5;
  for (const std::int64_t vocab : {1, 9, 300, 5000}) {
    for (const std::int64_t top : {std::int64_t{0}, std::int64_t{1}, std::min<std::int64_t>(vocab, 7), vocab}) {
      std::vector<float> logits = random_logits(random, kRows * vocab);
      for (float& logit : logits) logit = random.below(3) ? logit : std::round(logit);  // some ties
      if (vocab > 100) logits[50] = kNan;
      std::vector<std::int32_t> tokens = {static_cast<std::int32_t>(vocab - 1), 0, -1, random.below(vocab),
                                          random.below(vocab)};
      for_each_kernel<Logprob>({.rows = kRows, .vocab = vocab, .top = top}, [&](auto launch) {
        std::vector<float> logprobs(kRows, kNan), top_logprobs(kRows * top, kNan);
        std::vector<std::int32_t> ranks(kRows, -7), top_tokens(kRows * top, -7);
        launch({.problem = {.rows = kRows, .vocab = vocab, .top = top},
                .logits = view_of(logits, kRows),
                .tokens = view_of(tokens),
                .logprobs = view_of(logprobs),
                .ranks = view_of(ranks),
                .top_tokens = view_of(top_tokens, kRows),
                .top_logprobs = view_of(top_logprobs, kRows)});
        for (std::int64_t r = 0; r < kRows; ++r) {
          if (tokens[r] < 0) {
            EXPECT_EQ(ranks[r], -7);
            continue;
          }
          std::vector<std::int32_t> order(static_cast<std::size_t>(vocab));
          std::iota(order.begin(), order.end(), 0);
          const auto logit = [&](std::int32_t id) {
            const float value = logits[r * vocab + id];
            return std::isfinite(value) ? value : kNever;
          };
          std::stable_sort(order.begin(), order.end(), [&](auto a, auto b) { return logit(a) > logit(b); });
          double sum = 0;
          for (const std::int32_t id : order) sum += std::exp(static_cast<double>(logit(id)));
          const auto rank =
              std::count_if(order.begin(), order.end(), [&](auto id) { return logit(id) > logit(tokens[r]); }) + 1;
          ASSERT_NEAR(logprobs[r], logit(tokens[r]) - std::log(sum), 3e-6);
          ASSERT_EQ(ranks[r], rank);
          for (std::int64_t i = 0; i < top; ++i) {
            ASSERT_EQ(top_tokens[r * top + i], order[i]) << "row " << r << ", place " << i;
            if (logit(order[i]) == kNever) {
              ASSERT_EQ(top_logprobs[r * top + i], kNever);
            } else {
              ASSERT_NEAR(top_logprobs[r * top + i], logit(order[i]) - std::log(sum),
                          3e-6 * (1 + std::abs(logit(order[i]))));
            }
          }
        }
      });
      if (HasFailure()) return;
    }
  }
}

}  // namespace
}  // namespace warpjet

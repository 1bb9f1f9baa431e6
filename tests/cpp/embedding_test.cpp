// Embeddings of the trained tiny model, through the public engine: alone, together, in pieces and interrupted.
#include <warpjet/warpjet.h>

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <map>
#include <numeric>
#include <vector>

namespace warpjet {
namespace {

std::unique_ptr<Engine> open_tiny(EngineConfig config) {
  config.device = "cpu";
  config.num_threads = 2;
  return Engine::open(std::filesystem::path(WARPJET_MODELS) / "tiny", config);
}

std::vector<std::int32_t> prompt_of(int length, int first) {
  std::vector<std::int32_t> prompt(length);
  std::iota(prompt.begin(), prompt.end(), first);
  return prompt;
}

struct Results {
  explicit Results(Engine& engine) : engine(engine) {}
  RequestId submit(std::vector<std::int32_t> prompt, PoolingParams pooling) {
    return engine.submit({.prompt = std::move(prompt), .pooling = std::move(pooling)}, queue);
  }
  void wait(std::size_t count) {
    const auto end = Clock::now() + std::chrono::minutes(5);
    while (finals.size() < count && Clock::now() < end) {
      for (Output& output : queue.poll(std::chrono::milliseconds(10))) {
        EXPECT_TRUE(output.is_final() && output.tokens.empty()) << "an embedding is the one output";
        EXPECT_EQ(output.sequence, 0u);
        finals[output.id] = std::move(output);
      }
    }
    ASSERT_EQ(finals.size(), count);
  }
  Engine& engine;
  OutputQueue queue;
  std::map<RequestId, Output> finals;
};

std::vector<float> embed(Engine& engine, std::vector<std::int32_t> prompt, PoolingParams pooling) {
  Results results(engine);
  const RequestId id = results.submit(std::move(prompt), std::move(pooling));
  results.wait(1);
  EXPECT_EQ(results.finals[id].finish, FinishReason::stop) << results.finals[id].error;
  return results.finals[id].embedding;
}

TEST(Embedding, DoesNotDependOnWhatRunsBesideItNorOnItsPieces) {
  const auto whole = open_tiny({.enable_prefix_caching = false});
  const auto pieces = open_tiny({.max_num_seqs = 4, .max_num_batched_tokens = 16, .max_steps_in_flight = 3});
  for (const char* pooling : {"last", "mean"}) {
    Results together(*pieces);
    std::map<RequestId, std::vector<float>> expected;
    for (const int length : {1, 15, 16, 17, 60}) {
      const std::vector<std::int32_t> prompt = prompt_of(length, 5 + length);
      expected[together.submit(prompt, {.pooling = pooling})] = embed(*whole, prompt, {.pooling = pooling});
    }
    together.wait(expected.size());
    for (const auto& [id, embedding] : expected) {
      EXPECT_EQ(together.finals[id].embedding, embedding);
      EXPECT_EQ(std::ssize(embedding), pieces->model().hidden_size);
      const double length = std::sqrt(std::inner_product(embedding.begin(), embedding.end(), embedding.begin(), 0.0));
      EXPECT_NEAR(length, 1, 1e-6);
    }
  }
  EXPECT_EQ(pieces->stats().generated_tokens, 0);
}

TEST(Embedding, AMeanIsTheMeanOfTheLastOnesOfItsPrefixes) {
  const auto engine = open_tiny({});
  const std::vector<std::int32_t> prompt = prompt_of(20, 40);
  std::vector<double> sum(engine->model().hidden_size);
  for (std::size_t length = 1; length <= prompt.size(); ++length) {
    const auto last = embed(*engine, {prompt.begin(), prompt.begin() + static_cast<std::ptrdiff_t>(length)},
                            {.pooling = "last", .normalize = false});
    for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += last[i];
  }
  const auto mean = embed(*engine, prompt, {.pooling = "mean", .normalize = false});
  for (std::size_t i = 0; i < sum.size(); ++i) EXPECT_FLOAT_EQ(mean[i], static_cast<float>(sum[i] / prompt.size()));
}

TEST(Embedding, LosingItsPlaceCountsNoTokenTwice) {
  const auto engine = open_tiny({.max_num_batched_tokens = 16, .kv_offloading_size = 0.05});
  const std::vector<std::int32_t> prompt = prompt_of(240, 5);
  const std::vector<float> expected = embed(*engine, prompt, {.pooling = "mean"});
  Results results(*engine);
  const RequestId id = results.submit(prompt, {.pooling = "mean"});
  int pauses = 0;
  for (int seen = 0; results.finals.empty();) {
    for (const Snapshot::Sequence& sequence : engine->snapshot().sequences) {
      if (sequence.computed <= seen) continue;
      seen = sequence.computed;
      engine->pause(id);
      engine->resume(id);
      ++pauses;
    }
    for (Output& output : results.queue.poll({})) results.finals[output.id] = std::move(output);
  }
  EXPECT_EQ(results.finals[id].embedding, expected);
  EXPECT_GT(pauses, 0);
}

TEST(Embedding, CancelsAndTextsBesideItHarmNobody) {
  const auto engine = open_tiny({.max_num_batched_tokens = 32});
  const std::vector<float> expected = embed(*engine, prompt_of(50, 5), {.pooling = "mean"});
  OutputQueue texts;
  for (int i = 0; i < 4; ++i) {
    engine->submit({.prompt = prompt_of(20, 300 * i), .sampling = {.ignore_eos = true, .max_tokens = 40}}, texts);
  }
  Results results(*engine);
  std::vector<RequestId> ids;
  for (int i = 0; i < 12; ++i) ids.push_back(results.submit(prompt_of(50, 5), {.pooling = "mean"}));
  for (int i = 0; i < 12; i += 2) engine->cancel(ids[i]);
  results.wait(12);
  for (int i = 0; i < 12; ++i) {
    const Output& output = results.finals[ids[i]];
    if (output.finish == FinishReason::abort) {
      EXPECT_TRUE(output.embedding.empty());
    } else {
      EXPECT_EQ(output.embedding, expected);
    }
  }
}

}  // namespace
}  // namespace warpjet

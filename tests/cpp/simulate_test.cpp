// The simulator: what it adds around the scheduler, and that the whole obeys what queueing theory says.
#include "simulate/simulate.h"

#include "error_kit.h"

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <map>
#include <numeric>
#include <string>
#include <vector>

namespace warpjet::sim {
namespace {

class File {
 public:
  File(const std::string& name, const std::string& text) : path_(std::filesystem::path(::testing::TempDir()) / name) {
    write_text_file(path_, text);
  }
  ~File() { std::filesystem::remove(path_); }
  std::string path() const { return path_.string(); }

 private:
  std::filesystem::path path_;
};

std::string trace_line(double ms, int input, int output) {
  return cat("{\"timestamp\": ", ms, ", \"input_length\": ", input, ", \"output_length\": ", output, "}\n");
}

Json run(const SimConfig& config) {
  return Json::parse(simulate(config));
}
double summary(const Json& report, const char* name) {
  return report.at("summary").at(name).as_double();
}
double percentile(const Json& report, const char* metric, const char* name) {
  return report.at("percentiles").at(metric).at(name).as_double();
}
std::string results(const Json& report) {
  return report.at("summary").dump() + report.at("percentiles").dump() + report.at("cdf").dump() +
         report.at("series").dump();
}

// --- Histogram ------------------------------------------------------------------------------------------------------

TEST(Histogram, QuantilesAreWithinABin) {
  Histogram histogram;
  for (Micros value = 1; value <= 100'000; ++value) histogram.add(value);
  for (const double q : {0.01, 0.5, 0.9, 0.99}) EXPECT_NEAR(histogram.quantile(q), q * 1e5, q * 1e5 / 64);
  EXPECT_EQ(histogram.quantile(1), 100'000);
  EXPECT_DOUBLE_EQ(histogram.mean(), 50'000.5);
  EXPECT_EQ(histogram.max(), 100'000);
}

TEST(Histogram, EmptyIsZero) {
  const Histogram histogram;
  EXPECT_EQ(histogram.quantile(0.5), 0);
  EXPECT_EQ(histogram.mean(), 0);
  EXPECT_TRUE(histogram.cdf().as_array().empty());
}

TEST(Histogram, TheSumOfTwoHoldsBoth) {
  Histogram low, high;
  low.add(10, 3);
  high.add(1'000'000'000'000, 1);
  low.add(high);
  EXPECT_EQ(low.count(), 4);
  EXPECT_NEAR(low.quantile(0.5), 10, 1);
  EXPECT_EQ(low.quantile(1), 1e12);
  EXPECT_EQ(low.cdf().as_array().back().as_array().back().as_double(), 1);
}

// --- Loads ----------------------------------------------------------------------------------------------------------

struct Published {
  const char* preset;
  double input_mean, input_p50, input_p90, input_p99, output_mean, output_p50, output_p90, output_p99;
};

// Azure 2023 and arxiv-summarization, of the processed traces that come with Vidur.
constexpr Published kPublished[] = {
    {"azure-conv-23", 1155, 1020, 2735, 4142, 211, 129, 424, 601},
    {"azure-code-23", 2048, 1469, 5194, 7436, 28, 13, 55, 252},
    {"arxiv-sum", 2588, 2730, 3702, 3934, 291, 167, 372, 3273},
};

void expect_lengths(std::vector<int> lengths, double mean, double p50, double p90, double p99) {
  std::ranges::sort(lengths);
  const auto n = static_cast<double>(lengths.size());
  const auto at = [&](double q) { return lengths[static_cast<std::size_t>(q * n)]; };
  EXPECT_NEAR(std::accumulate(lengths.begin(), lengths.end(), 0.0) / n, mean, 0.1 * mean);
  EXPECT_NEAR(at(0.5), p50, 0.04 * p50 + 1);
  EXPECT_NEAR(at(0.9), p90, 0.04 * p90 + 1);
  EXPECT_NEAR(at(0.99), p99, 0.08 * p99);
}

TEST(Presets, LengthsAreThePublishedOnes) {
  for (const Published& p : kPublished) {
    SCOPED_TRACE(p.preset);
    const Workload workload = make_workload({.trace = p.preset, .rate = 1000, .duration_s = 50});
    std::vector<int> inputs, outputs;
    for (const Arrival& arrival : workload.arrivals) {
      inputs.push_back(arrival.input);
      outputs.push_back(arrival.output);
    }
    expect_lengths(inputs, p.input_mean, p.input_p50, p.input_p90, p.input_p99);
    expect_lengths(outputs, p.output_mean, p.output_p50, p.output_p90, p.output_p99);
  }
}

TEST(Presets, ArriveInOrderAtTheirRate) {
  for (const Preset& preset : presets()) {
    SCOPED_TRACE(preset.name);
    const Workload workload = make_workload({.trace = std::string(preset.name), .duration_s = 4000});
    const auto count = static_cast<double>(workload.arrivals.size());
    EXPECT_NEAR(count / 4000, preset.rate, 0.1 * preset.rate);
    EXPECT_TRUE(std::ranges::is_sorted(workload.arrivals, {}, &Arrival::time));
    EXPECT_LT(workload.arrivals.back().time, workload.duration);
  }
}

TEST(Presets, AgentsShareTheirToolsAndGoOnFromTheirOwnText) {
  const Workload workload = make_workload({.trace = "tool-agent", .duration_s = 200});
  std::map<std::uint32_t, const Arrival*> sessions;
  int turns = 0;
  for (const Arrival& next : workload.arrivals) {
    const Arrival*& last = sessions[next.key];
    if (last != nullptr && ++turns < 100) {
      ASSERT_GT(next.input, last->input);
      const auto longer = workload.prompt(next, next.input), shorter = workload.prompt(*last, last->input);
      ASSERT_TRUE(std::equal(shorter.begin(), shorter.end(), longer.begin()));
    }
    last = &next;
  }
  EXPECT_GT(turns, 100);
}

TEST(Presets, AnUnknownOneIsNamedWithTheNearest) {
  expect_error(ErrorCode::invalid_argument, "azure-conv-23\"?", [] { make_workload({.trace = "azure-conv"}); });
}

TEST(TraceFile, EqualHashesAreEqualTokens) {
  const File file("hashes.jsonl",
                  "{\"timestamp\": 0, \"input_length\": 1100, \"output_length\": 5, \"hash_ids\": [7, 8, 9]}\n"
                  "{\"timestamp\": 1000, \"input_length\": 1024, \"output_length\": 5, \"hash_ids\": [7, 8]}\n"
                  "\n"
                  "{\"timestamp\": 1000.5, \"input_length\": 700, \"output_length\": 5, \"hash_ids\": [7, 1]}\n");
  const Workload workload = read_trace(file.path());
  ASSERT_EQ(workload.arrivals.size(), 3u);
  EXPECT_EQ(workload.arrivals[2].time, 1'000'500);
  const auto prompt = [&](int i) { return workload.prompt(workload.arrivals[i], 0); };
  const auto a = prompt(0), b = prompt(1), c = prompt(2);
  ASSERT_EQ(a.size(), 1100u);
  EXPECT_TRUE(std::equal(b.begin(), b.end(), a.begin()));
  EXPECT_TRUE(std::equal(c.begin(), c.begin() + 512, a.begin()));
  EXPECT_FALSE(std::equal(c.begin() + 512, c.end(), a.begin() + 512));
}

TEST(TraceFile, AMistakeIsNamedByLineAndField) {
  const std::string good = trace_line(0, 10, 10);
  struct Case {
    std::string line, says;
  };
  for (const Case& c : std::vector<Case>{
           {trace_line(0, 0, 10), "input_length"},
           {trace_line(-1, 10, 10), "timestamp"},
           {"{\"timestamp\": 0, \"input_length\": 10}", "output_length"},
           {"{\"timestamp\": 0, \"input_length\": \"x\", \"output_length\": 1}", "input_length"},
           {"{\"timestamp\": 0, \"input_length\": 513, \"output_length\": 1, \"hash_ids\": [1]}", "hash_ids"},
           {"{\"timestamp\": 0, \"input_length\": 5, \"output_length\": 1, \"hash_ids\": [-1]}", "hash_ids"},
           {"{\"timestamp\": 0, \"input_length\": 5, \"output_length\": 1, \"hash_ids\": 3}", "hash_ids"},
           {"{\"timestamp\": 0, \"input_length\": 5, \"output_length\": 1, \"priority\": 1e9}", "priority"},
           {"{\"timestamp\": 0,", "json"},
           {"[]", "must be a JSON object"},
       }) {
    const File file("bad.jsonl", good + c.line + "\n" + good);
    expect_error(ErrorCode::invalid_argument, "bad.jsonl:2: " + c.says, [&] { read_trace(file.path()); });
  }
}

TEST(TraceFile, AnotherRateStretchesTheTime) {
  std::string text;
  for (int i = 0; i < 100; ++i) text += trace_line(i * 1000.0, 10, 10);
  const File file("rate.jsonl", text);
  const Workload own = make_workload({.trace = file.path()}), fast = make_workload({.trace = file.path(), .rate = 10});
  EXPECT_EQ(own.duration, 100'000'000);
  EXPECT_EQ(fast.duration, 10'000'000);
  EXPECT_EQ(fast.arrivals.back().time, 9'900'000);
  EXPECT_EQ(make_workload({.trace = file.path(), .duration_s = 10}).arrivals.size(), 10u);
}

// --- Cost -----------------------------------------------------------------------------------------------------------

TEST(CostModel, RooflineIsTheLargerOfBytesAndFlops) {
  const CostModel cost(SimConfig{.params_b = 10,
                                 .kv_bytes_per_token = 1e5,
                                 .queries_per_kv = 0,
                                 .compute_efficiency = 1,
                                 .bandwidth_efficiency = 1,
                                 .step_overhead_us = 100});
  const double weights = 10e9 * 2 / 3000e3, token = 2 * 10e9 / 800e6;  // us on an H100
  EXPECT_EQ(cost.step_us({.tokens = 1}), std::llround(100 + weights));
  EXPECT_EQ(cost.step_us({.tokens = 4000}), std::llround(100 + 4000 * token));
  EXPECT_EQ(cost.step_us({.tokens = 1, .decode_keys = 30000}), std::llround(100 + weights + 30000 * 1e5 / 3000e3));
}

TEST(CostModel, AFitFindsTheFormulaBehindMeasuredSteps) {
  Json rows{Json::Array{}};
  for (const double tokens : {1, 16, 64, 256, 512, 2048}) {
    for (const double context : {1000, 20000, 100000}) {
      rows.push(Json::Array{tokens, context, 300 + 20 * std::max(tokens, 256.0) + 0.05 * context});
    }
  }
  const File file("steps.json", Json(Json::Object{{"step_us", rows}}).dump());
  const CostModel cost(SimConfig{.cost_model = file.path()});
  EXPECT_LT(cost.describe().at("rms_relative_error").as_double(), 1e-6);
  EXPECT_EQ(cost.step_us({.tokens = 100, .decode_keys = 50000}), 300 + 20 * 256 + 2500);
  EXPECT_EQ(cost.step_us({.tokens = 1000, .chunk_keys = 1000}), 300 + 20000 + 50);
}

TEST(CostModel, AFitNeedsNoNegativeWeights) {
  const File file("steps.json", R"({"step_us": [[1, 0, 900], [10, 0, 800], [100, 0, 700]]})");
  const CostModel cost(SimConfig{.cost_model = file.path()});
  EXPECT_NEAR(static_cast<double>(cost.step_us({.tokens = 1 << 20})), 800, 60);
}

TEST(CostModel, ABadFileIsNamed) {
  for (const char* text :
       {"{}", R"({"step_us": []})", R"({"step_us": [[1, 2]]})", R"({"step_us": [[1, 2, -3]]})", "["}) {
    const File file("steps.json", text);
    expect_error(ErrorCode::invalid_argument, "cost_model: ", [&] { CostModel(SimConfig{.cost_model = file.path()}); });
  }
  expect_error(ErrorCode::io, "/no/such.json", [] { CostModel(SimConfig{.cost_model = "/no/such.json"}); });
}

// --- Runs -----------------------------------------------------------------------------------------------------------

TEST(Simulate, ARequestAloneTakesWhatItsStepsCost) {
  const File file("one.jsonl", trace_line(0, 1000, 50));
  constexpr Micros kHost = 100;
  for (const int in_flight : {1, 2, 3}) {
    const SimConfig config{.trace = file.path(), .step_host_us = kHost, .max_steps_in_flight = in_flight};
    const CostModel cost(config);
    const Micros prefill = cost.step_us({.tokens = 1000, .chunk_keys = 1000, .chunk_pairs = 1000 * 500.5});
    Micros all = kHost + prefill;
    for (int keys = 1001; keys < 1050; ++keys) {
      all += cost.step_us({.tokens = 1, .decode_keys = keys}) + (in_flight == 1 ? kHost : 0);
    }
    const Json report = run(config);
    EXPECT_DOUBLE_EQ(percentile(report, "ttft_ms", "max"), static_cast<double>(kHost + prefill) * 1e-3);
    EXPECT_DOUBLE_EQ(percentile(report, "e2e_ms", "max"), static_cast<double>(all) * 1e-3);
    EXPECT_EQ(summary(report, "output_tokens"), 50);
  }
}

// One prompt at a time and nothing else: Pollaczek and Khinchine's mean wait for constant service.
TEST(Simulate, OneAtATimeIsAnMD1Queue) {
  constexpr double kUtilisation = 0.6;
  SimConfig config{.max_tokens = 0, .step_host_us = 0, .max_num_seqs = 1, .max_steps_in_flight = 1};
  const double service =
      static_cast<double>(CostModel(config).step_us({.tokens = 500, .chunk_keys = 500, .chunk_pairs = 500 * 250.5}));
  std::string text;
  Random random(7);
  for (double us = 0; text.size() < 2'000'000; us += random.exponential() * service / kUtilisation) {
    text += trace_line(us * 1e-3, 500, 1);
  }
  const File file("queue.jsonl", text);
  config.trace = file.path();
  const double expected = service * (1 + kUtilisation / (2 * (1 - kUtilisation)));
  EXPECT_NEAR(percentile(run(config), "ttft_ms", "mean"), expected * 1e-3, 0.05 * expected * 1e-3);
}

TEST(Simulate, TheNumberOfThreadsChangesNothing) {
  for (const char* router : {"round_robin", "least_loaded", "prefix_affinity"}) {
    SimConfig config{.trace = "tool-agent", .rate = 30, .duration_s = 30, .replicas = 5, .router = router};
    config.threads = 1;
    const std::string alone = results(run(config));
    for (const int threads : {2, 7}) {
      config.threads = threads;
      EXPECT_EQ(results(run(config)), alone) << router << " threads=" << threads;
    }
    config.seed = 1;
    EXPECT_NE(results(run(config)), alone);
  }
}

TEST(Simulate, EveryRequestEndsOnce) {
  for (const char* policy : {"fcfs", "priority", "fair"}) {
    for (const double quantile : {0.0, 0.9, 1.0}) {
      for (const double host_gib : {0.0, 4.0}) {
        const Json report = run({.rate = 30,
                                 .duration_s = 20,
                                 .tenants = 3,
                                 .kv_cache_gib = 2,
                                 .kv_offloading_size = host_gib,
                                 .max_num_queued_reqs = 100,
                                 .scheduling_policy = policy,
                                 .admission_quantile = quantile});
        SCOPED_TRACE(cat(policy, " ", quantile, " ", host_gib, ": ", report.at("summary").dump()));
        EXPECT_EQ(summary(report, "finished") + summary(report, "refused"), summary(report, "requests"));
        EXPECT_GT(summary(report, "refused"), 0);
        if (quantile == 1) {
          EXPECT_EQ(summary(report, "preemptions"), 0);
        }
        if (quantile > 0 || std::string(policy) == "fair") continue;
        EXPECT_GT(summary(report, "preemptions"), 0);
        EXPECT_EQ(summary(report, "swaps") > 0, host_gib > 0);
      }
    }
  }
}

TEST(Simulate, WhatCannotFitIsRefused) {
  const File file("large.jsonl", trace_line(0, 20000, 5) + trace_line(0, 100, 5));
  const Json report = run({.trace = file.path(), .kv_cache_gib = 1});  // 8192 tokens
  EXPECT_EQ(summary(report, "refused"), 1);
  EXPECT_EQ(summary(report, "finished"), 1);
}

TEST(Simulate, EqualHashesAreFoundInTheCache) {
  std::string text;
  for (int i = 0; i < 20; ++i) {
    text += cat("{\"timestamp\": ", i * 1000, ", \"input_length\": 1024, \"output_length\": 2, \"hash_ids\": [1, ",
                i + 2, "]}\n");
  }
  const File file("shared.jsonl", text);
  SimConfig config{.trace = file.path()};
  EXPECT_NEAR(summary(run(config), "prefix_hit_rate"), 19.0 / 40, 1e-9);
  config.enable_prefix_caching = false;
  EXPECT_EQ(summary(run(config), "prefix_hit_rate"), 0);
}

TEST(Simulate, AffinityFindsMorePrefixes) {
  SimConfig config{.trace = "tool-agent", .rate = 30, .duration_s = 60, .replicas = 8};
  const double blind = summary(run(config), "prefix_hit_rate");
  config.router = "prefix_affinity";
  EXPECT_GT(summary(run(config), "prefix_hit_rate"), blind + 0.05);
}

TEST(Simulate, MoreReplicasNeverLowerGoodput) {
  double before = -1;
  for (const int replicas : {1, 2, 3, 4, 6}) {
    const Json report = run({.rate = 60, .duration_s = 60, .replicas = replicas, .router = "least_loaded"});
    EXPECT_GE(summary(report, "goodput"), before) << replicas;
    before = summary(report, "goodput");
  }
  EXPECT_GT(before, 0.99);
}

TEST(Simulate, TheSearchFindsTheSmallestNumber) {
  SimConfig config{.rate = 60, .duration_s = 60, .replicas = 0};
  const Json found = run(config);
  const auto replicas = static_cast<int>(found.at("replicas").as_int());
  ASSERT_GT(replicas, 1);
  EXPECT_TRUE(found.at("summary").at("target_met").as_bool());
  config.replicas = replicas;
  EXPECT_EQ(results(run(config)), results(found));
  config.replicas = replicas - 1;
  EXPECT_FALSE(run(config).at("summary").at("target_met").as_bool());
}

TEST(Simulate, TheSearchSaysWhenNoNumberIsEnough) {
  const Json report = run({.duration_s = 20, .replicas = 0, .max_replicas = 3, .itl_ms = 1});
  EXPECT_EQ(report.at("replicas").as_int(), 3);
  EXPECT_FALSE(report.at("summary").at("target_met").as_bool());
  EXPECT_EQ(report.at("search").as_array().size(), 3u);
}

TEST(Simulate, PollEndsIt) {
  int calls = 0;
  const auto poll = [&] {
    if (++calls == 2) WJ_FAIL(closed, "enough");
  };
  SimConfig config{.duration_s = 36000, .threads = 2};
  expect_error(ErrorCode::closed, "enough", [&] { simulate(config, poll); });
}

TEST(Simulate, ABadFieldIsNamed) {
  const std::vector<std::pair<const char*, SimConfig>> cases = {
      {"trace", {.trace = "no-such-preset"}},
      {"rate", {.rate = -1}},
      {"replicas", {.replicas = -1}},
      {"router", {.router = "random"}},
      {"goodput_target", {.goodput_target = 0}},
      {"ttft_ms", {.ttft_ms = std::nan("")}},
      {"gpu", {.gpu = "V100"}},
      {"kv_cache_gib", {.params_b = 70}},
      {"kv_cache_gib", {.kv_bytes_per_token = 1}},
      {"block_size", {.block_size = 17}},
      {"scheduling_policy", {.scheduling_policy = "lifo"}},
      {"preemption_mode", {.preemption_mode = "swap"}},
  };
  for (const auto& [field, config] : cases) {
    expect_error(ErrorCode::invalid_argument, field, [&] { simulate(config); });
  }
}

}  // namespace
}  // namespace warpjet::sim

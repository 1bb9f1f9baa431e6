// What an engine tells of itself: Prometheus' text, read by a strict parser, and the trace, read as JSON.
#include "core/core.h"
#include "counted_allocations.h"
#include "observe/observe.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <locale>
#include <map>
#include <memory>
#include <new>
#include <string>
#include <thread>
#include <vector>

namespace warpjet {
namespace {

namespace fs = std::filesystem;

// --- The exposition format ------------------------------------------------------------------------------------------

using Labels = std::map<std::string, std::string>;
struct Sample {
  std::string name;
  Labels labels;
  double value = 0;
};
struct Family {  // a metric
  std::string type;
  std::vector<Sample> samples;
};

// A cursor over one line. Throws corrupt at whatever the format does not allow.
class Line {
 public:
  explicit Line(std::string_view text) : text_(text) {}

  bool take(std::string_view prefix) {
    if (!text_.starts_with(prefix)) return false;
    text_.remove_prefix(prefix.size());
    return true;
  }
  void expect(std::string_view prefix) { WJ_REQUIRE(take(prefix), corrupt, "expected ", prefix, " at ", text_); }
  std::string name() {
    std::size_t length = 0;
    while (length < text_.size() && (std::isalnum(text_[length]) || text_[length] == '_' || text_[length] == ':')) {
      ++length;
    }
    WJ_REQUIRE(length > 0 && !std::isdigit(text_[0]), corrupt, "expected a name at ", text_);
    return cut(length);
  }
  std::string quoted() {
    std::string value;
    expect("\"");
    while (!take("\"")) {
      WJ_REQUIRE(!text_.empty(), corrupt, "a label does not end");
      if (take("\\n")) {
        value += '\n';
      } else {
        if (take("\\")) WJ_REQUIRE(text_.starts_with('"') || text_.starts_with('\\'), corrupt, "bad escape");
        value += cut(1);
      }
    }
    return value;
  }
  double number() {
    double value = 0;
    const auto [end, error] = std::from_chars(text_.data(), text_.data() + text_.size(), value);
    WJ_REQUIRE(error == std::errc(), corrupt, "expected a number at ", text_);
    cut(static_cast<std::size_t>(end - text_.data()));
    return value;
  }
  std::string rest() { return cut(text_.size()); }
  void end() const { WJ_REQUIRE(text_.empty(), corrupt, "trailing ", text_); }

 private:
  std::string cut(std::size_t length) {
    WJ_REQUIRE(length <= text_.size(), corrupt, "the line ends early");
    std::string out(text_.substr(0, length));
    text_.remove_prefix(length);
    return out;
  }

  std::string_view text_;
};

Sample parse_sample(Line line) {
  Sample sample{.name = line.name()};
  line.expect("{");
  do {
    const std::string label = line.name();
    line.expect("=");
    WJ_REQUIRE(sample.labels.emplace(label, line.quoted()).second, corrupt, "label ", label, " twice");
  } while (line.take(","));
  line.expect("} ");
  sample.value = line.number();
  line.end();
  return sample;
}

// Families by name. HELP, TYPE and samples of each come together, in this order.
std::map<std::string, Family> parse(const std::string& text) {
  std::map<std::string, Family> families;
  std::string current;
  bool typed = true;
  WJ_REQUIRE(text.ends_with('\n'), corrupt, "the last line does not end");
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = text.find('\n', begin);
    Line line(std::string_view(text).substr(begin, end - begin));
    begin = end + 1;
    if (line.take("# HELP ")) {
      WJ_REQUIRE(typed, corrupt, current, " has no TYPE");
      current = line.name();
      line.expect(" ");
      WJ_REQUIRE(!line.rest().empty(), corrupt, current, " has an empty HELP");
      WJ_REQUIRE(families.try_emplace(current).second, corrupt, current, " has two HELPs");
      typed = false;
    } else if (line.take("# TYPE ")) {
      WJ_REQUIRE(line.name() == current && !typed, corrupt, "a TYPE that does not follow its HELP");
      line.expect(" ");
      families[current].type = line.name();
      line.end();
      typed = true;
    } else {
      WJ_REQUIRE(typed, corrupt, "a sample before its TYPE");
      families[current].samples.push_back(parse_sample(line));
      WJ_REQUIRE(families[current].samples.back().name.starts_with(current), corrupt, "a stray sample");
    }
  }
  return families;
}

// Buckets are cumulative over ascending bounds and end with +Inf, which is _count.
void check_histogram(const std::string& name, const Family& family) {
  SCOPED_TRACE(name);
  ASSERT_GE(family.samples.size(), 4u);
  const std::size_t buckets = family.samples.size() - 2;
  double bound = 0, total = 0;
  for (std::size_t i = 0; i < buckets; ++i) {
    const Sample& sample = family.samples[i];
    EXPECT_EQ(sample.name, name + "_bucket");
    const std::string le = sample.labels.at("le");
    ASSERT_EQ(le == "+Inf", i + 1 == buckets);
    if (le != "+Inf") {
      const double next = Line(le).number();
      EXPECT_GT(next, bound);
      bound = next;
    }
    EXPECT_GE(sample.value, total);
    total = sample.value;
  }
  EXPECT_EQ(family.samples[buckets].name, name + "_sum");
  EXPECT_EQ(family.samples[buckets + 1].name, name + "_count");
  EXPECT_EQ(family.samples[buckets + 1].value, total);
}

void check(const std::map<std::string, Family>& families) {
  for (const auto& [name, family] : families) {
    for (const Sample& sample : family.samples) EXPECT_EQ(sample.labels.at("engine"), "0");
    if (family.type == "histogram") {
      check_histogram(name, family);
    } else {
      EXPECT_TRUE(family.type == "gauge" || family.type == "counter") << name << " is a " << family.type;
      for (const Sample& sample : family.samples) EXPECT_EQ(sample.name, name);
    }
  }
}

// The sample of this name whose labels include `labels`.
double value_of(const std::map<std::string, Family>& families, const std::string& name, const Labels& labels = {}) {
  for (const auto& [family_name, family] : families) {
    for (const Sample& sample : family.samples) {
      if (sample.name == "warpjet:" + name && std::ranges::includes(sample.labels, labels)) return sample.value;
    }
  }
  ADD_FAILURE() << "no sample " << name;
  return -1;
}

const SamplingParams kParams{.n = 2, .max_tokens = 100};
const RequestTimes kTimes{.queue_ms = 20, .prefill_ms = 30, .decode_ms = 90, .preempted_ms = 10, .total_ms = 150};

void count_everything(Metrics& metrics) {
  metrics.step(600, 3, 12'000, 400, 30);
  metrics.first_token(0.05);
  metrics.next_token(0.0301);
  metrics.finished(FinishReason::length, kParams, 500, 4, kTimes);
  metrics.rejected(ErrorCode::overloaded);
}

TEST(Metrics, TheTextIsInTheExpositionFormat) {
  Metrics metrics;
  check(parse(metrics.prometheus({}, "tiny")));
  count_everything(metrics);
  const auto families = parse(metrics.prometheus({}, "tiny"));
  check(families);
  for (const char* name :
       {"num_requests_running", "kv_cache_usage_perc", "prompt_tokens_total", "generation_tokens_total",
        "request_success_total", "time_to_first_token_seconds", "inter_token_latency_seconds",
        "e2e_request_latency_seconds", "iteration_tokens_total", "device_idle_between_steps_seconds"}) {
    EXPECT_TRUE(families.contains(std::string("warpjet:") + name)) << name;
  }
}

TEST(Metrics, GaugesAndCountersComeFromStats) {
  const Stats stats{.steps = 12,
                    .prompt_tokens = 9'007'199'254'740'991,
                    .cached_tokens = 1000,
                    .preemptions = 3,
                    .running = 5,
                    .waiting = 7,
                    .kv_blocks = 200,
                    .kv_blocks_used = 50,
                    .paused = 2};
  const std::string text = Metrics().prometheus(stats, "tiny");
  const auto families = parse(text);
  EXPECT_EQ(value_of(families, "num_requests_running"), 5);
  EXPECT_EQ(value_of(families, "num_requests_waiting"), 7);
  EXPECT_EQ(value_of(families, "num_requests_paused"), 2);
  EXPECT_EQ(value_of(families, "kv_cache_usage_perc"), 0.25);
  EXPECT_EQ(value_of(families, "prefix_cache_hits_total"), 1000);
  EXPECT_EQ(value_of(families, "num_preemptions_total"), 3);
  EXPECT_EQ(value_of(families, "engine_steps_total"), 12);
  EXPECT_NE(text.find("} 9007199254740991\n"), std::string::npos) << "counters are printed to the last digit";
}

TEST(Metrics, PrefixCacheQueriesAreWhatWasComputedAndWhatWasFound) {
  const auto families = parse(Metrics().prometheus({.prompt_tokens = 300, .cached_tokens = 100}, "tiny"));
  EXPECT_EQ(value_of(families, "prefix_cache_queries_total"), 400);
}

TEST(Metrics, APoolWithoutBlocksIsNotInUse) {
  EXPECT_EQ(value_of(parse(Metrics().prometheus({}, "tiny")), "kv_cache_usage_perc"), 0);
}

TEST(Metrics, AValueOnABoundIsInThatBucket) {
  static constexpr double kBounds[] = {1, 10};
  Histogram histogram(kBounds);
  for (const double value : {0.5, 1.0, 1.5, 10.0, 11.0, 12.0}) histogram.add(value);
  EXPECT_EQ(histogram.count(0), 2);
  EXPECT_EQ(histogram.count(1), 2);
  EXPECT_EQ(histogram.count(2), 2);
  EXPECT_EQ(histogram.sum(), 36);
}

TEST(Metrics, AFinishedSampleIsInEveryHistogramOfRequests) {
  Metrics metrics;
  metrics.finished(FinishReason::stop, kParams, 500, 4, kTimes);
  const auto families = parse(metrics.prometheus({}, "tiny"));
  const std::map<std::string, double> sums = {{"e2e_request_latency_seconds", 0.15},
                                              {"request_queue_time_seconds", 0.02},
                                              {"request_prefill_time_seconds", 0.03},
                                              {"request_decode_time_seconds", 0.09},
                                              {"request_inference_time_seconds", 0.12},
                                              {"request_preempted_time_seconds", 0.01},
                                              {"request_time_per_output_token_seconds", 0.03},
                                              {"request_prompt_tokens", 500},
                                              {"request_generation_tokens", 4},
                                              {"request_params_n", 2},
                                              {"request_params_max_tokens", 100}};
  for (const auto& [name, sum] : sums) {
    EXPECT_NEAR(value_of(families, name + "_sum"), sum, 1e-12) << name;
    EXPECT_EQ(value_of(families, name + "_count"), 1) << name;
  }
}

TEST(Metrics, OneTokenHasNoTimePerTokenAfterTheFirst) {
  Metrics metrics;
  metrics.finished(FinishReason::stop, kParams, 500, 1, kTimes);
  EXPECT_EQ(value_of(parse(metrics.prometheus({}, "tiny")), "request_time_per_output_token_seconds_count"), 0);
}

TEST(Metrics, AStepIsMeasuredInSeconds) {
  Metrics metrics;
  metrics.step(600, 3, 12'000, 400, 30);
  const auto families = parse(metrics.prometheus({}, "tiny"));
  EXPECT_EQ(value_of(families, "iteration_tokens_total_sum"), 600);
  EXPECT_EQ(value_of(families, "iteration_sequences_sum"), 3);
  EXPECT_NEAR(value_of(families, "step_device_seconds_sum"), 0.012, 1e-12);
  EXPECT_NEAR(value_of(families, "step_host_seconds_sum"), 0.0004, 1e-12);
  EXPECT_NEAR(value_of(families, "device_idle_between_steps_seconds_sum"), 0.00003, 1e-12);
}

TEST(Metrics, EndsAndRejectionsAreCountedByReason) {
  Metrics metrics;
  metrics.finished(FinishReason::abort, kParams, 1, 1, {});
  metrics.finished(FinishReason::abort, kParams, 1, 1, {});
  metrics.rejected(ErrorCode::overloaded);
  metrics.accepted(3);
  const auto families = parse(metrics.prometheus({}, "tiny"));
  EXPECT_EQ(value_of(families, "samples_accepted_total"), 3);
  EXPECT_EQ(value_of(families, "request_success_total", {{"finished_reason", "abort"}}), 2);
  EXPECT_EQ(value_of(families, "request_success_total", {{"finished_reason", "stop"}}), 0);
  EXPECT_EQ(value_of(families, "admission_rejections_total", {{"reason", "overloaded"}}), 1);
  EXPECT_EQ(families.at("warpjet:request_success_total").samples.size(), 4u) << "none is no reason to end";
}

TEST(Metrics, LabelsAreEscaped) {
  const std::string name = "C:\\models\\\"tiny\"\nnew";
  const auto families = parse(Metrics().prometheus({}, name));
  for (const auto& [_, family] : families) {
    for (const Sample& sample : family.samples) EXPECT_EQ(sample.labels.at("model_name"), name);
  }
}

struct DecimalComma : std::numpunct<char> {
  char do_decimal_point() const override { return ','; }
  char do_thousands_sep() const override { return '.'; }
  std::string do_grouping() const override { return "\3"; }
};

TEST(Metrics, NumbersDoNotDependOnTheLocale) {
  Metrics metrics;
  count_everything(metrics);
  const Stats stats{.prompt_tokens = 1'234'567, .kv_blocks = 3, .kv_blocks_used = 1};
  const std::string expected = metrics.prometheus(stats, "tiny");
  const std::locale before = std::locale::global(std::locale(std::locale(), new DecimalComma));
  const std::string text = metrics.prometheus(stats, "tiny");
  std::locale::global(before);
  EXPECT_EQ(text, expected);
}

TEST(Metrics, CountingAllocatesNothing) {
  Metrics metrics;
  const std::int64_t before = allocations;
  count_everything(metrics);
  EXPECT_EQ(allocations - before, 0);
}

TEST(Metrics, AnyThreadMayReadAndRejectWhileTheEngineCounts) {
  constexpr int kCount = 2000;
  Metrics metrics;
  const auto reject = [&] {
    for (int i = 0; i < kCount; ++i) metrics.rejected(ErrorCode::closed);
  };
  std::thread first(reject), second(reject), engine([&] {
    for (int i = 0; i < kCount; ++i) metrics.next_token(0.001 * i);
  });
  for (int i = 0; i < 10; ++i) check(parse(metrics.prometheus({}, "tiny")));
  for (std::thread* thread : {&first, &second, &engine}) thread->join();
  const auto families = parse(metrics.prometheus({}, "tiny"));
  EXPECT_EQ(value_of(families, "admission_rejections_total", {{"reason", "closed"}}), 2 * kCount);
  EXPECT_EQ(value_of(families, "inter_token_latency_seconds_count"), kCount);
}

// --- The trace ------------------------------------------------------------------------------------------------------

struct Span {
  std::string name;
  Micros start = 0, end = 0;
  bool operator==(const Span&) const = default;
};
void PrintTo(const Span& span, std::ostream* out) {
  *out << span.name << " [" << span.start << ", " << span.end << ")";
}

// Tracks by "<process> <thread>", each one's spans by start, the longer first.
using Tracks = std::map<std::string, std::vector<Span>>;

Tracks parse_trace(const fs::path& path) {
  const Json json = Json::load(path);
  EXPECT_EQ(json.at("displayTimeUnit").as_string(), "ms");
  std::map<std::int64_t, std::string> processes;
  std::map<std::pair<std::int64_t, std::int64_t>, std::string> names;
  for (const Json& event : json.at("traceEvents").as_array()) {
    if (event.at("ph").as_string() != "M") continue;
    const std::string& name = event.at("args").at("name").as_string();
    const std::int64_t process = event.at("pid").as_int();
    if (event.at("name").as_string() == "process_name") {
      EXPECT_TRUE(processes.emplace(process, name).second);
    } else {
      EXPECT_EQ(event.at("name").as_string(), "thread_name");
      EXPECT_TRUE(names.emplace(std::pair(process, event.at("tid").as_int()), name).second);
    }
  }
  Tracks tracks;
  for (const Json& event : json.at("traceEvents").as_array()) {
    if (event.at("ph").as_string() != "X") continue;
    const std::int64_t process = event.at("pid").as_int(), start = event.at("ts").as_int();
    const std::string track = cat(processes.at(process), " ", names.at({process, event.at("tid").as_int()}));
    tracks[track].push_back({event.at("name").as_string(), start, start + event.at("dur").as_int()});
  }
  for (auto& [_, spans] : tracks) {
    std::ranges::sort(
        spans, [](const Span& a, const Span& b) { return a.start != b.start ? a.start < b.start : a.end > b.end; });
  }
  return tracks;
}

// Spans lie apart or inside one another.
void check_nesting(const std::vector<Span>& spans) {
  std::vector<Span> stack;
  for (const Span& span : spans) {
    while (!stack.empty() && stack.back().end <= span.start) stack.pop_back();
    if (!stack.empty()) {
      EXPECT_LE(span.end, stack.back().end) << span.name << " crosses " << stack.back().name;
    }
    stack.push_back(span);
  }
}

void check_apart(const std::vector<Span>& spans) {
  for (std::size_t i = 1; i < spans.size(); ++i) {
    EXPECT_LE(spans[i - 1].end, spans[i].start) << spans[i - 1].name << " overlaps " << spans[i].name;
  }
}

class TraceTest : public testing::Test {
 protected:
  void SetUp() override { fs::create_directories(dir_); }
  void TearDown() override { fs::remove_all(dir_); }

  // As the scheduler does.
  void enter(Sequence& s, SequenceState state, Micros now, WaitReason reason = WaitReason::none) {
    const SequenceState from = s.state;
    s.spent[static_cast<int>(from)] += now - s.since;
    s.state = state;
    s.reason = reason;
    s.since = now;
    trace_->on_state(s, from, now);
  }
  void open(std::size_t max_events) { trace_ = std::make_unique<Trace>(path_, max_events); }
  Tracks write() {
    trace_->write();
    return parse_trace(path_);
  }

  fs::path dir_ = fs::path(testing::TempDir()) /
                  (std::string("trace_") + testing::UnitTest::GetInstance()->current_test_info()->name());
  fs::path path_ = dir_ / "trace.json";
  std::unique_ptr<Trace> trace_ = std::make_unique<Trace>(path_, 1000);
};

using S = SequenceState;

TEST_F(TraceTest, AnEmptyTraceIsValid) {
  EXPECT_TRUE(write().empty());
}

TEST_F(TraceTest, TheDeviceTakesStepsInOrder) {
  trace_->step(1, 100, 110, 165, 50, 8, 8, 0);
  trace_->step(2, 115, 120, 190, 28, 8, 8, 0);  // waited for step 1
  trace_->step(3, 300, 310, 400, 80, 8, 8, 0);
  const std::vector<Span> expected = {{"step 1", 110, 160}, {"step 2", 160, 188}, {"step 3", 310, 390}};
  EXPECT_EQ(write().at("warpjet device"), expected);
}

TEST_F(TraceTest, AStepEndsBeforeItRetires) {
  trace_->step(1, 0, 10, 50, 1000, 8, 8, 0);
  trace_->step(2, 20, 30, 60, 1000, 8, 8, 0);
  const std::vector<Span> expected = {{"step 1", 10, 50}, {"step 2", 50, 60}};
  EXPECT_EQ(write().at("warpjet device"), expected);
}

TEST_F(TraceTest, TheHostPlansAheadWhileItAwaitsAStep) {
  for (int i = 1; i <= 20; ++i) {  // planned when the one before the last has retired
    trace_->step(i, 100 * i, 100 * i + 10, 100 * i + 190, 95, 8, 8, 0);
  }
  const Tracks tracks = write();
  const std::vector<Span>& host = tracks.at("warpjet host");
  EXPECT_EQ(host.size(), 40u);
  check_nesting(host);
  check_apart(tracks.at("warpjet device"));
  EXPECT_EQ(host[0], (Span{"plan 1", 100, 110}));
  EXPECT_EQ(host[1], (Span{"await 1", 110, 290}));
  EXPECT_EQ(host[2], (Span{"plan 2", 200, 210}));
  EXPECT_EQ(host[3], (Span{"await 2", 290, 390}));
}

TEST_F(TraceTest, AStepSaysWhatItComputed) {
  trace_->step(7, 0, 1, 9, 5, 40, 8, 2);
  trace_->write();
  const Json json = Json::load(path_);
  const Json::Array& events = json.at("traceEvents").as_array();
  const auto step = std::ranges::find_if(events, [](const Json& e) { return e.at("name").as_string() == "step 7"; });
  ASSERT_NE(step, events.end());
  EXPECT_EQ(step->at("args").dump(), R"({"step": 7, "tokens": 40, "decodes": 8, "chunks": 2})");
}

TEST_F(TraceTest, ARequestShowsItsStatesAndWhyItWasInThem) {
  Sequence s{.id = 3, .since = 10};
  enter(s, S::waiting, 10, WaitReason::queue);
  enter(s, S::waiting, 20, WaitReason::blocks);
  enter(s, S::running, 50);
  enter(s, S::waiting, 70, WaitReason::preempted);
  enter(s, S::parked, 75, WaitReason::prefix);
  enter(s, S::paused, 80, WaitReason::reader);
  enter(s, S::running, 90);
  enter(s, S::draining, 120);
  enter(s, S::finished, 130);
  trace_->step(1, 140, 150, 160, 5, 1, 1, 0);
  const std::vector<Span> expected = {
      {"waiting: queue", 10, 20}, {"waiting: blocks", 20, 50}, {"running", 50, 70},  {"waiting: preempted", 70, 75},
      {"parked: prefix", 75, 80}, {"paused: reader", 80, 90},  {"running", 90, 120}, {"draining", 120, 130}};
  EXPECT_EQ(write().at("requests request 3"), expected);
}

TEST_F(TraceTest, AFirstStateThatWasNotToldIsShown) {
  Sequence s{.id = 3, .since = 10};
  enter(s, S::running, 50);
  const std::vector<Span> expected = {{"waiting", 10, 50}};
  EXPECT_EQ(write().at("requests request 3"), expected);
}

TEST_F(TraceTest, WhatIsNotOverReachesToTheLastTimeSeen) {
  Sequence s{.id = 3, .since = 10};
  enter(s, S::waiting, 10, WaitReason::queue);
  enter(s, S::running, 50);
  trace_->step(1, 55, 60, 90, 20, 1, 1, 0);
  const std::vector<Span> expected = {{"waiting: queue", 10, 50}, {"running", 50, 90}};
  EXPECT_EQ(write().at("requests request 3"), expected);
  enter(s, S::finished, 100);
  EXPECT_EQ(write().at("requests request 3").back(), (Span{"running", 50, 100})) << "and it may be written again";
}

TEST_F(TraceTest, TheRingKeepsTheNewest) {
  open(30);
  for (int i = 1; i <= 100; ++i) trace_->step(i, 100 * i, 100 * i + 10, 100 * i + 90, 50, 8, 8, 0);
  const Tracks tracks = write();
  ASSERT_EQ(tracks.at("warpjet device").size(), 10u);
  EXPECT_EQ(tracks.at("warpjet device").front().name, "step 91");
  EXPECT_EQ(tracks.at("warpjet device").back().name, "step 100");
}

TEST_F(TraceTest, AStateWhoseBeginningIsLostStartsWithWhatIsLeft) {
  open(4);
  Sequence s{.id = 3, .since = 0};
  enter(s, S::running, 100);
  enter(s, S::waiting, 200, WaitReason::preempted);
  enter(s, S::running, 300);
  for (int i = 0; i < 4; ++i) enter(s, i % 2 == 0 ? S::waiting : S::running, 400 + 100 * i, WaitReason::blocks);
  const std::vector<Span> expected = {{"running", 300, 400}, {"waiting: blocks", 400, 500}};
  const std::vector<Span> spans = write().at("requests request 3");
  ASSERT_EQ(spans.size(), 4u);
  EXPECT_EQ(std::vector(spans.begin(), spans.begin() + 2), expected);
}

TEST_F(TraceTest, RandomRequestsNeverOverlapThemselves) {
  open(500);
  std::uint64_t state = 1;
  const auto below = [&](int end) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return static_cast<int>((state >> 33) % static_cast<std::uint64_t>(end));
  };
  std::map<SequenceId, Sequence> live;
  SequenceId next = 1;
  Micros now = 1000;
  for (int i = 0; i < 5000; ++i) {
    now += below(5);
    if (live.size() < 10) {
      Sequence& s = live[next];
      s.id = next++;
      s.since = now;
      enter(s, S::waiting, now, WaitReason::queue);
    }
    const auto it = std::next(live.begin(), below(static_cast<int>(live.size())));
    enter(it->second, static_cast<S>(below(kNumSequenceStates)), now);
    if (it->second.state == S::finished) live.erase(it);
    if (i == 400 || i == 4999) {
      for (const auto& [_, spans] : write()) check_apart(spans);
    }
  }
}

TEST_F(TraceTest, RecordingAllocatesNothing) {
  Sequence s{.id = 3, .since = 0};
  const std::int64_t before = allocations;
  for (int i = 0; i < 1000; ++i) {
    enter(s, i % 2 == 0 ? S::running : S::waiting, i, WaitReason::none);
    trace_->step(i, i, i, i, 0, 1, 1, 0);
  }
  EXPECT_EQ(allocations - before, 0);
}

TEST_F(TraceTest, TheFileAppearsWholeOrNotAtAll) {
  write_text_file(path_, "old");
  trace_->step(1, 0, 1, 9, 5, 1, 1, 0);
  EXPECT_EQ(write().size(), 2u);
  fs::remove(path_);
  fs::create_directories(path_ / "in the way");
  try {
    trace_->write();
    FAIL() << "wrote over a directory";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::io);
  }
  EXPECT_EQ(std::distance(fs::directory_iterator(dir_), fs::directory_iterator()), 1) << "no part is left behind";
}

}  // namespace
}  // namespace warpjet

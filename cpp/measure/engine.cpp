// What the engine itself costs: the real step loop over a device that computes nothing.
#include <warpjet/measure.h>

#include <algorithm>

#include "runtime/runtime.h"

namespace warpjet {

namespace {

using Seconds = std::chrono::duration<double>;

// Of the texts that are decoded: long enough for all repeats, short enough that their memory is reserved at the start.
constexpr int kLength = 3520, kMaxRepeats = 80;

double us_since(Clock::time_point start) {
  return 1e6 * Seconds(Clock::now() - start).count();
}

double median(std::vector<double> values) {
  std::ranges::nth_element(values, values.begin() + std::ssize(values) / 2);
  return values[values.size() / 2];
}

StepLoop::Config loop_config(int batch) {
  StepLoop::Config config;
  config.engine.max_model_len = config.model.max_model_len = 8192;
  config.engine.max_num_seqs = batch;
  config.engine.max_num_batched_tokens = 16384;
  config.engine.max_num_queued_reqs = 1 << 20;
  config.engine.max_num_queued_tokens = 1ll << 32;
  config.engine.block_size = 32;
  config.model.vocab_size = 1000;
  config.model.eos_token_ids = {2};
  config.num_blocks = 64 + batch * (kLength / 32);
  config.manual = true;
  return config;
}

struct Bench {
  explicit Bench(const StepLoop::Config& config)
      : loop(config,
             std::make_unique<NullExecutor>(config.engine.max_steps_in_flight,
                                            num_slots(config.engine.max_num_seqs, config.engine.max_steps_in_flight),
                                            config.model),
             std::make_shared<Doorbell>()) {}
  void submit(int prompt, int max_tokens, int seed) {
    std::vector<std::int32_t> tokens(prompt, 3 + seed % 900);
    tokens[0] = 3 + seed / 900 % 900;
    loop.submit({.prompt = std::move(tokens), .sampling = {.ignore_eos = true, .max_tokens = max_tokens}}, queue);
  }
  StepLoop loop;
  std::shared_ptr<OutputQueue::State> queue = std::make_shared<OutputQueue::State>();
};

class Measurer {
 public:
  Measurer(const MeasureOptions& options, const std::function<void(const std::string&)>& row)
      : options_(options), row_(row) {}

  void run() {
    for (const int batch : {1, 32, 256, 2048}) measure_step(batch);
    for (const int waiting : {0, 10000}) measure_schedule(2048, waiting);
    for (const int blocks : {1000, 10000, 100000, 1000000}) measure_evict(blocks);
    for (const int tokens : {8192, 131072}) measure_match(tokens);
    measure_admission();
    measure_snapshot(256);
  }

 private:
  void emit(std::string_view bench, int batch, double host_us, std::vector<std::pair<std::string, Json>> more) {
    Json row;
    row.set("bench", std::string(bench));
    row.set("batch", batch);
    row.set("host_us", host_us);
    for (auto& [key, value] : more) row.set(key, std::move(value));
    row_(row.dump());
  }
  std::int64_t allocations() const { return options_.allocations ? options_.allocations() : 0; }

  void measure_step(int batch) {
    Bench bench(loop_config(batch));
    for (int i = 0; i < batch; ++i) bench.submit(8, kLength - 8, i);
    const auto settled = [&] { return bench.loop.stats().running == batch; };
    while (!settled()) bench.loop.turn();
    for (int i = 0; i < 300; ++i) bench.loop.turn(), bench.queue->poll({});
    std::vector<double> times;
    std::int64_t allocated = 0, steps = 0;
    for (int repeat = 0; repeat < options_.repeats; ++repeat) {
      double us = 0;
      const std::int64_t first = bench.loop.stats().steps;
      for (int i = 0; i < 16; ++i) {  // two steps a turn: a block boundary for everyone
        const std::int64_t before = allocations();
        const Clock::time_point start = Clock::now();
        bench.loop.turn();
        us += us_since(start);
        allocated += allocations() - before;
        bench.queue->poll({});
      }
      const std::int64_t count = bench.loop.stats().steps - first;
      steps += count;
      times.push_back(us / static_cast<double>(count));
    }
    emit("step", batch, median(times),
         {{"tokens_per_s", 1e6 * batch / median(times)},
          {"allocations_per_step",
           options_.allocations ? Json(static_cast<double>(allocated) / static_cast<double>(steps)) : Json()}});
  }

  std::unique_ptr<Sequence> make_sequence(SequenceId id, int prompt, int max_length) const {
    auto sequence = std::make_unique<Sequence>();
    sequence->id = id;
    sequence->tokens.assign(prompt, static_cast<std::int32_t>(id));
    sequence->prompt_length = prompt;
    sequence->max_length = max_length;
    return sequence;
  }

  void measure_schedule(int running, int waiting) {
    KvBlocks kv({.num_blocks = kLength / 32 * (running + 1), .block_size = 32});
    Scheduler scheduler({.max_num_seqs = running, .max_batched_tokens = 65536}, kv);
    for (int i = 1; i <= running + waiting; ++i) scheduler.add(make_sequence(i, 8, kLength), 0);
    Batch batch;
    TokenRanges sampled;
    for (int i = 1; i <= running; ++i) {
      sampled.tokens.push_back(7);
      sampled.end_range();
    }
    std::vector<double> times;
    for (int i = 0; i < 32 * (options_.repeats + 1); ++i) {
      const Clock::time_point start = Clock::now();
      scheduler.schedule(batch, i);
      scheduler.retire(sampled, i);
      if (i >= 32) times.push_back(us_since(start));
    }
    emit("schedule", running, median(times), {{"waiting", waiting}});
  }

  // All blocks are cached, one text each, and every take evicts the oldest.
  void measure_evict(int blocks) {
    KvBlocks kv({.num_blocks = blocks + 1, .block_size = 16});
    std::vector<std::int32_t> tokens(16);
    std::int32_t next = 0;
    const auto fill_one = [&] {
      BlockTable table;
      kv.try_grow(table, 16);
      tokens[0] = next++;
      kv.publish(table, tokens, 16, {}, [](int, int, BlockId) {});
      kv.release(table, kDefaultCacheClass);
    };
    for (int i = 0; i < blocks; ++i) fill_one();
    std::vector<double> times;
    const int count = std::min(blocks / 2, 256);
    BlockTable table;
    for (int repeat = 0; repeat < options_.repeats; ++repeat) {
      table.groups[0].blocks.reserve(count);
      const Clock::time_point start = Clock::now();
      for (int i = 1; i <= count; ++i) kv.try_grow(table, 16 * i);
      times.push_back(us_since(start) / count);
      kv.release(table, kDefaultCacheClass);
      for (int i = 0; i < count; ++i) fill_one();
    }
    emit("evict", 1, median(times), {{"blocks", blocks}});
  }

  void measure_match(int length) {
    KvBlocks kv({.num_blocks = length / 32 + 2, .block_size = 32});
    std::vector<std::int32_t> tokens(length + 1);
    for (int i = 0; i <= length; ++i) tokens[i] = i;
    BlockTable table;
    kv.try_grow(table, length);
    kv.publish(table, tokens, length, {}, [](int, int, BlockId) {});
    kv.release(table, kDefaultCacheClass);
    std::vector<double> times;
    for (int repeat = 0; repeat < options_.repeats; ++repeat) {
      const Clock::time_point start = Clock::now();
      const Lease lease = kv.match(tokens, {}, length);
      times.push_back(us_since(start));
      WJ_CHECK(lease.tokens() == length, lease.tokens());
    }
    emit("match", 1, median(times), {{"tokens", length}});
  }

  void measure_admission() {
    constexpr int kRequests = 20000, kBatch = 256;
    Bench bench(loop_config(kBatch));
    Clock::time_point start = Clock::now();
    for (int i = 0; i < kRequests; ++i) bench.submit(128, 1, i);
    const double submit_us = us_since(start) / kRequests;
    start = Clock::now();
    while (bench.loop.stats().finished < kRequests) bench.loop.turn();
    const double admit_us = us_since(start) / kRequests;
    emit("submit", 1, submit_us, {{"requests_per_s", 1e6 / submit_us}});
    emit("admit", 1, admit_us, {{"requests_per_s", 1e6 / admit_us}});
  }

  // Beside the steps of the turn that answers it; and what these cost more while somebody looks.
  void measure_snapshot(int batch) {
    Bench bench(loop_config(batch));
    for (int i = 0; i < batch; ++i) bench.submit(1024, kLength - 1024, i);
    while (bench.loop.stats().running < batch || bench.loop.stats().generated_tokens < batch) bench.loop.turn();
    std::uint64_t step = 0;
    const auto timed = [&](bool snapshot) {
      const Clock::time_point start = Clock::now();
      snapshot ? step = bench.loop.snapshot(step).step, void() : (void)bench.loop.turn();
      const double us = us_since(start);
      bench.queue->poll({});
      return us;
    };
    std::vector<double> alone, watched, snapshots;
    for (int i = 0; i < options_.repeats; ++i) alone.push_back(timed(false));
    for (int i = 0; i < options_.repeats; ++i) {
      snapshots.push_back(timed(true));
      for (int j = 0; j < 8; ++j) watched.push_back(timed(false));
    }
    emit("snapshot", batch, median(snapshots) - median(watched),
         {{"blocks", bench.loop.stats().kv_blocks}, {"turn_us", median(alone)}, {"watched_turn_us", median(watched)}});
  }

  const MeasureOptions& options_;
  const std::function<void(const std::string&)>& row_;
};

}  // namespace

void measure_engine(const MeasureOptions& options, const std::function<void(const std::string&)>& row) {
  WJ_REQUIRE(options.repeats >= 1 && options.repeats <= kMaxRepeats, invalid_argument, "repeats must be from 1 to ",
             kMaxRepeats, ", got ", options.repeats);
  Measurer(options, row).run();
}

}  // namespace warpjet

#include "plan/tune.h"

#include <algorithm>
#include <map>
#include <numeric>

namespace warpjet {
namespace {

constexpr std::int64_t kMostDecodes = 64;      // rows that are timed as decoding sequences
constexpr std::int64_t kMostSampled = 256;     // rows that the output head is timed with
constexpr std::int64_t kTimedToTheEnd = 1024;  // who is the fastest for so many rows is it for more

// What one row count needs: inputs, a KV cache and rows to sample, with random contents.
class Bench {
 public:
  Bench(const Plan& plan, Device& device, const TuneOptions& options)
      : plan_(plan), device_(device), block_size_(options.block_size), context_(options.context) {
    const std::int64_t most = *std::max_element(options.rows.begin(), options.rows.end());
    max_blocks_ = ceil_div(std::max(context_, most), block_size_);
    const std::int64_t decodes = std::min(most, kMostDecodes);
    blocks_ = std::max(decodes * ceil_div(context_, block_size_), max_blocks_);
    std::int64_t tensor = 0;  // bytes of the largest cache's keys
    for (const CacheSpec& cache : plan.caches)
      tensor = std::max(tensor, blocks_ * block_size_ * cache.bytes_per_token() / 2);
    const std::int64_t layers = std::min<std::int64_t>(std::ssize(plan.caches), options.launches);
    cache_ = device.allocate(static_cast<std::size_t>(2 * layers * tensor));
    fill_random(cache_);
    kv_.block_size = block_size_;
    for (std::int64_t l = 0; l < std::ssize(plan.caches); ++l) {
      const CacheSpec& cache = plan.caches[l];
      const Shape shape = {blocks_, cache.kv_heads, block_size_, cache.head_dim};
      kv_.caches.push_back({.k = TensorView(cache_.at(2 * (l % layers) * tensor), cache.format.element, shape),
                            .v = TensorView(cache_.at((2 * (l % layers) + 1) * tensor), cache.format.element, shape)});
    }
  }

  void set_rows(std::int64_t rows) {
    const bool decodes = rows <= kMostDecodes;
    const std::int64_t seqs = decodes ? rows : 1, context = decodes ? context_ : rows;
    std::vector<std::int32_t> ids(rows), positions(rows), lengths(rows), starts(seqs + 1), tables(seqs * max_blocks_);
    std::vector<std::int64_t> cache_rows(rows);
    for (std::int64_t r = 0; r < rows; ++r) {
      const std::int64_t seq = decodes ? r : 0, position = decodes ? context - 1 : r;
      ids[r] = static_cast<std::int32_t>(7919 * r % plan_.model.vocab_size);
      positions[r] = static_cast<std::int32_t>(position);
      lengths[r] = static_cast<std::int32_t>(context);
      cache_rows[r] = block_of(seq, position / block_size_) * block_size_ + position % block_size_;
    }
    for (std::int64_t s = 0; s < seqs; ++s) {
      for (std::int64_t b = 0; b < ceil_div(context, block_size_); ++b)
        tables[s * max_blocks_ + b] = static_cast<std::int32_t>(block_of(s, b));
    }
    std::iota(starts.begin(), starts.end(), 0);
    if (!decodes) starts = {0, static_cast<std::int32_t>(rows)};
    std::vector<std::int32_t> table_rows(seqs), sample_rows(rows);
    std::iota(table_rows.begin(), table_rows.end(), 0);
    std::iota(sample_rows.begin(), sample_rows.end(), 0);
    memory_.clear();
    inputs_ = {.tokens = rows,
               .seqs = seqs,
               .max_context = context,
               .token_ids = upload(ids, DType::i32),
               .positions = upload(positions, DType::i32),
               .rope_lengths = upload(lengths, DType::i32),
               .cache_rows = upload(cache_rows, DType::i64),
               .query_starts = upload(starts, DType::i32),
               .context_lengths = upload(std::vector(seqs, static_cast<std::int32_t>(context)), DType::i32),
               .block_tables = upload(tables, DType::i32),
               .table_rows = upload(table_rows, DType::i32)};
    inputs_.cache_rows = TensorView(inputs_.cache_rows.data, DType::i64, {1, rows});
    inputs_.block_tables = TensorView(inputs_.block_tables.data, DType::i32, {1, seqs, max_blocks_});
    sampled_ = upload(sample_rows, DType::i32);
  }

  const StepInputs& inputs() const { return inputs_; }
  const KvView& kv() const { return kv_; }
  TensorView sampled() const { return sampled_; }
  StepSizes sizes() const {
    return {
        .rows = inputs_.tokens, .seqs = inputs_.seqs, .max_context = inputs_.max_context, .block_size = block_size_};
  }

  // Pairs of bf16 from (-1, 1), which are sensible numbers in every type of float.
  void fill_random(const Buffer& buffer) {
    std::vector<std::uint16_t> values(1 << 20);
    std::uint32_t state = 1;
    for (std::uint16_t& value : values) {
      state = state * 1664525u + 1013904223u;
      value = f32_to_bf16(static_cast<float>(static_cast<std::int32_t>(state)) * 0x1p-31f);
    }
    const std::size_t piece = values.size() * sizeof(std::uint16_t);
    for (std::size_t at = 0; at < buffer.bytes(); at += piece) {
      device_.stream().copy(buffer.at(static_cast<std::int64_t>(at)), values.data(),
                            std::min(piece, buffer.bytes() - at));
    }
    device_.stream().synchronize();
  }

 private:
  std::int64_t block_of(std::int64_t seq, std::int64_t index) const {
    return (seq * ceil_div(context_, block_size_) + index) % blocks_;
  }
  template <class T>
  TensorView upload(const std::vector<T>& values, DType dtype) {
    Buffer& buffer = memory_.emplace_back(device_.allocate(values.size() * sizeof(T)));
    device_.stream().copy(buffer.data(), values.data(), values.size() * sizeof(T));
    device_.stream().synchronize();
    return TensorView(buffer.data(), dtype, {std::ssize(values)});
  }

  const Plan& plan_;
  Device& device_;
  const std::int64_t block_size_, context_;
  std::int64_t max_blocks_ = 0, blocks_ = 0;
  Buffer cache_;
  KvView kv_;
  std::vector<Buffer> memory_;
  StepInputs inputs_;
  TensorView sampled_;
};

// Nodes that pose the same problem.
std::map<std::string, std::vector<int>> classes_of(const Plan& plan, const StepSizes& sizes) {
  std::map<std::string, std::vector<int>> classes;
  const Shapes shapes = plan.shapes(sizes);
  for (int i = 0; i < static_cast<int>(plan.nodes.size()); ++i) {
    std::visit([&]<class N>(const N& op) { classes[cat(N::name, to_string(op.problem(shapes)))].push_back(i); },
               plan.nodes[i].op);
  }
  return classes;
}

std::vector<std::string> kernels_for(const Plan& plan, int index, const StepSizes& sizes, const Catalogs& catalogs,
                                     const DeviceInfo& device) {
  return std::visit(
      [&]<class N>(const N& op) {
        std::vector<std::string> names;
        for (const auto& row : catalogs.of<typename N::Op>().rows()) {
          if (device.sm >= row.sm_min && device.sm < row.sm_max && row.supports(op.problem(plan.shapes(sizes))))
            names.emplace_back(row.name);
        }
        return names;
      },
      plan.nodes[index].op);
}

}  // namespace

std::vector<KernelTime> time_kernels(const Plan& plan, Weights weights, const Catalogs& catalogs, Device& device,
                                     const TuneOptions& options) {
  const std::int64_t most = *std::max_element(options.rows.begin(), options.rows.end());
  Runner runner(plan, std::move(weights), catalogs, device, most, std::min<std::int64_t>(most, kMostSampled),
                options.block_size);
  Bench bench(plan, device, options);
  bench.fill_random(runner.arena());
  const auto start = device.make_event(), end = device.make_event();
  Stream& stream = device.stream();
  std::vector<KernelTime> times;
  for (const std::int64_t rows : options.rows) {
    bench.set_rows(rows);
    for (const auto& [text, nodes] : classes_of(plan, bench.sizes())) {
      const Node& first = plan.nodes[nodes[0]];
      if (plan.phase_of(nodes[0]).rows == Rows::sampled && rows > kMostSampled) continue;
      std::vector<std::string> kernels = kernels_for(plan, nodes[0], bench.sizes(), catalogs, device.info());
      if (options.choices_only && kernels.size() < 2) continue;
      if (!options.alternatives) kernels = {first.kernel_for(rows)};
      for (const std::string& kernel : kernels) {
        const auto run = [&](int launch) {
          runner.run_node(nodes[launch % nodes.size()], kernel, catalogs, bench.inputs(), bench.kv(), bench.sampled());
        };
        run(0);  // its code must be on the device before it is captured
        stream.synchronize();
        WJ_REQUIRE(stream.begin_capture(), unsupported, "kernels are timed on a GPU; this is ", device.info().name);
        for (int i = 0; i < options.launches; ++i) run(i);
        const std::unique_ptr<Graph> graph = stream.end_capture();
        std::vector<double> us;
        for (int i = 0; i <= options.repeats; ++i) {
          stream.record(*start);
          stream.launch(*graph);
          stream.record(*end);
          end->wait();
          if (i > 0) us.push_back(end->microseconds_since(*start) / options.launches);
        }
        std::ranges::nth_element(us, us.begin() + std::ssize(us) / 2);
        const NodeCost cost = node_cost(first.op, plan.shapes(bench.sizes()));
        const std::size_t brace = text.find('{');
        times.push_back({.step = first.name,
                         .op = text.substr(0, brace),
                         .problem = text.substr(brace),
                         .kernel = kernel,
                         .rows = rows,
                         .us = us[us.size() / 2],
                         .flops = cost.flops,
                         .bytes = cost.bytes});
      }
    }
  }
  return times;
}

void choose_tactics(Plan& plan, std::span<const KernelTime> times, std::int64_t block_size) {
  // Of each class of nodes, by its first one: the best of each number of rows.
  std::map<std::string, std::map<std::int64_t, const KernelTime*>> best;
  for (const KernelTime& time : times) {
    const KernelTime*& found = best[time.step][time.rows];
    if (!found || time.us < found->us) found = &time;
  }
  for (const auto& [text, nodes] : classes_of(plan, {.block_size = block_size})) {
    const auto found = best.find(plan.nodes[nodes[0]].name);
    if (found == best.end()) continue;
    std::vector<Tactic> tactics;
    for (const auto& [rows, time] : found->second) {
      if (!tactics.empty() && tactics.back().kernel == time->kernel) tactics.pop_back();
      tactics.push_back({.max_rows = rows, .kernel = time->kernel});
    }
    // Beyond what was timed the last choice holds, if its kernel takes any number of rows.
    const Tactic any = plan.nodes[nodes[0]].tactics.back();
    if (found->second.rbegin()->second->rows >= kTimedToTheEnd)
      tactics.back().max_rows = kAnyRows;
    else
      tactics.push_back(any);
    for (const int node : nodes) plan.nodes[node].tactics = tactics;
  }
}

}  // namespace warpjet

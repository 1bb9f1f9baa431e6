// Batch -> slots -> rows -> forward -> sampler -> results, all of it given to the device's stream without waiting.
#include <algorithm>
#include <map>
#include <numeric>

#include "execute/device_state.h"
#include "quant/quant.h"

namespace warpjet {
namespace {

constexpr std::size_t kStagingBytes = 1 << 20;

// The sizes that steps are padded to where they are captured as graphs: close together where padding costs most.
constexpr int kGraphSizes[] = {1,  2,   4,   8,   16,  24,  32,  40,  48,  56,  64, 80,
                               96, 112, 128, 160, 192, 224, 256, 320, 384, 448, 512};

template <class T>
T* as(const Buffer& buffer) {
  return static_cast<T*>(buffer.data());
}

// Host memory that results are copied to, as an array.
class HostArray {
 public:
  HostArray(Device& device, DType dtype, std::int64_t rows, std::int64_t width = 1)
      : dtype_(dtype),
        width_(width),
        memory_(device.allocate_host(static_cast<std::size_t>(rows * width * dtype_bytes(dtype)))) {}
  void copy_from(const TensorView& device, Stream& stream) {
    stream.copy(memory_.data(), device.data, static_cast<std::size_t>(device.bytes()));
  }
  void read_row(std::int64_t row, std::span<float> out) const {
    const std::int64_t bytes = width_ * dtype_bytes(dtype_);
    convert(memory_.at(row * bytes), dtype_, out.data(), DType::f32, width_);
  }
  TensorView view(std::int64_t rows) const { return {memory_.data(), dtype_, {rows, width_}}; }
  TensorView list(std::int64_t rows) const { return {memory_.data(), dtype_, {rows}}; }

 private:
  DType dtype_;
  std::int64_t width_;
  Buffer memory_;
};

// What one row of Sampler's views becomes on the host.
struct HostLogprobs {
  HostLogprobs(Device& device, std::int64_t rows, std::int64_t top)
      : top(top),
        tokens(device, DType::i32, rows),
        logprobs(device, DType::f32, rows),
        ranks(device, DType::i32, rows),
        top_tokens(device, DType::i32, rows, top),
        top_logprobs(device, DType::f32, rows, top) {}
  void copy_from(const LogprobViews& views, Stream& stream) {
    tokens.copy_from(views.tokens, stream);
    logprobs.copy_from(views.logprobs, stream);
    ranks.copy_from(views.ranks, stream);
    top = views.top_tokens.shape[1];
    if (top == 0) return;
    top_tokens.copy_from(views.top_tokens, stream);
    top_logprobs.copy_from(views.top_logprobs, stream);
  }
  LogprobViews views(std::int64_t rows) const {
    return {.tokens = tokens.list(rows),
            .logprobs = logprobs.list(rows),
            .ranks = ranks.list(rows),
            .top_tokens = {top_tokens.view(rows).data, DType::i32, {rows, top}},
            .top_logprobs = {top_logprobs.view(rows).data, DType::f32, {rows, top}}};
  }

  std::int64_t top;
  HostArray tokens, logprobs, ranks, top_tokens, top_logprobs;
};

}  // namespace

int num_scored(const Chunk& chunk, int prompt_length) {
  const int last = std::min(chunk.start + chunk.count, prompt_length - 1);
  return std::max(0, last - chunk.start);
}

struct ModelRunner::State {
  // Slots may change hands before a step that samples them is finished.
  struct Sample {
    Slot slot = kNoSlot;
    std::int32_t logprobs = -1;
    Pooling pooling = Pooling::none;
  };
  // A step between start() and finish().
  struct Flight {
    Flight(Device& device, const Config& config, const Plan& plan, std::size_t staging_bytes)
        : staging(device, staging_bytes),
          begin(device.make_event()),
          tokens(device, DType::i32, config.max_seqs),
          logprobs(device, config.max_seqs, config.max_logprobs),
          hidden(device, plan.buffers[plan.tap(kHiddenTap).index].dtype, config.max_seqs, plan.model.hidden_size) {
      samples.reserve(config.max_seqs);
    }
    Staging staging;
    std::unique_ptr<Event> begin;
    HostArray tokens;
    HostLogprobs logprobs;
    HostArray hidden;  // of the samples, when one of them is pooled
    std::vector<Sample> samples;
    int num_pooled = 0;
    SampleNeeds needs;
    StepResult* result = nullptr;
  };
  // Hidden states of a slot's prompt, position by position.
  struct Sum {
    std::vector<double> values;
    int count = 0;
  };
  // Rows of a step, and how many a kernel is given: the same, or the size of a graph.
  struct Sizes {
    int tokens = 0, seqs = 0, samples = 0;
  };

  State(const Config& config, Runner runner, KvCache kv, const Catalogs& catalogs, Device& device);

  void start(const Batch& batch, StepResult& result);
  void finish();

  void join(Slot slot, const RecordView& record);
  void copy_blocks(const Batch& batch, Staging& staging);
  void send_header(const Batch& batch, Staging& staging);
  void gather_needs(const Batch& batch, Flight& flight) const;
  int padded(int count) const;
  void forward(Sizes sizes);
  void prepare(Sizes sizes);
  void score(const Batch& batch, StepResult& result, Flight& flight);
  void pool(const Batch& batch, Flight& flight);
  void add_rows(const Chunk& chunk, std::int64_t first_row, Flight& flight);
  std::vector<TokenLogprob> logprobs_of(const Flight& flight, std::int64_t row) const;
  std::vector<float> read_embedding(const Flight& flight, std::int64_t row) const;
  void sample(int samples, SampleNeeds needs);
  template <class Key, class Work>
  void replay(std::map<Key, std::unique_ptr<Graph>>& graphs, const Key& key, bool captured, Work work);
  void warm_up();

  StepInputs inputs(Sizes sizes) const;
  int num_groups() const { return static_cast<int>(kv.config().layout.groups.size()); }
  SlotTexts texts() const { return {state.texts(), state.lengths(), state.alive()}; }

  const Config config;
  Device& device;
  Stream& stream;
  Runner runner;
  KvCache kv;
  KvView kv_view;
  DeviceState state;
  Sampler sampler;
  std::vector<Sum> sums;  // of the slots
  const Kernel<PrepareRows>& prepare_kernel;

  // The inputs of a step, on the device.
  Buffer header, token_ids, positions, rope_lengths, cache_rows, query_starts, context_lengths, table_rows, sample_rows,
      sample_slots, score_rows;
  std::vector<std::int32_t> sent_header, next_header;  // what the device has, and what it should have
  TensorView drawn;                                    // the sampler's tokens

  Event& end_of(std::uint64_t step) const { return *ends[step % ends.size()]; }

  std::vector<Flight> flights;               // a ring
  std::vector<std::unique_ptr<Event>> ends;  // of the steps in flight, and of the one before them
  std::uint64_t started = 0, finished = 0;
  std::map<int, std::unique_ptr<Graph>> forward_graphs;                         // by tokens
  std::map<std::tuple<int, bool, bool>, std::unique_ptr<Graph>> sample_graphs;  // by samples and needs
};

ModelRunner::ModelRunner(const Config& config, Runner runner, KvCache kv, const Catalogs& catalogs, Device& device)
    : state_(std::make_unique<State>(config, std::move(runner), std::move(kv), catalogs, device)) {}
ModelRunner::~ModelRunner() = default;

void ModelRunner::start(const Batch& batch, StepResult& result) {
  state_->start(batch, result);
}
bool ModelRunner::done() {
  State& s = *state_;
  return s.end_of(s.finished).done();
}
void ModelRunner::finish() {
  state_->finish();
}

ModelRunner::State::State(const Config& config_in, Runner runner_in, KvCache kv_in, const Catalogs& catalogs,
                          Device& device_in)
    : config(config_in),
      device(device_in),
      stream(device.stream()),
      runner(std::move(runner_in)),
      kv(std::move(kv_in)),
      state({.num_slots = config.num_slots,
             .max_text = config.max_model_len + 1,
             .block_size = kv.config().block_size,
             .num_groups = num_groups()},
            catalogs, device),
      sampler(catalogs, device,
              {.slots = config.num_slots,
               .rows = runner.max_sampled(),
               .vocab = runner.plan().model.vocab_size,
               .max_top = config.max_logprobs}),
      sums(config.num_slots),
      prepare_kernel(catalogs.of<PrepareRows>().select(
          {.tokens = 1, .seqs = 1, .samples = 1, .block_size = kv.config().block_size, .groups = num_groups()},
          device.info())) {
  WJ_CHECK(runner.max_sampled() >= config.max_seqs, runner.max_sampled(), " rows for ", config.max_seqs, " samples");
  const auto array = [&](Buffer& buffer, std::int64_t words) {
    buffer = device.allocate(static_cast<std::size_t>(words) * sizeof(std::int32_t));
  };
  const std::int64_t header_words =
      PrepareRows::kHeaderWords + PrepareRows::kChunkWords * (std::int64_t{config.max_seqs} + 1) + config.max_seqs;
  array(header, header_words);
  for (Buffer* buffer : {&token_ids, &positions, &rope_lengths, &score_rows}) array(*buffer, config.max_tokens);
  array(cache_rows, std::int64_t{2} * num_groups() * config.max_tokens);
  array(query_starts, config.max_seqs + 1);
  for (Buffer* buffer : {&context_lengths, &table_rows, &sample_rows, &sample_slots}) array(*buffer, config.max_seqs);
  sent_header.reserve(header_words);
  next_header.reserve(header_words);
  for (int layer = 0; layer < kv.config().layout.num_layers(); ++layer) {
    kv_view.caches.push_back({.k = kv.k(layer), .v = kv.v(layer), .group = kv.group(layer)});
  }
  kv_view.block_size = kv.config().block_size;

  std::vector<std::int32_t> rows(config.max_tokens);
  std::iota(rows.begin(), rows.end(), 0);
  stream.copy(score_rows.data(), rows.data(), score_rows.bytes());
  stream.synchronize();

  const std::size_t text_bytes = (static_cast<std::size_t>(config.max_model_len) + 1) * sizeof(std::int32_t);
  for (int i = 0; i < config.max_in_flight; ++i) {
    flights.emplace_back(device, config, runner.plan(), std::max(kStagingBytes, 2 * text_bytes));
  }
  for (int i = 0; i <= config.max_in_flight; ++i) ends.push_back(device.make_event());
  if (config.max_graph_tokens > 0) warm_up();
}

// --- Steps ----------------------------------------------------------------------------------------------------------

void ModelRunner::State::start(const Batch& batch, StepResult& result) {
  device.use_on_this_thread();
  WJ_CHECK(started - finished < flights.size(), started - finished, " steps are in flight");
  WJ_CHECK(batch.num_samples() <= config.max_seqs, batch.num_samples(), " samples, room for ", config.max_seqs);
  Flight& flight = flights[started % flights.size()];
  flight.result = &result;
  flight.staging.reset();
  stream.record(*flight.begin);
  state.apply(
      batch, flight.staging, [&](Slot slot, const RecordView& record) { join(slot, record); },
      [&](Slot slot, std::span<const std::int32_t> mask) { sampler.set_mask(slot, mask); });
  WJ_CHECK(std::cmp_equal(state.decoding_slots().size(), batch.num_decodes), state.decoding_slots().size(),
           " decoding slots, planned ", batch.num_decodes);
  copy_blocks(batch, flight.staging);
  send_header(batch, flight.staging);
  gather_needs(batch, flight);

  Sizes sizes = {.tokens = batch.num_decodes,
                 .seqs = batch.num_decodes + static_cast<int>(batch.chunks.size()),
                 .samples = batch.num_samples()};
  for (const Chunk& chunk : batch.chunks) sizes.tokens += chunk.count;
  WJ_CHECK(sizes.seqs <= config.max_seqs && sizes.tokens <= config.max_tokens, "a step of ", sizes.seqs,
           " sequences and ", sizes.tokens, " tokens, room for ", config.max_seqs, " and ", config.max_tokens);
  if (sizes.tokens > 0) {
    forward(sizes);
    score(batch, result, flight);
    pool(batch, flight);
    if (sizes.samples > flight.num_pooled) sample(sizes.samples, flight.needs);
  }
  if (sizes.samples > flight.num_pooled) {
    flight.tokens.copy_from({drawn.data, DType::i32, {sizes.samples}}, stream);
    if (flight.needs.logprobs) flight.logprobs.copy_from(sampler.logprobs(sizes.samples), stream);
  }
  stream.record(end_of(started));
  ++started;
}

void ModelRunner::State::finish() {
  WJ_CHECK(finished < started, "no step is in flight");
  const std::uint64_t step = finished++;
  Flight& flight = flights[step % flights.size()];
  end_of(step).wait();
  StepResult& result = *flight.result;
  const auto samples = static_cast<std::int64_t>(flight.samples.size());
  const std::int32_t* tokens = flight.tokens.list(samples).as<std::int32_t>();
  TokenRanges& sampled = result.sampled;
  sampled.clear();
  result.embeddings.clear();
  if (flight.num_pooled > 0) result.embeddings.resize(samples);
  for (std::int64_t i = 0; i < samples; ++i) {
    const Sample& sample = flight.samples[i];
    if (sample.pooling != Pooling::none) {
      result.embeddings[i] = read_embedding(flight, i);
    } else if (tokens[i] != kSurplusToken) {
      sampled.tokens.push_back(tokens[i]);
      if (flight.needs.logprobs) sampled.logprobs.push_back(logprobs_of(flight, i));
    }
    sampled.end_range();
  }
  result.us = end_of(step).microseconds_since(*flight.begin);
  result.idle_us = step > 0 ? std::max(0.0, flight.begin->microseconds_since(end_of(step - 1))) : -1;
}

// A sum of hidden states starts anew with each sequence.
void ModelRunner::State::join(Slot slot, const RecordView& record) {
  sampler.join(slot, record);
  if (record.pooling == Pooling::mean) sums[slot].count = 0;
}

std::vector<TokenLogprob> ModelRunner::State::logprobs_of(const Flight& flight, std::int64_t row) const {
  const std::int32_t wanted = flight.samples[row].logprobs;
  if (wanted < 0) return {};
  return read_logprobs(flight.logprobs.views(std::ssize(flight.samples)), row, wanted);
}

void ModelRunner::State::copy_blocks(const Batch& batch, Staging& staging) {
  if (batch.copies.empty()) return;
  constexpr std::size_t kMost = 4096;  // copies of one list
  for (std::size_t first = 0; first < batch.copies.size(); first += kMost) {
    const std::size_t count = std::min(kMost, batch.copies.size() - first);
    const std::span<std::int32_t> list = staging.room<std::int32_t>(count * KvCache::kCopyWords);
    kv.copy(std::span(batch.copies).subspan(first, count), list.data(), stream);
  }
}

// Steady decoding repeats the header of the step before, which the device has.
void ModelRunner::State::send_header(const Batch& batch, Staging& staging) {
  auto& words = next_header;
  words.assign({batch.num_decodes, static_cast<std::int32_t>(batch.chunks.size()),
                static_cast<std::int32_t>(batch.sample_slots.size()), 0});
  std::int32_t row = batch.num_decodes, sample = 0;
  for (const Chunk& chunk : batch.chunks) {
    words.insert(words.end(), {chunk.slot, chunk.start, row, sample});
    row += chunk.count;
    sample += chunk.num_samples;
  }
  words.insert(words.end(), {0, 0, row, sample});
  words.insert(words.end(), batch.sample_slots.begin(), batch.sample_slots.end());
  if (words == sent_header) return;
  const std::span<std::int32_t> staged = staging.room<std::int32_t>(words.size());
  std::copy(words.begin(), words.end(), staged.begin());
  stream.copy(header.data(), staged.data(), staged.size_bytes());
  std::swap(sent_header, next_header);
}

void ModelRunner::State::gather_needs(const Batch& batch, Flight& flight) const {
  flight.needs = {};
  flight.num_pooled = 0;
  flight.samples.clear();
  const auto add = [&](Slot slot) {
    const SampleRecord& record = state.slot(slot).record;
    flight.samples.push_back({.slot = slot, .logprobs = record.sampling.logprobs, .pooling = record.pooling});
    flight.num_pooled += record.pooling != Pooling::none;
    flight.needs.edits |= record.edits != 0;
    flight.needs.logprobs |= record.sampling.logprobs >= 0;
  };
  for (const Slot slot : state.decoding_slots()) add(slot);
  for (const Slot slot : batch.sample_slots) add(slot);
}

// --- Work for the device --------------------------------------------------------------------------------------------

// The size of the graph that has room for so many; the count itself where none has.
int ModelRunner::State::padded(int count) const {
  if (count > config.max_graph_tokens) return count;
  const int* size = std::lower_bound(std::begin(kGraphSizes), std::end(kGraphSizes), count);
  return size == std::end(kGraphSizes) || *size > config.max_graph_tokens ? count : *size;
}

// Runs the work, as a graph if it is to be captured: the first time of a key it is, and from then on repeated.
template <class Key, class Work>
void ModelRunner::State::replay(std::map<Key, std::unique_ptr<Graph>>& graphs, const Key& key, bool captured,
                                Work work) {
  if (!captured) return work();
  std::unique_ptr<Graph>& graph = graphs[key];
  if (!graph) {
    WJ_CHECK(stream.begin_capture(), "the device has no graphs");
    work();
    graph = stream.end_capture();
  }
  stream.launch(*graph);
}

void ModelRunner::State::forward(Sizes sizes) {
  const int size = padded(sizes.tokens);
  const bool captured = config.max_graph_tokens > 0 && size <= config.max_graph_tokens && size <= config.max_tokens;
  if (captured) sizes = {.tokens = size, .seqs = std::min(size, config.max_seqs), .samples = config.max_seqs};
  replay(forward_graphs, size, captured, [&] {
    prepare(sizes);
    runner.forward(inputs(sizes), kv_view);
  });
  // The views of the last forward tell its rows, which a graph was captured with.
  if (captured) runner.set_rows(size);
}

void ModelRunner::State::prepare(Sizes sizes) {
  const StepInputs in = inputs(sizes);
  const PrepareRows::Args args = {
      .problem = {.tokens = sizes.tokens,
                  .seqs = sizes.seqs,
                  .samples = sizes.samples,
                  .block_size = kv.config().block_size,
                  .groups = num_groups()},
      .header = TensorView(header.data(), DType::i32, {static_cast<std::int64_t>(header.bytes() / 4)}),
      .decoding = state.decoding(),
      .texts = state.texts(),
      .lengths = state.lengths(),
      .prompt_lengths = state.prompt_lengths(),
      .alive = state.alive(),
      .block_tables = state.block_tables(),
      .token_ids = in.token_ids,
      .positions = in.positions,
      .rope_lengths = in.rope_lengths,
      .cache_rows = in.cache_rows,
      .query_starts = in.query_starts,
      .context_lengths = in.context_lengths,
      .table_rows = in.table_rows,
      .sample_rows = TensorView(sample_rows.data(), DType::i32, {sizes.samples}),
      .sample_slots = TensorView(sample_slots.data(), DType::i32, {sizes.samples}),
  };
  prepare_kernel.run(args, stream);
}

StepInputs ModelRunner::State::inputs(Sizes sizes) const {
  const auto list = [](const Buffer& buffer, std::int64_t count) {
    return TensorView(buffer.data(), DType::i32, {count});
  };
  return {.tokens = sizes.tokens,
          .seqs = sizes.seqs,
          .max_context = config.max_model_len,
          .token_ids = list(token_ids, sizes.tokens),
          .positions = list(positions, sizes.tokens),
          .rope_lengths = list(rope_lengths, sizes.tokens),
          .cache_rows = TensorView(cache_rows.data(), DType::i64, {num_groups(), sizes.tokens}),
          .query_starts = list(query_starts, sizes.seqs + 1),
          .context_lengths = list(context_lengths, sizes.seqs),
          .block_tables = state.block_tables(),
          .table_rows = list(table_rows, sizes.seqs)};
}

// Log-probabilities of prompts, before sampling, which takes the buffer of logits. They come in slices, since that
// buffer is sized for sampling only, and the host waits for each: who asks for them does not ask for speed.
void ModelRunner::State::score(const Batch& batch, StepResult& result, Flight& flight) {
  TokenRanges& scored = result.scored;
  scored.clear();
  std::int64_t first_row = batch.num_decodes;
  for (const Chunk& chunk : batch.chunks) {
    const SampleRecord& record = state.slot(chunk.slot).record;
    const int total = record.prompt_logprobs < 0 ? 0 : num_scored(chunk, record.sampling.prompt_length);
    for (int done = 0; done < total;) {
      const int count = std::min(total - done, config.max_seqs);
      const TensorView rows(as<std::int32_t>(score_rows) + first_row + done, DType::i32, {count});
      std::int32_t* text = state.texts().row<std::int32_t>(chunk.slot) + chunk.start + 1;
      const TensorView following(text + done, DType::i32, {count});
      flight.logprobs.copy_from(sampler.score(runner.logits(rows), following, record.prompt_logprobs), stream);
      stream.synchronize();
      const LogprobViews views = flight.logprobs.views(count);
      for (int r = 0; r < count; ++r) {
        scored.tokens.push_back(views.tokens.as<std::int32_t>()[r]);
        scored.logprobs.push_back(read_logprobs(views, r, record.prompt_logprobs));
      }
      done += count;
    }
    scored.end_range();
    first_row += chunk.count;
  }
}

// The hidden states of prompts that are pooled. All of a mean's come to the host, in slices as for scores, and are
// added up there in the order of the text, so that the sum does not depend on the chunks.
void ModelRunner::State::pool(const Batch& batch, Flight& flight) {
  std::int64_t first_row = batch.num_decodes;
  for (const Chunk& chunk : batch.chunks) {
    if (state.slot(chunk.slot).record.pooling == Pooling::mean) add_rows(chunk, first_row, flight);
    first_row += chunk.count;
  }
  if (flight.num_pooled == 0) return;
  const auto samples = static_cast<std::int64_t>(flight.samples.size());
  flight.hidden.copy_from(runner.hidden({sample_rows.data(), DType::i32, {samples}}), stream);
}

void ModelRunner::State::add_rows(const Chunk& chunk, std::int64_t first_row, Flight& flight) {
  Sum& sum = sums[chunk.slot];
  if (sum.count == 0) sum.values.assign(runner.plan().model.hidden_size, 0);
  WJ_CHECK(sum.count == chunk.start, "a mean of ", sum.count, " positions goes on at ", chunk.start);
  std::vector<float> values(sum.values.size());
  for (std::int32_t done = 0; done < chunk.count;) {
    const std::int32_t count = std::min(chunk.count - done, config.max_seqs);
    const TensorView rows(as<std::int32_t>(score_rows) + first_row + done, DType::i32, {count});
    flight.hidden.copy_from(runner.hidden(rows), stream);
    stream.synchronize();
    for (std::int64_t row = 0; row < count; ++row) {
      flight.hidden.read_row(row, values);
      for (std::size_t i = 0; i < values.size(); ++i) sum.values[i] += values[i];
    }
    done += count;
  }
  sum.count += chunk.count;
}

std::vector<float> ModelRunner::State::read_embedding(const Flight& flight, std::int64_t row) const {
  const Sample& sample = flight.samples[row];
  std::vector<float> embedding(runner.plan().model.hidden_size);
  if (sample.pooling == Pooling::last) {
    flight.hidden.read_row(row, embedding);
  } else {
    const Sum& sum = sums[sample.slot];
    std::ranges::transform(sum.values, embedding.begin(),
                           [&](double value) { return static_cast<float>(value / sum.count); });
  }
  return embedding;
}

// Samples that read the same row get a copy of its logits each: the sampler changes them in place.
void ModelRunner::State::sample(int samples, SampleNeeds needs) {
  const int size = std::min(padded(samples), config.max_seqs);
  const bool captured = config.max_graph_tokens > 0 && size <= config.max_graph_tokens;
  const std::int64_t count = captured ? size : samples;
  replay(sample_graphs, std::tuple(size, needs.edits, needs.logprobs), captured, [&] {
    const TensorView logits = runner.logits({sample_rows.data(), DType::i32, {count}});
    drawn = sampler.sample(logits, {sample_slots.data(), DType::i32, {count}}, texts(), needs);
  });
}

// Every kernel once, without a graph, since a kernel's code must be on the device before it can be captured; then the
// smallest graphs. The header is empty: all rows are padding.
void ModelRunner::State::warm_up() {
  send_header({}, flights[0].staging);
  const int most = std::min(config.max_graph_tokens, config.max_tokens);
  for (const int size : {1, most}) {
    prepare({.tokens = size, .seqs = 1, .samples = config.max_seqs});
    runner.forward(inputs({.tokens = size, .seqs = 1}), kv_view);
    drawn = sampler.sample(runner.logits({sample_rows.data(), DType::i32, {1}}), {sample_slots.data(), DType::i32, {1}},
                           texts(), {.edits = true, .logprobs = true});
  }
  for (const int size : {1, 2, 4, 8, 16, 32}) {
    if (size > std::min(most, config.max_seqs)) break;
    forward({.tokens = size, .seqs = size, .samples = size});
    sample(size, {});
  }
  stream.synchronize();
  flights[0].staging.reset();
}

}  // namespace warpjet

// Plan -> slots -> inputs -> runner -> sampler. Everything is sized when it is made.
#include "runtime/runtime.h"

#include <algorithm>
#include <numeric>

namespace warpjet {

int num_scored(const Chunk& chunk, int prompt_length) {
  const int last = std::min(chunk.start + chunk.count, prompt_length - 1);
  return std::max(0, last - chunk.start);
}

struct ModelRunner::State {
  // What the device knows of whoever has the slot, besides its text and its block table.
  struct SlotState {
    const SampleState* sampling = nullptr;
    std::int32_t length = 0;  // of its text
    std::int32_t prompt_length = 0;
    std::int32_t decode_index = -1;  // in `decoding`; -1 = not there
    bool alive = false;              // its text goes on
  };
  struct Sample {
    Slot slot = kNoSlot;
    std::int32_t row = kNoRow;  // the token row whose logits it reads
  };
  static constexpr std::int32_t kNoRow = -1;  // surplus: the text has ended

  State(const Config& config, Runner runner, KvCache kv, const Catalogs& catalogs, Device& device);

  void run(const StepPlan& plan, StepResult& result);

  // The plan's changes.
  void apply(const SlotChange& change, const StepPlan& plan);
  void join(Slot slot, const Join& join, const StepPlan& plan);
  void pause(SlotState& slot);

  // The inputs of its rows.
  void fill(const StepPlan& plan);
  void add_rows(Slot slot, int start, int count);
  void add_sample(Slot slot, std::int32_t row) { samples.push_back({slot, row}); }
  void set_views();

  void score(const StepPlan& plan, StepResult& result);
  void sample(StepResult& result);
  SampleRow sample_row(Slot slot);
  void append(Slot slot, std::int32_t token);
  TensorView logits() { return runner.logits({logit_rows.data(), DType::i32, {std::ssize(logit_rows)}}); }

  std::int32_t* text(Slot slot) { return static_cast<std::int32_t*>(texts.data()) + slot * max_text; }
  std::int32_t* table(Slot slot) { return static_cast<std::int32_t*>(tables.data()) + slot * max_blocks; }

  const Config config;
  Runner runner;
  KvCache kv;
  Sampler sampler;
  Stream& stream;
  KvView kv_view;
  const int block_size;
  const std::int64_t max_text, max_blocks;  // of a slot: with room for the token that ends the longest text

  // Most texts are short: device memory, whose pages are there only once they are touched.
  Buffer texts;   // [num_slots, max_text]
  Buffer tables;  // [num_slots, max_blocks]
  std::vector<SlotState> slots;
  std::vector<Slot> decoding;

  // Of one step.
  StepInputs inputs;
  std::vector<std::int32_t> token_ids, positions, rope_lengths, query_starts, context_lengths, block_tables, table_rows;
  std::vector<std::int64_t> cache_rows;
  std::vector<Sample> samples;  // the plan's
  std::vector<std::int32_t> logit_rows, scored_tokens;
  std::vector<SampleRow> sample_rows;
  std::vector<SampledRow> drawn;
};

ModelRunner::ModelRunner(const Config& config, Runner runner, KvCache kv, const Catalogs& catalogs, Device& device)
    : state_(std::make_unique<State>(config, std::move(runner), std::move(kv), catalogs, device)) {}
ModelRunner::~ModelRunner() = default;

void ModelRunner::run(const StepPlan& plan, StepResult& result) {
  const auto start = std::chrono::steady_clock::now();
  state_->run(plan, result);
  result.us = std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start).count();
}

ModelRunner::State::State(const Config& config_in, Runner runner_in, KvCache kv_in, const Catalogs& catalogs,
                          Device& device)
    : config(config_in),
      runner(std::move(runner_in)),
      kv(std::move(kv_in)),
      sampler(catalogs, device, runner.plan().model.vocab_size, runner.max_sampled()),
      stream(device.stream()),
      block_size(kv.config().block_size),
      max_text(config.max_model_len + 1),
      max_blocks(ceil_div<std::int64_t>(max_text, block_size)),
      texts(device.allocate(static_cast<std::size_t>(config.num_slots * max_text) * sizeof(std::int32_t))),
      tables(device.allocate(static_cast<std::size_t>(config.num_slots * max_blocks) * sizeof(std::int32_t))),
      slots(config.num_slots) {
  WJ_CHECK(runner.max_sampled() >= config.max_seqs, runner.max_sampled(), " rows for ", config.max_seqs, " samples");
  decoding.reserve(config.num_slots);
  for (auto* array : {&token_ids, &positions, &rope_lengths}) array->resize(config.max_tokens);
  cache_rows.resize(config.max_tokens);
  query_starts.resize(config.max_seqs + 1);
  context_lengths.resize(config.max_seqs);
  block_tables.resize(config.max_seqs * max_blocks);
  for (int row = 0; row < config.max_seqs; ++row) table_rows.push_back(row);
  samples.reserve(config.max_seqs);
  for (auto* array : {&logit_rows, &scored_tokens}) array->reserve(runner.max_sampled());
  sample_rows.reserve(config.max_seqs);
  drawn.resize(config.max_seqs);
  for (int layer = 0; layer < kv.config().layers; ++layer) {
    kv_view.k.push_back(kv.k(layer));
    kv_view.v.push_back(kv.v(layer));
  }
  kv_view.block_size = block_size;
}

void ModelRunner::State::run(const StepPlan& plan, StepResult& result) {
  for (const SlotChange& change : plan.changes) apply(change, plan);
  for (const Copy& copy : plan.copies) kv.copy(copy, stream);
  WJ_CHECK(std::cmp_equal(decoding.size(), plan.num_decodes), decoding.size(), " decoding slots, planned ",
           plan.num_decodes);
  WJ_CHECK(plan.num_samples() <= config.max_seqs, plan.num_samples(), " samples, room for ", config.max_seqs);
  fill(plan);
  if (inputs.tokens > 0) runner.forward(inputs, kv_view);
  score(plan, result);
  sample(result);
}

// --- Slots ----------------------------------------------------------------------------------------------------------

void ModelRunner::State::apply(const SlotChange& change, const StepPlan& plan) {
  WJ_CHECK(change.slot >= 0 && change.slot < config.num_slots, "slot ", change.slot, " of ", config.num_slots);
  SlotState& slot = slots[change.slot];
  switch (change.kind) {
    case SlotChange::Kind::join:
      return join(change.slot, plan.joins[change.a], plan);
    case SlotChange::Kind::block:
      WJ_CHECK(change.a >= 0 && change.a < max_blocks, "block ", change.a, " of ", max_blocks);
      table(change.slot)[change.a] = change.b;
      return;
    case SlotChange::Kind::token:
      WJ_CHECK(change.a >= 0 && change.a < max_text, "token ", change.a, " of ", max_text);
      text(change.slot)[change.a] = change.b;
      slot.length = change.a + 1;
      slot.alive = true;
      return;
    case SlotChange::Kind::decode:
      slot.decode_index = static_cast<std::int32_t>(decoding.size());
      decoding.push_back(change.slot);
      return;
    case SlotChange::Kind::pause:
      return pause(slot);
    case SlotChange::Kind::leave:
      slot = {};
      return;
  }
}

void ModelRunner::State::join(Slot slot, const Join& join, const StepPlan& plan) {
  WJ_CHECK(join.prefix + join.count <= max_text, "a text of ", join.prefix + join.count, " tokens, room for ",
           max_text);
  if (join.prefix > 0) std::copy_n(text(join.source), join.prefix, text(slot));
  std::copy_n(plan.tokens.begin() + join.first, join.count, text(slot) + join.prefix);
  slots[slot] = {.sampling = join.sampling,
                 .length = join.prefix + join.count,
                 .prompt_length = join.prompt_length,
                 .alive = true};
}

void ModelRunner::State::pause(SlotState& slot) {
  WJ_CHECK(slot.decode_index >= 0, "a slot that is not decoding pauses");
  decoding[slot.decode_index] = decoding.back();
  slots[decoding.back()].decode_index = slot.decode_index;
  decoding.pop_back();
  slot.decode_index = -1;
}

// --- Inputs ---------------------------------------------------------------------------------------------------------

void ModelRunner::State::fill(const StepPlan& plan) {
  inputs.tokens = inputs.seqs = inputs.max_context = 0;
  samples.clear();
  for (const Slot slot : decoding) {
    if (slots[slot].alive) add_rows(slot, slots[slot].length - 1, 1);
    add_sample(slot, slots[slot].alive ? static_cast<std::int32_t>(inputs.tokens - 1) : kNoRow);
  }
  auto next = plan.sample_slots.begin();
  for (const Chunk& chunk : plan.chunks) {
    add_rows(chunk.slot, chunk.start, chunk.count);
    for (int i = 0; i < chunk.num_samples; ++i) add_sample(*next++, static_cast<std::int32_t>(inputs.tokens - 1));
  }
  query_starts[inputs.seqs] = static_cast<std::int32_t>(inputs.tokens);
  set_views();
}

// text[start, start + count) of a slot: one more sequence of the step.
void ModelRunner::State::add_rows(Slot slot, int start, int count) {
  WJ_CHECK(inputs.seqs < config.max_seqs && inputs.tokens + count <= config.max_tokens, "a step of more than ",
           config.max_seqs, " sequences or ", config.max_tokens, " tokens");
  WJ_CHECK(slots[slot].sampling, "slot ", slot, " is empty");
  const std::int32_t* tokens = text(slot);
  const std::int32_t* blocks = table(slot);
  query_starts[inputs.seqs] = static_cast<std::int32_t>(inputs.tokens);
  context_lengths[inputs.seqs] = start + count;
  std::copy_n(blocks, ceil_div(start + count, block_size), block_tables.begin() + inputs.seqs * max_blocks);
  for (int position = start; position < start + count; ++position) {
    const std::int64_t row = inputs.tokens++;
    token_ids[row] = tokens[position];
    positions[row] = position;
    rope_lengths[row] = std::max(slots[slot].prompt_length, position + 1);
    cache_rows[row] = std::int64_t{blocks[position / block_size]} * block_size + position % block_size;
  }
  inputs.max_context = std::max<std::int64_t>(inputs.max_context, start + count);
  ++inputs.seqs;
}

void ModelRunner::State::set_views() {
  const auto view = [](auto& data, DType dtype, Shape shape) { return TensorView(data.data(), dtype, shape); };
  inputs.token_ids = view(token_ids, DType::i32, {inputs.tokens});
  inputs.positions = view(positions, DType::i32, {inputs.tokens});
  inputs.rope_lengths = view(rope_lengths, DType::i32, {inputs.tokens});
  inputs.slots = view(cache_rows, DType::i64, {inputs.tokens});
  inputs.query_starts = view(query_starts, DType::i32, {inputs.seqs + 1});
  inputs.context_lengths = view(context_lengths, DType::i32, {inputs.seqs});
  inputs.block_tables = view(block_tables, DType::i32, {inputs.seqs, max_blocks});
  inputs.table_rows = view(table_rows, DType::i32, {inputs.seqs});
}

// --- Results --------------------------------------------------------------------------------------------------------

// Before sampling, which takes the buffer of logits. Those of many rows of a prompt are taken in slices: the buffer is
// sized for sampling only.
void ModelRunner::State::score(const StepPlan& plan, StepResult& result) {
  std::size_t total = 0;
  result.scored_ends.clear();
  for (const Chunk& chunk : plan.chunks) {
    const SlotState& slot = slots[chunk.slot];
    if (slot.sampling->prompt_logprobs >= 0) total += num_scored(chunk, slot.prompt_length);
    result.scored_ends.push_back(total);
  }
  result.scored.resize(total);
  std::size_t done = 0;
  for (std::size_t i = 0; i < plan.chunks.size(); ++i) {
    const Chunk& chunk = plan.chunks[i];
    const std::int32_t* following = text(chunk.slot) + chunk.start + 1;
    std::int32_t row = query_starts[inputs.seqs - plan.chunks.size() + i];
    while (done < result.scored_ends[i]) {
      const std::size_t slice = std::min<std::size_t>(result.scored_ends[i] - done, runner.max_sampled());
      logit_rows.resize(slice);
      std::iota(logit_rows.begin(), logit_rows.end(), row);
      scored_tokens.assign(following, following + slice);
      sampler.score(logits(), scored_tokens, slots[chunk.slot].sampling->prompt_logprobs,
                    std::span(result.scored).subspan(done, slice));
      done += slice;
      following += slice;
      row += static_cast<std::int32_t>(slice);
    }
  }
}

// Samples that read the same row get a copy of its logits each: the sampler changes them in place.
void ModelRunner::State::sample(StepResult& result) {
  logit_rows.clear();
  sample_rows.clear();
  for (const Sample& sample : samples) {
    if (sample.row == kNoRow) continue;
    logit_rows.push_back(sample.row);
    sample_rows.push_back(sample_row(sample.slot));
  }
  if (!sample_rows.empty()) sampler.sample(logits(), sample_rows, std::span(drawn).first(sample_rows.size()));

  result.sampled.resize(samples.size());
  auto next = drawn.begin();
  for (std::size_t i = 0; i < samples.size(); ++i) {
    SampledRow& out = result.sampled[i];
    if (samples[i].row == kNoRow) {
      out.token = kSurplusToken;
      out.logprobs.clear();
    } else {
      std::swap(out, *next++);
      append(samples[i].slot, out.token);
    }
  }
}

SampleRow ModelRunner::State::sample_row(Slot slot) {
  const SlotState& s = slots[slot];
  return {.params = s.sampling->params,
          .key = s.sampling->key,
          .tokens = {text(slot), static_cast<std::size_t>(s.length)},
          .prompt_length = s.prompt_length,
          .banned_before_min = s.sampling->stop_ids,
          .logprobs = s.sampling->logprobs};
}

void ModelRunner::State::append(Slot slot, std::int32_t token) {
  SlotState& s = slots[slot];
  if (token < 0) {
    s.alive = false;
    return;
  }
  WJ_CHECK(s.length < max_text, "a text of more than ", max_text, " tokens");
  text(slot)[s.length++] = token;
  s.alive = !is_stop(*s.sampling, token, s.length - s.prompt_length);
}

}  // namespace warpjet

// Batch -> inputs -> runner -> sampler. All arrays are sized when the engine opens.
#include <algorithm>

#include "runtime/runtime.h"

namespace warpjet {

int num_scored(const Chunk& chunk) {
  const int last = std::min(chunk.start + chunk.count, chunk.sequence->prompt_length - 1);
  return std::max(0, last - chunk.start);
}

struct ModelExecutor::State {
  State(const Config& config, Runner runner_in, KvCache kv_in, const Catalogs& catalogs, Device& device)
      : runner(std::move(runner_in)),
        kv(std::move(kv_in)),
        sampler(catalogs, device, runner.plan().model.vocab_size, runner.max_sampled()),
        block_size(kv.config().block_size),
        max_blocks(ceil_div(config.max_model_len, block_size)) {
    token_ids.resize(config.max_tokens);
    positions.resize(config.max_tokens);
    rope_lengths.resize(config.max_tokens);
    slots.resize(config.max_tokens);
    query_starts.resize(config.max_seqs + 1);
    context_lengths.resize(config.max_seqs);
    block_tables.resize(static_cast<std::size_t>(config.max_seqs) * max_blocks);
    rows.resize(runner.max_sampled());
    sample_rows.reserve(runner.max_sampled());
    scored_rows.reserve(config.max_tokens);
    scored_tokens.reserve(config.max_tokens);
    for (int layer = 0; layer < kv.config().layers; ++layer) {
      kv_view.k.push_back(kv.k(layer));
      kv_view.v.push_back(kv.v(layer));
    }
    kv_view.block_size = block_size;
  }

  void fill(const Batch& batch);
  void add_chunk(const Chunk& chunk, int index, int first_row);
  void sample(const Batch& batch, std::span<const SampleState> states, StepResult& result);
  void score(const Batch& batch, std::span<const SampleState> states, StepResult& result);
  TensorView logits(std::span<const std::int32_t> token_rows);

  Runner runner;
  KvCache kv;
  Sampler sampler;
  KvView kv_view;
  int block_size, max_blocks;
  StepInputs inputs;
  std::vector<std::int32_t> token_ids, positions, rope_lengths, query_starts, context_lengths, block_tables, rows;
  std::vector<std::int64_t> slots;
  std::vector<SampleRow> sample_rows;
  std::vector<std::int32_t> scored_rows, scored_tokens;
};

ModelExecutor::ModelExecutor(const Config& config, Runner runner, KvCache kv, const Catalogs& catalogs, Device& device)
    : state_(std::make_unique<State>(config, std::move(runner), std::move(kv), catalogs, device)) {}
ModelExecutor::~ModelExecutor() = default;

void ModelExecutor::execute(const Batch& batch, std::span<const SampleState> states, StepResult& result) {
  state_->fill(batch);
  state_->runner.forward(state_->inputs, state_->kv_view);
  state_->score(batch, states, result);
  state_->sample(batch, states, result);
}

void ModelExecutor::State::fill(const Batch& batch) {
  inputs.tokens = batch.num_tokens;
  inputs.seqs = static_cast<std::int64_t>(batch.chunks.size());
  inputs.max_context = 0;
  int row = 0;
  for (int i = 0; i < inputs.seqs; ++i) {
    add_chunk(batch.chunks[i], i, row);
    row += batch.chunks[i].count;
  }
  query_starts[inputs.seqs] = row;

  const auto view = [](auto& data, DType dtype, Shape shape) { return TensorView(data.data(), dtype, shape); };
  inputs.token_ids = view(token_ids, DType::i32, {inputs.tokens});
  inputs.positions = view(positions, DType::i32, {inputs.tokens});
  inputs.rope_lengths = view(rope_lengths, DType::i32, {inputs.tokens});
  inputs.slots = view(slots, DType::i64, {inputs.tokens});
  inputs.query_starts = view(query_starts, DType::i32, {inputs.seqs + 1});
  inputs.context_lengths = view(context_lengths, DType::i32, {inputs.seqs});
  inputs.block_tables = view(block_tables, DType::i32, {inputs.seqs, max_blocks});
}

void ModelExecutor::State::add_chunk(const Chunk& chunk, int index, int first_row) {
  const Sequence& sequence = *chunk.sequence;
  query_starts[index] = first_row;
  context_lengths[index] = chunk.start + chunk.count;
  inputs.max_context = std::max<std::int64_t>(inputs.max_context, chunk.start + chunk.count);
  std::copy(sequence.blocks.begin(), sequence.blocks.end(),
            block_tables.begin() + static_cast<std::int64_t>(index) * max_blocks);
  for (int i = 0; i < chunk.count; ++i) {
    const int position = chunk.start + i, row = first_row + i;
    token_ids[row] = sequence.tokens[position];
    positions[row] = position;
    rope_lengths[row] = std::max(sequence.prompt_length, position + 1);
    slots[row] = static_cast<std::int64_t>(sequence.blocks[position / block_size]) * block_size + position % block_size;
  }
}

TensorView ModelExecutor::State::logits(std::span<const std::int32_t> token_rows) {
  std::copy(token_rows.begin(), token_rows.end(), rows.begin());
  return runner.logits({rows.data(), DType::i32, {static_cast<std::int64_t>(token_rows.size())}});
}

void ModelExecutor::State::sample(const Batch& batch, std::span<const SampleState> states, StepResult& result) {
  result.sampled.resize(batch.num_sampled);
  if (batch.num_sampled == 0) return;
  sample_rows.clear();
  scored_rows.clear();
  for (std::size_t i = 0; i < batch.chunks.size(); ++i) {
    const Chunk& chunk = batch.chunks[i];
    if (!chunk.sampled) continue;
    scored_rows.push_back(query_starts[i + 1] - 1);
    sample_rows.push_back({.params = states[i].params,
                           .key = states[i].key,
                           .tokens = chunk.sequence->tokens,
                           .prompt_length = chunk.sequence->prompt_length,
                           .banned_before_min = states[i].banned_before_min,
                           .logprobs = states[i].logprobs});
  }
  sampler.sample(logits(scored_rows), sample_rows, result.sampled);
}

// The logits of many rows of a prompt are taken in slices: the logits buffer is sized for sampling only.
void ModelExecutor::State::score(const Batch& batch, std::span<const SampleState> states, StepResult& result) {
  result.scored.clear();
  for (std::size_t i = 0; i < batch.chunks.size(); ++i) {
    const Chunk& chunk = batch.chunks[i];
    if (states[i].prompt_logprobs < 0) continue;
    const int count = num_scored(chunk);
    for (int begin = 0; begin < count;) {
      const int slice = std::min<int>(count - begin, static_cast<int>(runner.max_sampled()));
      scored_rows.clear();
      for (int j = 0; j < slice; ++j) scored_rows.push_back(query_starts[i] + begin + j);
      const auto first = chunk.sequence->tokens.begin() + chunk.start + begin + 1;
      scored_tokens.assign(first, first + slice);
      const std::size_t old = result.scored.size();
      result.scored.resize(old + slice);
      sampler.score(logits(scored_rows), scored_tokens, states[i].prompt_logprobs,
                    std::span(result.scored).subspan(old));
      begin += slice;
    }
  }
}

}  // namespace warpjet

// The stages of sampling. Each fills the arrays of one op from the rows' parameters and launches it; a stage that no
// row of the batch needs does not run.
#include "decode/decode.h"

#include <algorithm>
#include <limits>
#include <memory>

namespace warpjet {
namespace {

constexpr float kBanned = -std::numeric_limits<float>::infinity();

// An array that one side fills and the other reads: the host's copy and the device's.
template <class T>
class Array {
 public:
  Array(Device& device, DType dtype, std::int64_t capacity) : device_(device), dtype_(dtype) { grow(capacity); }

  std::vector<T> host;

  // The host's elements, copied to the device.
  TensorView upload() {
    grow(size());
    device_.stream().copy(buffer_.data(), host.data(), host.size() * sizeof(T));
    return TensorView(buffer_.data(), dtype_, {size()});
  }

  // Room on the device for an op to write `count` elements.
  TensorView room(std::int64_t count) {
    grow(count);
    return TensorView(buffer_.data(), dtype_, {count});
  }

  // Synchronize the stream before reading host.
  void download(std::int64_t count) {
    host.resize(static_cast<std::size_t>(count));
    device_.stream().copy(host.data(), buffer_.data(), host.size() * sizeof(T));
  }

 private:
  std::int64_t size() const { return static_cast<std::int64_t>(host.size()); }

  // Doubles, so that arrays whose length depends on the requests settle after a few steps.
  void grow(std::int64_t count) {
    if (count <= capacity_) return;
    capacity_ = std::max(count, 2 * capacity_);
    buffer_ = device_.allocate(static_cast<std::size_t>(capacity_) * sizeof(T));
    host.reserve(static_cast<std::size_t>(capacity_));
  }

  Device& device_;
  DType dtype_;
  Buffer buffer_;
  std::int64_t capacity_ = 0;
};

TensorView matrix(TensorView flat, std::int64_t rows, std::int64_t columns) {
  return TensorView(flat.data, flat.dtype, {rows, columns});
}

bool has_penalties(const SamplingParams& params) {
  return params.repetition_penalty != 1.0 || params.presence_penalty != 0.0 || params.frequency_penalty != 0.0;
}

bool is_below_min_tokens(const SampleRow& row) {
  return static_cast<std::int64_t>(row.tokens.size()) - row.prompt_length < row.params->min_tokens;
}

// Whether the text ends with all but the last token of this sequence.
bool is_about_to_end(std::span<const std::int32_t> text, const std::vector<std::int32_t>& sequence) {
  const std::size_t tail = sequence.size() - 1;
  return tail <= text.size() && std::equal(sequence.begin(), sequence.end() - 1, text.end() - tail);
}

bool changes_logits(const SampleRow& row) {
  const SamplingParams& params = *row.params;
  return has_penalties(params) || !params.logit_bias.empty() || params.allowed_token_ids.has_value() ||
         !params.bad_words_token_ids.empty() || is_below_min_tokens(row);
}

bool wants_logprobs(const SampleRow& row) {
  return row.logprobs >= 0;
}
bool is_raw_lost(const SampleRow& row) {
  return wants_logprobs(row) && changes_logits(row);
}
bool always(const SampleRow&) {
  return true;
}

}  // namespace

struct Sampler::State {
  State(const Catalogs& catalogs, Device& device, std::int64_t vocab, std::int64_t max_rows);

  struct Batch {
    TensorView logits;  // as the stages change them
    TensorView raw;     // as they came, for the rows that want log-probabilities
    std::span<const SampleRow> rows;
    std::span<SampledRow> out;
    std::int64_t size() const { return static_cast<std::int64_t>(rows.size()); }
  };
  struct Stage {
    bool (*needed)(const SampleRow& row);  // by any row of the batch
    void (State::*run)(Batch& batch);
  };
  static const Stage kStages[];

  void keep_raw(Batch& batch);
  void penalize(Batch& batch);
  void select(Batch& batch);
  void read_logprobs(Batch& batch);

  void add_penalties(const SampleRow& row);
  void add_biases(const SampleRow& row);
  void add_mask(const SampleRow& row);
  void launch_logprob(TensorView logits, std::int64_t top);  // of the tokens in `scored`
  void take_logprobs(std::int64_t r, int wanted, std::int64_t top, SampledRow& out) const;

  const Catalogs& catalogs;
  Device& device;
  std::int64_t vocab, max_rows, mask_words;

  struct {
    Array<float> repetition, presence, frequency, bias_values;
    Array<std::int32_t> history, history_starts, output_starts, bias_tokens, bias_starts, mask, masked;
    Buffer counts;
  } penalties;
  struct {
    Array<float> temperature, top_p, min_p;
    Array<std::int32_t> top_k, positions, tokens;
    Array<std::int64_t> keys;
  } draws;
  struct {
    Array<float> logprobs, top_logprobs;
    Array<std::int32_t> tokens, ranks, top_tokens;
    Buffer raw;
  } scores;
};

// THE TABLE of stages, in the order of sampling.
const Sampler::State::Stage Sampler::State::kStages[] = {
    {is_raw_lost, &State::keep_raw},
    {changes_logits, &State::penalize},
    {always, &State::select},
    {wants_logprobs, &State::read_logprobs},
};

// What is [rows, vocab] is reserved whole: a device that gives pages on first use pays for rows that need it.
Sampler::State::State(const Catalogs& all, Device& on, std::int64_t vocab_size, std::int64_t rows)
    : catalogs(all),
      device(on),
      vocab(vocab_size),
      max_rows(rows),
      mask_words(ceil_div<std::int64_t>(vocab_size, 32)),
      penalties{.repetition = {on, DType::f32, rows},
                .presence = {on, DType::f32, rows},
                .frequency = {on, DType::f32, rows},
                .bias_values = {on, DType::f32, rows},
                .history = {on, DType::i32, rows},
                .history_starts = {on, DType::i32, rows + 1},
                .output_starts = {on, DType::i32, rows},
                .bias_tokens = {on, DType::i32, rows},
                .bias_starts = {on, DType::i32, rows + 1},
                .mask = {on, DType::i32, 0},
                .masked = {on, DType::i32, rows},
                .counts = on.allocate(static_cast<std::size_t>(rows * vocab_size) * sizeof(std::int32_t))},
      draws{.temperature = {on, DType::f32, rows},
            .top_p = {on, DType::f32, rows},
            .min_p = {on, DType::f32, rows},
            .top_k = {on, DType::i32, rows},
            .positions = {on, DType::i32, rows},
            .tokens = {on, DType::i32, rows},
            .keys = {on, DType::i64, rows}},
      scores{.logprobs = {on, DType::f32, rows},
             .top_logprobs = {on, DType::f32, rows},
             .tokens = {on, DType::i32, rows},
             .ranks = {on, DType::i32, rows},
             .top_tokens = {on, DType::i32, rows},
             .raw = on.allocate(static_cast<std::size_t>(rows * vocab_size) * sizeof(float))} {}

// --- Stages ---------------------------------------------------------------------------------------------------------

void Sampler::State::keep_raw(Batch& batch) {
  batch.raw = TensorView(scores.raw.data(), DType::f32, {batch.size(), vocab});
  for (std::int64_t r = 0; r < batch.size(); ++r) {
    if (!wants_logprobs(batch.rows[r])) continue;
    device.stream().copy(batch.raw.row<float>(r), batch.logits.row<float>(r), vocab * sizeof(float));
  }
}

void Sampler::State::penalize(Batch& batch) {
  auto& p = penalties;
  for (auto* array : {&p.repetition, &p.presence, &p.frequency, &p.bias_values}) array->host.clear();
  for (auto* array : {&p.history, &p.output_starts, &p.bias_tokens, &p.mask, &p.masked}) array->host.clear();
  p.history_starts.host.assign(1, 0);
  p.bias_starts.host.assign(1, 0);
  for (const SampleRow& row : batch.rows) {
    add_penalties(row);
    add_biases(row);
    add_mask(row);
  }
  const bool any_mask = !p.mask.host.empty();
  if (any_mask) p.mask.host.resize(static_cast<std::size_t>(batch.size() * mask_words));
  const Penalize::Args args = {
      .problem = {.rows = batch.size(), .vocab = vocab},
      .logits = batch.logits,
      .repetition = p.repetition.upload(),
      .presence = p.presence.upload(),
      .frequency = p.frequency.upload(),
      .history = p.history.upload(),
      .history_starts = p.history_starts.upload(),
      .output_starts = p.output_starts.upload(),
      .bias_tokens = p.bias_tokens.upload(),
      .bias_values = p.bias_values.upload(),
      .bias_starts = p.bias_starts.upload(),
      .mask = any_mask ? matrix(p.mask.upload(), batch.size(), mask_words) : TensorView(),
      .masked = p.masked.upload(),
      .counts = TensorView(p.counts.data(), DType::i32, {batch.size(), vocab}),
  };
  catalogs.of<Penalize>().select(args.problem, device.info()).launch(args, device.stream());
}

void Sampler::State::add_penalties(const SampleRow& row) {
  auto& p = penalties;
  p.repetition.host.push_back(static_cast<float>(row.params->repetition_penalty));
  p.presence.host.push_back(static_cast<float>(row.params->presence_penalty));
  p.frequency.host.push_back(static_cast<float>(row.params->frequency_penalty));
  p.output_starts.host.push_back(p.history_starts.host.back() + row.prompt_length);
  if (has_penalties(*row.params)) p.history.host.insert(p.history.host.end(), row.tokens.begin(), row.tokens.end());
  p.history_starts.host.push_back(static_cast<std::int32_t>(p.history.host.size()));
}

// logit_bias, then bans: bad words that the text is about to complete, and what may not come before min_tokens.
void Sampler::State::add_biases(const SampleRow& row) {
  const auto add = [&](std::int32_t token, float value) {
    penalties.bias_tokens.host.push_back(token);
    penalties.bias_values.host.push_back(value);
  };
  for (const auto& [token, value] : row.params->logit_bias) add(token, static_cast<float>(value));
  for (const auto& sequence : row.params->bad_words_token_ids) {
    if (!sequence.empty() && is_about_to_end(row.tokens, sequence)) add(sequence.back(), kBanned);
  }
  if (is_below_min_tokens(row)) {
    for (const std::int32_t token : row.banned_before_min) add(token, kBanned);
  }
  penalties.bias_starts.host.push_back(static_cast<std::int32_t>(penalties.bias_tokens.host.size()));
}

void Sampler::State::add_mask(const SampleRow& row) {
  auto& mask = penalties.mask.host;
  const std::size_t begin = penalties.masked.host.size() * static_cast<std::size_t>(mask_words);
  penalties.masked.host.push_back(row.params->allowed_token_ids.has_value());
  if (!row.params->allowed_token_ids) return;
  mask.resize(begin + static_cast<std::size_t>(mask_words));
  for (const std::int32_t token : *row.params->allowed_token_ids) {
    mask[begin + static_cast<std::size_t>(token / 32)] |= static_cast<std::int32_t>(1u << (token % 32));
  }
}

void Sampler::State::select(Batch& batch) {
  auto& d = draws;
  for (auto* array : {&d.temperature, &d.top_p, &d.min_p}) array->host.clear();
  for (auto* array : {&d.top_k, &d.positions}) array->host.clear();
  d.keys.host.clear();
  for (const SampleRow& row : batch.rows) {
    d.temperature.host.push_back(static_cast<float>(row.params->temperature));
    d.top_p.host.push_back(static_cast<float>(row.params->top_p));
    d.min_p.host.push_back(static_cast<float>(row.params->min_p));
    d.top_k.host.push_back(std::max(row.params->top_k, 0));
    d.positions.host.push_back(static_cast<std::int32_t>(row.tokens.size()));
    d.keys.host.push_back(static_cast<std::int64_t>(row.key));
  }
  const Select::Args args = {
      .problem = {.rows = batch.size(), .vocab = vocab},
      .logits = batch.logits,
      .temperature = d.temperature.upload(),
      .top_p = d.top_p.upload(),
      .min_p = d.min_p.upload(),
      .top_k = d.top_k.upload(),
      .keys = d.keys.upload(),
      .positions = d.positions.upload(),
      .tokens = d.tokens.room(batch.size()),
  };
  catalogs.of<Select>().select(args.problem, device.info()).launch(args, device.stream());
  d.tokens.download(batch.size());
  device.stream().synchronize();
  for (std::int64_t r = 0; r < batch.size(); ++r) batch.out[r].token = d.tokens.host[r];
}

void Sampler::State::read_logprobs(Batch& batch) {
  scores.tokens.host.clear();
  std::int64_t top = 0;
  for (std::int64_t r = 0; r < batch.size(); ++r) {
    scores.tokens.host.push_back(wants_logprobs(batch.rows[r]) ? batch.out[r].token : -1);
    top = std::max<std::int64_t>(top, batch.rows[r].logprobs);
  }
  top = std::min(top, vocab);
  launch_logprob(batch.raw, top);
  for (std::int64_t r = 0; r < batch.size(); ++r) take_logprobs(r, batch.rows[r].logprobs, top, batch.out[r]);
}

void Sampler::State::launch_logprob(TensorView logits, std::int64_t top) {
  const std::int64_t rows = static_cast<std::int64_t>(scores.tokens.host.size());
  const Logprob::Args args = {
      .problem = {.rows = rows, .vocab = vocab, .top = top},
      .logits = logits,
      .tokens = scores.tokens.upload(),
      .logprobs = scores.logprobs.room(rows),
      .ranks = scores.ranks.room(rows),
      .top_tokens = matrix(scores.top_tokens.room(rows * top), rows, top),
      .top_logprobs = matrix(scores.top_logprobs.room(rows * top), rows, top),
  };
  catalogs.of<Logprob>().select(args.problem, device.info()).launch(args, device.stream());
  scores.logprobs.download(rows);
  scores.ranks.download(rows);
  scores.top_tokens.download(rows * top);
  scores.top_logprobs.download(rows * top);
  device.stream().synchronize();
}

void Sampler::State::take_logprobs(std::int64_t r, int wanted, std::int64_t top, SampledRow& out) const {
  const std::int32_t token = scores.tokens.host[r];
  if (token < 0) return;
  const std::int64_t count = std::min<std::int64_t>(wanted, top);
  out.logprobs.reserve(static_cast<std::size_t>(count + 1));
  const TokenLogprob own = {.token = token, .logprob = scores.logprobs.host[r], .rank = scores.ranks.host[r]};
  out.logprobs.push_back(own);
  for (std::int64_t i = 0; i < count; ++i) {
    TokenLogprob entry = {.token = scores.top_tokens.host[r * top + i],
                          .logprob = scores.top_logprobs.host[r * top + i],
                          .rank = static_cast<std::int32_t>(i + 1)};
    const bool ties = i > 0 && entry.logprob == out.logprobs.back().logprob;  // equals share the best one's rank
    if (entry.token == own.token) {
      entry.rank = own.rank;
    } else if (ties) {
      entry.rank = out.logprobs.back().rank;
    }
    out.logprobs.push_back(entry);
  }
}

bool is_stop(const SampleState& state, std::int32_t token, int output_length) {
  if (output_length < state.params->min_tokens) return false;
  return std::find(state.stop_ids.begin(), state.stop_ids.end(), token) != state.stop_ids.end();
}

// --- Sampler --------------------------------------------------------------------------------------------------------

Sampler::Sampler(const Catalogs& catalogs, Device& device, std::int64_t vocab, std::int64_t max_rows)
    : state_(std::make_unique<State>(catalogs, device, vocab, max_rows)) {}
Sampler::~Sampler() = default;

void Sampler::sample(TensorView logits, std::span<const SampleRow> rows, std::span<SampledRow> out) {
  WJ_CHECK(std::cmp_less_equal(rows.size(), state_->max_rows), "got ", rows.size(), " rows, room for ",
           state_->max_rows);
  if (rows.empty()) return;
  State::Batch batch = {.logits = logits, .raw = logits, .rows = rows, .out = out};
  for (SampledRow& row : out) row.logprobs.clear();
  for (const State::Stage& stage : State::kStages) {
    if (std::any_of(rows.begin(), rows.end(), stage.needed)) (state_.get()->*stage.run)(batch);
  }
}

void Sampler::score(TensorView logits, std::span<const std::int32_t> tokens, int top, std::span<SampledRow> out) {
  const std::int64_t rows = static_cast<std::int64_t>(tokens.size()),
                     wanted = std::min<std::int64_t>(top, state_->vocab);
  auto& scored = state_->scores.tokens.host;
  for (std::int64_t first = 0; first < rows; first += state_->max_rows) {
    const std::int64_t count = std::min(state_->max_rows, rows - first);
    scored.assign(tokens.begin() + first, tokens.begin() + first + count);
    const TensorView slice(logits.row<float>(first), DType::f32, {count, state_->vocab}, logits.row_stride);
    state_->launch_logprob(slice, wanted);
    for (std::int64_t r = 0; r < count; ++r) {
      out[first + r].token = scored[r];
      out[first + r].logprobs.clear();
      state_->take_logprobs(r, top, wanted, out[first + r]);
    }
  }
}

}  // namespace warpjet

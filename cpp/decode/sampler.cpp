// The device's side of sampling: slots' records, scratch, and the launches of a step.
#include "decode/decode.h"

#include <algorithm>
#include <memory>

namespace warpjet {

struct Sampler::State {
  State(const Catalogs& catalogs, Device& device, const Config& config);

  // A record on its way to the device.
  struct Staged {
    std::unique_ptr<Event> arrived;
    bool used = false;
  };

  template <class Op>
  const Kernel<Op>& kernel(const typename Op::Problem& problem) const {
    return catalogs.of<Op>().select(problem, device.info());
  }
  template <class Op>
  void reserve(const typename Op::Problem& most);  // its workspace; throws unsupported
  template <class Op>
  void launch(const typename Op::Args& args) {
    kernel<Op>(args.problem).run(args, device.stream());
  }

  Buffer allocate(std::int64_t rows, std::int64_t columns) {
    return device.allocate(static_cast<std::size_t>(rows * columns) * sizeof(std::int32_t));
  }
  SlotViews views(const SlotTexts& texts) const;
  LogprobViews report(TensorView tokens, std::int64_t rows, std::int64_t top) const;
  LogprobViews launch_logprob(TensorView logits, TensorView tokens, std::int64_t top);
  TensorView workspace_view() const {
    return TensorView(workspace.data(), DType::u8, {static_cast<std::int64_t>(workspace.bytes())});
  }

  const Catalogs& catalogs;
  Device& device;
  const Config config;
  const std::int64_t mask_words;

  // Of all slots.
  Buffer params, lists, masks;
  TensorView params_view, lists_view, masks_view;

  // Joins.
  const std::int64_t record_bytes;
  Buffer staging;  // [kStaged] records: SlotSampling, lists, mask
  std::vector<Staged> staged;
  std::size_t next_staged = 0;
  Buffer mask_staging;  // [slots, mask_words]: of masks that change

  // Of one call. What is [rows, vocab] is reserved whole: a device that gives pages on first use pays for rows that
  // need it. The ops share one workspace.
  Buffer raw, tokens, scored, results, workspace;
  Buffer logprobs, ranks, top_tokens, top_logprobs;
};

Sampler::State::State(const Catalogs& all, Device& on, const Config& c)
    : catalogs(all),
      device(on),
      config(c),
      mask_words(ceil_div<std::int64_t>(c.vocab, 32)),
      params(on.allocate(static_cast<std::size_t>(c.slots) * sizeof(SlotSampling))),
      lists(allocate(c.slots, kListWords)),
      masks(allocate(c.slots, mask_words)),
      params_view(params.data(), DType::u8, {c.slots, std::int64_t{sizeof(SlotSampling)}}),
      lists_view(lists.data(), DType::i32, {c.slots, kListWords}),
      masks_view(masks.data(), DType::i32, {c.slots, mask_words}),
      record_bytes(static_cast<std::int64_t>(sizeof(SlotSampling) + (kListWords + mask_words) * sizeof(std::int32_t))),
      staging(on.allocate_host(static_cast<std::size_t>(kStaged * record_bytes))),
      staged(kStaged),
      mask_staging(on.allocate_host(static_cast<std::size_t>(c.slots * mask_words) * sizeof(std::int32_t))),
      raw(allocate(c.rows, c.vocab)),
      tokens(allocate(c.rows, 1)),
      scored(allocate(c.rows, 1)),
      results(allocate(c.rows, 1)),
      logprobs(allocate(c.rows, 1)),
      ranks(allocate(c.rows, 1)),
      top_tokens(allocate(c.rows, c.max_top)),
      top_logprobs(allocate(c.rows, c.max_top)) {
  WJ_CHECK(c.max_top >= 0 && c.max_top <= c.vocab, c.max_top, " most likely tokens of ", c.vocab);
  for (Staged& record : staged) record.arrived = on.make_event();
  reserve<Penalize>({.rows = c.rows, .vocab = c.vocab});
  reserve<Select>({.rows = c.rows, .vocab = c.vocab});
  reserve<Logprob>({.rows = c.rows, .vocab = c.vocab, .top = c.max_top});
}

template <class Op>
void Sampler::State::reserve(const typename Op::Problem& most) {
  const Kernel<Op>& row = kernel<Op>(most);
  if (!row.workspace) return;
  const auto bytes = static_cast<std::size_t>(row.workspace(most, device.info()));
  if (bytes > workspace.bytes()) workspace = device.allocate(bytes);
}

// --- Joins ----------------------------------------------------------------------------------------------------------

Sampler::Sampler(const Catalogs& catalogs, Device& device, const Config& config)
    : state_(std::make_unique<State>(catalogs, device, config)) {}
Sampler::~Sampler() = default;

std::int64_t Sampler::bytes(const Config& c) {
  const std::int64_t words = kListWords + ceil_div<std::int64_t>(c.vocab, 32), word = sizeof(std::int32_t);
  return c.slots * (static_cast<std::int64_t>(sizeof(SlotSampling)) + words * word) +
         c.rows * (c.vocab + 5 + 2 * c.max_top) * word;
}

void Sampler::join(int slot, const RecordView& record) {
  State& s = *state_;
  WJ_CHECK(slot >= 0 && slot < s.config.slots, "slot ", slot, " of ", s.config.slots);
  WJ_CHECK(record.mask.empty() || std::cmp_equal(record.mask.size(), s.mask_words), record.mask.size(),
           " words of a mask");
  std::byte* next = s.staging.at(static_cast<std::int64_t>(s.next_staged) * s.record_bytes);
  State::Staged& staged = s.staged[s.next_staged];
  s.next_staged = (s.next_staged + 1) % s.staged.size();
  if (staged.used) staged.arrived->wait();
  staged.used = true;

  const auto upload = [&](const TensorView& rows, const auto& words) {
    const std::span<const std::byte> bytes = std::as_bytes(words);
    if (bytes.empty()) return;
    std::ranges::copy(bytes, next);
    s.device.stream().copy(rows.row<std::byte>(std::int64_t{slot} * dtype_bytes(rows.dtype)), next, bytes.size());
    next += bytes.size();
  };
  upload(s.params_view, std::span(&record.sampling, 1));
  upload(s.lists_view, record.lists);
  upload(s.masks_view, record.mask);
  s.device.stream().record(*staged.arrived);
}

// A slot's place is free again when its mask changes: the copy came before a draw whose token is known.
void Sampler::set_mask(int slot, std::span<const std::int32_t> mask) {
  State& s = *state_;
  WJ_CHECK(slot >= 0 && slot < s.config.slots, "slot ", slot, " of ", s.config.slots);
  WJ_CHECK(std::cmp_equal(mask.size(), s.mask_words), mask.size(), " words of a mask");
  auto* staged = reinterpret_cast<std::int32_t*>(s.mask_staging.data()) + slot * s.mask_words;
  std::ranges::copy(mask, staged);
  s.device.stream().copy(s.masks_view.row<std::int32_t>(slot), staged, mask.size_bytes());
}

// --- Steps ----------------------------------------------------------------------------------------------------------

SlotViews Sampler::State::views(const SlotTexts& texts) const {
  return {.params = params_view,
          .texts = texts.texts,
          .lengths = texts.lengths,
          .alive = texts.alive,
          .lists = lists_view,
          .masks = masks_view};
}

LogprobViews Sampler::State::report(TensorView whose, std::int64_t rows, std::int64_t top) const {
  return {.tokens = whose,
          .logprobs = TensorView(logprobs.data(), DType::f32, {rows}),
          .ranks = TensorView(ranks.data(), DType::i32, {rows}),
          .top_tokens = TensorView(top_tokens.data(), DType::i32, {rows, top}),
          .top_logprobs = TensorView(top_logprobs.data(), DType::f32, {rows, top})};
}

LogprobViews Sampler::State::launch_logprob(TensorView logits, TensorView whose, std::int64_t top) {
  const std::int64_t rows = whose.shape[0];
  const LogprobViews out = report(whose, rows, top);
  launch<Logprob>({.problem = {.rows = rows, .vocab = config.vocab, .top = top},
                   .logits = logits,
                   .tokens = whose,
                   .logprobs = out.logprobs,
                   .ranks = out.ranks,
                   .top_tokens = out.top_tokens,
                   .top_logprobs = out.top_logprobs,
                   .workspace = workspace_view()});
  return out;
}

TensorView Sampler::sample(TensorView logits, TensorView slots, const SlotTexts& texts, SampleNeeds needs) {
  State& s = *state_;
  const std::int64_t rows = slots.shape[0], vocab = s.config.vocab;
  WJ_CHECK(rows <= s.config.rows, "got ", rows, " rows, room for ", s.config.rows);
  const SlotViews views = s.views(texts);
  const TensorView raw(s.raw.data(), DType::f32, {rows, vocab});
  const TensorView tokens(s.tokens.data(), DType::i32, {rows}), scored(s.scored.data(), DType::i32, {rows});
  const TensorView results(s.results.data(), DType::i32, {rows});
  if (needs.edits || needs.logprobs) {
    s.launch<Penalize>({.problem = {.rows = rows, .vocab = vocab},
                        .logits = logits,
                        .slots = slots,
                        .views = views,
                        .raw = raw,
                        .workspace = s.workspace_view()});
  }
  s.launch<Select>({.problem = {.rows = rows, .vocab = vocab},
                    .logits = logits,
                    .slots = slots,
                    .views = views,
                    .tokens = tokens,
                    .scored = scored,
                    .workspace = s.workspace_view()});
  if (needs.logprobs) s.launch_logprob(raw, scored, s.config.max_top);
  s.launch<AppendTokens>(
      {.problem = {.rows = rows}, .slots = slots, .tokens = tokens, .views = views, .results = results});
  return results;
}

LogprobViews Sampler::logprobs(std::int64_t rows) const {
  const State& s = *state_;
  return s.report(TensorView(s.scored.data(), DType::i32, {rows}), rows, s.config.max_top);
}

LogprobViews Sampler::score(TensorView logits, TensorView tokens, int top) {
  WJ_CHECK(tokens.shape[0] <= state_->config.rows, "got ", tokens.shape[0], " rows, room for ", state_->config.rows);
  WJ_CHECK(top >= 0 && top <= state_->config.max_top, "top ", top, ", room for ", state_->config.max_top);
  return state_->launch_logprob(logits, tokens, top);
}

}  // namespace warpjet

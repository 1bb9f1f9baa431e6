#include "history_device.h"

#include <algorithm>

namespace warpjet::history {

namespace {

// What layers of a group keep of a state; it can be undone by doing it again.
KvState kept(KvState state, int group) {
  return state ^ (static_cast<KvState>(group) * 0x9e3779b97f4a7c15u);
}

}  // namespace

ToyDevice::ToyDevice(const Config& config) : config_(config), slots_(config.num_slots) {
  kv_[0].resize(static_cast<std::size_t>(config.num_blocks) * config.block_size);
  kv_[1].resize(static_cast<std::size_t>(config.num_host_blocks) * config.block_size);
}

void ToyDevice::start(const Batch& batch, StepResult& result) {
  WJ_CHECK(batch.step == ++steps_, "step ", batch.step, " came as number ", steps_);
  for (const SlotChange& change : batch.changes) apply(change, batch);
  for (const Copy& c : batch.copies) copy(c);
  fill(batch);
  for (const Row& row : rows_) write(row);
  for (const Row& row : rows_) check_reads(row);
  score(batch, result);
  sample(result);
  result.us = 20 + 3 * batch.num_tokens;
  ++counts_.steps;
  counts_.rows += std::ssize(rows_);
}

// --- Slots ----------------------------------------------------------------------------------------------------------

ToyDevice::SlotState& ToyDevice::slot(Slot slot) {
  WJ_CHECK(slot >= 0 && slot < config_.num_slots && !slots_[slot].record.empty(), "nobody is in slot ", slot);
  return slots_[slot];
}

void ToyDevice::apply(const SlotChange& change, const Batch& batch) {
  switch (change.kind) {
    case SlotChange::Kind::join:
      return join(change.slot, batch.joins.at(change.a), batch);
    case SlotChange::Kind::block:
      return set_block(slot(change.slot), change.group, change.a, change.b);
    case SlotChange::Kind::token:
      return rewrite(slot(change.slot), change.a, change.b);
    case SlotChange::Kind::mask:
      WJ_CHECK(!slot(change.slot).sampling.mask.empty() && change.b == 1, "slot ", change.slot, " has no mask");
      slot(change.slot).mask = batch.at({change.a, change.b})[0];
      return;
    case SlotChange::Kind::decode:
      WJ_CHECK(slot(change.slot).decode_index < 0, "slot ", change.slot, " decodes already");
      slot(change.slot).decode_index = static_cast<int>(decoding_.size());
      return decoding_.push_back(change.slot);
    case SlotChange::Kind::pause:
      return leave_decoding(slot(change.slot));
    case SlotChange::Kind::leave:
      WJ_CHECK(slot(change.slot).decode_index < 0, "slot ", change.slot, " leaves and still decodes");
      slots_[change.slot] = {};
      return;
  }
}

void ToyDevice::join(Slot index, const Join& join, const Batch& batch) {
  WJ_CHECK(index >= 0 && index < config_.num_slots && slots_[index].record.empty(), "somebody is in slot ", index);
  SlotState& s = slots_[index];
  const std::span<const std::int32_t> record = batch.at(join.record);
  s.record.assign(record.begin(), record.end());
  s.sampling = read_record(s.record);
  s.mask = s.sampling.mask.empty() ? kAllAllowed : s.sampling.mask[0];
  const bool own_keys = config_.rules.rope_original > 0 && s.prompt_length() > config_.rules.rope_original;
  s.states = {first_state(salt_of(s.sampling.sampling.key), own_keys ? s.prompt_length() : 0)};
  if (join.prefix > 0) {
    const SlotState& source = slot(join.source);
    WJ_CHECK(join.prefix <= std::ssize(source.text) && source.states[0] == s.states[0], "a foreign prefix");
    s.text.assign(source.text.begin(), source.text.begin() + join.prefix);
    s.states.assign(source.states.begin(), source.states.begin() + join.prefix + 1);
  }
  s.alive = true;
  for (const std::int32_t token : batch.at(join.tokens)) append(s, token);
  s.alive = true;
  WJ_CHECK(std::ssize(s.text) >= s.prompt_length(), "a text that is shorter than its prompt");
  ++counts_.joins;
  counts_.forks += join.prefix > 0;
}

void ToyDevice::set_block(SlotState& s, int group, int index, BlockId block) {
  WJ_CHECK(group >= 0 && group < num_groups(), "group ", group, " of ", num_groups());
  WJ_CHECK(index >= 0 && block >= 0 && block < config_.num_blocks, "table[", index, "] = ", block);
  std::vector<BlockId>& table = s.tables[group];
  if (std::cmp_less_equal(table.size(), index)) table.resize(index + 1, kNoBlock);
  counts_.exchanges += table[index] > kNullBlock && block > kNullBlock && block != table[index];
  table[index] = block;
}

KvState& ToyDevice::kv(const SlotState& s, int group, int position) {
  const std::vector<BlockId>& table = s.tables[group];
  const int index = position / config_.block_size;
  WJ_CHECK(index < std::ssize(table) && table[index] > kNullBlock, "slot ", &s - slots_.data(), " has no block at ",
           position, " in group ", group);
  return kv_[0][table[index] * config_.block_size + position % config_.block_size];
}

// All groups have the same; where they do not, what comes of it is wrong too.
KvState ToyDevice::read(const SlotState& s, int position) {
  const KvState state = kv(s, 0, position);
  for (int group = 1; group < num_groups(); ++group) {
    const KvState other = kept(kv(s, group, position), group);
    if (other != state) return next_state(state ^ other, 0);
  }
  return state;
}

void ToyDevice::rewrite(SlotState& s, int index, std::int32_t token) {
  const int length = static_cast<int>(s.text.size());
  WJ_CHECK((index == length || index == length - 1) && index >= s.prompt_length(), "not the next token: ", index);
  WJ_CHECK(s.next <= index, "the token at ", index, " was computed already");
  s.text.resize(index);
  s.states.resize(index + 1);
  append(s, token);
  s.alive = true;
  ++counts_.rewrites;
}

void ToyDevice::leave_decoding(SlotState& s) {
  WJ_CHECK(s.decode_index >= 0, "a slot that does not decode pauses");
  decoding_[s.decode_index] = decoding_.back();
  slots_[decoding_.back()].decode_index = s.decode_index;
  decoding_.pop_back();
  s.decode_index = -1;
}

void ToyDevice::copy(const Copy& c) {
  const auto place = [&](Tier tier, BlockId block) {
    const auto at = static_cast<std::size_t>(block) * config_.block_size;
    auto& memory = kv_[static_cast<int>(tier)];
    WJ_CHECK(block > kNullBlock && at < memory.size(), "a copy of or to block ", block);
    return memory.begin() + static_cast<std::ptrdiff_t>(at);
  };
  std::copy_n(place(c.from, c.source), config_.block_size, place(c.to, c.target));
  WJ_CHECK(c.from == Tier::device || c.to == Tier::device, "a copy within the host");
  if (c.to == Tier::host) {
    ++counts_.offloads;
  } else {
    ++(c.from == Tier::host ? counts_.restores : counts_.device_copies);
  }
}

// --- Rows -----------------------------------------------------------------------------------------------------------

void ToyDevice::fill(const Batch& batch) {
  rows_.clear();
  samples_.clear();
  int tokens = 0;
  for (const Slot decoding : decoding_) {
    ++tokens;
    const SlotState& s = slot(decoding);
    samples_.push_back({decoding, s.alive ? static_cast<int>(rows_.size()) : -1});
    if (s.alive) add_row(decoding, static_cast<int>(s.text.size()) - 1, 1);
    counts_.surplus += !s.alive;
  }
  WJ_CHECK(std::cmp_equal(decoding_.size(), batch.num_decodes), decoding_.size(), " slots decode, planned ",
           batch.num_decodes);
  auto next = batch.sample_slots.begin();
  for (const Chunk& chunk : batch.chunks) {
    const SlotState& s = slot(chunk.slot);
    tokens += chunk.count;
    WJ_CHECK(s.alive && s.decode_index < 0 && chunk.count > 0, "a chunk of slot ", chunk.slot);
    const bool whole = chunk.start + chunk.count == std::ssize(s.text);
    WJ_CHECK(whole == (chunk.num_samples > 0), "slot ", chunk.slot, " is sampled before its text ends, or not then");
    add_row(chunk.slot, chunk.start, chunk.count);
    for (int i = 0; i < chunk.num_samples; ++i, ++next) {
      WJ_CHECK(next != batch.sample_slots.end() && (i > 0 || *next == chunk.slot));
      WJ_CHECK(slot(*next).states.back() == s.states.back(), "slot ", *next, " is sampled from another text");
      samples_.push_back({*next, static_cast<int>(rows_.size()) - 1});
      counts_.siblings += i > 0;
    }
  }
  WJ_CHECK(next == batch.sample_slots.end() && std::ssize(samples_) == batch.num_samples());
  WJ_CHECK(tokens == batch.num_tokens && tokens <= config_.max_tokens, tokens, " tokens, planned ", batch.num_tokens);
  WJ_CHECK(std::ssize(samples_) <= config_.max_seqs && std::ssize(rows_) <= config_.max_seqs, samples_.size(),
           " samples, ", rows_.size(), " rows");
}

void ToyDevice::add_row(Slot index, int start, int count) {
  SlotState& s = slot(index);
  WJ_CHECK(s.next < 0 || s.next == start, "slot ", index, " goes on at ", start, " instead of ", s.next);
  WJ_CHECK(start + count <= std::ssize(s.text), "a row beyond the text");
  WJ_CHECK(std::ranges::none_of(rows_, [&](const Row& row) { return row.slot == index; }), "twice in a step");
  s.next = start + count;
  rows_.push_back({index, start, count});
}

// The new states come from the one that is read before them, as an attention's output comes from what it reads.
void ToyDevice::write(const Row& row) {
  const SlotState& s = slots_[row.slot];
  const int size = config_.block_size;
  KvState state = row.start > 0 ? read(s, row.start - 1) : s.states[0];
  for (int i = row.start; i < row.start + row.count; ++i) {
    state = next_state(state, s.text[i]);
    for (int group = 0; group < num_groups(); ++group) {
      KvState& place = kv(s, group, i);
      const KvState value = kept(state, group);
      if (place != value) check_overwrite(row.slot, group, s.tables[group][i / size], i % size, value);
      place = value;
    }
  }
  counts_.grouped += num_groups() > 1;
}

// Nobody else sees what is written over. (A text that has ended is not read any more, but the engine does not know yet:
// with a window it lets go of what that text would not see later on.)
void ToyDevice::check_overwrite(Slot writer, int group, BlockId block, int offset, KvState state) const {
  for (Slot other = 0; other < config_.num_slots; ++other) {
    const SlotState& s = slots_[other];
    if (s.record.empty() || other == writer) continue;
    for (int of = 0; of < num_groups(); ++of) {
      const std::vector<BlockId>& table = s.tables[of];
      if (config_.windows[of] > 0 && !s.alive) continue;
      for (std::size_t i = 0; i < table.size(); ++i) {
        const int position = static_cast<int>(i) * config_.block_size + offset;
        if (table[i] != block || position >= s.verified || position < first_visible(of, s.next)) continue;
        WJ_CHECK(of == group && kept(s.states[position + 1], of) == state, "slot ", writer, " writes over position ",
                 position, " of slot ", other, ", block ", block, ", group ", of);
      }
    }
  }
}

void ToyDevice::check_reads(const Row& row) {
  SlotState& s = slots_[row.slot];
  for (int group = 0; group < num_groups(); ++group) {
    const int first = first_visible(group, row.start);
    counts_.beyond_window += first >= config_.block_size;
    for (int i = first; i < row.start + row.count; ++i) {
      WJ_CHECK(kept(kv(s, group, i), group) == s.states[i + 1], "slot ", row.slot, " reads a foreign state at ", i,
               " of ", row.start + row.count, ", block ", s.tables[group][i / config_.block_size], " of group ", group);
    }
  }
  s.verified = row.start + row.count;
}

// --- Results --------------------------------------------------------------------------------------------------------

void ToyDevice::score(const Batch& batch, StepResult& result) const {
  result.scored.clear();
  for (const Chunk& chunk : batch.chunks) {
    const SlotState& s = slots_[chunk.slot];
    const int top = s.sampling.prompt_logprobs;
    for (int i = 0; top >= 0 && i < num_scored(chunk, s.prompt_length()); ++i) {
      const int position = chunk.start + i;
      const std::int32_t token = s.text[position + 1];
      result.scored.tokens.push_back(token);
      result.scored.logprobs.push_back(logprobs_of(s.states[position + 1], token, top));
    }
    result.scored.end_range();
  }
}

void ToyDevice::sample(StepResult& result) {
  TokenRanges& out = result.sampled;
  out.clear();
  for (const Sample& sample : samples_) {
    if (sample.row >= 0) {
      const Row& row = rows_[sample.row];
      const int last = row.start + row.count - 1;
      const KvState state = read(slots_[row.slot], last);
      SlotState& s = slot(sample.slot);
      const std::int32_t token = draw_next(s, state);
      const int top = s.sampling.sampling.logprobs;
      out.tokens.push_back(token);
      out.logprobs.push_back(top >= 0 && token >= 0 ? logprobs_of(state, token, top) : Logprobs());
    }
    out.end_range();
  }
}

std::int32_t ToyDevice::draw_next(SlotState& s, KvState state) {
  const SlotSampling& sampling = s.sampling.sampling;
  const bool below_min = std::ssize(s.text) - s.prompt_length() < sampling.min_tokens;
  const auto banned = below_min ? s.sampling.stop_ids() : std::span<const std::int32_t>();
  const std::int32_t token = draw(state, sampling.key, banned, s.mask);
  counts_.broken += token == kBrokenToken;
  append(s, token);
  if (!s.sampling.mask.empty()) s.mask = 0;  // it was for this token alone
  return token;
}

void ToyDevice::append(SlotState& s, std::int32_t token) {
  if (token < 0) {
    s.alive = false;
    return;
  }
  WJ_CHECK(std::ssize(s.text) <= config_.rules.max_model_len, "a text of more than ", config_.rules.max_model_len);
  s.text.push_back(token);
  s.states.push_back(next_state(s.states.back(), token));
  s.alive = !is_stop(s.sampling, token, static_cast<int>(s.text.size()) - s.prompt_length());
}

// --- The executor ---------------------------------------------------------------------------------------------------

StepwiseExecutor::StepwiseExecutor(ToyDevice& device, int depth, const Faults& faults)
    : device_(device), faults_(faults), ring_(depth + 1) {}

// A step that runs when the engine ends is still run.
StepwiseExecutor::~StepwiseExecutor() {
  try {
    complete();
  } catch (const std::exception& e) {
    WJ_LOG(error, "the last step: ", e.what());
  }
}

void StepwiseExecutor::launch(Batch& batch) {
  WJ_CHECK(launched_ - taken_ + 1 < ring_.size(), launched_ - taken_, " batches are in flight");
  WJ_REQUIRE(!faults_.plan || !faults_.plan->hit(), device, "injected fault: launch");
  std::swap(entry(launched_).batch, batch);
  ++launched_;
}

StepResult* StepwiseExecutor::poll() {
  return taken_ == completed_ ? nullptr : &entry(taken_++).result;
}

bool StepwiseExecutor::complete() {
  if (launched_ == completed_) return false;
  Entry& e = entry(completed_);
  if (faults_.silent_from >= 0 && std::cmp_greater_equal(e.batch.step, faults_.silent_from)) return false;
  const bool fails = std::cmp_equal(e.batch.step, faults_.error_at) || (faults_.plan && faults_.plan->hit());
  if (fails) error_ = std::make_exception_ptr(Error(ErrorCode::device, "injected fault: step", __FILE__, __LINE__));
  e.result.error = error_;
  try {
    if (!error_) {
      to_bytes(e.batch, bytes_);
      from_bytes(bytes_, sent_);
      WJ_CHECK(digest(sent_) == digest(e.batch), "step ", sent_.step, " has changed on its way");
      device_.start(sent_, e.result);
    }
  } catch (...) {
    error_ = std::current_exception();  // nothing is run after that
    throw;
  }
  ++completed_;
  return true;
}

}  // namespace warpjet::history

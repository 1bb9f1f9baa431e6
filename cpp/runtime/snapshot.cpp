// Snapshots: what the engine looks like between two steps.
#include "runtime/step_loop.h"

#include <algorithm>

namespace warpjet {

namespace {

constexpr int kMostHolders = 254, kCachedBlock = 255;

std::string_view state_of(const Sequence& sequence) {
  const bool again = sequence.state == SequenceState::waiting && sequence.preemptions > 0;
  return again ? "preempted" : to_string(sequence.state);
}

}  // namespace

void StepLoop::State::take_snapshot(std::uint64_t since_step, Snapshot& out) {
  out.step = retired_;
  out.now_us = now_;
  out.block_size = kv_.block_size();
  out.kv_blocks = kv_.device().num_blocks() - 1;
  out.max_model_len = config_.model.max_model_len;
  out.max_num_seqs = config_.engine.max_num_seqs;
  out.pool.resize(out.kv_blocks);
  for (BlockId block = 1; block <= out.kv_blocks; ++block) {  // the null block is nobody's
    const int holders = kv_.device().holders(block);
    const bool cached = holders == 0 && kv_.device().node(block) != kNoNode;
    out.pool[block - 1] = static_cast<std::uint8_t>(cached ? kCachedBlock : std::min(holders, kMostHolders));
  }
  std::vector<const Sequence*> sequences;
  scheduler_.list(Snapshot::kMaxSequences, sequences);
  out.sequences.resize(sequences.size());
  for (std::size_t i = 0; i < sequences.size(); ++i) describe(*sequences[i], out.sequences[i]);
  recorder_.watch(now_);
  recorder_.read(since_step, out);
}

void StepLoop::State::describe(const Sequence& sequence, Snapshot::Sequence& out) const {
  const Sample& sample = *static_cast<const Sample*>(sequence.user);
  out.id = sample.live->id;
  out.sample = sample.index;
  out.state = state_of(sequence);
  out.prompt = sequence.prompt_length;
  out.output = sequence.output_length();
  out.computed = sequence.computed;
  out.cached = sequence.cached;
  std::size_t count = 0;
  for (const BlockList& list : sequence.table.groups) count += list.blocks.size() - list.first;
  out.blocks.reserve(count);
  for (const BlockList& list : sequence.table.groups) {
    for (std::size_t i = list.first; i < list.blocks.size(); ++i) out.blocks.push_back(list.blocks[i] - 1);
  }
}

Snapshot StepLoop::State::snapshot(std::uint64_t since_step) {
  Snapshot out;
  ask([&] { take_snapshot(since_step, out); });
  return out;
}

}  // namespace warpjet

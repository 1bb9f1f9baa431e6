// Plans as plain data.
#include "schedule/schedule.h"

namespace warpjet {

void StepPlan::clear() {
  changes.clear();
  joins.clear();
  tokens.clear();
  copies.clear();
  chunks.clear();
  sample_slots.clear();
  num_decodes = num_tokens = 0;
}

namespace {

class Mixer {
 public:
  template <class... Numbers>
  void mix(Numbers... numbers) {
    const std::int64_t words[] = {static_cast<std::int64_t>(numbers)...};
    state_ = hash64(std::as_bytes(std::span(words)), state_);
  }
  std::uint64_t state() const { return state_; }

 private:
  std::uint64_t state_ = 0;
};

}  // namespace

std::uint64_t digest(const StepPlan& plan) {
  Mixer mixer;
  mixer.mix(plan.step, plan.num_decodes, plan.num_tokens);
  for (const SlotChange& c : plan.changes) mixer.mix(c.kind, c.slot, c.a, c.b);
  for (const Join& j : plan.joins) mixer.mix(j.source, j.prefix, j.first, j.count, j.prompt_length);
  for (const std::int32_t token : plan.tokens) mixer.mix(token);
  for (const Copy& c : plan.copies) mixer.mix(c.from, c.to, c.source, c.target);
  for (const Chunk& c : plan.chunks) mixer.mix(c.slot, c.start, c.count, c.num_samples);
  for (const Slot slot : plan.sample_slots) mixer.mix(slot);
  return mixer.state();
}

std::string_view to_string(SequenceState state) {
  switch (state) {
    case SequenceState::parked:
      return "parked";
    case SequenceState::waiting:
      return "waiting";
    case SequenceState::running:
      return "running";
    case SequenceState::paused:
      return "paused";
    case SequenceState::draining:
      return "draining";
    case SequenceState::finished:
      return "finished";
  }
  return "unknown";
}

std::string_view to_string(WaitReason reason) {
  switch (reason) {
    case WaitReason::none:
      return "none";
    case WaitReason::queue:
      return "queue";
    case WaitReason::seqs:
      return "seqs";
    case WaitReason::blocks:
      return "blocks";
    case WaitReason::prefix:
      return "prefix";
    case WaitReason::preempted:
      return "preempted";
    case WaitReason::reader:
      return "reader";
    case WaitReason::guide:
      return "guide";
  }
  return "unknown";
}

}  // namespace warpjet

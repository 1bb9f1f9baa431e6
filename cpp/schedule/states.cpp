// The names of states and reasons.
#include "schedule/schedule.h"

namespace warpjet {

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

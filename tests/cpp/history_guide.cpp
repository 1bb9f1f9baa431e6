#include "history_guide.h"

#include "history_ledger.h"

namespace warpjet::history {

void ToyGuide::accepted(const Request& request, RequestId id) {
  KvState state = prompt_state(request, rules_);
  for (const std::int32_t token : request.prompt) state = next_state(state, token);
  for (int i = 0; i < request.sampling.n; ++i) live_[{id, i}] = {.state = state};
}

std::vector<Guidance> ToyGuide::answer(int count) {
  for (const Output& output : queue_->poll(std::chrono::nanoseconds(0))) {
    const Key key = {output.id, output.sample};
    const auto found = live_.find(key);
    WJ_CHECK(found != live_.end(), "the guide hears of request ", output.id, ".", output.sample, " after its end");
    for (const std::int32_t token : output.tokens) {
      found->second.state = next_state(found->second.state, token);
      ++found->second.length;
    }
    if (output.is_final()) {
      live_.erase(found);
    } else {
      waiting_.push_back(key);
    }
  }
  std::vector<Guidance> answers;
  const auto end = waiting_.begin() + std::min<std::ptrdiff_t>(count, std::ssize(waiting_));
  for (auto key = waiting_.begin(); key != end; ++key) {
    const auto found = live_.find(*key);
    if (found == live_.end()) continue;
    const auto [state, length] = found->second;
    const ToyGuidance said = guidance_of(state);
    const Guidance right = {.id = key->first,
                            .sample = key->second,
                            .position = length,
                            .kind = said.kind,
                            .mask = {said.mask},
                            .error = kGuideFailed};
    Guidance early = right, foreign = right;
    early.position += 1;
    foreign.sample += 5;
    answers.insert(answers.end(), {early, foreign, right, right});
  }
  waiting_.erase(waiting_.begin(), end);
  return answers;
}

}  // namespace warpjet::history

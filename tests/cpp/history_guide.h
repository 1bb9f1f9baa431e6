// The guide of a history: hears tokens from its queue and says what the toy model's rules say of the text so far. It
// knows only what it has heard.
#pragma once

#include "history_model.h"

#include <map>
#include <memory>
#include <vector>

namespace warpjet::history {

class ToyGuide {
 public:
  explicit ToyGuide(const Rules& rules) : rules_(rules), queue_(std::make_shared<OutputQueue::State>()) {}
  const std::shared_ptr<OutputQueue::State>& queue() const { return queue_; }
  void accepted(const Request& request, RequestId id);
  // Listens, then answers at most `count` of the samples that wait, the ones that have waited longest first. Beside
  // them are answers that must have no effect.
  std::vector<Guidance> answer(int count);
  int num_live() const { return static_cast<int>(live_.size()); }  // samples without a final output

 private:
  struct Text {
    KvState state = 0;
    int length = 0;  // of the output
  };
  using Key = std::pair<RequestId, int>;

  const Rules rules_;
  const std::shared_ptr<OutputQueue::State> queue_;
  std::map<Key, Text> live_;
  std::vector<Key> waiting_;
};

}  // namespace warpjet::history

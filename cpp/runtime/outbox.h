// Events of samples on their way into output queues: those of one step are one output. Engine thread.
#pragma once

#include "runtime/output_queue.h"

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

namespace warpjet {

// A queue that events of a request go to: its reader's, or its mask provider's.
struct Reader {
  std::shared_ptr<OutputQueue::State> queue;
  ReadCredit* credit = nullptr;

  void open(std::shared_ptr<OutputQueue::State> to, int samples, const std::shared_ptr<Doorbell>& bell) {
    queue = std::move(to);
    credit = queue->open(samples, bell);
  }
  void close() {
    if (credit) queue->close(std::exchange(credit, nullptr));
  }
};

// The events of one sample to one reader.
struct Speech {
  std::uint32_t outputs = 0;      // begun so far
  std::uint64_t step = 0;         // of the latest
  std::unique_ptr<Output> final;  // made when the request comes, so that ending never needs memory
};

class Outbox {
 public:
  // Events from here on belong to new outputs.
  void begin_step() { ++step_; }
  // Takes the event, or throws bad_alloc and nothing has happened.
  void push(const Reader& reader, Speech& speech, OutputEvent& event);
  void push_final(const Reader& reader, Speech& speech, RequestId id, std::int32_t sample);
  // Makes everything visible that was pushed.
  void deliver();

 private:
  std::vector<std::shared_ptr<OutputQueue::State>> delivery_;  // queues with news
  std::uint64_t step_ = 1;
};

}  // namespace warpjet

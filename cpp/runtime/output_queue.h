// Outputs on their way from the engine thread to a reader.
#pragma once

#include <warpjet/engine.h>

#include "device/device.h"

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <vector>

namespace warpjet {

// How much of a request's output has been read. Belongs to its queue, from submit() until the reader took its last
// final output.
struct ReadCredit {
  std::atomic<std::int64_t> read{0};  // tokens, by the reader
  std::atomic<bool> wanted{false};    // the engine waits for the reader: ring
  std::shared_ptr<Doorbell> bell;     // the engine's
  int finals_left = 0;                // the reader's
};

// One thing that happened to a sample, as it travels to the reader, who assembles Outputs from them. A token without
// details is this alone, and costs no memory.
struct OutputEvent {
  RequestId id = 0;
  ReadCredit* credit = nullptr;
  std::int32_t sample = 0;
  std::int32_t token = -1;          // -1: none
  std::uint32_t sequence = 0;       // of the Output that it begins or continues: all events of a step share one
  std::unique_ptr<Output> details;  // log-probabilities, first-token and final facts; its tokens are unused
};

// Where outputs wait for their reader: one writer (the engine thread), readers behind a mutex of their own. The writer
// never waits: events go into segments that are used again.
struct OutputQueue::State {
  State();
  ~State();

  // User threads.
  ReadCredit* open(int samples, std::shared_ptr<Doorbell> bell);  // for a request that will be submitted
  void close(ReadCredit* credit);                                 // it was not, after all
  std::vector<Output> poll(std::chrono::nanoseconds timeout);

  // Engine thread. push() either takes the event or throws bad_alloc and leaves it as it was; publish() makes
  // everything that was pushed visible, with at most one wake-up.
  void push(OutputEvent&& event);
  void publish();

  bool in_delivery = false;  // the engine's: it has pushed and not published yet
  int event_fd = -1;
  struct Rest;
  std::unique_ptr<Rest> rest;
};

}  // namespace warpjet

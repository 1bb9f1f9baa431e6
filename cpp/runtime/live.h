// The records of live requests. Engine thread, but for the time before a record is handed over.
#pragma once

#include "decode/decode.h"
#include "runtime/outbox.h"
#include "schedule/schedule.h"

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace warpjet {

struct Live;

// A finished beam.
struct Hypothesis {
  std::vector<std::int32_t> tokens;
  double log_probability = 0, rank = 0;
  FinishReason finish = FinishReason::stop;
  std::int32_t stop_token = -1;
};

// One of the answers to a request. A beam is one too.
struct Sample {
  Live* live = nullptr;
  int index = 0;
  Sequence* sequence = nullptr;  // owned by the scheduler
  bool ended = false;
  Speech said, told;                // to the reader; to the guide
  std::vector<std::int32_t> words;  // how it is sampled; with a guide the mask is the next token's
  RecordView record;                // of these words
  int held_index = -1;              // in Masks, while it waits there
  Micros last_token = 0, first_token = 0;
  Micros prefill = 0;                 // time spent running until then
  double score = 0;                   // of a beam: sum of log-probabilities
  std::vector<TokenLogprob> choices;  // of a beam: the most likely next tokens, once they are known
};

// A request from submit() until each of its samples has had its final output, and its last step has retired.
struct Live {
  RequestId id = 0;
  Request request;  // its prompt moves into the first sequence
  int prompt_length = 0;
  Reader reader, guide;
  std::int64_t pushed = 0, read = 0;  // tokens; `read` may be behind
  std::vector<Sample> samples;
  int num_running = 0;
  bool paused = false, unread = false;  // by the caller, by its reader
  bool broken = false;                  // of beams: a row was
  std::vector<std::int32_t> stop_ids;
  std::vector<std::vector<TokenLogprob>> prompt_logprobs;
  std::vector<Hypothesis> hypotheses;  // finished beams, best first
  bool has_deadline = false;
  Micros submitted = 0, scheduled = -1;
  bool beams() const { return request.sampling.beam_width > 1; }
  bool guided() const { return guide.queue != nullptr; }
};

}  // namespace warpjet

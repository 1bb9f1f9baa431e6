// What an engine is doing at this moment, and did in the last few: for whoever watches it.
#pragma once

#include <warpjet/engine.h>

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

namespace warpjet {

// One look at an engine, between two of its steps. Times are microseconds of the steady clock, unless their name says
// otherwise; blocks are numbered from 0 to kv_blocks - 1.
struct Snapshot {
  static constexpr std::size_t kMaxSequences = 512, kMaxSteps = 128, kMaxRows = 256, kMaxEvents = 4096;

  // One sample of one request that has not ended.
  struct Sequence {
    RequestId id = 0;
    int sample = 0;
    std::string_view state;            // running, waiting, paused, parked (for another's prefix) or preempted
    int prompt = 0, output = 0;        // tokens
    int computed = 0;                  // tokens of both whose keys and values are there
    int cached = 0;                    // prompt tokens that it found in the prefix cache
    std::vector<std::int32_t> blocks;  // of each group of layers in the order of the text; released ones are left out
  };
  // What a step computed of one sample: tokens [start, start + count) of its text. No tokens: it began with what
  // another sample of its request computed in this step.
  struct Row {
    RequestId id = 0;
    int sample = 0, start = 0, count = 0;
  };
  struct Step {
    std::uint64_t step = 0;
    std::int64_t us = 0;        // how long the device worked on it
    std::int64_t start_us = 0;  // when it began to
    std::vector<Row> rows;      // at most kMaxRows
  };
  struct FirstToken {
    RequestId id = 0;
    std::uint64_t step = 0;
    double ttft_ms = 0;  // since the request came
  };
  // The end of a sample. One that came between two steps, such as a cancel, has the number of the step to come.
  struct End {
    RequestId id = 0;
    int sample = 0;
    std::uint64_t step = 0;
    FinishReason reason = FinishReason::stop;
    int output_tokens = 0;
    double total_ms = 0;  // since the request came
  };

  std::uint64_t step = 0;  // the last one whose results are known
  std::int64_t now_us = 0;
  int block_size = 0, kv_blocks = 0, max_model_len = 0, max_num_seqs = 0;
  std::vector<std::uint8_t>
      pool;  // [kv_blocks]: 0 free, 255 cached and held by nobody, else by how many (254: or more)
  std::vector<Sequence> sequences;       // at most kMaxSequences: those that run first, then those that wait, in order
  std::vector<Step> steps;               // the latest kMaxSteps at most
  std::vector<FirstToken> first_tokens;  // of each request's first sample; the latest kMaxEvents at most
  std::vector<End> finished;             // the latest kMaxEvents at most
};

}  // namespace warpjet

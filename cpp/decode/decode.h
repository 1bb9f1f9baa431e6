// From logits to tokens, for a batch of rows with different SamplingParams. A stage fills the device arrays of one
// sampling op from the rows' parameters and launches it; THE TABLE of stages in sampler.cpp is the order of sampling.
#pragma once

#include <warpjet/config.h>
#include <warpjet/engine.h>

#include "ops/catalog.h"

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace warpjet {

// What one sampled row needs. Spans stay valid during the call. Token ids were checked against the vocabulary when the
// request came. A sequence in bad_words_token_ids bans its last token where the text, prompt included, ends with the
// others; one of length 1 is banned always.
struct SampleRow {
  const SamplingParams* params = nullptr;
  std::uint64_t key = 0;                 // random_key(seed, sample)
  std::span<const std::int32_t> tokens;  // prompt and output so far
  int prompt_length = 0;
  std::span<const std::int32_t> banned_before_min = {};  // eos and stop tokens, banned until min_tokens are out
  int logprobs = -1;                                     // how many top entries; -1 none wanted
};

// How a sequence is sampled: what the device must know of its request. Valid as long as the sequence has a slot.
struct SampleState {
  const SamplingParams* params = nullptr;
  std::uint64_t key = 0;                   // random_key(seed, sample)
  std::span<const std::int32_t> stop_ids;  // end its text, and are banned before min_tokens are out
  int logprobs = -1;                       // most likely tokens to report with each token; -1 is none wanted
  int prompt_logprobs = -1;                // the same for the prompt
};

// Whether `token` ends a text that has `output_length` tokens of output, this one included. The device and the engine
// ask the same question of the same data, so they agree.
bool is_stop(const SampleState& state, std::int32_t token, int output_length);

constexpr std::int32_t kBrokenToken = -1;   // no finite logit: a broken row; others are not affected
constexpr std::int32_t kSurplusToken = -2;  // the text had ended before this step ran

struct SampledRow {
  std::int32_t token = kBrokenToken;
  std::vector<TokenLogprob> logprobs;  // the token's own first, then the most likely; empty unless wanted
};

// Draws one token a row. Owned by the stepping thread. Buffers are sized at construction for max_rows rows; only those
// whose size depends on the requests (penalised text, biases, masks, top log-probabilities) grow, by doubling.
class Sampler {
 public:
  Sampler(const Catalogs& catalogs, Device& device, std::int64_t vocab, std::int64_t max_rows);
  ~Sampler();

  // logits [rows, vocab] f32 are changed in place. `out` has one entry a row.
  void sample(TensorView logits, std::span<const SampleRow> rows, std::span<SampledRow> out);

  // Log-probabilities of given tokens (prompt_logprobs): logits are not changed.
  void score(TensorView logits, std::span<const std::int32_t> tokens, int top, std::span<SampledRow> out);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace warpjet

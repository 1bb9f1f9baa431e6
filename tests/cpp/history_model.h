// The toy model of histories: what a device that cannot go wrong would compute, as pure functions. The state after a
// token is a hash of the whole text up to it; logits, and so the next token, follow from the state alone. So a
// request's output is known when it comes, and whoever mixes up keys and values changes it.
#pragma once

#include "runtime/runtime.h"

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace warpjet::history {

using Tokens = std::vector<std::int32_t>;
using KvState = std::uint64_t;
using Logprobs = std::vector<TokenLogprob>;

constexpr int kVocab = 11;  // few tokens: outputs share prefixes too, and beams see most of them
constexpr std::int32_t kEos = 2;

// Requests are told apart by what the device sees of them: the seed, whose last digit is the salt. salt_of() finds it
// in the key of a sample.
constexpr int kNumSalts = 3;
std::int64_t make_seed(int number, int salt);
int salt_of(std::uint64_t key);
std::string salt_text(int salt);

// Before the first token; `rope_length` is not 0 when keys depend on the prompt's length.
KvState first_state(int salt, int rope_length);
KvState next_state(KvState state, std::int32_t token);

// The token that a sample with this key draws; `banned` ones are not drawn. Some states are broken: kBrokenToken.
bool is_broken(KvState state);
constexpr std::int32_t kAllAllowed = (1 << kVocab) - 1;
std::int32_t draw(KvState state, std::uint64_t key, std::span<const std::int32_t> banned,
                  std::int32_t mask = kAllAllowed);
// What guides say where a text has come to: the mask of what may follow, or that nothing does.
struct ToyGuidance {
  Guidance::Kind kind = Guidance::Kind::go_on;
  std::int32_t mask = kAllAllowed;
};
ToyGuidance guidance_of(KvState state);
// The entry of `token`, then the `top` most likely ones.
Logprobs logprobs_of(KvState state, std::int32_t token, int top);

// What the rules of a model and an engine say about a request, besides its own parameters.
struct Rules {
  int max_model_len = 0;
  int rope_original = 0;  // longer prompts have keys of their own
};

// What a sample turns out to be when nothing comes in between.
struct Ending {
  Tokens tokens;
  std::vector<Logprobs> logprobs;  // of the tokens, when asked for
  FinishReason finish = FinishReason::length;
  std::int32_t stop_token = -1;
  double log_probability = 0;  // of a beam
  bool sure = true;            // false: beams of equal scores, whose order is nobody's business
};

// One for each sample. `key_seed` is what the keys of a request without a seed are made of.
std::vector<Ending> run_alone(const Request& request, const Rules& rules, std::uint64_t key_seed);
std::vector<Logprobs> prompt_logprobs(const Request& request, const Rules& rules);  // entry 0 is empty
int max_length(const Request& request, const Rules& rules);
KvState prompt_state(const Request& request, const Rules& rules);  // before the first token of the prompt
std::vector<std::int32_t> stop_ids(const SamplingParams& params);

std::vector<Ending> run_beams(const Request& request, const Rules& rules);  // (history_beams.cpp)

}  // namespace warpjet::history

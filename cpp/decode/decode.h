// From logits to tokens, on the device alone: how requests are sampled is written to slots when sequences take them,
// and a step only says which slots its rows work for. Nothing here waits for the device, so that a step can be
// captured.
#pragma once

#include <warpjet/config.h>
#include <warpjet/engine.h>

#include "ops/catalog.h"

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

namespace warpjet {

// How a sequence is sampled: what the device must know of its request. Token ids were checked against the vocabulary
// when the request came. Valid as long as the sequence has a slot.
struct SampleState {
  const SamplingParams* params = nullptr;
  std::uint64_t key = 0;                   // random_key(seed, sample)
  std::span<const std::int32_t> stop_ids;  // end its text, and are banned before min_tokens are out
  int logprobs = -1;                       // most likely tokens to report with each token; -1 is none wanted
  int prompt_logprobs = -1;                // the same for the prompt
  // What a guide lets the next token be: ceil(vocab / 32) words, bit set = allowed; null: there is no guide. The words
  // stay where they are, and change only when the token that they were for is known.
  const std::int32_t* guide_mask = nullptr;
};

// Whether `token` ends a text that has `output_length` tokens of output, this one included. The device and the engine
// ask the same question of the same data, so they agree.
bool is_stop(const SampleState& state, std::int32_t token, int output_length);

// --- Records --------------------------------------------------------------------------------------------------------

// The most that SamplingParams allow, and as many end tokens of the model as of the request.
constexpr int kMaxStopIds = 512, kMaxBiases = 4096, kMaxBadWordEnds = 1024, kMaxBadWordTokens = 4096;
constexpr int kListWords = kMaxStopIds + 2 * kMaxBiases + kMaxBadWordEnds + kMaxBadWordTokens;

// A slot's row of each array of SlotViews.
SlotSampling pack(const SampleState& state, int prompt_length);
int pack_lists(const SampleState& state, std::span<std::int32_t> out);  // returns how many words it wrote
bool is_masked(const SampleState& state);                               // by allowed_token_ids, by a guide or by both
void pack_mask(const SampleState& state, std::span<std::int32_t> out);  // of one that is

// Whether Penalize may ever change this slot's logits.
bool needs_edits(const SampleState& state);

// --- Log-probabilities ----------------------------------------------------------------------------------------------

// What Logprob reports of some rows; on the device, or a copy of it on the host.
struct LogprobViews {
  TensorView tokens;        // [rows] i32: whose they are; negative: none
  TensorView logprobs;      // [rows] f32
  TensorView ranks;         // [rows] i32
  TensorView top_tokens;    // [rows, top] i32
  TensorView top_logprobs;  // [rows, top] f32
};

// What a step reports of one sampled row.
struct SampledRow {
  std::int32_t token = kBrokenToken;
  std::vector<TokenLogprob> logprobs;  // the token's own first, then the most likely; empty unless wanted
};

// One row of host views: the token's own entry first, then the `wanted` most likely ones, fewer if the views hold
// fewer. Equals share a rank. Empty for a row without a token.
std::vector<TokenLogprob> read_logprobs(const LogprobViews& views, std::int64_t row, int wanted);

// --- Sampler --------------------------------------------------------------------------------------------------------

// Where the texts of all slots lie; as in SlotViews.
struct SlotTexts {
  TensorView texts, lengths, alive;
};

// What some row of a step needs.
struct SampleNeeds {
  bool edits = false;     // needs_edits() of a slot
  bool logprobs = false;  // SampleState::logprobs >= 0 of a slot
};

// Owns how all slots are sampled, on the device, and the scratch of sampling. Used by the thread that steps; all work
// goes to the device's stream, in order. All memory is taken when it is made.
class Sampler {
 public:
  struct Config {
    std::int64_t slots = 0, rows = 0, vocab = 0;  // rows: of one call, at most
    std::int64_t max_top = 0;                     // most likely tokens that are reported, at most vocab
  };
  // Throws unsupported when the device has no kernel for such a vocabulary or max_top.
  Sampler(const Catalogs& catalogs, Device& device, const Config& config);
  ~Sampler();
  // Device memory of a sampler, beside the workspace of its kernels.
  static std::int64_t bytes(const Config& config);

  // Writes a slot's record, by copies from host memory that the sampler keeps for that: kStaged joins may be on their
  // way, one more waits until the oldest has arrived.
  void join(int slot, const SampleState& state, int prompt_length);
  static constexpr int kStaged = 64;

  // The slot's mask has changed: writes it anew. Who is in the slot has drawn with the last one, and that is known.
  void set_mask(int slot, const SampleState& state);

  // Draws a token for each row of logits [rows, vocab] f32, which may change, and appends it to the text of the row's
  // slot: slots [rows] i32, on the device. Returns the tokens [rows] i32, on the device until the next call. A row
  // without a slot, or whose text had ended, has kSurplusToken and its logits do not matter.
  TensorView sample(TensorView logits, TensorView slots, const SlotTexts& texts, SampleNeeds needs);

  // Of the tokens that the last sample(), which had so many rows, drew for slots that want them, with max_top most
  // likely ones; only if it was told so. On the device until the next call.
  LogprobViews logprobs(std::int64_t rows) const;

  // Of given tokens [rows] i32 (negative: none), for prompts; logits are not changed. top is at most max_top. On the
  // device until the next call.
  LogprobViews score(TensorView logits, TensorView tokens, int top);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace warpjet

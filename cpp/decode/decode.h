// From logits to tokens, on the device alone: how requests are sampled is written to slots when sequences take them
// (the mask of a guided one again for each token), and a step only says which slots its rows work for. Nothing here
// waits for the device, so that a step can be captured.
#pragma once

#include <warpjet/config.h>
#include <warpjet/engine.h>

#include "ops/catalog.h"

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

namespace warpjet {

// --- Records --------------------------------------------------------------------------------------------------------

// The most that SamplingParams allow, and as many end tokens of the model as of the request.
constexpr int kMaxStopIds = 512, kMaxBiases = 4096, kMaxBadWordEnds = 1024, kMaxBadWordTokens = 4096;
constexpr int kListWords = kMaxStopIds + 2 * kMaxBiases + kMaxBadWordEnds + kMaxBadWordTokens;

// What a prompt becomes instead of a text: nothing, the hidden state of its last token, or the mean of all.
enum class Pooling : std::int32_t { none, last, mean };

// How a sequence is sampled, in numbers. As words of a batch a record is this, then the slot's row of SlotViews::lists
// as far as it is used, then its row of SlotViews::masks, if it has one.
struct SampleRecord {
  SlotSampling sampling;
  std::int32_t prompt_logprobs = -1;  // most likely tokens to report with each token of the prompt; -1: none wanted
  Pooling pooling = Pooling::none;
  std::int32_t edits = 0;    // 1: Penalize may change its logits
  std::int32_t adapter = 0;  // LoRA adapter; 0: none
  std::int32_t num_list_words = 0, num_mask_words = 0;
};
constexpr std::size_t kRecordWords = sizeof(SampleRecord) / sizeof(std::int32_t);

// What a record is made of, while it is made. Token ids were checked against the vocabulary when the request came.
struct SampleOptions {
  const SamplingParams& params;
  int prompt_length = 0;
  std::uint64_t key = 0;                          // random_key(seed, sample)
  std::span<const std::int32_t> stop_ids = {};    // end its text, and are banned before min_tokens are out
  int logprobs = -1;                              // most likely tokens to report with each token; -1: none wanted
  int prompt_logprobs = -1;                       // the same for the prompt
  std::span<const std::int32_t> guide_mask = {};  // ceil(vocab / 32) words, bit set = allowed; empty: there is no guide
  Pooling pooling = Pooling::none;
};
std::vector<std::int32_t> pack_record(const SampleOptions& options, int vocab);

// Writes what a guide allows next, as far as the request allows it too, where pack_record() has put the first mask.
// Returns those words.
std::span<const std::int32_t> pack_mask(const SamplingParams& params, std::span<const std::int32_t> guide_mask,
                                        std::span<std::int32_t> record);

struct RecordView : SampleRecord {
  std::span<const std::int32_t> lists, mask;  // of the words that were read
  std::span<const std::int32_t> stop_ids() const { return lists.first(sampling.num_stops); }
};
RecordView read_record(std::span<const std::int32_t> words);  // throws internal when they are no record

// Whether `token` ends a text that has `output_length` tokens of output, this one included. The device and the engine
// ask the same question of the same data, so they agree.
bool is_stop(const RecordView& record, std::int32_t token, int output_length);

// --- Log-probabilities ----------------------------------------------------------------------------------------------

// What Logprob reports of some rows; on the device, or a copy of it on the host.
struct LogprobViews {
  TensorView tokens;        // [rows] i32: whose they are; negative: none
  TensorView logprobs;      // [rows] f32
  TensorView ranks;         // [rows] i32
  TensorView top_tokens;    // [rows, top] i32
  TensorView top_logprobs;  // [rows, top] f32
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
  bool edits = false;     // SampleRecord::edits of a slot
  bool logprobs = false;  // SlotSampling::logprobs >= 0 of a slot
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
  void join(int slot, const RecordView& record);
  static constexpr int kStaged = 64;

  // Writes the slot's mask anew. The token that the last one was for has been drawn and is known.
  void set_mask(int slot, std::span<const std::int32_t> mask);

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

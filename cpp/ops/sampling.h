// From logits to tokens. What a sequence's sampling needs lies on the device, one record a slot (a running sequence's
// place), written once when the sequence takes the slot. Ops name the slot of each of their rows.
#pragma once

#include "ops/kernel.h"

#include <array>
#include <cstdint>

namespace warpjet {

// How one slot is sampled. Plain data, copied to the device as it is.
struct SlotSampling {
  float temperature = 1, top_p = 1, min_p = 0;  // as in SamplingParams
  std::int32_t top_k = 0;                       // 0 is off
  float repetition = 1, presence = 0, frequency = 0;
  std::int32_t prompt_length = 0;
  std::int32_t min_tokens = 0;
  std::int32_t num_stops = 0, num_biases = 0, num_bad_words = 0;  // in the slot's row of SlotViews::lists
  std::int32_t logprobs = -1;                                     // wanted with each token; -1: none
  std::int32_t masked = 0;                                        // 1: the slot's row of SlotViews::masks applies
  std::uint64_t key = 0;                                          // random_key(seed, sample)
};
static_assert(sizeof(SlotSampling) == 64, "kernels read a record as four vectors");

// What the ops of this file know of all slots; every array has one row a slot.
//   lists: num_stops stop ids | num_biases tokens, all different | num_biases values (bits of f32) | bad words:
//          num_bad_words ends | the tokens of all of them, each one's up to its end. Of a bad word, which has at least
//          one token, the last may not follow the others.
// Token ids of texts and lists were checked against the vocabulary.
struct SlotViews {
  TensorView params;   // [slots, 64] u8: SlotSampling
  TensorView texts;    // [slots, max_text] i32: prompt, then output
  TensorView lengths;  // [slots] i32: tokens in the text so far
  TensorView alive;    // [slots] i32: 1 while the text goes on
  TensorView lists;    // [slots, words] i32
  TensorView masks;    // [slots, ceil(vocab / 32)] i32, bit set = allowed
};

// Row r of an op works for slot slots[r]; no two rows work for the same one. A row whose slot is negative, or no longer
// alive, is a row without work: its token is kSurplusToken, and nothing else of it is read or written.
constexpr std::int32_t kBrokenToken = -1;   // no finite logit: a broken row; others are not affected
constexpr std::int32_t kSurplusToken = -2;  // the text had ended before this step ran

// Changes logits in place, in this order:
//   repetition: seen in prompt or output: logit > 0 ? logit / r : logit * r     (Keskar et al. 2019)
//   presence:   seen in output: logit -= p + f * count in output, where f is `frequency`
//   biases:     logit += value
//   bans:       -inf for bad words that the text is about to complete, for stop ids while the output is shorter than
//               min_tokens, and for whatever the mask does not allow
// Before that, rows of slots that want log-probabilities are copied to `raw`.
struct Penalize {
  static constexpr std::string_view name = "penalize";
  struct Problem {
    std::int64_t rows = 0, vocab = 0;

    static constexpr auto fields() {
      using P = Problem;
      return std::tuple{Field{"rows", &P::rows}, Field{"vocab", &P::vocab}};
    }
  };
  struct Args {
    Problem problem;
    TensorView logits;  // [rows, vocab] f32, in place
    TensorView slots;   // [rows] i32
    SlotViews views;
    TensorView raw;  // [rows, vocab] f32
    TensorView workspace;
  };
  static double flops(const Problem&) { return 0; }
  static double bytes(const Problem& p) { return 8.0 * p.rows * p.vocab; }
  static Kernel<Penalize> reference();
};

// Draws one token a row. temperature 0: the largest logit, lowest id first. Else logits / temperature; drop tokens with
// p < min_p * p_max; keep the top_k largest; keep the smallest set of largest whose mass (renormalised over what
// is left so far) reaches top_p; then argmax of logit + gumbel(key, position, id), where position is the text's length.
// Ties at a cut are kept by lowest id. Logits that are not finite are never drawn; a row without a finite one yields
// kBrokenToken.
//
// Masses are whole numbers of 2^-30 of the most likely token's, rounded, so that a sum has no order: kernels that
// compute the same exponentials draw the same tokens.
struct Select {
  static constexpr std::string_view name = "select";
  struct Problem {
    std::int64_t rows = 0, vocab = 0;

    static constexpr auto fields() {
      using P = Problem;
      return std::tuple{Field{"rows", &P::rows}, Field{"vocab", &P::vocab}};
    }
  };
  struct Args {
    Problem problem;
    TensorView logits;  // [rows, vocab] f32
    TensorView slots;   // [rows] i32
    SlotViews views;
    TensorView tokens;  // [rows] i32, out
    TensorView scored;  // [rows] i32, out: the token where the slot wants log-probabilities, else -1
    TensorView workspace;
  };
  static double flops(const Problem&) { return 0; }
  static double bytes(const Problem& p) { return 4.0 * p.rows * p.vocab; }
  static Kernel<Select> reference();
};

// Log-probabilities (natural) of the chosen token, its rank, and the `top` most likely tokens (ties by lowest id).
// Logits that are not finite count as -inf. A row whose token is negative is skipped: nothing of it is written.
struct Logprob {
  static constexpr std::string_view name = "logprob";
  struct Problem {
    std::int64_t rows = 0, vocab = 0, top = 0;

    static constexpr auto fields() {
      using P = Problem;
      return std::tuple{Field{"rows", &P::rows}, Field{"vocab", &P::vocab}, Field{"top", &P::top}};
    }
  };
  struct Args {
    Problem problem;
    TensorView logits;        // [rows, vocab] f32
    TensorView tokens;        // [rows] i32
    TensorView logprobs;      // [rows] f32
    TensorView ranks;         // [rows] i32: 1 + number of tokens with a larger logit
    TensorView top_tokens;    // [rows, top] i32
    TensorView top_logprobs;  // [rows, top] f32
    TensorView workspace;
  };
  static double flops(const Problem&) { return 0; }
  static double bytes(const Problem& p) { return 4.0 * p.rows * p.vocab; }
  static Kernel<Logprob> reference();
};

// Appends each row's token to its slot's text and reports it: results[r] = tokens[r]. A text does not go on after a
// negative token, nor after one of its stop ids that makes its output at least min_tokens long. The text has room.
struct AppendTokens {
  static constexpr std::string_view name = "append_tokens";
  struct Problem {
    std::int64_t rows = 0;

    static constexpr auto fields() {
      using P = Problem;
      return std::tuple{Field{"rows", &P::rows}};
    }
  };
  struct Args {
    Problem problem;
    TensorView slots;   // [rows] i32
    TensorView tokens;  // [rows] i32
    SlotViews views;
    TensorView results;  // [rows] i32, out
  };
  static double flops(const Problem&) { return 0; }
  static double bytes(const Problem& p) { return 24.0 * p.rows; }
  static Kernel<AppendTokens> reference();
};

// The counter-based noise behind Select: Philox4x32-10 (Salmon et al. 2011) with counter {id / 4, position, 0, 0} and
// this key (low word first); word id % 4 becomes w = min((word + 0.5) / 2^32, 1 - 2^-24) in fp32, and the noise is
// -log(-log1p(-w)): exact where it matters, for the largest draws.
// random_key mixes the sample index into the seed (SplitMix64 of seed + sample * 0x9e3779b97f4a7c15).
std::array<std::uint32_t, 4> philox(std::array<std::uint32_t, 4> counter, std::uint64_t key);
std::uint64_t random_key(std::uint64_t seed, std::uint32_t sample);
float gumbel(std::uint64_t key, std::uint32_t position, std::uint32_t token);

}  // namespace warpjet

// From logits to tokens. The arguments are arrays over rows, as a device wants them; decode/ fills them from
// SamplingParams.
#pragma once

#include "ops/kernel.h"

#include <array>
#include <cstdint>

namespace warpjet {

// Changes logits in place, in this order: repetition, presence and frequency penalties; per-token biases (-inf bans);
// the allowed-token bitmask.
//   repetition: seen in prompt or output: logit > 0 ? logit / r : logit * r     (Keskar et al. 2019)
//   presence:   seen in output: logit -= p;     frequency: logit -= f * count in output
struct Penalize {
  static constexpr std::string_view name = "penalize";
  struct Problem {
    std::int64_t rows = 0, vocab = 0;
  };
  struct Args {
    Problem problem;
    TensorView logits;          // [rows, vocab] f32, in place
    TensorView repetition;      // [rows] f32
    TensorView presence;        // [rows] f32
    TensorView frequency;       // [rows] f32
    TensorView history;         // [history_starts[rows]] i32: prompt then output tokens of each row that needs them
    TensorView history_starts;  // [rows + 1] i32
    TensorView output_starts;   // [rows] i32: where each row's output begins in history
    TensorView bias_tokens;     // [bias_starts[rows]] i32
    TensorView bias_values;     // [bias_starts[rows]] f32
    TensorView bias_starts;     // [rows + 1] i32
    TensorView mask;            // [rows, ceil(vocab / 32)] i32, bit set = allowed; no data: no masks
    TensorView masked;          // [rows] i32: 1 where the row's mask applies
    TensorView counts;          // [rows, vocab] i32 scratch: zero before, zero after
  };
  static double flops(const Problem&) { return 0; }
  static double bytes(const Problem& p) { return 8.0 * p.rows * p.vocab; }
};
std::string to_string(const Penalize::Problem& problem);

// Draws one token a row. temperature 0: the largest logit, lowest id first. Else logits / temperature; drop tokens with
// p < min_p * p_max; keep the top_k largest; keep the smallest set of largest whose mass (renormalised over what
// is left so far) reaches top_p; then argmax of logit + gumbel(key, position, id).
// Ties at a cut are kept by lowest id. Logits that are not finite are never drawn; a row without a finite one yields
// -1.
struct Select {
  static constexpr std::string_view name = "select";
  struct Problem {
    std::int64_t rows = 0, vocab = 0;
  };
  struct Args {
    Problem problem;
    TensorView logits;       // [rows, vocab] f32
    TensorView temperature;  // [rows] f32
    TensorView top_p;        // [rows] f32
    TensorView min_p;        // [rows] f32
    TensorView top_k;        // [rows] i32, 0 is off
    TensorView keys;         // [rows] i64: random_key(seed, sample)
    TensorView positions;    // [rows] i32: index of the token being drawn, counted from the prompt's first
    TensorView tokens;       // [rows] i32, out
  };
  static double flops(const Problem&) { return 0; }
  static double bytes(const Problem& p) { return 4.0 * p.rows * p.vocab; }
};
std::string to_string(const Select::Problem& problem);

// Log-probabilities (natural) of the chosen token, its rank, and the `top` most likely tokens (ties by lowest id).
// Logits that are not finite count as -inf. A row whose token is negative is skipped: nothing of it is written.
struct Logprob {
  static constexpr std::string_view name = "logprob";
  struct Problem {
    std::int64_t rows = 0, vocab = 0, top = 0;
  };
  struct Args {
    Problem problem;
    TensorView logits;        // [rows, vocab] f32
    TensorView tokens;        // [rows] i32
    TensorView logprobs;      // [rows] f32
    TensorView ranks;         // [rows] i32: 1 + number of tokens with a larger logit
    TensorView top_tokens;    // [rows, top] i32
    TensorView top_logprobs;  // [rows, top] f32
  };
  static double flops(const Problem&) { return 0; }
  static double bytes(const Problem& p) { return 4.0 * p.rows * p.vocab; }
};
std::string to_string(const Logprob::Problem& problem);

// The counter-based noise behind Select: Philox4x32-10 (Salmon et al. 2011) with counter {id / 4, position, 0, 0} and
// this key (low word first); word id % 4 becomes w = min((word + 0.5) / 2^32, 1 - 2^-24) in fp32, and the noise is
// -log(-log1p(-w)): exact where it matters, for the largest draws.
// random_key mixes the sample index into the seed (SplitMix64 of seed + sample * 0x9e3779b97f4a7c15).
std::array<std::uint32_t, 4> philox(std::array<std::uint32_t, 4> counter, std::uint64_t key);
std::uint64_t random_key(std::uint64_t seed, std::uint32_t sample);
float gumbel(std::uint64_t key, std::uint32_t position, std::uint32_t token);

}  // namespace warpjet

#include "history_model.h"

#include "ops/sampling.h"

#include <algorithm>
#include <array>

namespace warpjet::history {
namespace {

// One state in so many ends its text, or is broken.
constexpr std::uint64_t kEosPeriod = 23, kBrokenPeriod = 211;
// Samples draw alike in this many ways: different requests often say the same.
constexpr std::uint64_t kVariants = 3;

KvState mix(std::uint64_t a, std::uint64_t b) {
  const std::array<std::uint64_t, 2> words = {a, b};
  return hash64(std::as_bytes(std::span(words)));
}

// In (-1, 0], of 24 bits: exact as a float, and sums of them are exact as doubles.
float logprob(KvState state, std::int32_t token) {
  return -static_cast<float>(mix(state, 1000 + token) >> 40) / (1 << 24);
}

std::array<TokenLogprob, kVocab> sorted_logprobs(KvState state) {
  std::array<TokenLogprob, kVocab> all;
  for (int token = 0; token < kVocab; ++token) all[token] = {.token = token, .logprob = logprob(state, token)};
  std::ranges::stable_sort(all, std::ranges::greater(), &TokenLogprob::logprob);
  for (int i = 0; i < kVocab; ++i) all[i].rank = i + 1;
  return all;
}

}  // namespace

std::int64_t make_seed(int number, int salt) {
  return std::int64_t{number} * 10 + salt;
}

// Undoes random_key(). The keys of requests without a seed come from no small one.
int salt_of(std::uint64_t key) {
  std::uint64_t z = key ^ (key >> 31) ^ (key >> 62);
  z *= 0x319642b2d24d8ec3u;
  z ^= (z >> 27) ^ (z >> 54);
  z *= 0x96de1b173f119089u;
  z ^= (z >> 30) ^ (z >> 60);
  for (std::uint64_t sample = 0; sample < 64; ++sample) {
    const std::uint64_t seed = z - (sample + 1) * 0x9e3779b97f4a7c15u;
    if (seed <= UINT32_MAX) return static_cast<int>(seed % 10);
  }
  return 0;
}

std::string salt_text(int salt) {
  return salt == 0 ? "" : cat("salt ", salt);
}

KvState first_state(int salt, int rope_length) {
  return mix(salt, rope_length);
}

KvState next_state(KvState state, std::int32_t token) {
  return mix(state, token);
}

bool is_broken(KvState state) {
  return state % kBrokenPeriod == 0;
}

ToyGuidance guidance_of(KvState state) {
  constexpr std::uint64_t kEndPeriod = 29, kFailPeriod = 67;
  const std::uint64_t said = mix(state, 7777);
  if (said % kEndPeriod == 0) return {.kind = Guidance::Kind::stop};
  if (said % kFailPeriod == 0) return {.kind = Guidance::Kind::fail};
  const auto mask = static_cast<std::int32_t>(said >> 32) & kAllAllowed;
  return {.mask = mask == 0 ? 1 : mask};
}

std::int32_t draw(KvState state, std::uint64_t key, std::span<const std::int32_t> banned, std::int32_t mask) {
  if (is_broken(state)) return kBrokenToken;
  std::int32_t token = state % kEosPeriod == 1 ? kEos : static_cast<std::int32_t>(mix(state, key % kVariants) % kVocab);
  const auto is_out = [&] { return std::ranges::find(banned, token) != banned.end() || (mask >> token & 1) == 0; };
  for (int i = 0; i < kVocab && is_out(); ++i) token = (token + 1) % kVocab;
  return mask != kAllAllowed && is_out() ? kBrokenToken : token;
}

Logprobs logprobs_of(KvState state, std::int32_t token, int top) {
  const auto all = sorted_logprobs(state);
  Logprobs entries = {*std::ranges::find(all, token, &TokenLogprob::token)};
  entries.insert(entries.end(), all.begin(), all.begin() + std::min(top, kVocab));
  return entries;
}

int max_length(const Request& request, const Rules& rules) {
  const int length = static_cast<int>(request.prompt.size());
  const auto& wanted = request.sampling.max_tokens;
  return wanted ? std::min(rules.max_model_len, length + std::max(1, *wanted)) : rules.max_model_len;
}

KvState prompt_state(const Request& request, const Rules& rules) {
  const int length = static_cast<int>(request.prompt.size());
  const int salt = request.sampling.seed ? static_cast<int>(*request.sampling.seed % 10) : 0;
  return first_state(salt, rules.rope_original > 0 && length > rules.rope_original ? length : 0);
}

std::vector<std::int32_t> stop_ids(const SamplingParams& params) {
  std::vector<std::int32_t> ids = params.stop_token_ids;
  if (!params.ignore_eos) ids.push_back(kEos);
  return ids;
}

std::vector<Logprobs> prompt_logprobs(const Request& request, const Rules& rules) {
  const int top = *request.sampling.prompt_logprobs < 0 ? kVocab : *request.sampling.prompt_logprobs;
  std::vector<Logprobs> entries(1);
  KvState state = prompt_state(request, rules);
  for (std::size_t i = 0; i + 1 < request.prompt.size(); ++i) {
    state = next_state(state, request.prompt[i]);
    entries.push_back(logprobs_of(state, request.prompt[i + 1], top));
  }
  return entries;
}

namespace {

Ending run_sample(const Request& request, const Rules& rules, std::uint64_t key) {
  const SamplingParams& p = request.sampling;
  const std::vector<std::int32_t> stops = stop_ids(p);
  const int limit = max_length(request, rules), length = static_cast<int>(request.prompt.size());
  KvState state = prompt_state(request, rules);
  for (const std::int32_t token : request.prompt) state = next_state(state, token);

  Ending ending;
  for (int count = 0; length + count < limit;) {
    const auto banned = std::span(stops).first(count < p.min_tokens ? stops.size() : 0);
    const ToyGuidance guidance = request.mask.empty() ? ToyGuidance{} : guidance_of(state);
    if (count > 0 && guidance.kind != Guidance::Kind::go_on) {
      ending.finish = guidance.kind == Guidance::Kind::stop ? FinishReason::stop : FinishReason::error;
      return ending;
    }
    const std::int32_t token = draw(state, key, banned, guidance.mask);
    if (token == kBrokenToken) {
      ending.finish = FinishReason::error;
      return ending;
    }
    if (p.max_tokens && *p.max_tokens == 0) return ending;
    ending.tokens.push_back(token);
    if (p.logprobs) ending.logprobs.push_back(logprobs_of(state, token, *p.logprobs < 0 ? kVocab : *p.logprobs));
    state = next_state(state, token);
    if (++count <= p.min_tokens || std::ranges::find(stops, token) == stops.end()) continue;
    ending.finish = FinishReason::stop;
    ending.stop_token = token == kEos && !p.ignore_eos ? -1 : token;
    return ending;
  }
  return ending;
}

}  // namespace

std::vector<Ending> run_alone(const Request& request, const Rules& rules, std::uint64_t key_seed) {
  const SamplingParams& p = request.sampling;
  if (p.beam_width > 1) return run_beams(request, rules);
  const std::uint64_t seed = p.seed ? static_cast<std::uint64_t>(*p.seed) : key_seed;
  std::vector<Ending> endings;
  for (int i = 0; i < p.n; ++i) endings.push_back(run_sample(request, rules, random_key(seed, i)));
  return endings;
}

}  // namespace warpjet::history

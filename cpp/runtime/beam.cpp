// Beam search (as Hugging Face transformers does it, early_stopping=False): each round takes the 2k best continuations
// of k beams; those that end the text and are among the best k become finished hypotheses, ranked by
// log-probability / length ** length_penalty; the best k of the others go on. It is over when k hypotheses are finished
// and the best running beam, as long as it is now, is not better than the worst of them; or at the length limit.
//
// The beams are sequences in lockstep. A beam with several continuations forks: the children share its blocks. The
// request's samples hold the running beams in no order; at the end sample i delivers the hypothesis of rank i.
#include <algorithm>
#include <cmath>

#include "runtime/step_loop.h"

namespace warpjet {

namespace {

struct Candidate {
  int beam = 0;
  double score = 0;
  TokenLogprob token;
};

}  // namespace

// The token is the greedy one; what counts are the most likely ones after it. A broken row ends them all, but
// not before the round is complete: until then rows of this step may know of the others.
void StepLoop::State::take_choices(Sample& sample, std::int32_t token, std::vector<TokenLogprob> logprobs) {
  Live& live = *sample.live;
  if (sample.first_token == 0) {
    sample.first_token = sample.last_token = now_;
    sample.prefill = sample.sequence->time_in(SequenceState::running, now_);
    if (sample.index == 0) first_token(live);
  }
  if (token == kBrokenToken) {
    live.broken = true;
    sample.choices.assign(1, {});
  } else {
    sample.choices.assign(logprobs.begin() + 1, logprobs.end());
  }
  for (const Sample& beam : live.samples) {
    if (beam.sequence && beam.choices.empty()) return;  // the round is not complete
  }
  if (live.broken) return finish_request(live.id, FinishReason::error, ErrorCode::internal, kBrokenRow);
  advance_beams(live);
}

void StepLoop::State::advance_beams(Live& live) {
  const SamplingParams& p = live.request.sampling;
  const std::size_t width = p.beam_width;
  std::vector<Candidate> candidates;
  int length = 0;
  for (const Sample& beam : live.samples) {
    if (!beam.sequence) continue;
    length = beam.sequence->length() + 1;
    for (const TokenLogprob& choice : beam.choices) {
      candidates.push_back({.beam = beam.index, .score = beam.score + choice.logprob, .token = choice});
    }
  }
  std::ranges::stable_sort(candidates, std::ranges::greater(), &Candidate::score);
  candidates.resize(std::min(candidates.size(), 2 * width));

  const bool at_limit = length >= live.samples[candidates[0].beam].sequence->max_length;
  std::vector<Candidate> chosen;
  for (std::size_t rank = 0; rank < candidates.size() && chosen.size() < width; ++rank) {
    const Candidate& c = candidates[rank];
    const bool ends = std::ranges::find(live.stop_ids, c.token.token) != live.stop_ids.end();
    if (ends || at_limit) {
      if (rank < width) add_hypothesis(live, c.beam, c.score, c.token.token, ends);
    } else {
      chosen.push_back(c);
    }
  }
  const int output_length = length - live.prompt_length;
  const bool beaten = live.hypotheses.size() == width && !chosen.empty() &&
                      chosen[0].score / std::pow(output_length, p.length_penalty) <= live.hypotheses.back().rank;
  if (at_limit || beaten || chosen.empty()) return finish_beams(live);

  // The first continuation of a beam stays where the beam is; beams without one make room for the others.
  std::vector<bool> stays(live.samples.size(), false);
  std::vector<Candidate> forks;
  std::vector<std::pair<int, Candidate>> heirs;
  for (const Candidate& c : chosen) {
    if (stays[c.beam]) {
      forks.push_back(c);
    } else {
      stays[c.beam] = true;
      heirs.emplace_back(c.beam, c);
    }
  }
  for (Sample& beam : live.samples) {
    beam.choices.clear();
    if (beam.sequence && !stays[beam.index]) scheduler_.remove(*std::exchange(beam.sequence, nullptr), now_);
  }
  auto place = live.samples.begin();
  for (const Candidate& c : forks) {
    while (place->sequence) ++place;
    const Sample& beam = live.samples[c.beam];
    Sequence& parent = *beam.sequence;
    std::vector<std::int32_t> tokens = parent.tokens;
    tokens.push_back(c.token.token);
    place->score = c.score;
    place->first_token = beam.first_token;
    place->last_token = now_;
    place->prefill = beam.prefill;
    place->sequence = &scheduler_.fork(parent, make_sequence(*place, std::move(tokens)), now_);
  }
  for (const auto& [beam, c] : heirs) {
    live.samples[beam].score = c.score;
    scheduler_.choose(*live.samples[beam].sequence, c.token.token);
  }
  apply_pause(live);
}

// Keeps the best k.
void StepLoop::State::add_hypothesis(Live& live, int beam, double score, std::int32_t last, bool ends) {
  const SamplingParams& p = live.request.sampling;
  const std::vector<std::int32_t>& text = live.samples[beam].sequence->tokens;
  Hypothesis h{.tokens = {text.begin() + live.prompt_length, text.end()},
               .log_probability = score,
               .rank = score / std::pow(text.size() + 1 - live.prompt_length, p.length_penalty),
               .finish = ends ? FinishReason::stop : FinishReason::length};
  h.tokens.push_back(last);
  if (ends && std::ranges::find(p.stop_token_ids, last) != p.stop_token_ids.end()) h.stop_token = last;
  const auto place = std::ranges::upper_bound(live.hypotheses, h.rank, std::ranges::greater(), &Hypothesis::rank);
  live.hypotheses.insert(place, std::move(h));
  if (std::cmp_greater(live.hypotheses.size(), p.beam_width)) live.hypotheses.pop_back();
}

void StepLoop::State::finish_beams(Live& live) {
  // Fewer hypotheses than beams: the vocabulary is small and the text was short.
  for (Sample& sample : live.samples) {
    if (std::cmp_greater_equal(sample.index, live.hypotheses.size())) {
      finish(sample, FinishReason::error, ErrorCode::internal, "there are fewer continuations than beam_width");
      continue;
    }
    const Hypothesis& h = live.hypotheses[sample.index];
    sample.said.final->cumulative_logprob = h.log_probability;
    for (const std::int32_t token : h.tokens) push_token(sample, token, nullptr);
    finish(sample, h.finish, ErrorCode::internal, {}, h.stop_token);
  }
}

}  // namespace warpjet

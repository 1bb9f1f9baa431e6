// Beam search alone and plainly, for histories: every beam is a text, every round looks at all continuations of all
// beams. The rules are those of cpp/runtime/beam.cpp's first comment.
#include <algorithm>
#include <cmath>

#include "history_model.h"

namespace warpjet::history {
namespace {

struct Beam {
  Tokens output;
  KvState state = 0;  // after the output
  double score = 0;
};

struct Finished {
  Beam beam;
  double rank = 0;
  bool stopped = false;
};

// All continuations by one token, the best first.
std::vector<Beam> continuations(const std::vector<Beam>& beams, bool& sure, std::size_t most) {
  std::vector<Beam> all;
  for (const Beam& beam : beams) {
    for (std::int32_t token = 0; token < kVocab; ++token) {
      Beam next = {.output = beam.output,
                   .state = next_state(beam.state, token),
                   .score = beam.score + logprobs_of(beam.state, token, 0)[0].logprob};
      next.output.push_back(token);
      all.push_back(std::move(next));
    }
  }
  std::ranges::sort(all, std::ranges::greater(), &Beam::score);
  for (std::size_t i = 1; i < std::min(all.size(), most + 1); ++i) sure &= all[i].score != all[i - 1].score;
  all.resize(std::min(all.size(), most));
  return all;
}

}  // namespace

std::vector<Ending> run_beams(const Request& request, const Rules& rules) {
  const SamplingParams& p = request.sampling;
  const std::size_t width = p.beam_width;
  const std::vector<std::int32_t> stops = stop_ids(p);
  const int most = max_length(request, rules) - static_cast<int>(request.prompt.size());
  const auto ranked = [&](const Beam& beam, std::size_t length) {
    return beam.score / std::pow(length, p.length_penalty);
  };

  bool sure = true;
  std::vector<Beam> beams(1);
  beams[0].state = prompt_state(request, rules);
  for (const std::int32_t token : request.prompt) beams[0].state = next_state(beams[0].state, token);
  std::vector<Finished> finished;
  for (int length = 1; !beams.empty(); ++length) {
    const bool broken = std::ranges::any_of(beams, is_broken, &Beam::state);
    if (broken) return std::vector<Ending>(width, {.finish = FinishReason::error, .sure = sure});
    std::vector<Beam> running;
    const std::vector<Beam> best = continuations(beams, sure, 2 * width);
    for (std::size_t i = 0; i < best.size(); ++i) {
      const bool stopped = std::ranges::find(stops, best[i].output.back()) != stops.end();
      if (!stopped && length < most) {
        if (running.size() < width) running.push_back(best[i]);
      } else if (i < width) {
        finished.push_back({best[i], ranked(best[i], length), stopped});
      }
    }
    std::ranges::stable_sort(finished, std::ranges::greater(), &Finished::rank);
    for (std::size_t i = 1; i < finished.size(); ++i) sure &= finished[i].rank != finished[i - 1].rank;
    finished.resize(std::min(finished.size(), width));
    if (finished.size() == width && !running.empty() && ranked(running[0], length) <= finished.back().rank) break;
    beams = std::move(running);
  }

  std::vector<Ending> endings;
  for (const Finished& f : finished) {
    const std::int32_t last = f.beam.output.back();
    const bool listed = std::ranges::find(p.stop_token_ids, last) != p.stop_token_ids.end();
    endings.push_back({.tokens = f.beam.output,
                       .finish = f.stopped ? FinishReason::stop : FinishReason::length,
                       .stop_token = f.stopped && listed ? last : -1,
                       .log_probability = f.beam.score});
  }
  // A text may end before there are as many hypotheses as beams.
  endings.resize(width, {.finish = FinishReason::error});
  for (Ending& ending : endings) ending.sure = sure;
  return endings;
}

}  // namespace warpjet::history

// Tallies, and the report that is made of them.
#include <algorithm>
#include <bit>
#include <cmath>

#include "simulate/simulate.h"

namespace warpjet::sim {

// --- Histogram ------------------------------------------------------------------------------------------------------

constexpr int kWholeBits = 7;  // below 2 * kPerOctave every value has a bin

int Histogram::bin_of(Micros value) {
  const auto v = static_cast<std::uint64_t>(std::max<Micros>(value, 0));
  const int octave = std::max(0, static_cast<int>(std::bit_width(v)) - kWholeBits);
  return std::min(kBins - 1, octave * kPerOctave + static_cast<int>(v >> octave));
}

double Histogram::bin_begin(int bin) {
  const int octave = std::max(0, bin / kPerOctave - 1);
  return std::ldexp(bin - octave * kPerOctave, octave);
}

void Histogram::add(Micros value, std::int64_t count) {
  bins_[static_cast<std::size_t>(bin_of(value))] += count;
  count_ += count;
  sum_ += value * count;
  max_ = std::max(max_, value);
}

void Histogram::add(const Histogram& other) {
  for (std::size_t i = 0; i < bins_.size(); ++i) bins_[i] += other.bins_[i];
  count_ += other.count_;
  sum_ += other.sum_;
  max_ = std::max(max_, other.max_);
}

double Histogram::quantile(double q) const {
  const double rank = q * static_cast<double>(count_);
  double below = 0;
  for (int bin = 0; bin < kBins; ++bin) {
    const auto here = static_cast<double>(bins_[static_cast<std::size_t>(bin)]);
    if (here == 0 || below + here < rank) {
      below += here;
      continue;
    }
    const double begin = bin_begin(bin), end = bin_begin(bin + 1);
    return std::min(begin + (end - begin) * (rank - below) / here, static_cast<double>(max_));
  }
  return static_cast<double>(max_);
}

Json Histogram::cdf() const {
  constexpr double kLeastStep = 1.0 / 200;
  Json points{Json::Array{}};
  std::int64_t below = 0;
  double told = 0;
  for (int bin = 0; bin < kBins; ++bin) {
    if (bins_[static_cast<std::size_t>(bin)] == 0) continue;
    below += bins_[static_cast<std::size_t>(bin)];
    const double share = static_cast<double>(below) / static_cast<double>(count_);
    if (share < told + kLeastStep && below < count_) continue;
    told = share;
    const double us = std::min(bin_begin(bin + 1), static_cast<double>(max_));
    points.push(Json::Array{us * 1e-3, share});
  }
  return points;
}

// --- Tally ----------------------------------------------------------------------------------------------------------

void Tally::add(const Tally& other) {
  for (const auto member :
       {&Tally::requests, &Tally::finished, &Tally::refused, &Tally::good, &Tally::prompt_tokens, &Tally::cached_tokens,
        &Tally::output_tokens, &Tally::steps, &Tally::step_tokens, &Tally::step_decodes, &Tally::preemptions,
        &Tally::swaps, &Tally::busy_in_window, &Tally::output_in_window, &Tally::prompt_in_window}) {
    this->*member += other.*member;
  }
  least_busy = std::min(least_busy, other.least_busy);
  most_busy = std::max(most_busy, other.most_busy);
  end = std::max(end, other.end);
  for (const auto histogram : {&Tally::ttft, &Tally::itl, &Tally::tpot, &Tally::e2e}) {
    (this->*histogram).add(other.*histogram);
  }
  for (std::size_t i = 0; i < points.size(); ++i) {
    for (const auto member :
         {&Point::running, &Point::waiting, &Point::kv_blocks, &Point::arrived, &Point::output_tokens}) {
      points[i].*member += other.points[i].*member;
    }
  }
}

// --- Report ---------------------------------------------------------------------------------------------------------

namespace {

double ratio(std::int64_t part, std::int64_t whole) {
  return whole > 0 ? static_cast<double>(part) / static_cast<double>(whole) : 0;
}

Json trace_json(const Workload& workload) {
  std::int64_t input = 0, output = 0;
  for (const Arrival& arrival : workload.arrivals) {
    input += arrival.input;
    output += arrival.output;
  }
  const auto requests = static_cast<std::int64_t>(workload.arrivals.size());
  const double seconds = static_cast<double>(workload.duration) * 1e-6;
  return Json::Object{{"name", workload.name},
                      {"requests", requests},
                      {"duration_s", seconds},
                      {"requests_per_s", static_cast<double>(requests) / seconds},
                      {"input_mean", ratio(input, requests)},
                      {"output_mean", ratio(output, requests)}};
}

std::int64_t all_kv_blocks(const Setup& setup, int replicas) {
  return std::int64_t{replicas} * (setup.kv.num_blocks - 1);
}

Json summary_json(const Setup& setup, int replicas, const Tally& t) {
  const Micros window = setup.workload.duration;
  const double seconds = static_cast<double>(window) * 1e-6;
  const SimConfig& config = setup.config;
  const double peak = find_gpu(config.gpu).bf16_tflops * 1e12 * config.gpus_per_replica * replicas;
  const double flops = 2e9 * config.params_b * static_cast<double>(t.prompt_in_window + t.output_in_window);
  // A load that is there at once ends long after its window of arrivals.
  const double all_seconds = std::max(1e-6, static_cast<double>(t.end) * 1e-6);
  std::int64_t kv_blocks = 0;
  for (const Point& point : t.points) kv_blocks += point.kv_blocks;
  return Json::Object{{"requests", t.requests},
                      {"finished", t.finished},
                      {"refused", t.refused},
                      {"good", t.good},
                      {"goodput", ratio(t.good, t.requests)},
                      {"target_met", t.requests - t.good <= setup.misses_allowed()},
                      {"goodput_requests_per_s", static_cast<double>(t.good) / seconds},
                      {"output_tokens_per_s", static_cast<double>(t.output_in_window) / seconds},
                      {"computed_prompt_tokens_per_s", static_cast<double>(t.prompt_in_window) / seconds},
                      {"requests_per_s_to_the_end", static_cast<double>(t.finished) / all_seconds},
                      {"output_tokens_per_s_to_the_end", static_cast<double>(t.output_tokens) / all_seconds},
                      {"prompt_tokens", t.prompt_tokens},
                      {"output_tokens", t.output_tokens},
                      {"prefix_hit_rate", ratio(t.cached_tokens, t.prompt_tokens)},
                      {"preemptions", t.preemptions},
                      {"swaps", t.swaps},
                      {"utilisation", ratio(t.busy_in_window, window * replicas)},
                      {"utilisation_min", ratio(t.least_busy, window)},
                      {"utilisation_max", ratio(t.most_busy, window)},
                      {"compute_utilisation", flops / (peak * seconds)},
                      {"kv_used", ratio(kv_blocks, kPoints * all_kv_blocks(setup, replicas))},
                      {"steps", t.steps},
                      {"tokens_per_step", ratio(t.step_tokens, t.steps)},
                      {"decodes_per_step", ratio(t.step_decodes, t.steps)},
                      {"simulated_s", static_cast<double>(t.end) * 1e-6}};
}

Json percentiles_json(const Histogram& histogram) {
  return Json::Object{{"mean", histogram.mean() * 1e-3},        {"p50", histogram.quantile(0.5) * 1e-3},
                      {"p90", histogram.quantile(0.9) * 1e-3},  {"p95", histogram.quantile(0.95) * 1e-3},
                      {"p99", histogram.quantile(0.99) * 1e-3}, {"max", static_cast<double>(histogram.max()) * 1e-3}};
}

Json series_json(const Setup& setup, int replicas, const Tally& tally) {
  const double seconds = static_cast<double>(setup.point) * 1e-6;
  const std::int64_t blocks = all_kv_blocks(setup, replicas);
  Json::Array t, running, waiting, kv, requests, tokens;
  for (int i = 0; i < kPoints; ++i) {
    const Point& point = tally.points[static_cast<std::size_t>(i)];
    t.emplace_back((i + 1) * seconds);
    running.emplace_back(point.running);
    waiting.emplace_back(point.waiting);
    kv.emplace_back(ratio(point.kv_blocks, blocks));
    requests.emplace_back(static_cast<double>(point.arrived) / seconds);
    tokens.emplace_back(static_cast<double>(point.output_tokens) / seconds);
  }
  return Json::Object{
      {"t_s", std::move(t)},      {"running", std::move(running)},         {"waiting", std::move(waiting)},
      {"kv_used", std::move(kv)}, {"requests_per_s", std::move(requests)}, {"output_tokens_per_s", std::move(tokens)}};
}

}  // namespace

Json report(const Setup& setup, int replicas, std::span<const Probe> search, const Tally& tally) {
  Json probes{Json::Array{}};
  for (const Probe& probe : search) {
    probes.push(Json::Object{{"replicas", probe.replicas}, {"target_met", probe.met}});
  }
  return Json::Object{
      {"config", json_of(setup.config)},
      {"trace", trace_json(setup.workload)},
      {"replicas", replicas},
      {"gpus", replicas * setup.config.gpus_per_replica},
      {"kv_tokens_per_replica", (setup.kv.num_blocks - 1) * std::int64_t{setup.kv.block_size}},
      {"cost_model", setup.cost.describe()},
      {"search", std::move(probes)},
      {"summary", summary_json(setup, replicas, tally)},
      {"percentiles", Json::Object{{"ttft_ms", percentiles_json(tally.ttft)},
                                   {"itl_ms", percentiles_json(tally.itl)},
                                   {"tpot_ms", percentiles_json(tally.tpot)},
                                   {"e2e_ms", percentiles_json(tally.e2e)}}},
      {"cdf", Json::Object{{"ttft_ms", tally.ttft.cdf()}, {"itl_ms", tally.itl.cdf()}, {"tpot_ms", tally.tpot.cdf()}}},
      {"series", series_json(setup, replicas, tally)}};
}

}  // namespace warpjet::sim

// All that arrives: by a preset or from a file, and what the prompts are.
#include <algorithm>
#include <cmath>

#include "simulate/simulate.h"

namespace warpjet::sim {
namespace {

constexpr double kPresetSeconds = 600;

// A file at another rate runs faster or slower.
void rescale(Workload& workload, const SimConfig& config) {
  std::vector<Arrival>& arrivals = workload.arrivals;
  if (config.rate > 0 && arrivals.size() > 1 && workload.duration > 0) {
    const double seconds = static_cast<double>(arrivals.size()) / config.rate;
    const double factor = seconds * 1e6 / static_cast<double>(workload.duration);
    for (Arrival& arrival : arrivals) arrival.time = std::llround(static_cast<double>(arrival.time) * factor);
    workload.duration = micros(seconds);
  }
  if (config.duration_s <= 0) return;
  workload.duration = micros(config.duration_s);
  std::erase_if(arrivals, [&](const Arrival& arrival) { return arrival.time >= workload.duration; });
}

Workload synthesise(const SimConfig& config) {
  const Preset& preset = find_preset(config.trace);
  const double rate = config.rate > 0 ? config.rate : preset.rate;
  const double seconds = config.duration_s > 0 ? config.duration_s : kPresetSeconds;
  WJ_REQUIRE(rate * seconds < 1e9, invalid_argument, "rate times duration_s makes ", rate * seconds,
             " requests, at most 1e9 can be simulated");
  Workload workload;
  workload.name = preset.name;
  workload.duration = micros(seconds);
  for (int i = 0; i < config.tenants; ++i) workload.tenants.push_back(cat("tenant-", i));
  workload.arrivals.reserve(static_cast<std::size_t>(rate * seconds * 1.02 + 64));
  preset.fill(preset, config, workload);
  return workload;
}

// A stream of tokens that depends on the key alone (Knuth's linear congruence, upper bits).
void append_tokens(std::vector<std::int32_t>& out, std::uint64_t key, int count) {
  std::uint64_t state = mix(key);
  for (int i = 0; i < count; ++i) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    out.push_back(static_cast<std::int32_t>(state >> 33));
  }
}

constexpr std::uint64_t kOwnKeys = std::uint64_t{1} << 63;  // apart from those of segments

}  // namespace

Workload make_workload(const SimConfig& config) {
  Workload workload;
  if (config.trace.ends_with(".jsonl")) {
    workload = read_trace(config.trace);
    rescale(workload, config);
  } else {
    workload = synthesise(config);
  }
  WJ_REQUIRE(!workload.arrivals.empty(), invalid_argument, "trace: no request arrives in ",
             static_cast<double>(workload.duration) * 1e-6, " s");
  return workload;
}

std::vector<std::int32_t> Workload::prompt(const Arrival& arrival, int capacity) const {
  std::vector<std::int32_t> tokens;
  tokens.reserve(static_cast<std::size_t>(capacity));
  int left = arrival.input;
  for (const Segment& segment : prefix(arrival)) {
    append_tokens(tokens, segment.key, std::min(left, segment.length));
    left -= std::min(left, segment.length);
  }
  append_tokens(tokens, kOwnKeys + arrival.key, left);
  return tokens;
}

}  // namespace warpjet::sim

namespace warpjet {

std::string arrivals(const SimConfig& config) {
  validate(config);
  const sim::Workload workload = sim::make_workload(config);
  Json requests{Json::Array{}};
  for (const sim::Arrival& arrival : workload.arrivals) {
    Json segments{Json::Array{}};
    for (const sim::Segment& segment : workload.prefix(arrival)) {
      segments.push(Json::Array{static_cast<std::int64_t>(segment.key), segment.length});
    }
    requests.push(Json::Array{static_cast<double>(arrival.time) * 1e-6, arrival.input, arrival.output,
                              static_cast<std::int64_t>(arrival.key), std::move(segments)});
  }
  return Json(Json::Object{{"name", workload.name},
                           {"duration_s", static_cast<double>(workload.duration) * 1e-6},
                           {"requests", std::move(requests)}})
      .dump();
}

}  // namespace warpjet

// Synthetic loads, after published ones.
#include <algorithm>
#include <cmath>
#include <numbers>

#include "simulate/simulate.h"

namespace warpjet::sim {

// --- Lengths --------------------------------------------------------------------------------------------------------

namespace {

struct Knot {
  double share, tokens;  // this share of lengths is at most so many tokens
};

// Straight in the logarithm between the knots.
template <std::size_t n>
double quantile(const Knot (&knots)[n], double u) {
  std::size_t i = 1;
  while (i + 1 < n && u > knots[i].share) ++i;
  const double part = (u - knots[i - 1].share) / (knots[i].share - knots[i - 1].share);
  return knots[i - 1].tokens * std::pow(knots[i].tokens / knots[i - 1].tokens, part);
}

// Density x^-exponent between low and high.
double power_law(double exponent, double low, double high, double u) {
  const double a = 1 - exponent, begin = std::pow(low, a), end = std::pow(high, a);
  return std::pow(begin + u * (end - begin), 1 / a);
}

// The shares 0.5, 0.9 and 0.99 are those of the traces, as published; the others make the mean come out.
constexpr Knot kConvInput[] = {{0, 16}, {.15, 120}, {.5, 1020}, {.9, 2735}, {.99, 4142}, {1, 7000}};
constexpr Knot kConvOutput[] = {{0, 4}, {.1, 40}, {.5, 129}, {.7, 340}, {.9, 424}, {.99, 601}, {1, 1000}};
constexpr Knot kCodeInput[] = {{0, 16}, {.1, 150}, {.5, 1469}, {.9, 5194}, {.99, 7436}, {1, 7440}};
constexpr Knot kCodeOutput[] = {{0, 2}, {.1, 6}, {.5, 13}, {.8, 22}, {.9, 55}, {.99, 252}, {1, 600}};
constexpr Knot kArxivInput[] = {{0, 400}, {.1, 1500}, {.5, 2730}, {.9, 3702}, {.99, 3934}, {1, 4000}};
constexpr Knot kArxivOutput[] = {{0, 10}, {.1, 80}, {.5, 167}, {.9, 372}, {.98, 1400}, {.99, 3273}, {1, 4000}};

// --- Arrivals -------------------------------------------------------------------------------------------------------

class Filler {
 public:
  Filler(const Preset& preset, const SimConfig& config, Workload& workload)
      : random(static_cast<std::uint64_t>(config.seed)),
        rate(config.rate > 0 ? config.rate : preset.rate),
        seconds(static_cast<double>(workload.duration) * 1e-6),
        preset_(preset),
        workload_(workload) {}

  Arrival& add(double second) {
    return workload_.arrivals.emplace_back(
        Arrival{.time = micros(second),
                .input = length(preset_.input),
                .output = length(preset_.output),
                .key = static_cast<std::uint32_t>(workload_.arrivals.size()),
                .tenant = static_cast<std::uint16_t>(random.zipf(static_cast<int>(workload_.tenants.size())))});
  }

  Random random;
  const double rate, seconds;

 private:
  std::int32_t length(double (*quantile)(double)) {
    return std::max<std::int32_t>(1, static_cast<std::int32_t>(std::lround(quantile(random.uniform()))));
  }
  const Preset& preset_;
  Workload& workload_;
};

void fill_poisson(const Preset& preset, const SimConfig& config, Workload& workload) {
  Filler filler(preset, config, workload);
  double t = filler.random.exponential() / filler.rate;
  for (; t < filler.seconds; t += filler.random.exponential() / filler.rate) filler.add(t);
}

// After BurstGPT (Wang et al. 2024): gamma gaps of a coefficient of variation of 4, under a day's wave that the
// duration is one of.
void fill_bursts(const Preset& preset, const SimConfig& config, Workload& workload) {
  constexpr double kVariation = 4, kWave = 0.5;
  Filler filler(preset, config, workload);
  for (double t = 0;;) {
    const double wave = 1 + kWave * std::sin(2 * std::numbers::pi * t / filler.seconds);
    t += filler.random.gamma(1 / (kVariation * kVariation)) / (filler.rate * wave);
    if (t >= filler.seconds) return;
    filler.add(t);
  }
}

// Agents that call tools, after Mooncake's trace of them: a set of tools (one of 64, 2000 to 8000 tokens), a task's
// instructions (one of 8 for a set), then a text that grows with each turn by what was generated and what the tool
// said. Prompts form a tree, and 6 turns come about 10 s after each other.
class SessionFiller {
 public:
  SessionFiller(const Preset& preset, const SimConfig& config, Workload& workload)
      : filler_(preset, config, workload), random_(filler_.random), workload_(workload) {
    for (int set = 0; set < kSets; ++set) {
      const double tools = 2000 + 6000 * random_.uniform();
      for (int task = 0; task < kTasks; ++task) {
        workload.segments.push_back({.key = static_cast<std::uint64_t>(set), .length = static_cast<int>(tools)});
        workload.segments.push_back({.key = static_cast<std::uint64_t>(kSets + set * kTasks + task),
                                     .length = static_cast<int>(200 + 1300 * random_.uniform())});
      }
    }
  }

  void fill() {
    // Some sessions are under way when the time begins.
    double start = -kWarmUp;
    for (std::uint32_t key = 0; start < filler_.seconds; ++key) {
      session(key, start);
      start += random_.exponential() * kTurns / filler_.rate;
    }
    std::ranges::stable_sort(workload_.arrivals, {}, &Arrival::time);
  }

 private:
  static constexpr int kSets = 64, kTasks = 8;
  static constexpr double kTurns = 6, kWarmUp = 120, kMostTokens = 32768;

  void session(std::uint32_t key, double time) {
    const auto first = static_cast<std::uint32_t>(2 * (random_.zipf(kSets) * kTasks + random_.zipf(kTasks)));
    const int shared = workload_.segments[first].length + workload_.segments[first + 1].length;
    double own = std::ceil(random_.log_normal(200, 0.8));
    while (time < filler_.seconds && shared + own < kMostTokens) {
      const double output = std::clamp(std::ceil(random_.log_normal(50, 0.9)), 4.0, 2000.0);
      if (time >= 0) {
        Arrival& arrival = filler_.add(time);
        arrival.input = static_cast<std::int32_t>(shared + own);
        arrival.output = static_cast<std::int32_t>(output);
        arrival.first_segment = first;
        arrival.num_segments = 2;
        arrival.key = key;
        arrival.session = true;
      }
      if (random_.uniform() < 1 / kTurns) return;
      own += output + std::ceil(random_.log_normal(400, 1));
      time += random_.log_normal(6, 1);
    }
  }

  Filler filler_;
  Random& random_;
  Workload& workload_;
};

void fill_sessions(const Preset& preset, const SimConfig& config, Workload& workload) {
  SessionFiller(preset, config, workload).fill();
}

double one(double) {  // sessions make their own lengths
  return 1;
}

// THE TABLE of presets. Azure: the traces of 2023 (Patel et al. 2024); arxiv-sum: Vidur's (Agrawal et al. 2024).
constexpr Preset kPresets[] = {
    {"azure-conv-23", 5.5, [](double u) { return quantile(kConvInput, u); },
     [](double u) { return quantile(kConvOutput, u); }, fill_poisson},
    {"azure-code-23", 2.6, [](double u) { return quantile(kCodeInput, u); },
     [](double u) { return quantile(kCodeOutput, u); }, fill_poisson},
    {"arxiv-sum", 2, [](double u) { return quantile(kArxivInput, u); },
     [](double u) { return quantile(kArxivOutput, u); }, fill_poisson},
    {"burst", 5, [](double u) { return power_law(1.25, 16, 8192, u); },
     [](double u) { return power_law(1.3, 4, 2048, u); }, fill_bursts},
    {"tool-agent", 6.5, one, one, fill_sessions},
};

}  // namespace

std::span<const Preset> presets() {
  return kPresets;
}

const Preset& find_preset(const std::string& name) {
  std::vector<std::string_view> names;
  for (const Preset& preset : kPresets) {
    if (preset.name == name) return preset;
    names.push_back(preset.name);
  }
  const std::string nearest = nearest_name(name, names);
  WJ_FAIL(invalid_argument, "trace must be a .jsonl file or one of azure-conv-23, azure-code-23, arxiv-sum, burst, ",
          "tool-agent; got ", quote(name), nearest.empty() ? "" : cat("; did you mean ", quote(nearest), "?"));
}

}  // namespace warpjet::sim

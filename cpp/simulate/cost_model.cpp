// How long a step takes.
#include <algorithm>
#include <cmath>
#include <optional>

#include "simulate/simulate.h"

namespace warpjet::sim {
namespace {

// --- Fit of a + b * max(tokens, knee) + c * context -----------------------------------------------------------------

struct Measured {
  double tokens, context, us;
};

struct Fit {
  double base = 0, per_token = 0, per_context = 0, knee = 0;
  double error = std::numeric_limits<double>::infinity();  // sum of squared relative errors

  double predict(const Measured& m) const {
    return base + per_token * std::max(m.tokens, knee) + per_context * m.context;
  }
};

using Row = std::array<double, 4>;

// Gauss-Jordan with pivoting on a 3 x 4 system; columns that are not `used` get 0. Empty: singular.
std::optional<std::array<double, 3>> solve(std::array<Row, 3> a, const std::array<bool, 3>& used) {
  for (int i = 0; i < 3; ++i) {
    if (used[i]) continue;
    for (int j = 0; j < 3; ++j) a[i][j] = a[j][i] = 0;
    a[i][i] = 1;
    a[i][3] = 0;
  }
  for (int column = 0; column < 3; ++column) {
    int pivot = column;
    for (int row = column; row < 3; ++row) {
      if (std::abs(a[row][column]) > std::abs(a[pivot][column])) pivot = row;
    }
    if (std::abs(a[pivot][column]) < 1e-12) return std::nullopt;
    std::swap(a[column], a[pivot]);
    for (int row = 0; row < 3; ++row) {
      if (row == column) continue;
      const double factor = a[row][column] / a[column][column];
      for (int j = column; j < 4; ++j) a[row][j] -= factor * a[column][j];
    }
  }
  return std::array<double, 3>{a[0][3] / a[0][0], a[1][3] / a[1][1], a[2][3] / a[2][2]};
}

// The best fit without negative weights for one knee and these columns.
void improve(Fit& best, std::span<const Measured> steps, double knee, const std::array<bool, 3>& used) {
  double token_unit = 1, context_unit = 1;  // so that all columns are of one size
  for (const Measured& m : steps) {
    token_unit = std::max({token_unit, m.tokens, knee});
    context_unit = std::max(context_unit, m.context);
  }
  std::array<Row, 3> normal{};
  for (const Measured& m : steps) {
    const std::array<double, 3> x = {1 / m.us, std::max(m.tokens, knee) / token_unit / m.us,
                                     m.context / context_unit / m.us};
    for (int i = 0; i < 3; ++i) {
      for (int j = 0; j < 3; ++j) normal[i][j] += x[i] * x[j] * 1e6;
      normal[i][3] += x[i] * 1e6;
    }
  }
  const auto weights = solve(normal, used);
  if (!weights || *std::ranges::min_element(*weights) < 0) return;
  Fit fit{.base = (*weights)[0],
          .per_token = (*weights)[1] / token_unit,
          .per_context = (*weights)[2] / context_unit,
          .knee = knee,
          .error = 0};
  for (const Measured& m : steps) fit.error += std::pow(fit.predict(m) / m.us - 1, 2);
  if (fit.error < best.error) best = fit;
}

Fit fit_steps(std::span<const Measured> steps) {
  std::vector<double> knees = {0};
  for (const Measured& m : steps) knees.push_back(m.tokens);
  std::ranges::sort(knees);
  knees.erase(std::unique(knees.begin(), knees.end()), knees.end());
  Fit best;
  for (const double knee : knees) {
    for (int columns = 0; columns < 8; ++columns) {
      improve(best, steps, knee, {(columns & 1) != 0, (columns & 2) != 0, (columns & 4) != 0});
    }
  }
  return best;
}

std::vector<Measured> read_steps(const std::string& path) {
  std::vector<Measured> steps;
  try {
    const Json file = Json::load(path);
    for (const Json& row : file.at("step_us").as_array()) {
      const Json::Array& values = row.as_array();
      WJ_REQUIRE(values.size() == 3, corrupt, "step_us[", steps.size(), "] must be [tokens, context, us]");
      const Measured m{values[0].as_double(), values[1].as_double(), values[2].as_double()};
      WJ_REQUIRE(m.tokens >= 1 && m.tokens <= 1e9 && m.context >= 0 && m.context <= 1e12 && m.us > 0 && m.us <= 1e9,
                 corrupt, "step_us[", steps.size(), "] must have tokens from 1, context from 0 and us above 0");
      steps.push_back(m);
    }
  } catch (const Error& error) {
    if (error.code() == ErrorCode::io) throw;
    WJ_FAIL(invalid_argument, "cost_model: ", path, ": ", error.message());
  }
  WJ_REQUIRE(!steps.empty(), invalid_argument, "cost_model: ", path, ": step_us is empty");
  WJ_REQUIRE(steps.size() <= 4096, invalid_argument, "cost_model: ", path, ": step_us has ", steps.size(),
             " rows, at most 4096 are fitted");
  return steps;
}

}  // namespace

// --- The model ------------------------------------------------------------------------------------------------------

CostModel::CostModel(const SimConfig& config) {
  const GpuSpec& gpu = find_gpu(config.gpu);
  const double bytes_per_us = gpu.gb_per_s * 1e3 * config.gpus_per_replica * config.bandwidth_efficiency;
  const double flops_per_us = gpu.bf16_tflops * 1e6 * config.gpus_per_replica * config.compute_efficiency;
  const double params = config.params_b * 1e9;
  const double key_us = config.kv_bytes_per_token / bytes_per_us;
  const double block_bytes = config.kv_bytes_per_token * config.block_size;
  overhead_us_ = config.step_overhead_us;
  weights_us_ = params * config.weight_bytes_per_param / bytes_per_us;
  token_us_ = 2 * params / flops_per_us;
  chunk_key_us_ = key_us;
  chunk_pair_us_ = config.queries_per_kv * config.kv_bytes_per_token / flops_per_us;
  decode_key_us_ = std::max(key_us, chunk_pair_us_);
  device_block_us_ = 2 * block_bytes / bytes_per_us;
  host_block_us_ = block_bytes / (config.host_gb_per_s * 1e3);
  if (!config.cost_model.empty()) fit(config.cost_model);
}

// The knee is where the tokens' work begins to take longer than reading the weights.
void CostModel::fit(const std::string& path) {
  const std::vector<Measured> steps = read_steps(path);
  const Fit fit = fit_steps(steps);
  overhead_us_ = fit.base;
  weights_us_ = fit.per_token * fit.knee;
  token_us_ = fit.per_token;
  decode_key_us_ = chunk_key_us_ = fit.per_context;
  chunk_pair_us_ = 0;
  source_ = path;
  rms_error_ = std::sqrt(fit.error / static_cast<double>(steps.size()));
}

Micros CostModel::step_us(const StepWork& work) const {
  double us = overhead_us_ + std::max(weights_us_, token_us_ * static_cast<double>(work.tokens));
  us += decode_key_us_ * static_cast<double>(work.decode_keys);
  us += std::max(chunk_key_us_ * static_cast<double>(work.chunk_keys), chunk_pair_us_ * work.chunk_pairs);
  us += device_block_us_ * static_cast<double>(work.device_copies);
  us += host_block_us_ * static_cast<double>(work.host_copies);
  return std::max<Micros>(1, std::llround(us));
}

Json CostModel::describe() const {
  return Json::Object{{"source", source_},
                      {"overhead_us", overhead_us_},
                      {"weights_us", weights_us_},
                      {"token_us", token_us_},
                      {"decode_key_us", decode_key_us_},
                      {"chunk_key_us", chunk_key_us_},
                      {"chunk_pair_us", chunk_pair_us_},
                      {"rms_relative_error", rms_error_}};
}

}  // namespace warpjet::sim

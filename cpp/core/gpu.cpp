// GPUs by name.
#include <warpjet/config.h>

#include <algorithm>
#include <cctype>

#include "core/core.h"

namespace warpjet {
namespace {

constexpr std::string_view kDatasheet = "datasheet";
constexpr std::string_view kMeasured = "measured: device copy, 8192-cubed matrix product";

// Rates of consumer cards are those with fp32 accumulation.
constexpr GpuSpec kGpus[] = {
    {"A100", 2039, 312, 80, kDatasheet},
    {"H100", 3000, 800, 80, kMeasured},
    {"H200", 4300, 790, 141, kMeasured},
    {"B200", 8000, 2250, 180, kDatasheet},
    {"GH200", 4000, 990, 96, kDatasheet},
    {"L4", 300, 121, 24, kDatasheet},
    {"L40S", 864, 362, 48, kDatasheet},
    {"A10G", 600, 70, 24, kDatasheet},
    {"RTX 4090", 1008, 165.2, 24, kDatasheet},
    {"RTX 5090", 1792, 209.5, 32, kDatasheet},
    {"RTX PRO 6000", 1792, 503.8, 96, kDatasheet},
};
static_assert(std::ranges::equal(kGpus, choices::kGpu, {}, &GpuSpec::name), "the names that fields tell are these");

// "NVIDIA GeForce RTX 4090", "rtx4090" and "4090" are one name.
std::string key_of(std::string_view name) {
  std::string key;
  for (const unsigned char c : name)
    if (std::isalnum(c)) key += static_cast<char>(std::toupper(c));
  for (const std::string_view prefix : {"NVIDIA", "GEFORCE", "RTX"})
    if (key.starts_with(prefix)) key.erase(0, prefix.size());
  return key;
}

}  // namespace

const GpuSpec& find_gpu(std::string_view name) {
  const std::string key = key_of(name);
  std::string known;
  for (const GpuSpec& gpu : kGpus) {
    if (key_of(gpu.name) == key) return gpu;
    known += cat(known.empty() ? "" : ", ", gpu.name);
  }
  WJ_FAIL(invalid_argument, "gpu must be one of ", known, "; got ", quote(name));
}

}  // namespace warpjet

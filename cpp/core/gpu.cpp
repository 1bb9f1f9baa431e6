// GPUs by name.
#include <algorithm>
#include <cctype>

#include "core/core.h"

namespace warpjet {
namespace {

constexpr GpuSpec kGpus[] = {
    {"A100", 2039, 312, 80, "datasheet"},
    {"H100", 3000, 800, 80, "measured: device copy, 8192-cubed matrix product"},
    {"H200", 4300, 790, 141, "measured: device copy, 8192-cubed matrix product"},
    {"B200", 8000, 2250, 180, "datasheet"},
};

}  // namespace

const GpuSpec& find_gpu(std::string_view name) {
  std::string upper(name);
  std::transform(upper.begin(), upper.end(), upper.begin(), [](unsigned char c) { return std::toupper(c); });
  std::string known;
  for (const GpuSpec& gpu : kGpus) {
    if (gpu.name == upper) return gpu;
    known += cat(known.empty() ? "" : ", ", gpu.name);
  }
  WJ_FAIL(invalid_argument, "gpu must be one of ", known, "; got ", quote(name));
}

}  // namespace warpjet

// A device by its name in a configuration.
#include "ops/backend.h"

#include <charconv>

namespace warpjet {

std::unique_ptr<Device> open_device(const std::string& name, int num_threads) {
  if (name == "cpu" || (name == "auto" && !cuda_status().unavailable_reason.empty()))
    return make_cpu_device(num_threads);
  int index = 0;
  const std::size_t colon = name.find(':');
  if (colon != name.npos) std::from_chars(name.data() + colon + 1, name.data() + name.size(), index);
  return make_cuda_device(index);
}

}  // namespace warpjet

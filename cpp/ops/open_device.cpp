// A device by its name in a configuration.
#include "ops/backend.h"

#include <charconv>

namespace warpjet {

std::unique_ptr<Device> open_device(const std::string& name, int num_threads) {
  const int usable = name == "auto" ? cuda_status().usable : 0;
  if (name == "cpu" || usable < 0) return make_cpu_device(num_threads);
  int index = usable;
  const std::size_t colon = name.find(':');
  if (colon != name.npos) std::from_chars(name.data() + colon + 1, name.data() + name.size(), index);
  return make_cuda_device(index);
}

}  // namespace warpjet

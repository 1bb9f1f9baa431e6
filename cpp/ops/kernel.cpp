#include "ops/kernel.h"

namespace warpjet {

void wait_for_kernel(Stream& stream, std::string_view kernel, const std::string& problem) {
  try {
    stream.synchronize();
  } catch (const Error& error) {
    throw Error(error.code(), cat("kernel ", kernel, problem, ": ", error.message()), __FILE__, __LINE__);
  }
}

}  // namespace warpjet

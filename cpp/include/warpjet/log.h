// The log of the process: what goes wrong, and at the levels info and debug what the engine is made of. On stderr.
#pragma once

#include <warpjet/error.h>

#include <string_view>

namespace warpjet {

// Lines below this level are dropped from now on: error, warn (or warning), info or debug. Until it is called the
// environment variable WARPJET_LOG says it, or else warn. Any thread. Throws invalid_argument for another word.
WJ_API void set_log_level(std::string_view level);

}  // namespace warpjet

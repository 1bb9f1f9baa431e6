// What a device gives back that draws the same token for every sample.
#pragma once

#include "schedule/batch.h"

namespace warpjet {

inline TokenRanges one_token_each(int samples, std::int32_t token) {
  TokenRanges ranges;
  for (int i = 0; i < samples; ++i) {
    ranges.tokens.push_back(token);
    ranges.end_range();
  }
  return ranges;
}

}  // namespace warpjet

// Paged attention for heads of up to 64.
#include "cuda/sm80/attention_kernel.cuh"

namespace warpjet::sm80 {

WJ_ATTENTION(64)

}  // namespace warpjet::sm80

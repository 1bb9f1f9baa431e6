// Paged attention for heads of up to 96.
#include "cuda/sm80/attention_kernel.cuh"

namespace warpjet::sm80 {

WJ_ATTENTION(96)

}  // namespace warpjet::sm80

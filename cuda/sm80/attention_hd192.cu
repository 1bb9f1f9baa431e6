// Paged attention for heads of up to 192.
#include "cuda/sm80/attention_kernel.cuh"

namespace warpjet::sm80 {

WJ_ATTENTION(192)

}  // namespace warpjet::sm80

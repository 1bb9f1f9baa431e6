// Paged attention for heads of up to 256.
#include "cuda/sm80/attention_kernel.cuh"

namespace warpjet::sm80 {

WJ_ATTENTION(256)

}  // namespace warpjet::sm80

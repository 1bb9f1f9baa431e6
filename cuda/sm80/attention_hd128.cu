// Paged attention for heads of up to 128.
#include "cuda/sm80/attention_kernel.cuh"

namespace warpjet::sm80 {

WJ_ATTENTION(128)

}  // namespace warpjet::sm80

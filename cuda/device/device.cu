// A GPU as a Device.
#include "cuda/catalog.h"
#include "cuda/device/status.h"
#include "cuda/device/stream.h"
#include "ops/backend.h"

#include <pthread.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <utility>

namespace warpjet {
namespace {

// Makes a device current and the old one again at the end. Does not throw.
class OnDevice {
 public:
  explicit OnDevice(int index) {
    log_failure(cudaGetDevice(&before_), "cudaGetDevice");
    log_failure(cudaSetDevice(index), "cudaSetDevice");
  }
  ~OnDevice() { log_failure(cudaSetDevice(before_), "cudaSetDevice"); }
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;

 private:
  int before_ = 0;
};

void free_device(void* data, std::size_t) {
  cudaPointerAttributes attributes = {};
  if (cudaPointerGetAttributes(&attributes, data) != cudaSuccess) return;  // the driver is gone, and the memory with it
  const OnDevice owner(attributes.device);
  log_failure(cudaFree(data), "cudaFree");
}

void free_host(void* data, std::size_t) {
  log_failure(cudaFreeHost(data), "cudaFreeHost");
}

// A forked child can neither use the driver nor end it: the driver's own exit handlers would wait for threads that are
// not there, or crash. So a child of a process that has opened a GPU leaves without exit handlers.
void leave_without_driver(int status, void*) {
  std::fflush(nullptr);
  _exit(status);
}
void mind_forks() {
  static const int registered = pthread_atfork(nullptr, nullptr, [] { on_exit(leave_without_driver, nullptr); });
  WJ_CHECK(registered == 0, "pthread_atfork: error ", registered);
}

class GpuDevice final : public Device {
 public:
  explicit GpuDevice(int index) : index_(index) {
    mind_forks();
    // Waits spin: they are for work that ends within microseconds, and a sleeping thread takes longer than that to
    // wake.
    WJ_CUDA(cudaInitDevice(index, cudaDeviceScheduleSpin, cudaInitDeviceFlagsAreValid));
    use();
    cudaDeviceProp properties;
    WJ_CUDA(cudaGetDeviceProperties(&properties, index));
    std::size_t free = 0, total = 0;
    WJ_CUDA(cudaMemGetInfo(&free, &total));
    info_ = {.name = properties.name,
             .id = cat("cuda:", index),
             .sm = 10 * properties.major + properties.minor,
             .cores = properties.multiProcessorCount,
             .memory_bytes = static_cast<std::int64_t>(total),
             .free_bytes = static_cast<std::int64_t>(free)};
    stream_ = make_cuda_stream(info_.sm);
  }

  const DeviceInfo& info() const override { return info_; }
  Stream& stream() override { return *stream_; }
  std::unique_ptr<Event> make_event() override { return make_cuda_event(); }
  std::unique_ptr<Stream> make_stream() override { return make_cuda_stream(info_.sm); }
  void use_on_this_thread() override { use(); }

  Buffer allocate(std::size_t bytes) override {
    if (bytes == 0) return {};
    void* data = nullptr;
    const cudaError_t status = cudaMalloc(&data, bytes);
    if (status == cudaErrorMemoryAllocation) {
      cudaGetLastError();  // it is answered here
      std::size_t free = 0, total = 0;
      WJ_CUDA(cudaMemGetInfo(&free, &total));
      WJ_FAIL(out_of_memory, "cannot allocate ", bytes, " bytes on cuda:", index_, " (", info_.name, "): ", free,
              " of its ", total, " bytes are free");
    }
    WJ_REQUIRE(status == cudaSuccess, device, "cudaMalloc: ", error_text(status));
    Buffer buffer(data, bytes, free_device);
    WJ_CUDA(cudaMemsetAsync(data, 0, bytes, cudaStreamPerThread));
    WJ_CUDA(cudaStreamSynchronize(cudaStreamPerThread));
    return buffer;
  }

  Buffer allocate_host(std::size_t bytes) override {
    if (bytes == 0) return {};
    void* data = nullptr;
    const cudaError_t status = cudaHostAlloc(&data, bytes, cudaHostAllocMapped | cudaHostAllocPortable);
    if (status == cudaErrorMemoryAllocation) {
      cudaGetLastError();
      WJ_FAIL(out_of_memory, "cannot pin ", bytes, " bytes of host memory for cuda:", index_,
              "; is memory short, or the limit of locked memory (ulimit -l) low?");
    }
    WJ_REQUIRE(status == cudaSuccess, device, "cudaHostAlloc: ", error_text(status));
    std::memset(data, 0, bytes);
    return {data, bytes, free_host};
  }

 private:
  void use() { WJ_CUDA(cudaSetDevice(index_)); }

  int index_;
  DeviceInfo info_;
  std::unique_ptr<CudaStream> stream_;
};

}  // namespace

std::unique_ptr<Device> make_cuda_device(int index) {
  const CudaStatus status = cuda_status();
  WJ_REQUIRE(status.unavailable_reason.empty(), device, status.unavailable_reason);
  WJ_REQUIRE(index >= 0 && std::cmp_less(index, status.gpus.size()), invalid_argument,
             "there is no device cuda:", index, ": this machine has ", status.gpus.size(), " GPU(s), cuda:0 the first");
  const std::string complaint = gpu_complaint(index);
  WJ_REQUIRE(complaint.empty(), device, complaint);
  return std::make_unique<GpuDevice>(index);
}

void register_cuda_backend(Catalogs& catalogs) {
  register_cuda_kernels(catalogs);
}

}  // namespace warpjet

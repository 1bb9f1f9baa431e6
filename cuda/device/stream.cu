#include "cuda/device/stream.h"

namespace warpjet {
namespace {

class GpuEvent final : public Event {
 public:
  GpuEvent() { WJ_CUDA(cudaEventCreate(&event_)); }
  ~GpuEvent() override { log_failure(cudaEventDestroy(event_), "cudaEventDestroy"); }
  GpuEvent(const GpuEvent&) = delete;
  GpuEvent& operator=(const GpuEvent&) = delete;

  bool done() const override {
    const cudaError_t status = cudaEventQuery(event_);
    if (status == cudaErrorNotReady) return false;
    WJ_REQUIRE(status == cudaSuccess, device, "cudaEventQuery: ", error_text(status));
    return true;
  }
  void wait() const override { WJ_CUDA(cudaEventSynchronize(event_)); }
  double microseconds_since(const Event& start) const override {
    float milliseconds = 0;
    WJ_CUDA(cudaEventElapsedTime(&milliseconds, static_cast<const GpuEvent&>(start).event_, event_));
    return 1e3 * static_cast<double>(milliseconds);
  }

  cudaEvent_t handle() const { return event_; }

 private:
  cudaEvent_t event_ = nullptr;
};

class GpuGraph final : public Graph {
 public:
  explicit GpuGraph(cudaGraph_t recorded) { WJ_CUDA(cudaGraphInstantiate(&graph_, recorded)); }
  ~GpuGraph() override { log_failure(cudaGraphExecDestroy(graph_), "cudaGraphExecDestroy"); }
  GpuGraph(const GpuGraph&) = delete;
  GpuGraph& operator=(const GpuGraph&) = delete;

  cudaGraphExec_t handle() const { return graph_; }

 private:
  cudaGraphExec_t graph_ = nullptr;
};

class GpuStream final : public CudaStream {
 public:
  // Without the implicit waiting for the default stream, which other libraries in the process may use.
  explicit GpuStream(int sm) : sm_(sm) { WJ_CUDA(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking)); }
  ~GpuStream() override { log_failure(cudaStreamDestroy(stream_), "cudaStreamDestroy"); }
  GpuStream(const GpuStream&) = delete;
  GpuStream& operator=(const GpuStream&) = delete;

  cudaStream_t handle() const override { return stream_; }
  int sm() const override { return sm_; }

  void copy(void* to, const void* from, std::size_t bytes) override {
    if (bytes > 0) WJ_CUDA(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, stream_));
  }
  void synchronize() override { WJ_CUDA(cudaStreamSynchronize(stream_)); }
  void record(Event& event) override { WJ_CUDA(cudaEventRecord(static_cast<GpuEvent&>(event).handle(), stream_)); }

  // Thread-local: what other threads do with the device meanwhile, such as loading, is their own affair.
  bool begin_capture() override {
    WJ_CUDA(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal));
    return true;
  }
  bool capturing() const override {
    cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
    WJ_CUDA(cudaStreamIsCapturing(stream_, &status));
    return status != cudaStreamCaptureStatusNone;
  }
  std::unique_ptr<Graph> end_capture() override {
    struct Recording {
      cudaGraph_t graph = nullptr;
      ~Recording() {
        if (graph) log_failure(cudaGraphDestroy(graph), "cudaGraphDestroy");
      }
    } recording;
    WJ_CUDA(cudaStreamEndCapture(stream_, &recording.graph));
    auto graph = std::make_unique<GpuGraph>(recording.graph);
    WJ_CUDA(cudaGraphUpload(graph->handle(), stream_));  // else the first launch would do it
    return graph;
  }
  void launch(Graph& graph) override { WJ_CUDA(cudaGraphLaunch(static_cast<GpuGraph&>(graph).handle(), stream_)); }

 private:
  cudaStream_t stream_ = nullptr;
  int sm_;
};

}  // namespace

std::unique_ptr<CudaStream> make_cuda_stream(int sm) {
  return std::make_unique<GpuStream>(sm);
}

std::unique_ptr<Event> make_cuda_event() {
  return std::make_unique<GpuEvent>();
}

std::string error_text(cudaError_t status) {
  return cat(cudaGetErrorName(status), ", ", cudaGetErrorString(status));
}

void log_failure(cudaError_t status, const char* call) {
  if (status == cudaSuccess || status == cudaErrorCudartUnloading) return;
  WJ_LOG(error, call, ": ", error_text(status));
}

}  // namespace warpjet

// The engine, its output queue and the functions on models. The GIL is released wherever native code may wait.
#include "bindings.h"

#include <nanobind/stl/filesystem.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string_view.h>
#include <nanobind/stl/vector.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <chrono>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <limits>
#include <list>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace warpjet::python {
namespace {

// A native object that owns threads or locks. A forked child has neither: there it may be neither used nor destroyed.
template <class T>
class ProcessBound {
 public:
  explicit ProcessBound(std::unique_ptr<T> object) : object_(std::move(object)), process_(getpid()) {}
  ~ProcessBound() {
    if (getpid() != process_) {
      object_.release();
    } else {
      const nb::gil_scoped_release release;
      object_.reset();
    }
  }
  ProcessBound(ProcessBound&&) = delete;

  T& get() const {
    if (getpid() != process_)
      throw Error(ErrorCode::closed,
                  "this engine belongs to process " + std::to_string(process_) + ", but this is its fork, process " +
                      std::to_string(getpid()) + "; open the model after forking, or use the 'spawn' start method",
                  __FILE__, __LINE__);
    return *object_;
  }

 private:
  std::unique_ptr<T> object_;
  pid_t process_;
};
// A queue, and the batches that were taken from it and are not Python's yet: memory may be short in between.
struct PolledQueue {
  OutputQueue queue;
  std::list<std::vector<Output>> taken;
};
using EngineHandle = ProcessBound<Engine>;
using QueueHandle = ProcessBound<PolledQueue>;

// Token ids of a prompt. A wrong one is a bad value, whatever its type: bool, float or out of range.
std::vector<std::int32_t> to_tokens(nb::handle prompt) {
  const nb::object items = nb::steal(PySequence_Fast(prompt.ptr(), "prompt_token_ids must be a list of ints"));
  if (!items.is_valid()) throw nb::python_error();
  const Py_ssize_t size = PyObject_Length(items.ptr());
  std::vector<std::int32_t> tokens(static_cast<std::size_t>(size));
  for (Py_ssize_t i = 0; i < size; ++i) {
    const nb::object item = items[i];
    const std::string name = "prompt_token_ids[" + std::to_string(i) + "]";
    if (PyBool_Check(item.ptr()) || !PyIndex_Check(item.ptr()))
      raise_value_error(name + " must be an int, got " + kind_of(item));
    tokens[static_cast<std::size_t>(i)] =
        static_cast<std::int32_t>(to_integer(item, name, 0, std::numeric_limits<std::int32_t>::max()));
  }
  return tokens;
}

// The words of a mask: anything that lies in one piece and is whole words long.
std::vector<std::int32_t> to_words(nb::handle mask) {
  Py_buffer view;
  if (PyObject_GetBuffer(mask.ptr(), &view, PyBUF_SIMPLE) != 0) throw nb::python_error();
  std::vector<std::int32_t> words(static_cast<std::size_t>(view.len) / sizeof(std::int32_t));
  std::memcpy(words.data(), view.buf, words.size() * sizeof(std::int32_t));
  const bool whole = view.len % sizeof(std::int32_t) == 0;
  PyBuffer_Release(&view);
  if (!whole) raise_value_error("mask must be whole 32-bit words");
  return words;
}

// (id, sample, position, answer): a mask, None for the end, or the text of an error.
Guidance to_guidance(nb::handle row) {
  const nb::tuple values = nb::cast<nb::tuple>(row);
  if (values.size() != 4) raise_value_error("an answer must be (id, sample, position, answer)");
  Guidance out{
      .id = nb::cast<RequestId>(values[0]), .sample = nb::cast<int>(values[1]), .position = nb::cast<int>(values[2])};
  const nb::object answer = values[3];
  if (answer.is_none()) {
    out.kind = Guidance::Kind::stop;
  } else if (PyUnicode_Check(answer.ptr())) {
    out.kind = Guidance::Kind::fail;
    out.error = nb::cast<std::string>(answer);
  } else {
    out.mask = to_words(answer);
  }
  return out;
}

void guide(const EngineHandle& engine, nb::handle answers) {
  std::vector<Guidance> all;
  for (const nb::handle row : nb::iter(answers)) all.push_back(to_guidance(row));
  const nb::gil_scoped_release release;
  engine.get().guide(std::move(all));
}

// Seconds as Python gives them, for waits and deadlines; what no clock can count, infinity too, is kMostSeconds.
// Raises ValueError unless they are `at_least` or more: NaN is not.
std::chrono::nanoseconds to_duration(double seconds, double at_least, const char* range) {
  constexpr double kMostSeconds = 1e9;  // three decades
  if (!(seconds >= at_least))
    raise_value_error(std::string("timeout must be ") + range + " (seconds), got " + std::to_string(seconds));
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
      std::chrono::duration<double>(std::min(seconds, kMostSeconds)));
}

Clock::time_point deadline_after(std::optional<double> seconds) {
  if (!seconds) return Clock::time_point::max();
  return Clock::now() + to_duration(*seconds, std::numeric_limits<double>::denorm_min(), "positive");
}

RequestId submit(const EngineHandle& engine, nb::handle prompt, const SamplingParams& sampling,
                 const QueueHandle& queue, int priority, std::string cache_salt, std::optional<double> timeout,
                 std::string tenant, int cache_priority, const PoolingParams* pooling, nb::handle mask,
                 const QueueHandle* guide_queue) {
  Request request{.prompt = to_tokens(prompt),
                  .sampling = sampling,
                  .pooling = pooling ? std::optional(*pooling) : std::nullopt,
                  .priority = priority,
                  .tenant = std::move(tenant),
                  .cache_salt = std::move(cache_salt),
                  .cache_priority = cache_priority,
                  .deadline = deadline_after(timeout)};
  if (!mask.is_none()) request.mask = to_words(mask);
  if (guide_queue) request.guide = &guide_queue->get().queue;
  const nb::gil_scoped_release release;
  return engine.get().submit(std::move(request), queue.get().queue);
}

// All of a batch or none: what became an object before memory ran out is moved back.
nb::list to_list(std::vector<Output>& outputs) {
  const nb::object list = nb::steal(PyList_New(static_cast<Py_ssize_t>(outputs.size())));
  if (!list.is_valid()) throw nb::python_error();
  std::size_t done = 0;
  try {
    for (; done < outputs.size(); ++done) {
      nb::object item = nb::inst_alloc(nb::type<Output>());
      new (nb::inst_ptr<Output>(item)) Output(std::move(outputs[done]));
      nb::inst_mark_ready(item);
      PyList_SetItem(list.ptr(), static_cast<Py_ssize_t>(done), item.release().ptr());
    }
  } catch (...) {
    while (done-- > 0) {
      const nb::handle item = PyList_GetItem(list.ptr(), static_cast<Py_ssize_t>(done));
      outputs[done] = std::move(*nb::inst_ptr<Output>(item));
    }
    throw;
  }
  return nb::borrow<nb::list>(list);
}

nb::list poll(const QueueHandle& handle, double timeout) {
  const std::chrono::nanoseconds wait = to_duration(timeout, 0, "0 or more");
  PolledQueue& polled = handle.get();
  if (polled.taken.empty()) {
    std::list<std::vector<Output>> batch(1);
    {
      const nb::gil_scoped_release release;
      batch.front() = polled.queue.poll(wait);
    }
    polled.taken.splice(polled.taken.end(), batch);
  }
  const auto wake = [&polled] { ::eventfd_write(polled.queue.wait_fd(), 1); };
  try {
    nb::list outputs = to_list(polled.taken.front());
    polled.taken.pop_front();
    if (!polled.taken.empty()) wake();
    return outputs;
  } catch (...) {
    wake();  // event loops come again
    throw;
  }
}

nb::list logprob_rows(const std::vector<std::vector<TokenLogprob>>& rows) {
  nb::list out;
  for (const auto& row : rows) {
    nb::list entries;
    for (const TokenLogprob& entry : row) entries.append(nb::make_tuple(entry.token, entry.logprob, entry.rank));
    out.append(entries);
  }
  return out;
}

nb::object optional_text(const std::string& text, bool present) {
  return present ? nb::object(nb::str(text.c_str(), text.size())) : nb::none();
}

nb::str text_of(std::string_view text) {
  return nb::str(text.data(), text.size());
}

// A struct with fields() as a dict.
template <class C>
requires requires {
  C::fields();
}
nb::dict dict_of(const C& values) {
  nb::dict out;
  for_each_field<C>([&](const auto& field) { out[text_of(field.name)] = nb::cast(values.*(field.member)); });
  return out;
}

nb::list events_of(const EngineHandle& engine, std::uint64_t number) {
  std::vector<KvEvent> events;
  {
    const nb::gil_scoped_release release;
    events = engine.get().kv_events(number);
  }
  nb::list out;
  for (const KvEvent& event : events) {
    nb::dict row;
    row["number"] = event.number;
    row["kind"] = event.kind == KvEvent::Kind::stored ? "stored" : "removed";
    row["where"] = event.where == KvEvent::Where::device ? "device" : "host";
    row["key"] = event.key;
    row["parent_key"] = event.parent_key;
    row["num_tokens"] = event.num_tokens;
    out.append(row);
  }
  return out;
}

nb::dict snapshot_of(const EngineHandle& engine, std::uint64_t since_step) {
  Snapshot snapshot;
  {
    const nb::gil_scoped_release release;
    snapshot = engine.get().snapshot(since_step);
  }
  return python::dict_of(snapshot);
}

void bind_output(nb::module_& module) {
  nb::class_<Output>(module, "Output", "What happened to one sample of one request since its last output.")
      .def_ro("id", &Output::id)
      .def_ro("sample", &Output::sample)
      .def_ro("sequence", &Output::sequence, "0, 1, 2, ... per (id, sample), without a gap")
      .def_prop_ro(
          "tokens", [](const Output& self) { return self.tokens; }, nb::sig("def tokens(self) -> list[int]"),
          "new token ids; a stop token is included")
      .def_prop_ro(
          "logprobs", [](const Output& self) { return logprob_rows(self.logprobs); },
          nb::sig("def logprobs(self) -> list[list[tuple[int, float, int]]]"),
          "for each token: itself, then the most likely, as (token, logprob, rank)")
      .def_prop_ro(
          "prompt_logprobs", [](const Output& self) { return logprob_rows(self.prompt_logprobs); },
          nb::sig("def prompt_logprobs(self) -> list[list[tuple[int, float, int]]]"))
      .def_prop_ro(
          "finish",
          [](const Output& self) -> nb::object {
            return self.is_final() ? nb::object(text_of(to_string(self.finish))) : nb::none();
          },
          nb::sig("def finish(self) -> str | None"), "stop, length, abort or error; None while it runs")
      .def_prop_ro(
          "stop_token",
          [](const Output& self) -> nb::object {
            return self.stop_token >= 0 ? nb::object(nb::int_(self.stop_token)) : nb::none();
          },
          nb::sig("def stop_token(self) -> int | None"))
      .def_prop_ro(
          "error", [](const Output& self) { return optional_text(self.error, self.finish == FinishReason::error); },
          nb::sig("def error(self) -> str | None"))
      .def_ro("retriable", &Output::retriable, "the same request may succeed elsewhere")
      .def_ro("prompt_tokens", &Output::prompt_tokens)
      .def_ro("cached_tokens", &Output::cached_tokens)
      .def_ro("queue_ms", &Output::queue_ms)
      .def_ro("ttft_ms", &Output::ttft_ms)
      .def_ro("cumulative_logprob", &Output::cumulative_logprob, "of a beam")
      .def_prop_ro(
          "embedding", [](const Output& self) { return self.embedding; }, nb::sig("def embedding(self) -> list[float]"),
          "in the final output of a request with pooling")
      .def_prop_ro(
          "times", [](const Output& self) { return dict_of(self.times); },
          nb::sig("def times(self) -> dict[str, float]"), "in the final output: where its time went, in milliseconds");
}

void bind_model_info(nb::module_& module) {
  nb::class_<ModelInfo>(module, "ModelInfo", "What a caller needs to know of the model it opened.")
      .def_ro("architecture", &ModelInfo::architecture)
      .def_ro("scheme", &ModelInfo::scheme)
      .def_ro("vocab_size", &ModelInfo::vocab_size)
      .def_ro("max_model_len", &ModelInfo::max_model_len)
      .def_ro("num_layers", &ModelInfo::num_layers)
      .def_ro("hidden_size", &ModelInfo::hidden_size, "of an embedding")
      .def_ro("parameters", &ModelInfo::parameters)
      .def_ro("weight_bytes", &ModelInfo::weight_bytes)
      .def_ro("kv_bytes_per_token", &ModelInfo::kv_bytes_per_token)
      .def_prop_ro(
          "eos_token_ids", [](const ModelInfo& self) { return self.eos_token_ids; },
          nb::sig("def eos_token_ids(self) -> list[int]"))
      .def_ro("bos_token_id", &ModelInfo::bos_token_id, "-1 when the model has none")
      .def_ro("generates", &ModelInfo::generates, "False when it has no output head, and embeds only");
}

void bind_engine_class(nb::module_& module) {
  nb::class_<QueueHandle>(module, "OutputQueue", "Where outputs arrive; any number of requests may share one.")
      .def("__init__", [](QueueHandle* self) { new (self) QueueHandle(std::make_unique<PolledQueue>()); })
      .def("poll", &poll, nb::arg("timeout") = 0.0, nb::sig("def poll(self, timeout: float = 0.0) -> list[Output]"),
           "Waits up to this many seconds until there is something; returns everything there is.")
      .def(
          "wait_fd", [](const QueueHandle& self) { return self.get().queue.wait_fd(); },
          "A file descriptor that is readable while outputs wait.");

  nb::class_<EngineHandle>(module, "Engine",
                           "An opened model that takes requests. Methods may be called from any thread.")
      .def_static(
          "open",
          [](const std::filesystem::path& model, const EngineConfig& config) {
            const nb::gil_scoped_release release;
            return new EngineHandle(Engine::open(model, config));  // Python owns it
          },
          nb::arg("model"), nb::arg("config"),
          nb::sig("def open(model: str | os.PathLike[str], config: EngineConfig) -> Engine"),
          "Opens a checkpoint or an engine directory.")
      .def("submit", &submit, nb::arg("prompt"), nb::arg("sampling"), nb::arg("queue"), nb::kw_only(),
           nb::arg("priority") = 0, nb::arg("cache_salt") = "", nb::arg("timeout") = nb::none(), nb::arg("tenant") = "",
           nb::arg("cache_priority") = Request{}.cache_priority, nb::arg("pooling") = nb::none(),
           nb::arg("mask") = nb::none(), nb::arg("guide_queue") = nb::none(),
           nb::sig(
               "def submit(self, prompt: collections.abc.Sequence[int], sampling: SamplingParams, queue: OutputQueue, "
               "*, priority: int = 0, cache_salt: str = '', timeout: float | None = None, tenant: str = '', "
               "cache_priority: int = 3, pooling: PoolingParams | None = None, "
               "mask: bytes | bytearray | memoryview | None = None, guide_queue: OutputQueue | None = None) -> int"),
           "Either raises and has no effect, or returns an id that gets one final output for each sample. With pooling "
           "that is an embedding of the prompt; the sampling must be the default then. mask and guide_queue: the "
           "request is guided, see guide().")
      .def(
          "guide", &guide, nb::arg("answers"),
          nb::sig(
              "def guide(self, answers: collections.abc.Iterable[tuple[int, int, int, bytes | bytearray | memoryview "
              "| str | None]]) -> None"),
          "What may follow in guided samples, as (id, sample, position, answer): after `position` tokens of the "
          "sample, as its guide queue has given them, the next one must be one that the mask allows (32-bit words, bit "
          "set = allowed); or the text is complete (None); or it fails with an error. An answer to another position "
          "than the sample's has no effect.")
      .def(
          "cancel",
          [](const EngineHandle& self, RequestId id, std::optional<int> sample) {
            const nb::gil_scoped_release release;
            self.get().cancel(id, sample);
          },
          nb::arg("id"), nb::arg("sample") = nb::none(),
          "Ends the request's live samples, or one of them; an unknown or finished id is no error.")
      .def(
          "reset_prefix_cache",
          [](const EngineHandle& self) {
            const nb::gil_scoped_release release;
            self.get().reset_prefix_cache();
          },
          "Drops every cached prefix block that no live sequence holds.")
      .def(
          "pause",
          [](const EngineHandle& self, RequestId id) {
            const nb::gil_scoped_release release;
            self.get().pause(id);
          },
          nb::arg("id"), "Takes a request off the device until resume(). Idempotent.")
      .def(
          "resume",
          [](const EngineHandle& self, RequestId id) {
            const nb::gil_scoped_release release;
            self.get().resume(id);
          },
          nb::arg("id"))
      .def("kv_events", &events_of, nb::arg("number") = 0,
           nb::sig("def kv_events(self, number: int = 0) -> list[dict[str, int | str]]"),
           "Changes of the prefix cache from this number on, as far as EngineConfig.kv_events of them are kept.")
      .def(
          "snapshot", &snapshot_of, nb::arg("since_step") = 0,
          nb::sig("def snapshot(self, since_step: int = 0) -> dict[str, typing.Any]"),
          "What it is doing now, and what of the last steps is newer than since_step; those are recorded from one call "
          "until 2 s after the latest. Keys: step, now_us, block_size, kv_blocks, max_model_len, max_num_seqs; pool: a "
          "byte for each block, 0 free, 255 cached and held by nobody, else by how many; sequences: at most 512 dicts "
          "of id, sample, state (running, waiting, paused, parked, preempted), prompt, computed, output, cached, "
          "blocks; steps: at most 128 dicts of step, us, start_us, rows [[id, sample, start, count], ...]; "
          "first_tokens: [[id, step, ttft_ms], ...]; finished: [[id, sample, step, reason, output_tokens, total_ms], "
          "...]. An end between two steps has the number of the step to come, so it may be told again.")
      .def(
          "stats", [](const EngineHandle& self) { return dict_of(self.get().stats()); },
          nb::sig("def stats(self) -> dict[str, int]"))
      .def(
          "metrics", [](const EngineHandle& self) { return self.get().metrics(); },
          "Counters, gauges and histograms in Prometheus' text format.")
      .def(
          "health", [](const EngineHandle& self) { return text_of(to_string(self.get().health())); },
          nb::sig("def health(self) -> str"), "serving, degraded, failed or closed")
      .def_prop_ro("model", [](const EngineHandle& self) { return self.get().model(); })
      .def_prop_ro(
          "config", [](const EngineHandle& self) { return self.get().config(); }, "as resolved: no zeros left")
      .def_prop_ro(
          "load_report", [](const EngineHandle& self) { return dict_of(self.get().load_report()); },
          nb::sig("def load_report(self) -> dict[str, int | float | str]"), "how the weights came into memory")
      .def(
          "close",
          [](const EngineHandle& self) {
            const nb::gil_scoped_release release;
            self.get().close();
          },
          "Stops accepting, ends live requests with abort. Idempotent.");
}

// Ctrl-C ends it.
std::string run_simulation(const SimConfig& config) {
  const auto poll = [] {
    const nb::gil_scoped_acquire acquire;
    if (PyErr_CheckSignals() != 0) throw nb::python_error();
  };
  const nb::gil_scoped_release release;
  return simulate(config, poll);
}

// Ctrl-C and exceptions of the callback end the build; the half-written directory is removed as the error unwinds.
BuildReport build(const std::filesystem::path& checkpoint, const std::filesystem::path& out, const BuildConfig& config,
                  const nb::object& progress) {
  const BuildProgress report = [&progress](std::int64_t done, std::int64_t total) {
    const nb::gil_scoped_acquire acquire;
    if (PyErr_CheckSignals() != 0) throw nb::python_error();
    if (!progress.is_none()) progress(done, total);
  };
  const nb::gil_scoped_release release;
  return build_engine(checkpoint, out, config, report);
}

void bind_backend(nb::module_& module) {
  nb::class_<CudaStatus>(module, "CudaStatus", "The NVIDIA GPUs of this machine, as this build sees them.")
      .def_ro("driver", &CudaStatus::driver, "the newest CUDA that the driver knows, or nothing")
      .def_prop_ro(
          "gpus", [](const CudaStatus& self) { return self.gpus; }, nb::sig("def gpus(self) -> list[str]"))
      .def_ro("usable", &CudaStatus::usable, "the index of the first that can be used; -1 when none can")
      .def_ro("unavailable_reason", &CudaStatus::unavailable_reason, "why none can be used; empty when one can");
  module.def(
      "cuda_status",
      [] {
        const nb::gil_scoped_release release;
        return cuda_status();
      },
      "Looks at the machine anew.");
  module.def("cuda_architectures", &cuda_architectures,
             "What this build holds GPU kernels for, such as '80 90a'; empty without the CUDA backend.");
}

void bind_functions(nb::module_& module) {
  module.def("set_log_level", &set_log_level, nb::arg("level"), nb::sig("def set_log_level(level: str) -> None"),
             "The native log's level from now on: error, warning, info or debug. Raises ValueError.");
  nb::class_<BuildReport>(module, "BuildReport", "What a build did.")
      .def_ro("scheme", &BuildReport::scheme)
      .def_ro("weight_bytes", &BuildReport::weight_bytes)
      .def_ro("peak_rss_bound", &BuildReport::peak_rss_bound, "bytes the build promised not to exceed")
      .def_ro("seconds", &BuildReport::seconds);
  module.def(
      "build_engine", &build, nb::arg("checkpoint"), nb::arg("out"), nb::arg("config"),
      nb::arg("progress") = nb::none(),
      nb::sig("def build_engine(checkpoint: str | os.PathLike[str], out: str | os.PathLike[str], config: BuildConfig, "
              "progress: collections.abc.Callable[[int, int], object] | None = None) -> BuildReport"),
      "Compiles a checkpoint directory into an engine directory; progress gets (bytes done, bytes in all).");
  module.def(
      "measure_engine",
      [](int repeats, const nb::callable& row) {
        const nb::gil_scoped_release release;
        measure_engine({.repeats = repeats, .allocations = &allocations_of_this_thread},
                       [&row](const std::string& text) {
                         const nb::gil_scoped_acquire acquire;
                         if (PyErr_CheckSignals() != 0) throw nb::python_error();
                         row(text);
                       });
      },
      nb::arg("repeats"), nb::arg("row"),
      nb::sig("def measure_engine(repeats: int, row: collections.abc.Callable[[str], object]) -> None"),
      "What the host side costs on a device that computes nothing: row gets JSON text, one row at a time.");
  module.def(
      "measure_kernels",
      [](const std::filesystem::path& model, const EngineConfig& config, const nb::callable& row,
         const std::vector<std::int64_t>& rows, std::int64_t context, bool all) {
        const nb::gil_scoped_release release;
        measure_kernels(model, config, {.rows = rows, .context = context, .all = all}, [&row](const std::string& text) {
          const nb::gil_scoped_acquire acquire;
          if (PyErr_CheckSignals() != 0) throw nb::python_error();
          row(text);
        });
      },
      nb::arg("model"), nb::arg("config"), nb::arg("row"), nb::kw_only(), nb::arg("rows") = KernelMeasureOptions{}.rows,
      nb::arg("context") = KernelMeasureOptions{}.context, nb::arg("all") = false,
      nb::sig("def measure_kernels(model: str | os.PathLike[str], config: EngineConfig, row: "
              "collections.abc.Callable[[str], object], *, rows: collections.abc.Sequence[int] = ..., "
              "context: int = 1024, all: bool = False) -> None"),
      "Times the kernels of a model's steps on a GPU, one by one: row gets JSON text. Of every kernel that could be "
      "used with all=True.");
  module.def("build_peak_rss_bound", &build_peak_rss_bound, "The bound that build_engine() keeps, in bytes.");
  module.def(
      "describe",
      [](const std::filesystem::path& model, const std::string& gpu, int tokens, int context) {
        const nb::gil_scoped_release release;
        return describe(model, {.gpu = gpu, .tokens = tokens, .context = context});
      },
      nb::arg("model"), nb::kw_only(), nb::arg("gpu") = DescribeOptions{}.gpu,
      nb::arg("tokens") = DescribeOptions{}.tokens, nb::arg("context") = DescribeOptions{}.context,
      nb::sig("def describe(model: str | os.PathLike[str], *, gpu: str = 'H100', tokens: int = 1, context: int = 1024) "
              "-> str"),
      "What a model is, as JSON text, without loading weights.");
  module.def("simulate", &run_simulation, nb::arg("config"), nb::sig("def simulate(config: SimConfig) -> str"),
             "Runs a simulation; returns its report as JSON text.");
  module.def(
      "arrivals",
      [](const SimConfig& config) {
        const nb::gil_scoped_release release;
        return arrivals(config);
      },
      nb::arg("config"), nb::sig("def arrivals(config: SimConfig) -> str"),
      "The requests of a simulation, as JSON text: name, duration_s and requests.");
}

}  // namespace

void bind_engine(nb::module_& module) {
  bind_output(module);
  bind_model_info(module);
  bind_engine_class(module);
  bind_functions(module);
  bind_backend(module);
}

}  // namespace warpjet::python

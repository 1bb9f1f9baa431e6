// The engine. The GIL is released wherever native code may wait.
#include <nanobind/stl/filesystem.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string_view.h>
#include <nanobind/stl/vector.h>

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <limits>
#include <optional>

#include "handles.h"

namespace warpjet::python {
namespace {

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
    row["group"] = event.group;
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

}  // namespace

void bind_engine(nb::module_& module) {
  bind_model_info(module);
  bind_engine_class(module);
}

}  // namespace warpjet::python

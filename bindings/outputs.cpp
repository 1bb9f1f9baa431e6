// Outputs and the queue that they arrive in. The GIL is released while a reader waits.
#include <nanobind/stl/vector.h>
#include <sys/eventfd.h>

#include "handles.h"

namespace warpjet::python {
namespace {

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

void bind_output_class(nb::module_& module) {
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

void bind_queue(nb::module_& module) {
  nb::class_<QueueHandle>(module, "OutputQueue", "Where outputs arrive; any number of requests may share one.")
      .def("__init__", [](QueueHandle* self) { new (self) QueueHandle(std::make_unique<PolledQueue>()); })
      .def("poll", &poll, nb::arg("timeout") = 0.0, nb::sig("def poll(self, timeout: float = 0.0) -> list[Output]"),
           "Waits up to this many seconds until there is something; returns everything there is.")
      .def(
          "wait_fd", [](const QueueHandle& self) { return self.get().queue.wait_fd(); },
          "A file descriptor that is readable while outputs wait.");
}

}  // namespace

void bind_outputs(nb::module_& module) {
  bind_output_class(module);
  bind_queue(module);
}

}  // namespace warpjet::python

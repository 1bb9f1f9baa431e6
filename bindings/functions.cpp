// Functions of the module: build, describe, simulate, measure, and what this build and this machine have.
#include <nanobind/stl/filesystem.h>
#include <nanobind/stl/string_view.h>
#include <nanobind/stl/vector.h>

#include <cstdint>
#include <filesystem>

#include "bindings.h"

namespace warpjet::python {
namespace {

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

void bind_module_functions(nb::module_& module) {
  bind_functions(module);
  bind_backend(module);
}

}  // namespace warpjet::python

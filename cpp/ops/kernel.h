// The kernel catalogue. An op is three plain things: its Problem (shapes and types), its Args (pointers) and its cost
// (flops, bytes). A kernel is one row that says where it runs, what it supports and how to launch it. The CPU reference
// of every op is a row too, named "ref.<op>": it is the spec that other rows are tested against.
#pragma once

#include "core/core.h"
#include "device/device.h"
#include "quant/format.h"

#include <span>
#include <string_view>
#include <vector>

namespace warpjet {

inline double type_bytes(const Format& format) {
  return format.bytes_per_value();
}

// "{m=8 n=6144 k=4096 a=bf16 b=bf16 d=bf16 bias}": the fields of a problem, less the numbers, flags and choices that
// are zero.
template <HasFields Problem>
std::string to_string(const Problem& problem) {
  std::string out;
  for_each_field<Problem>([&](const auto& field) {
    const auto& value = problem.*(field.member);
    using Value = std::remove_cvref_t<decltype(value)>;
    const std::string_view space = out.empty() ? "" : " ";
    if constexpr (std::same_as<Value, bool>) {
      if (value) out += cat(space, field.name);
    } else if constexpr (std::same_as<Value, DType> || std::same_as<Value, Format>) {
      out += cat(space, field.name, "=", to_string(value));
    } else if constexpr (NamedEnum<Value>) {
      if (value != Value{}) out += cat(space, field.name, "=", to_string(value));
    } else {
      if (value != Value{}) out += cat(space, field.name, "=", value);
    }
  });
  return cat("{", out, "}");
}

// Waits until the stream's work is done; throws what made it fail, with the name of the kernel and its problem.
void wait_for_kernel(Stream& stream, std::string_view kernel, const std::string& problem);

template <class Op>
struct Kernel {
  std::string_view name;          // stable for ever: written into engine files
  int sm_min = 0, sm_max = 9999;  // runs on sm_min <= sm < sm_max; 0 is the CPU
  bool (*supports)(const typename Op::Problem&) = nullptr;
  // Bytes of Args::workspace that it needs, for this problem or any with fewer rows; null: none. The memory is zero
  // when it is given for the first time; a kernel that counts in it leaves zeros. Kernels of one stream share it.
  std::int64_t (*workspace)(const typename Op::Problem&, const DeviceInfo&) = nullptr;
  // How long it takes, about, in units that all rows of the op share: neighbouring rows that say so compete by it.
  double (*cost)(const typename Op::Problem&, const DeviceInfo&) = nullptr;
  void (*launch)(const typename Op::Args&, Stream&) = nullptr;

  // Launches it. Under debug_sync() returns when it is done, unless the stream captures a graph.
  void run(const typename Op::Args& args, Stream& stream) const {
    launch(args, stream);
    if (debug_sync() && !stream.capturing()) [[unlikely]]
      wait_for_kernel(stream, name, to_string(args.problem));
  }
};

// The rows of one op, in order of preference. Filled by explicit calls when a backend registers; read-only afterwards.
template <class Op>
class Catalog {
 public:
  void add(Kernel<Op> kernel) {
    for (const auto& row : rows_)
      WJ_REQUIRE(row.name != kernel.name, internal, "kernel ", kernel.name, " registered twice");
    rows_.push_back(kernel);
  }

  std::span<const Kernel<Op>> rows() const { return rows_; }

  // The first row that runs on this device and supports the problem; of neighbours with a cost the cheapest. Throws
  // unsupported.
  const Kernel<Op>& select(const typename Op::Problem& problem, const DeviceInfo& device) const {
    const Kernel<Op>* best = nullptr;
    for (const auto& row : rows_) {
      if (device.sm < row.sm_min || device.sm >= row.sm_max || !row.supports(problem)) continue;
      if (!row.cost) return best ? *best : row;
      if (!best || row.cost(problem, device) < best->cost(problem, device)) best = &row;
    }
    if (best) return *best;
    WJ_FAIL(unsupported, "no kernel for ", Op::name, to_string(problem), " on ", device.name);
  }

  // By the name stored in an engine file; throws unsupported with what to do.
  const Kernel<Op>& find(std::string_view name) const {
    for (const auto& row : rows_) {
      if (row.name == name) return row;
    }
    WJ_FAIL(unsupported, "this build has no kernel \"", name, "\"; rebuild the engine with this version of warpjet");
  }

 private:
  std::vector<Kernel<Op>> rows_;
};

}  // namespace warpjet

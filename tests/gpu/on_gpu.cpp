// The GPU's rows as the tests of the emulator know them: launched on the GPU, whatever stream they are given, and
// waited for.
#include "cuda/catalog.h"
#include "emulator/emulator.h"
#include "ops/backend.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace warpjet {
namespace {

Device& gpu() {
  static const std::unique_ptr<Device> device = make_cuda_device(0);
  return *device;
}

const Catalogs& kernels() {
  static const Catalogs all = [] {
    Catalogs made;
    register_cuda_backend(made);
    return made;
  }();
  return all;
}

constexpr std::size_t kMostRows = 96;  // of one op

template <class Op, std::size_t row>
void launch(const typename Op::Args& args, Stream&) {
  kernels().of<Op>().rows()[row].launch(args, gpu().stream());
  gpu().stream().synchronize();
}

template <class Op, std::size_t... row>
void add_rows(Catalogs& catalogs, std::index_sequence<row...>) {
  constexpr void (*kLaunchers[])(const typename Op::Args&, Stream&) = {launch<Op, row>...};
  const auto rows = kernels().of<Op>().rows();
  WJ_CHECK(rows.size() <= kMostRows, Op::name, " has ", rows.size(), " rows");
  for (std::size_t i = 0; i < rows.size(); ++i) {
    Kernel<Op> kernel = rows[i];
    if (gpu().info().sm < kernel.sm_min || gpu().info().sm >= kernel.sm_max) continue;
    kernel.launch = kLaunchers[i];
    catalogs.of<Op>().add(kernel);
  }
}

template <class... Op>
void add_all(Catalogs& catalogs, const std::tuple<Catalog<Op>...>&) {
  (add_rows<Op>(catalogs, std::make_index_sequence<kMostRows>()), ...);
}

}  // namespace

// What register_cuda_kernels is in this build of the tests.
void register_cuda_kernels(Catalogs& catalogs) {
  add_all(catalogs, catalogs.all);
}

}  // namespace warpjet

namespace emu {

constexpr std::size_t kGuard = 256;
constexpr std::uint8_t kGuardByte = 0xa5;

GlobalBuffer::GlobalBuffer(std::size_t bytes, std::uint8_t fill) : bytes_(bytes) {
  auto* memory = static_cast<std::byte*>(operator new(bytes + 2 * kGuard));
  std::memset(memory, kGuardByte, bytes + 2 * kGuard);
  data_ = memory + kGuard;
  std::memset(data_, fill, bytes);
}

GlobalBuffer::~GlobalBuffer() {
  const auto is_whole = [](const std::byte* band) {
    for (std::size_t i = 0; i < kGuard; ++i) {
      if (band[i] != std::byte{kGuardByte}) return false;
    }
    return true;
  };
  if (!is_whole(data_ - kGuard) || !is_whole(data_ + bytes_)) {
    std::fprintf(stderr, "a kernel wrote outside a buffer of %zu bytes\n", bytes_);
    std::abort();
  }
  operator delete(data_ - kGuard, bytes_ + 2 * kGuard);
}

int multiprocessors() {
  return warpjet::gpu().info().cores;
}

}  // namespace emu

// WARPJET_DEBUG_SYNC=1: a kernel that fails is named, with its problem.
#include "ops/kernel.h"
#include "ops/token.h"

#include <gtest/gtest.h>

#include <cstdlib>

namespace warpjet {
namespace {

const int kIsSet = ::setenv("WARPJET_DEBUG_SYNC", "1", 1);  // before it is read

// Fails when it is waited for, as a GPU does.
struct FailingStream : Stream {
  void copy(void*, const void*, std::size_t) override {}
  void synchronize() override {
    ++waits;
    WJ_FAIL(device, "an illegal memory access");
  }
  void record(Event&) override {}
  bool capturing() const override { return in_graph; }
  bool in_graph = false;
  int waits = 0;
};

TEST(DebugSync, NamesTheKernelAndItsProblem) {
  ASSERT_EQ(kIsSet, 0);
  const Kernel<Gather> kernel{.name = "test.gather", .launch = [](const Gather::Args&, Stream&) {}};
  Gather::Args args{};
  args.problem.rows = 3;
  FailingStream stream;
  stream.in_graph = true;
  kernel.run(args, stream);
  EXPECT_EQ(stream.waits, 0);
  stream.in_graph = false;
  try {
    kernel.run(args, stream);
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::device);
    EXPECT_EQ(error.message(), "kernel test.gather{rows=3 dtype=f32}: an illegal memory access");
  }
}

}  // namespace
}  // namespace warpjet

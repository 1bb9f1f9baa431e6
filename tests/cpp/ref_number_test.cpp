// Rows of elements as the reference kernels read and write them, against the codec, whatever instructions do it.
#include "ops/ref/number.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <vector>

#include "quant/quant.h"

namespace warpjet::ref {
namespace {

std::uint32_t bits_of(float value) {
  return as_bits(value);
}

TEST(Number, EveryF16CodeIsReadAsTheCodecReadsIt) {
  std::vector<std::uint16_t> codes(1 << 16);
  for (std::size_t code = 0; code < codes.size(); ++code) codes[code] = static_cast<std::uint16_t>(code);
  std::vector<float> values(codes.size() + 1, -1.0f);
  load(codes.data() + 1, DType::f16, 65535, values.data() + 1);  // an address that no vector is aligned to
  for (std::size_t code = 1; code < codes.size(); ++code) {
    const float expected = f16_to_f32(codes[code]);
    if (std::isnan(expected))
      ASSERT_TRUE(std::isnan(values[code])) << code;  // its quiet bit may be set
    else
      ASSERT_EQ(bits_of(values[code]), bits_of(expected)) << code;
  }
  EXPECT_EQ(values[0], -1.0f);
}

TEST(Number, F16IsWrittenAsTheCodecWritesIt) {
  std::vector<float> values;
  for (std::uint32_t code = 0; code < 0x10000u; ++code) {  // every f16, what lies on either side, and the ties
    const std::uint32_t at = bits_of(f16_to_f32(static_cast<std::uint16_t>(code)));
    for (const std::uint32_t bits : {at - 1, at, at + 1, at + 0xfffu, at + 0x1000u, at + 0x1001u})
      values.push_back(as_float(bits));
  }
  for (const DType dtype : {DType::f16, DType::bf16}) {
    std::vector<std::uint16_t> written(values.size() + 1, 0x1234);
    store(values.data(), static_cast<std::int64_t>(values.size()), written.data(), dtype);
    for (std::size_t i = 0; i < values.size(); ++i) {
      const std::uint16_t expected = dtype == DType::f16 ? f32_to_f16(values[i]) : f32_to_bf16(values[i]);
      ASSERT_EQ(written[i], expected) << bits_of(values[i]);
    }
    EXPECT_EQ(written.back(), 0x1234);
  }
}

}  // namespace
}  // namespace warpjet::ref

// Quant: schemes by name, and the codec against definitions of the formats.
#include "quant/quant.h"

#include <warpjet/config.h>

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "core/core.h"
#include "error_kit.h"

namespace warpjet {
namespace {

TEST(Scheme, IsFoundByEverySpelling) {
  for (const char* name : {"bf16", "bfloat16", "BF16"}) EXPECT_EQ(find_scheme(name).name, "bf16");
  for (const char* name : {"fp16", "f16", "float16", "half"}) EXPECT_EQ(find_scheme(name).name, "fp16");
  for (const char* name : {"fp32", "f32", "float32", "float"}) EXPECT_EQ(find_scheme(name).name, "fp32");
  for (const Scheme& scheme : schemes()) EXPECT_EQ(&find_scheme(scheme.name), &scheme);
}

TEST(Scheme, TheOptionsNameEveryRow) {
  std::vector<std::string_view> names{"auto"};
  for (const Scheme& scheme : schemes()) names.push_back(scheme.name);
  EXPECT_EQ(names, std::vector<std::string_view>(std::begin(choices::kScheme), std::end(choices::kScheme)));
}

TEST(Scheme, UnknownNamesListTheKnown) {
  for (const char* bad : {"", "int4", "i8", "fp64"}) {
    expect_error(ErrorCode::unsupported, "bf16, fp16, fp32", [&] { find_scheme(bad); });
  }
}

TEST(Scheme, KeepsACheckpointsType) {
  for (const DType dtype : {DType::f32, DType::f16, DType::bf16}) EXPECT_EQ(scheme_for(dtype).weight, Format(dtype));
  expect_error(ErrorCode::unsupported, "i8", [] { scheme_for(DType::i8); });
}

TEST(Format, SaysWhereScalesLieAndReadsBack) {
  const Format blocks(DType::f8_e4m3, 128, 128, DType::f32);
  EXPECT_EQ(blocks.scale_shape({576, 300}), Shape({5, 3}));
  EXPECT_EQ(blocks.scale_offset({3, 100}), 512);
  EXPECT_EQ(blocks.bytes({3, 100}), 512 + 4);
  EXPECT_EQ(Format(DType::bf16).bytes({3, 100}), 600);
  EXPECT_EQ(to_string(blocks), "f8_e4m3[128x128:f32]");
  for (const Format& format : {blocks, Format(DType::bf16)}) {
    Format back;
    from_json(Json::parse(json_of(format).dump()), back);
    EXPECT_EQ(back, format);
  }
  expect_error(ErrorCode::corrupt, "blocks of 0 x 128", [] {
    Format format;
    from_json(Json::parse(R"({"element":"f8_e4m3","block_rows":0,"block_columns":128,"scale":"f32"})"), format);
  });
}

// By the definitions of the OCP's specification, over every code.
TEST(Codec, EightBitFloatsEqualTheirDefinition) {
  const auto check = [](int mantissa_bits, int bias, auto decode, auto encode, float most, auto special) {
    for (int code = 0; code < 256; ++code) {
      const auto bits = static_cast<std::uint8_t>(code);
      const float value = decode(bits);
      if (special(code & 0x7f)) {
        EXPECT_FALSE(std::isfinite(value)) << code;
        continue;
      }
      const int exponent = (code & 0x7f) >> mantissa_bits;
      const double fraction = (code & ((1 << mantissa_bits) - 1)) / static_cast<double>(1 << mantissa_bits);
      const double magnitude =
          exponent == 0 ? fraction * std::pow(2.0, 1 - bias) : (1 + fraction) * std::pow(2.0, exponent - bias);
      EXPECT_EQ(value, (code & 0x80 ? -1 : 1) * magnitude) << code;
      EXPECT_EQ(encode(value), bits) << code;  // the sign of zero too
      const float next = decode(static_cast<std::uint8_t>(code + 1));
      if ((code & 0x7f) == 0x7f || special((code + 1) & 0x7f)) continue;
      const float half_way = (value + next) / 2;  // exact in fp32
      EXPECT_EQ(encode(half_way), code % 2 == 0 ? bits : bits + 1) << "the even one of two at the same distance";
      EXPECT_EQ(encode(std::nextafter(half_way, value)), bits);
      EXPECT_EQ(encode(std::nextafter(half_way, next)), bits + 1);
    }
    const float huge = std::numeric_limits<float>::infinity();
    EXPECT_EQ(decode(encode(huge)), most);
    EXPECT_EQ(decode(encode(-1e30f)), -most);
    EXPECT_TRUE(std::isnan(decode(encode(std::numeric_limits<float>::quiet_NaN()))));
  };
  check(3, 7, f8_e4m3_to_f32, f32_to_f8_e4m3, 448.0f, [](int code) { return code == 0x7f; });
  check(2, 15, f8_e5m2_to_f32, f32_to_f8_e5m2, 57344.0f, [](int code) { return code >= 0x7c; });
}

// The nearest bf16 by definition: of the two neighbours the closer one, ties to the even.
float nearest_bf16(float value) {
  std::uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  const auto low = static_cast<std::uint16_t>(bits >> 16);
  const double below = bf16_to_f32(low), above = bf16_to_f32(static_cast<std::uint16_t>(low + 1));
  const double to_below = std::abs(value - below), to_above = std::abs(above - value);
  if (to_below == to_above) return static_cast<float>(low % 2 == 0 ? below : above);
  return static_cast<float>(to_below < to_above ? below : above);
}

TEST(Codec, Bf16RoundsToNearestEven) {
  for (std::uint32_t bits = 0x3f000000; bits < 0x40000000; bits += 997) {
    float value;
    std::memcpy(&value, &bits, sizeof value);
    EXPECT_EQ(bf16_to_f32(f32_to_bf16(value)), nearest_bf16(value)) << value;
    EXPECT_EQ(bf16_to_f32(f32_to_bf16(-value)), nearest_bf16(-value)) << value;
  }
  EXPECT_EQ(f32_to_bf16(1.00390625f), 0x3f80);  // 1 + 2^-8 is half way: to the even 1
  EXPECT_EQ(f32_to_bf16(1.01171875f), 0x3f82);  // 1 + 3 * 2^-8 is half way: to the even 1 + 2^-6
  EXPECT_EQ(f32_to_bf16(3.4e38f), 0x7f80);      // beyond the largest: infinity
}

TEST(Codec, EveryHalfAndBf16ValueSurvivesARoundTrip) {
  for (std::uint32_t i = 0; i < 65536; ++i) {
    const auto bits = static_cast<std::uint16_t>(i);
    if (std::isnan(bf16_to_f32(bits))) {
      EXPECT_TRUE(std::isnan(bf16_to_f32(f32_to_bf16(bf16_to_f32(bits)))));
    } else {
      EXPECT_EQ(f32_to_bf16(bf16_to_f32(bits)), bits);
    }
    if (std::isnan(f16_to_f32(bits))) {
      EXPECT_TRUE(std::isnan(f16_to_f32(f32_to_f16(f16_to_f32(bits)))));
    } else {
      EXPECT_EQ(f32_to_f16(f16_to_f32(bits)), bits);
    }
  }
}

// The compiler's own half type is an independent source.
TEST(Codec, HalfRoundsAsTheCompilersType) {
  const auto golden = [](float value) {
    const auto half = static_cast<_Float16>(value);
    std::uint16_t bits;
    std::memcpy(&bits, &half, sizeof bits);
    return bits;
  };
  const auto check = [&](std::uint32_t wide) {
    float value;
    std::memcpy(&value, &wide, sizeof value);
    EXPECT_EQ(f32_to_f16(value), golden(value)) << value << " = " << wide;
  };
  for (std::uint64_t wide = 0; wide < (1ull << 32); wide += 9973) check(static_cast<std::uint32_t>(wide));
  for (std::uint32_t half = 0; half < 0x7c00; ++half) {  // every tie, and its neighbours
    const float low = f16_to_f32(static_cast<std::uint16_t>(half));
    const float high = f16_to_f32(static_cast<std::uint16_t>(half + 1));
    const float middle = half == 0x7bff ? 65520.0f : (low + high) / 2;
    std::uint32_t wide;
    std::memcpy(&wide, &middle, sizeof wide);
    for (const std::uint32_t near : {wide - 1, wide, wide + 1}) check(near), check(near | 0x80000000u);
  }
  for (std::uint32_t half = 0; half < 65536; ++half) {
    const auto bits = static_cast<std::uint16_t>(half);
    _Float16 value;
    std::memcpy(&value, &bits, sizeof value);
    if (std::isnan(f16_to_f32(bits))) continue;
    EXPECT_EQ(f16_to_f32(bits), static_cast<float>(value)) << half;
  }
}

TEST(Codec, HalfKnowsItsSpecialValues) {  // IEEE 754-2008 binary16
  EXPECT_EQ(f32_to_f16(1.0f), 0x3c00);
  EXPECT_EQ(f32_to_f16(65504.0f), 0x7bff);
  EXPECT_EQ(f32_to_f16(65520.0f), 0x7c00);
  EXPECT_EQ(f32_to_f16(5.9604645e-8f), 0x0001);
  EXPECT_EQ(f16_to_f32(0xc000), -2.0f);
}

TEST(Codec, ConvertsBetweenAnyTwoTypesAtAnyAddress) {
  const std::vector<float> values{0.0f, -0.0f, 1.0f, -2.5f, 0.333251953125f, 100.0f, -0.0078125f};
  const auto count = static_cast<std::int64_t>(values.size());
  for (const DType middle : {DType::f32, DType::f16, DType::bf16}) {
    std::vector<std::byte> packed(values.size() * dtype_bytes(middle) + 1);
    std::byte* odd = packed.data() + 1;  // as in a file
    convert(values.data(), DType::f32, odd, middle, count);
    std::vector<float> back(values.size());
    convert(odd, middle, back.data(), DType::f32, count);
    for (std::size_t i = 0; i < values.size(); ++i) EXPECT_NEAR(back[i], values[i], std::abs(values[i]) / 128);
  }
  std::uint16_t half = 0;
  const std::uint16_t bf16_two = 0x4000;
  convert(&bf16_two, DType::bf16, &half, DType::f16, 1);
  EXPECT_EQ(f16_to_f32(half), 2.0f);
}

TEST(Codec, RefusesOtherTypes) {
  std::uint64_t a = 0, b = 0;
  expect_error(ErrorCode::unsupported, "from i8", [&] { convert(&a, DType::i8, &b, DType::f32, 1); });
  expect_error(ErrorCode::unsupported, "to f64", [&] { convert(&a, DType::bf16, &b, DType::f64, 1); });
}

}  // namespace
}  // namespace warpjet

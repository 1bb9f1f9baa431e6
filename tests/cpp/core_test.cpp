// Core: errors, log, tensors, hashes, JSON, files, and what the config structs take.
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>
#include <warpjet/warpjet.h>

#include <cmath>
#include <limits>
#include <random>
#include <set>

#include "core/core.h"
#include "error_kit.h"

namespace warpjet {
namespace {

namespace fs = std::filesystem;
using enum ErrorCode;

class Files : public testing::Test {
 protected:
  Files() : folder_(fs::temp_directory_path() / cat("warpjet_core_test_", ::getpid())) {
    fs::create_directories(folder_);
  }
  ~Files() override { fs::remove_all(folder_); }
  fs::path folder_;
};

std::span<const std::byte> bytes_of(std::string_view text) {
  return std::as_bytes(std::span(text));
}

// --- Errors and log --------------------------------------------------------------------------------------------------

TEST(Error, SaysCodeAndMessageAndThePlaceOfABug) {
  try {
    WJ_REQUIRE(1 > 2, invalid_argument, "k must be ", 3, ", got ", 4);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), invalid_argument);
    EXPECT_EQ(error.message(), "k must be 3, got 4");
    const std::string text = error.what();
    EXPECT_EQ(text.find("invalid_argument: k must be 3, got 4"), 0u);
#ifdef NDEBUG
    EXPECT_EQ(text.find(".cpp"), text.npos) << text;
#endif
  }
  const std::string bug = Error(internal, "a bug", __FILE__, 7).what();
  EXPECT_EQ(bug, "internal: a bug [tests/cpp/core_test.cpp:7]");
}

TEST(Error, AFailedCheckIsInternal) {
  expect_error(internal, "check failed: 1 > 2 because", [] { WJ_CHECK(1 > 2, "because"); });
}

TEST(Log, GoesToTheSinkAboveItsLevelOnly) {
  std::vector<std::string> lines;
  set_log_sink([&](LogLevel, std::string_view line) { lines.emplace_back(line); });
  WJ_LOG(error, "a=", 1);
  WJ_LOG(debug, "b=", 2);
  set_log_sink({});
  EXPECT_EQ(lines, std::vector<std::string>{"a=1"});
}

TEST(Log, TheLevelCanBeSet) {
  std::vector<std::string> lines;
  set_log_sink([&](LogLevel, std::string_view line) { lines.emplace_back(line); });
  for (const std::string_view level : {"error", "warn", "info", "debug", "warning"}) {
    set_log_level(level);
    WJ_LOG(error, level, " e");
    WJ_LOG(warn, level, " w");
    WJ_LOG(info, level, " i");
    WJ_LOG(debug, level, " d");
  }
  set_log_sink({});
  EXPECT_EQ(lines, (std::vector<std::string>{"error e", "warn e", "warn w", "info e", "info w", "info i", "debug e",
                                             "debug w", "debug i", "debug d", "warning e", "warning w"}));
  expect_error(invalid_argument, "the log level must be error, warn, info or debug, got \"loud\"",
               [] { set_log_level("loud"); });
}

TEST(Log, SurvivesASinkThatThrows) {
  set_log_sink([](LogLevel, std::string_view) { throw std::runtime_error("broken sink"); });
  EXPECT_NO_THROW(WJ_LOG(error, "still here"));
  set_log_sink({});
}

TEST(Text, NearestNameFindsTyposAndRefusesStrangers) {
  const std::vector<std::string_view> names{"temperature", "top_p", "top_k", "min_p"};
  EXPECT_EQ(nearest_name("temprature", names), "temperature");
  EXPECT_EQ(nearest_name("topp", names), "top_p");
  EXPECT_EQ(nearest_name("quantization", names), "");
  EXPECT_EQ(nearest_name(std::string(1 << 20, 'x'), names), "");
}

TEST(Text, Utf8IsCheckedAsRfc3629Says) {
  for (const char* good :
       {"", "abc", "\xc3\xa9", "\xe2\x82\xac", "\xf0\x9f\x98\x80", "\xf4\x8f\xbf\xbf", "\xed\x9f\xbf"}) {
    EXPECT_TRUE(is_utf8(good)) << quote(good);
  }
  // Lone tail, cut sequence, overlong, surrogate, beyond U+10FFFF, never-used lead.
  for (const char* bad : {"\x80", "\xc3", "\xe2\x82", "\xc0\xaf", "\xe0\x80\xaf", "\xed\xa0\x80", "\xf4\x90\x80\x80",
                          "\xff", "\xf0\x80\x80\x80", "\xc3\x28"}) {
    EXPECT_FALSE(is_utf8(bad)) << quote(bad);
  }
}

TEST(Text, QuoteIsPrintableAndShort) {
  EXPECT_EQ(quote("a\n\xff"), "\"a\\x0a\\xff\"");
  EXPECT_LT(quote(std::string(1 << 20, 'x')).size(), 130u);
}

// --- Tensors ---------------------------------------------------------------------------------------------------------

TEST(DType, EverySpellingIsKnown) {
  EXPECT_EQ(dtype_from_string("BF16"), DType::bf16);
  EXPECT_EQ(dtype_from_string("bfloat16"), DType::bf16);
  EXPECT_EQ(dtype_from_string("F8_E4M3"), DType::f8_e4m3);
  EXPECT_EQ(dtype_from_string("BOOL"), DType::boolean);
  EXPECT_EQ(dtype_from_string("half"), DType::f16);
  for (const char* unknown : {"", "F4", "bf17", "Float32"}) EXPECT_FALSE(dtype_from_string(unknown)) << unknown;
  for (int i = 0; i <= static_cast<int>(DType::boolean); ++i) {
    const auto dtype = static_cast<DType>(i);
    EXPECT_EQ(dtype_from_string(to_string(dtype)), dtype);
  }
  EXPECT_EQ(dtype_bytes(DType::f64), 8);
  EXPECT_EQ(dtype_bytes(DType::f8_e5m2), 1);
}

TEST(Shape, MultipliesWithoutOverflow) {
  EXPECT_EQ(Shape({}).elements(), 1);
  EXPECT_EQ(Shape({2, 3, 0}).elements(), 0);
  EXPECT_EQ(Shape({2, 3}).to_string(), "[2, 3]");
  EXPECT_FALSE(Shape({2}) == Shape({2, 1}));
  expect_error(corrupt, "out of range", [] { Shape({1ll << 40, 1ll << 40}).elements(); });
  expect_error(corrupt, "out of range", [] { Shape({-1, 4}).elements(); });
  expect_error(invalid_argument, "at most 5 axes", [] { Shape({1, 1, 1, 1, 1, 1}); });
}

TEST(TensorView, DenseRowsFollowEachOther) {
  float data[12] = {};
  const TensorView view(data, DType::f32, {3, 2, 2});
  EXPECT_EQ(view.row_stride, 4);
  EXPECT_EQ(view.bytes(), 48);
  EXPECT_EQ(view.row<float>(2), data + 8);
}

// --- Hashes ----------------------------------------------------------------------------------------------------------

TEST(Hash, EveryBitOfInputAndSeedCounts) {
  std::vector<std::byte> data(97);
  std::set<std::uint64_t> seen{hash64(data), hash64(data, 1)};
  for (std::size_t bit = 0; bit < data.size() * 8; ++bit) {
    data[bit / 8] ^= std::byte{1} << (bit % 8);
    seen.insert(hash64(data));
    data[bit / 8] ^= std::byte{1} << (bit % 8);
  }
  for (std::size_t size = 0; size < data.size(); ++size) seen.insert(hash64(std::span(data).first(size)));
  EXPECT_EQ(seen.size(), 2 + 97 * 8 + 97u);
}

TEST(Checksum, DoesNotDependOnHowTheBytesArrive) {
  std::mt19937 random(7);
  std::vector<std::byte> data(300'001);
  for (std::byte& b : data) b = static_cast<std::byte>(random());
  Checksum whole;
  whole.update(data);
  for (int round = 0; round < 5; ++round) {
    Checksum pieces;
    for (std::size_t at = 0; at < data.size();) {
      const std::size_t count = std::min<std::size_t>(data.size() - at, random() % 100'000);
      pieces.update(std::span(data).subspan(at, count));
      at += count;
    }
    EXPECT_EQ(pieces.hex(), whole.hex()) << "seed 7, round " << round;
  }
  EXPECT_EQ(whole.hex().size(), 16u);
}

TEST(Checksum, FindsASingleFlippedBitAndMissingZeros) {
  std::vector<std::byte> data(200'000);
  const auto hex = [&] {
    Checksum sum;
    sum.update(data);
    return sum.hex();
  };
  const std::string before = hex();
  data[150'000] ^= std::byte{4};
  EXPECT_NE(hex(), before);
  data[150'000] ^= std::byte{4};
  EXPECT_EQ(hex(), before);
  data.resize(199'999);
  EXPECT_NE(hex(), before);
}

// --- JSON ------------------------------------------------------------------------------------------------------------

TEST(Json, ReadsEveryKindOfValue) {
  const Json json = Json::parse(R"( {"a": [1, -0, 2.5, 1e3, true, false, null], "b": {"c": "x"}, "": ""} )");
  const Json::Array& a = json.at("a").as_array();
  EXPECT_TRUE(a[0].is_integer());
  EXPECT_EQ(a[1].as_int(), 0);
  EXPECT_EQ(a[2].as_double(), 2.5);
  EXPECT_FALSE(a[3].is_integer());
  EXPECT_EQ(a[3].as_int(), 1000);  // a whole real is taken as an integer
  EXPECT_TRUE(a[4].as_bool());
  EXPECT_TRUE(a[6].is_null());
  EXPECT_EQ(json.at("b").at("c").as_string(), "x");
  EXPECT_EQ(json.find("missing"), nullptr);
  EXPECT_EQ(a[0].find("key"), nullptr);
}

TEST(Json, DecodesEscapes) {
  EXPECT_EQ(Json::parse(R"("\"\\\/\b\f\n\r\t\u0041\u00e9\u20ac\ud83d\ude00")").as_string(),
            "\"\\/\b\f\n\r\tA\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80");
  EXPECT_EQ(Json::parse(R"("\u0000")").as_string(), std::string(1, '\0'));
}

TEST(Json, RefusesWhatTheStandardRefuses) {
  for (const char* bad : {
           "",         " ",         "{",           "[",          "[1,",    "[1 2]",
           "[1,]",     "{\"a\"}",   "{\"a\":}",    "{\"a\":1,}", "{a:1}",  "{1:1}",
           "\"abc",    "\"\\x\"",   "\"\\u12g4\"", "\"\\u123",   "\"\\",   "01",
           "-",        "+1",        "1.",          ".5",         "1e",     "1e+",
           "0x10",     "--1",       "tru",         "True",       "nul",    "NaN",
           "Infinity", "-Infinity", "1 1",         "{} x",       "\"\t\"", "\"\n\"",
           "]",        "}",         ",",           "// x\n1",    "'a'",    "\xef\xbb\xbf{}",
       }) {
    expect_error(corrupt, "json:", [&] { Json::parse(bad); });
  }
  expect_error(corrupt, "text after the end", [] { Json::parse(std::string_view("1\0", 2)); });
}

TEST(Json, RefusesBrokenText) {
  expect_error(corrupt, "not UTF-8", [] { Json::parse("\"\xff\""); });
  expect_error(corrupt, "not UTF-8", [] { Json::parse("\"\xed\xa0\x80\""); });
  for (const char* lone : {R"("\ud800")", R"("\udc00")", R"("\ud800\u0041")", R"("\ud800x")"}) {
    expect_error(corrupt, "lone surrogate", [&] { Json::parse(lone); });
  }
}

TEST(Json, RefusesNumbersOutOfRange) {
  EXPECT_EQ(Json::parse("9223372036854775807").as_int(), std::numeric_limits<std::int64_t>::max());
  EXPECT_EQ(Json::parse("-9223372036854775808").as_int(), std::numeric_limits<std::int64_t>::min());
  EXPECT_EQ(Json::parse("9223372036854775808.0").as_double(), 9223372036854775808.0);
  for (const char* bad :
       {"9223372036854775808", "-9223372036854775809", "1e999", "-1e999", "123456789012345678901234567890"}) {
    expect_error(corrupt, "out of range", [&] { Json::parse(bad); });
  }
}

TEST(Json, NamesTheSourceLineAndColumn) {
  const Json::ParseOptions options{.source = "config.json"};
  expect_error(corrupt, "config.json:3:8: expected a value",
               [&] { Json::parse("{\n  \"a\": 1,\n  \"b\": x\n}", options); });
  expect_error(corrupt, "config.json:1:9: duplicate key \"a\"", [&] { Json::parse("{\"a\":1, \"a\":2}", options); });
}

TEST(Json, LimitsDepthAndAcceptsTheLimit) {
  const auto nested = [](int depth) { return std::string(depth, '[') + std::string(depth, ']'); };
  EXPECT_NO_THROW(Json::parse(nested(128)));
  expect_error(corrupt, "nested deeper than 128", [&] { Json::parse(nested(129)); });
  expect_error(corrupt, "nested deeper than 128", [&] { Json::parse(std::string(10'000'000, '[')); });
}

TEST(Json, ReadsAMillionKeysInLinearTimeAndFindsTheOneDuplicate) {
  std::string text = "{";  // quadratic would be 10^12 comparisons: hours, and the test has minutes
  for (int i = 0; i < 1'000'000; ++i) text += cat("\"", i, "\":0,");
  EXPECT_EQ(Json::parse(text + "\"x\":0}").as_object().size(), 1'000'001u);
  expect_error(corrupt, "duplicate key \"17\"", [&] { Json::parse(text + "\"17\":0}"); });
}

TEST(Json, NonFiniteNumbersAreReadOnlyWhenAllowed) {
  const Json::ParseOptions options{.allow_non_finite = true};
  EXPECT_TRUE(std::isnan(Json::parse("NaN", options).as_double()));
  EXPECT_EQ(Json::parse("[-Infinity]", options).as_array()[0].as_double(), -std::numeric_limits<double>::infinity());
  EXPECT_EQ(Json(std::nan("")).dump(), "null");
}

TEST(Json, DumpReadsBackBitForBit) {
  const unsigned seed = std::random_device{}();
  std::mt19937_64 random(seed);
  Json list{Json::Array{}};
  std::vector<double> values{0.0, -0.0, 4.0, 0.1, 1e22, 5e-324, 1.7976931348623157e308};
  for (int i = 0; i < 1000; ++i) {
    const std::uint64_t bits = random();
    double value;
    std::memcpy(&value, &bits, sizeof value);
    if (std::isfinite(value)) values.push_back(value);
  }
  for (const double value : values) list.push(value);
  const Json back = Json::parse(list.dump());
  for (std::size_t i = 0; i < values.size(); ++i) {
    const Json& item = back.as_array()[i];
    EXPECT_FALSE(item.is_integer());
    EXPECT_EQ(std::signbit(item.as_double()), std::signbit(values[i]));
    EXPECT_EQ(item.as_double(), values[i]) << "seed " << seed;
  }
}

TEST(Json, DumpEscapesAndIndents) {
  Json json;
  json.set("k\n", Json::Array{1, "\"\x01", Json::Object{}});
  json.set("k\n", Json::Array{1, "\"\x01", Json::Object{}});  // replaces
  EXPECT_EQ(json.dump(), R"({"k\n": [1, "\"\u0001", {}]})");
  EXPECT_EQ(json.dump(1), "{\n \"k\\n\": [\n  1,\n  \"\\\"\\u0001\",\n  {}\n ]\n}");
  EXPECT_EQ(Json::parse(json.dump(2)).dump(), json.dump());
}

TEST(Json, TypedAccessSaysWhatItFound) {
  expect_error(corrupt, "expected an integer, got a string", [] { Json("x").as_int(); });
  expect_error(corrupt, "expected an integer, got 1.5", [] { Json(1.5).as_int(); });
  expect_error(corrupt, "expected an integer, got 1e+300", [] { Json(1e300).as_int(); });
  expect_error(corrupt, "expected an integer, got true or false", [] { Json(true).as_int(); });
  expect_error(corrupt, "missing key \"k\"", [] { Json(Json::Object{}).at("k"); });
  expect_error(corrupt, "expected an object", [] { Json(1).at("k"); });
}

TEST(Json, StructsRoundTripAndUnknownKeysNameTheNearest) {
  EngineConfig config;
  config.max_num_seqs = 7;
  config.scheduling_policy = "priority";
  EngineConfig back;
  from_json(Json::parse(json_of(config).dump()), back);
  EXPECT_EQ(back, config);
  expect_error(corrupt, "unknown key \"max_num_seq\"; nearest is \"max_num_seqs\"",
               [&] { from_json(Json::parse(R"({"max_num_seq": 1})"), back); });
  expect_error(corrupt, "block_size: expected an integer, got a string",
               [&] { from_json(Json::parse(R"({"block_size": "big"})"), back); });
  expect_error(corrupt, "block_size: number 4294967296 is out of range",
               [&] { from_json(Json::parse(R"({"block_size": 4294967296})"), back); });
}

// --- Files -----------------------------------------------------------------------------------------------------------

TEST_F(Files, WriteAndReadAgree) {
  const fs::path path = folder_ / "data";
  FileWriter writer(path);
  writer.write(bytes_of("head"));
  writer.pad_to(10'000);
  writer.write(bytes_of("tail"));
  EXPECT_EQ(writer.size(), 10'004);
  writer.close();
  const FileReader file(path);
  ASSERT_EQ(file.size(), 10'004);
  std::array<std::byte, 5> head;
  std::array<std::byte, 4> tail;
  file.read(0, head);
  file.read(10'000, tail);
  EXPECT_EQ(std::memcmp(head.data(), "head\0", 5), 0);
  EXPECT_EQ(std::memcmp(tail.data(), "tail", 4), 0);
}

TEST_F(Files, AFileThatShrinksWhileItIsReadIsAnError) {
  const fs::path path = folder_ / "data";
  write_text_file(path, std::string(10'000, 'x'));
  const FileReader file(path);
  fs::resize_file(path, 100);
  std::array<std::byte, 4> piece;
  expect_error(io, "ends at byte 5000", [&] { file.read(5000, piece); });
}

TEST_F(Files, AnEmptyFileIsEmpty) {
  write_text_file(folder_ / "empty", "");
  EXPECT_EQ(FileReader(folder_ / "empty").size(), 0);
  EXPECT_EQ(read_text_file(folder_ / "empty"), "");
}

TEST_F(Files, WhatCannotBeReadIsNamed) {
  fs::create_symlink("loop", folder_ / "loop");
  ASSERT_EQ(::mkfifo((folder_ / "pipe").c_str(), 0600), 0);
  expect_error(io, "No such file", [&] { FileReader(folder_ / "missing"); });
  expect_error(io, "not a regular file", [&] { FileReader{folder_}; });
  expect_error(io, "not a regular file", [&] { FileReader(folder_ / "pipe"); });
  expect_error(io, (folder_ / "loop").string(), [&] { FileReader(folder_ / "loop"); });
  expect_error(io, "cannot create", [&] { FileWriter(folder_ / "missing" / "x"); });
  EXPECT_TRUE(path_exists(folder_ / "loop"));
  EXPECT_FALSE(path_exists(folder_ / "missing"));
}

TEST_F(Files, ReadersReadAnywhereAndSayWhereTheFileEnds) {
  write_text_file(folder_ / "numbers", "0123456789");
  const FileReader file(folder_ / "numbers");
  EXPECT_EQ(file.size(), 10);
  std::string part(4, ' ');
  const auto read = [&](std::int64_t offset) { file.read(offset, std::as_writable_bytes(std::span(part))); };
  file.prefetch(6, 100);
  read(6);
  EXPECT_EQ(part, "6789");
  expect_error(io, "ends at byte 10, but 1 more", [&] { read(7); });
  expect_error(io, "No such file", [&] { FileReader(folder_ / "missing"); });
}

TEST_F(Files, AFullDiskIsAnIoError) {
  if (!fs::exists("/dev/full")) GTEST_SKIP();
  FileWriter writer("/dev/full");
  expect_error(io, "cannot write /dev/full: No space left", [&] { writer.write(bytes_of("x")); });
}

TEST_F(Files, ReadingStopsAtTheLimit) {
  write_text_file(folder_ / "text", "12345");
  EXPECT_EQ(read_text_file(folder_ / "text", 5), "12345");
  expect_error(corrupt, "has 5 bytes, expected at most 4", [&] { read_text_file(folder_ / "text", 4); });
}

// --- Config structs --------------------------------------------------------------------------------------------------

// Sets one thing; the message must begin with the field's name.
template <class Config>
void expect_refused(std::string_view field, const auto& change, ErrorCode code = invalid_argument) {
  Config config;
  change(config);
  try {
    validate(config);
    ADD_FAILURE() << field << " was accepted";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code) << error.what();
    EXPECT_EQ(error.message().find(field), 0u) << error.what();
  }
}

TEST(SamplingParams, DefaultsAndExtremesAreValid) {
  validate(SamplingParams{});
  SamplingParams extreme;
  extreme.n = 128;
  extreme.presence_penalty = -2;
  extreme.repetition_penalty = 1e-3;
  extreme.temperature = 0;
  extreme.top_p = 1e-9;
  extreme.top_k = -1;
  extreme.min_p = 1;
  extreme.seed = std::numeric_limits<std::int64_t>::min();
  extreme.max_tokens.reset();
  extreme.min_tokens = 1 << 20;
  extreme.logprobs = -1;
  extreme.logit_bias = {{0, -100}};
  extreme.allowed_token_ids = {{3, 3}};
  validate(extreme);
}

TEST(SamplingParams, NumbersOutOfRangeAreRefusedByName) {
  using P = SamplingParams;
  const double nan = std::nan(""), inf = std::numeric_limits<double>::infinity();
  for (const double bad : {-0.1, nan, inf}) expect_refused<P>("temperature", [&](P& p) { p.temperature = bad; });
  for (const double bad : {0.0, -1.0, 1.01, nan}) expect_refused<P>("top_p", [&](P& p) { p.top_p = bad; });
  for (const double bad : {-0.1, 1.01, nan}) expect_refused<P>("min_p", [&](P& p) { p.min_p = bad; });
  for (const double bad : {-2.1, 2.1, nan}) {
    expect_refused<P>("presence_penalty", [&](P& p) { p.presence_penalty = bad; });
    expect_refused<P>("frequency_penalty", [&](P& p) { p.frequency_penalty = bad; });
  }
  for (const double bad : {0.0, -1.0, nan, inf}) {
    expect_refused<P>("repetition_penalty", [&](P& p) { p.repetition_penalty = bad; });
  }
  for (const int bad : {0, -1, 129}) expect_refused<P>("n", [&](P& p) { p.n = bad; });
  expect_refused<P>("top_k", [](P& p) { p.top_k = -2; });
  for (const int bad : {0, -1}) expect_refused<P>("max_tokens", [&](P& p) { p.max_tokens = bad; });
  expect_refused<P>("min_tokens", [](P& p) { p.min_tokens = -1; });
  expect_refused<P>("max_tokens", [](P& p) { p.max_tokens = -1, p.prompt_logprobs = 0; });
  validate(P{.max_tokens = 0, .prompt_logprobs = 1});
  expect_refused<P>("min_tokens", [](P& p) { p.min_tokens = 17; });  // max_tokens is 16
  expect_refused<P>("logprobs", [](P& p) { p.logprobs = -2; });
  expect_refused<P>("prompt_logprobs", [](P& p) { p.prompt_logprobs = -2; });
}

TEST(SamplingParams, ListsAreBoundedAndTheirEntriesChecked) {
  using P = SamplingParams;
  expect_refused<P>("stop", [](P& p) { p.stop.assign(17, "x"); });
  expect_refused<P>("stop", [](P& p) { p.stop = {""}; });
  expect_refused<P>("stop", [](P& p) { p.stop = {std::string(1025, 'x')}; });
  expect_refused<P>("stop", [](P& p) { p.stop = {"\xff"}; });
  expect_refused<P>("stop_token_ids", [](P& p) { p.stop_token_ids.assign(257, 1); });
  expect_refused<P>("stop_token_ids", [](P& p) { p.stop_token_ids = {-1}; });
  expect_refused<P>("allowed_token_ids", [](P& p) { p.allowed_token_ids = std::vector<std::int32_t>(); });
  expect_refused<P>("allowed_token_ids", [](P& p) { p.allowed_token_ids = {-1}; });
  expect_refused<P>("bad_words", [](P& p) { p.bad_words.assign(129, "x"); });
  expect_refused<P>("bad_words", [](P& p) { p.bad_words = {""}; });
  expect_refused<P>("bad_words_token_ids", [](P& p) { p.bad_words_token_ids = {{}}; });
  expect_refused<P>("bad_words_token_ids", [](P& p) { p.bad_words_token_ids = {{1, -1}}; });
  expect_refused<P>("bad_words_token_ids", [](P& p) { p.bad_words_token_ids.assign(1025, {1}); });
  expect_refused<P>("bad_words_token_ids", [](P& p) { p.bad_words_token_ids.assign(820, {1, 2, 3, 4, 5}); });
  for (const double bad : {100.5, -101.0, std::nan(""), std::numeric_limits<double>::infinity()}) {
    expect_refused<P>("logit_bias", [&](P& p) { p.logit_bias = {{1, bad}}; });
  }
  expect_refused<P>("logit_bias", [](P& p) { p.logit_bias = {{-1, 0}}; });
  expect_refused<P>("logit_bias", [](P& p) {
    for (int i = 0; i < 4097; ++i) p.logit_bias[i] = 1;
  });
}

TEST(SamplingParams, WordsMustBeKnown) {
  using P = SamplingParams;
  expect_refused<P>("output_kind", [](P& p) { p.output_kind = "all"; });
  expect_refused<P>(
      "spaces_between_special_tokens", [](P& p) { p.spaces_between_special_tokens = false; }, unsupported);
}

TEST(EngineConfig, ValuesOutOfRangeAreRefusedByName) {
  using C = EngineConfig;
  validate(C{});
  validate(C{.dtype = "float32", .block_size = 64, .num_gpu_blocks_override = 5, .max_logprobs = -1});
  for (const char* bad : {"", "int8", "f8_e4m3"}) expect_refused<C>("dtype", [&](C& c) { c.dtype = bad; });
  expect_refused<C>("load_format", [](C& c) { c.load_format = "pt"; });
  expect_refused<C>("max_model_len", [](C& c) { c.max_model_len = -1; });
  expect_refused<C>("max_num_seqs", [](C& c) { c.max_num_seqs = 0; });
  expect_refused<C>("max_num_batched_tokens", [](C& c) { c.max_num_batched_tokens = 0; });
  for (const int bad : {0, 1, 48, 128}) expect_refused<C>("block_size", [&](C& c) { c.block_size = bad; });
  expect_refused<C>("kv_cache_memory_bytes", [](C& c) { c.kv_cache_memory_bytes = -1; });
  expect_refused<C>("num_gpu_blocks_override", [](C& c) { c.num_gpu_blocks_override = -1; });
  expect_refused<C>("num_gpu_blocks_override", [](C& c) { c.num_gpu_blocks_override = c.kv_cache_memory_bytes = 9; });
  expect_refused<C>("max_num_queued_reqs", [](C& c) { c.max_num_queued_reqs = 0; });
  expect_refused<C>("max_num_queued_tokens", [](C& c) { c.max_num_queued_tokens = 0; });
  expect_refused<C>("max_logprobs", [](C& c) { c.max_logprobs = -2; });
  expect_refused<C>("scheduling_policy", [](C& c) { c.scheduling_policy = "lifo"; });
  expect_refused<C>("num_threads", [](C& c) { c.num_threads = -1; });
}

TEST(ValueRange, IsToldInWords) {
  EXPECT_EQ(to_string(between(1, 1 << 20), "tokens"), "from 1 to 1048576 tokens");
  EXPECT_EQ(to_string(at_least(-1)), "at least -1");
  EXPECT_EQ(to_string(above(0), "seconds"), "above 0 seconds");
  EXPECT_EQ(to_string(above(0, 0.5)), "above 0 and at most 0.5");
  EXPECT_EQ(to_string(one_of(choices::kBlockSize)), "16, 32 or 64");
  EXPECT_EQ(to_string(one_of(choices::kPooling)), "one of last, mean");
  EXPECT_EQ(to_string(ValueRange{}, "tokens"), "");
}

std::string refusal(const auto& config) {
  try {
    validate(config);
  } catch (const Error& error) {
    return error.message();
  }
  return "accepted";
}

TEST(ValueRange, RefusalsNameTheValueAndTheRange) {
  EXPECT_EQ(refusal(SamplingParams{.n = 129}), "n must be from 1 to 128, got 129");
  EXPECT_EQ(refusal(SamplingParams{.temperature = std::numeric_limits<double>::infinity()}),
            "temperature must be finite and at least 0, got inf");
  EXPECT_EQ(refusal(SamplingParams{.stop_token_ids = {3, -1}}),
            "stop_token_ids: each entry must be at least 0, got -1");
  EXPECT_EQ(refusal(SamplingParams{.output_kind = "all"}),
            "output_kind must be one of cumulative, delta, final_only; got \"all\"");
  EXPECT_EQ(refusal(EngineConfig{.block_size = 48}), "block_size must be 16, 32 or 64 tokens, got 48");
  EXPECT_EQ(refusal(EngineConfig{.guide_timeout = 0}),
            "guide_timeout must be above 0 and at most 1000000 seconds, got 0");
}

}  // namespace
}  // namespace warpjet

// Model: safetensors, config.json, rotary frequencies, families, checkpoints. Bad files are made here, byte by byte.
#include "model/model.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <functional>
#include <random>

#include "core/core.h"
#include "error_kit.h"

namespace warpjet {
namespace {

namespace fs = std::filesystem;
using enum ErrorCode;

// --- Making files ----------------------------------------------------------------------------------------------------

std::string safetensors_file(std::string_view header, std::size_t data_bytes) {
  std::string file(8, '\0');
  for (int i = 0; i < 8; ++i) file[i] = static_cast<char>(header.size() >> (8 * i));
  return file.append(header).append(data_bytes, '\1');
}

struct Tensor {
  DType dtype;
  Shape shape;
};
using Tensors = std::map<std::string, Tensor>;

// Every element is 1.0: 0x3f80 in bf16, and in fp32 followed by zeros.
std::string pack(const Tensors& tensors) {
  Json header{Json::Object{}};
  std::string data;
  for (const auto& [name, tensor] : tensors) {
    const std::size_t begin = data.size();
    for (std::int64_t i = 0; i < tensor.shape.elements(); ++i) {
      const float one = 1.0f;
      char bits[8] = {};
      convert(&one, DType::f32, bits, tensor.dtype, 1);
      data.append(bits, dtype_bytes(tensor.dtype));
    }
    Json shape{Json::Array{}};
    for (const std::int64_t extent : tensor.shape.extents()) shape.push(extent);
    Json entry;
    static const std::map<DType, std::string> kNames{
        {DType::bf16, "BF16"}, {DType::f16, "F16"}, {DType::f32, "F32"}, {DType::f8_e4m3, "F8_E4M3"}};
    entry.set("dtype", kNames.at(tensor.dtype));
    entry.set("shape", shape);
    entry.set("data_offsets", Json::Array{begin, data.size()});
    header.set(name, entry);
  }
  std::string file = safetensors_file(header.dump(), 0);
  return file + data;
}

std::vector<TensorEntry> parse(const std::string& file) {
  return parse_safetensors(std::as_bytes(std::span(file)), std::ssize(file), "file");
}

class ModelFiles : public testing::Test {
 protected:
  ModelFiles() : folder_(fs::temp_directory_path() / cat("warpjet_model_test_", ::getpid())) {
    fs::create_directories(folder_);
  }
  ~ModelFiles() override { fs::remove_all(folder_); }

  void write(const fs::path& name, std::string_view text) const { write_text_file(folder_ / name, text); }

  fs::path folder_;
};

// --- safetensors: one file -------------------------------------------------------------------------------------------

TEST(SafeTensorsFile, ReadsWhatItsHeaderSays) {
  const std::string file = safetensors_file(
      R"({"__metadata__":{"format":"pt"},"b":{"dtype":"F32","shape":[],"data_offsets":[8,12]},)"
      R"("a":{"dtype":"BF16","shape":[2,2],"data_offsets":[0,8]},"e":{"dtype":"I8","shape":[0],"data_offsets":[8,8]}}   )",
      12);
  const std::vector<TensorEntry> entries = parse(file);
  ASSERT_EQ(entries.size(), 3u);
  EXPECT_EQ(entries[0].name, "a");
  EXPECT_EQ(entries[0].dtype, DType::bf16);
  EXPECT_EQ(entries[0].shape, Shape({2, 2}));
  EXPECT_EQ(entries[0].bytes, 8);
  EXPECT_EQ(entries[2].name, "b");
  EXPECT_EQ(entries[2].offset, std::ssize(file) - 4);
}

struct BadHeader {
  const char* name;
  const char* header;
  std::size_t data_bytes;
  const char* complaint;
};

class BadSafeTensors : public testing::TestWithParam<BadHeader> {};

TEST_P(BadSafeTensors, AreCorruptWithAReason) {
  const std::string file = safetensors_file(GetParam().header, GetParam().data_bytes);
  expect_error(corrupt, GetParam().complaint, [&] { parse(file); });
}

INSTANTIATE_TEST_SUITE_P(
    Headers, BadSafeTensors,
    testing::Values(
        BadHeader{"NotJson", "hello", 0, "file header:1:1: expected a value"},
        BadHeader{"NotAnObject", "[]", 0, "must be an object, got an array"},
        BadHeader{"EntryNotAnObject", R"({"a":1})", 0, "tensor \"a\": expected an object"},
        BadHeader{"NoDtype", R"({"a":{"shape":[1],"data_offsets":[0,4]}})", 4, "dtype must be a string, got nothing"},
        BadHeader{"UnknownDtype", R"({"a":{"dtype":"F4","shape":[1],"data_offsets":[0,4]}})", 4,
                  "unknown dtype \"F4\""},
        BadHeader{"NoShape", R"({"a":{"dtype":"F32","data_offsets":[0,4]}})", 4, "shape must be an array"},
        BadHeader{"NoOffsets", R"({"a":{"dtype":"F32","shape":[1]}})", 4, "data_offsets must be an array"},
        BadHeader{"OneOffset", R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0]}})", 4, "two numbers"},
        BadHeader{"NegativeExtent", R"({"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}})", 4, "integers from 0"},
        BadHeader{"RealExtent", R"({"a":{"dtype":"F32","shape":[1.5],"data_offsets":[0,4]}})", 4, "integers from 0"},
        BadHeader{"NegativeOffset", R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[-4,0]}})", 4, "integers from 0"},
        BadHeader{"HugeOffset", R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,9223372036854775807]}})", 4,
                  "reach beyond the file"},
        BadHeader{"Descending", R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}})", 4, "descending"},
        BadHeader{"TooManyAxes", R"({"a":{"dtype":"F32","shape":[1,1,1,1,1,1],"data_offsets":[0,4]}})", 4, "6 axes"},
        BadHeader{"SizeMismatch", R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}})", 4, "does not fill"},
        BadHeader{"ProductOverflow", R"({"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,4]}})", 4,
                  "does not fill"},
        BadHeader{"BytesOverflow", R"({"a":{"dtype":"F32","shape":[4611686018427387904],"data_offsets":[0,0]}})", 0,
                  "does not fill"},
        BadHeader{"OutOfFile", R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", 4, "is it truncated?"},
        BadHeader{"TrailingBytes", R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})", 5,
                  "has 5 bytes of data"},
        BadHeader{
            "Misaligned",
            R"({"a":{"dtype":"I8","shape":[1],"data_offsets":[0,1]},"b":{"dtype":"F32","shape":[1],"data_offsets":[1,5]}})",
            5, "not aligned"},
        BadHeader{
            "Gap",
            R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[8,12]}})",
            12, "leaves a gap"},
        BadHeader{"GapAtTheStart", R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})", 8, "leaves a gap"},
        BadHeader{
            "Overlap",
            R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})",
            8, "overlaps"},
        BadHeader{
            "SameBytesTwice",
            R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})",
            4, "overlaps"},
        BadHeader{
            "DuplicateName",
            R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})",
            4, "duplicate key \"a\""},
        BadHeader{"BadMetadata", R"({"__metadata__":7})", 0, "__metadata__"}),
    [](const auto& info) { return info.param.name; });

TEST(SafeTensorsFile, RefusesHeaderLengthsThatCannotBe) {
  for (const std::size_t size : {0u, 1u, 7u}) {
    expect_error(corrupt, "too few", [&] { parse(std::string(size, '\0')); });
  }
  expect_error(corrupt, "header of 0 bytes", [] { parse(std::string(8, '\0')); });
  std::string long_header = safetensors_file("{}", 0);
  long_header[0] = 3;
  expect_error(corrupt, "expected 1 to 2", [&] { parse(long_header); });
  expect_error(corrupt, "header of 18446744073709551615 bytes", [] { parse(std::string(8, '\xff') + "{}"); });
  expect_error(corrupt, "expected 1 to 100000000", [] { parse(safetensors_file(std::string(100'000'001, ' '), 0)); });
}

TEST(SafeTensorsFile, ReadsAHundredThousandEntries) {
  std::string header = "{";
  constexpr int kCount = 100'000;
  for (int i = 0; i < kCount; ++i) {
    header += cat(i == 0 ? "" : ",", "\"t", i, R"(":{"dtype":"U8","shape":[1],"data_offsets":[)", i, ",", i + 1, "]}");
  }
  const std::string file = safetensors_file(header + "}", kCount);
  EXPECT_EQ(parse(file).size(), static_cast<std::size_t>(kCount));
}

// --- safetensors: directories ----------------------------------------------------------------------------------------

const Tensors kOne{{"a", {DType::f32, {2}}}};
const Tensors kOther{{"b", {DType::bf16, {3}}}};

TEST_F(ModelFiles, ShardsAreReadTogether) {
  write("one.safetensors", pack(kOne));
  write("two.safetensors", pack(kOther));
  write("model.safetensors.index.json",
        R"({"metadata":{"total_size":14},"weight_map":{"a":"one.safetensors","b":"two.safetensors"}})");
  const SafeTensors tensors = SafeTensors::open(folder_);
  EXPECT_EQ(tensors.tensors().size(), 2u);
  EXPECT_EQ(tensors.bytes(), 14);
  EXPECT_EQ(tensors.find("b")->dtype, DType::bf16);
  EXPECT_EQ(tensors.find("c"), nullptr);
}

TEST_F(ModelFiles, ShardNamesMustNotLeaveTheDirectory) {
  for (const char* shard : {"../one.safetensors", "/etc/passwd", "sub/one.safetensors", "", "..", ".", "a\\\\b",
                            "one.safetensors\\u0000"}) {
    write("model.safetensors.index.json", cat(R"({"weight_map":{"a":")", shard, "\"}}"));
    expect_error(corrupt, "must be the name of a file beside the index", [&] { SafeTensors::open(folder_); });
  }
}

TEST_F(ModelFiles, AnIndexMustAgreeWithItsShards) {
  write("one.safetensors", pack(kOne));
  write("two.safetensors", pack(kOne));
  write("three.safetensors", pack(kOther));
  const auto open_with = [&](std::string_view map) {
    write("model.safetensors.index.json", cat("{\"weight_map\":", map, "}"));
    SafeTensors::open(folder_);
  };
  expect_error(io, "missing.safetensors", [&] { open_with(R"({"a":"missing.safetensors"})"); });
  expect_error(corrupt, "tensor \"x\" is not in one.safetensors",
               [&] { open_with(R"({"a":"one.safetensors","x":"one.safetensors"})"); });
  expect_error(corrupt, "tensor \"b\" is not in one.safetensors",
               [&] { open_with(R"({"a":"one.safetensors","b":"one.safetensors","c":"three.safetensors"})"); });
  expect_error(corrupt, "is also in", [&] { open_with(R"({"a":"one.safetensors","b":"two.safetensors"})"); });
  expect_error(corrupt, "must be a string", [&] { open_with(R"({"a":1})"); });
  expect_error(corrupt, "weight_map must be an object", [&] { open_with("[]"); });
}

TEST_F(ModelFiles, SymlinksAreFollowedAndLoopsReported) {
  write("blob", pack(kOne));
  fs::create_symlink("blob", folder_ / "model.safetensors");
  EXPECT_EQ(SafeTensors::open(folder_).tensors().size(), 1u);
  fs::remove(folder_ / "model.safetensors");
  fs::create_symlink("model.safetensors", folder_ / "model.safetensors");
  expect_error(io, "symbolic links", [&] { SafeTensors::open(folder_); });
}

TEST_F(ModelFiles, ADirectoryWithoutWeightsSaysWhatIsExpected) {
  write("pytorch_model.bin", "");
  expect_error(io, "holds neither model.safetensors nor model.safetensors.index.json",
               [&] { SafeTensors::open(folder_); });
}

// --- Rotary frequencies ----------------------------------------------------------------------------------------------

struct RopeGolden {
  const char* name;
  const char* parameters;
  double attention_factor;
  std::vector<float> frequencies;
};

// Golden values: transformers 5.23, LlamaRotaryEmbedding(...).inv_freq and .attention_scaling, head_dim 16.
const std::vector<RopeGolden> kRopeGoldens{
    {"Default",
     R"({"rope_type":"default","rope_theta":10000.0})",
     1.0,
     {1.000000000e+00f, 3.162277639e-01f, 1.000000015e-01f, 3.162277862e-02f, 9.999999776e-03f, 3.162277862e-03f,
      1.000000047e-03f, 3.162277862e-04f}},
    {"Linear",
     R"({"rope_type":"linear","rope_theta":10000.0,"factor":4.0})",
     1.0,
     {2.500000000e-01f, 7.905694097e-02f, 2.500000037e-02f, 7.905694656e-03f, 2.499999944e-03f, 7.905694656e-04f,
      2.500000119e-04f, 7.905694656e-05f}},
    {"Dynamic",
     R"({"rope_type":"dynamic","rope_theta":10000.0,"factor":4.0})",
     1.0,
     {1.000000000e+00f, 3.162277639e-01f, 1.000000015e-01f, 3.162277862e-02f, 9.999999776e-03f, 3.162277862e-03f,
      1.000000047e-03f, 3.162277862e-04f}},
    {"Yarn",
     R"({"rope_type":"yarn","rope_theta":1e6,"factor":4.0,"original_max_position_embeddings":4096})",
     1.138629436111989,
     {1.000000000e+00f, 1.778279394e-01f, 2.371708304e-02f, 2.811706625e-03f, 2.500000119e-04f, 4.445698505e-05f,
      7.905693565e-06f, 1.405853368e-06f}},
    {"YarnWithEverything",
     R"({"rope_type":"yarn","rope_theta":150000.0,"factor":32.0,"original_max_position_embeddings":4096,)"
     R"("beta_fast":16.0,"beta_slow":2.0,"truncate":false,"mscale":1.0,"mscale_all_dim":0.5})",
     1.1476934674947155,
     {1.000000000e+00f, 2.254180014e-01f, 5.081327260e-02f, 7.387540769e-03f, 8.068715397e-05f, 1.818833698e-05f,
      4.099978469e-06f, 9.242089618e-07f}},
    {"Llama3",
     R"({"rope_type":"llama3","rope_theta":500000.0,"factor":8.0,"low_freq_factor":1.0,"high_freq_factor":4.0,)"
     R"("original_max_position_embeddings":1024})",
     1.0,
     {1.000000000e+00f, 1.939227581e-01f, 3.760603070e-02f, 1.312569482e-03f, 1.767766807e-04f, 3.428102355e-05f,
      6.647869668e-06f, 1.289173156e-06f}},
};

RopeSpec rope_of(std::string_view config, int head_dim, int& max_positions) {
  HfConfig hf = HfConfig::object(Json::parse(config), "config.json");
  return hf.rope(head_dim, max_positions, 10000);
}

TEST(Rope, FrequenciesAreThoseOfTransformers) {
  for (const RopeGolden& golden : kRopeGoldens) {
    int max_positions = 2048;
    const RopeSpec rope = rope_of(cat("{\"rope_parameters\":", golden.parameters, "}"), 16, max_positions);
    EXPECT_NEAR(rope.attention_factor, golden.attention_factor, 1e-12) << golden.name;
    const std::vector<float> frequencies = rope_frequencies(rope, 16);
    ASSERT_EQ(frequencies.size(), golden.frequencies.size());
    for (std::size_t i = 0; i < frequencies.size(); ++i) {
      EXPECT_NEAR(frequencies[i], golden.frequencies[i], 1e-7 * golden.frequencies[i]) << golden.name << " pair " << i;
    }
  }
}

TEST(Rope, ReadsBothSpellings) {
  int a = 4096, b = 4096, c = 4096;
  const RopeSpec v5 = rope_of(R"({"rope_parameters":{"rope_type":"linear","rope_theta":5e5,"factor":2.0}})", 64, a);
  EXPECT_EQ(v5.scaling, "linear");
  EXPECT_EQ(v5.theta, 5e5);
  EXPECT_EQ(rope_of(R"({"rope_theta":500000,"rope_scaling":{"type":"linear","factor":2}})", 64, b), v5);
  EXPECT_EQ(rope_of(R"({"rope_theta":5e5,"rope_scaling":{"rope_type":"linear","type":"x","factor":2.0}})", 64, c), v5);
  EXPECT_EQ(a, 8192);
  EXPECT_EQ(b, 8192);
}

TEST(Rope, NothingSaidIsThePlainEmbedding) {
  for (const char* config : {"{}", R"({"rope_scaling":null})", R"({"rope_scaling":{},"rope_parameters":null})"}) {
    int max_positions = 100;
    EXPECT_EQ(rope_of(config, 64, max_positions), (RopeSpec{.original_max_positions = 100})) << config;
    EXPECT_EQ(max_positions, 100);
  }
}

TEST(Rope, ScalingSetsTheContext) {
  const auto context = [](std::string_view rope, int max_positions) {
    rope_of(cat("{\"rope_scaling\":", rope, "}"), 64, max_positions);
    return max_positions;
  };
  EXPECT_EQ(context(R"({"type":"dynamic","factor":2.5})", 1000), 2500);
  EXPECT_EQ(context(R"({"type":"yarn","factor":4.0,"original_max_position_embeddings":32768})", 131072), 131072);
  EXPECT_EQ(context(R"({"type":"yarn","factor":4.0})", 32768), 131072);
  EXPECT_EQ(context(R"({"type":"yarn","factor":2.0,"original_max_position_embeddings":1024})", 4096), 4096);
  EXPECT_EQ(context(R"({"type":"llama3","factor":8,"low_freq_factor":1,"high_freq_factor":4})", 131072), 131072);
}

TEST(Rope, DefaultsFollowTransformers) {
  int max_positions = 4096;
  // A factor of null is the ratio of the contexts; betas of 0 are the defaults; the outer original context wins.
  const RopeSpec rope =
      rope_of(R"({"original_max_position_embeddings":1024,"rope_theta":7,"rope_scaling":{"type":"yarn","factor":null,)"
              R"("original_max_position_embeddings":64,"beta_fast":0,"beta_slow":null,"finetuned":true}})",
              64, max_positions);
  EXPECT_EQ(rope.original_max_positions, 1024);
  EXPECT_EQ(rope.factor, 4.0);
  EXPECT_EQ(rope.beta_fast, 32.0);
  EXPECT_EQ(rope.beta_slow, 1.0);
  EXPECT_NEAR(rope.attention_factor, 0.1 * std::log(4.0) + 1.0, 1e-15);
  EXPECT_EQ(max_positions, 4096);
}

TEST(Rope, BadParametersAreNamed) {
  const auto refuse = [](ErrorCode code, std::string_view words, std::string_view rope) {
    int max_positions = 4096;
    expect_error(code, words, [&] { rope_of(cat("{\"rope_parameters\":", rope, "}"), 64, max_positions); });
  };
  for (const char* type : {"longrope", "su", "mrope", "ntk", ""}) {
    refuse(unsupported, cat("config.json: rope_parameters: rope type \"", type, "\""),
           cat(R"({"rope_type":")", type, "\"}"));
  }
  refuse(corrupt, "rope_parameters: factor: missing", R"({"rope_type":"linear"})");
  refuse(corrupt, "factor: expected", R"({"rope_type":"linear","factor":0})");
  refuse(corrupt, "factor: expected a number, got a string", R"({"rope_type":"linear","factor":"2"})");
  refuse(corrupt, "factor: makes a context of", R"({"rope_type":"linear","factor":1e6})");
  refuse(corrupt, "rope_theta: expected", R"({"rope_theta":-1})");
  refuse(corrupt, "low_freq_factor: missing", R"({"rope_type":"llama3","factor":8})");
  refuse(corrupt, "high_freq_factor: must be above",
         R"({"rope_type":"llama3","factor":8,"low_freq_factor":4,"high_freq_factor":4})");
  refuse(unsupported, "partial_rotary_factor: only 1 is supported, got 0.5", R"({"partial_rotary_factor":0.5})");
  refuse(unsupported, "unknown key(s) \"mrope_section\"", R"({"rope_type":"default","mrope_section":[1,2]})");
  refuse(unsupported, "full_attention: rope type \"su\"", R"({"full_attention":{"rope_type":"su"}})");
  refuse(unsupported, "unknown key(s) \"theta\"", R"({"full_attention":{"rope_type":"default"},"theta":5})");
  refuse(corrupt, "rope_parameters: expected an object, got an array", "[]");
}

// --- config.json -----------------------------------------------------------------------------------------------------

Json llama_config() {
  return Json::parse(R"({"architectures":["LlamaForCausalLM"],"model_type":"llama","hidden_size":64,
    "intermediate_size":96,"num_hidden_layers":2,"num_attention_heads":4,"num_key_value_heads":2,"vocab_size":50})");
}

Json config_of(std::string_view architecture, std::string_view model_type) {
  Json config = llama_config();
  config.set("architectures", Json::Array{architecture});
  config.set("model_type", model_type);
  return config;
}

ModelSpec spec_of(Json config) {
  HfConfig hf = HfConfig::from_json(std::move(config), "config.json");
  return find_family(hf.architecture()).spec(hf);
}

ModelSpec llama_with(std::string_view key, std::string_view value) {
  Json config = llama_config();
  config.set(std::string(key), Json::parse(value, {.allow_non_finite = true}));
  return spec_of(config);
}

std::vector<int> windows_of(const ModelSpec& spec) {
  std::vector<int> windows;
  for (const LayerSpec& layer : spec.layers) windows.push_back(layer.attention().window);
  return windows;
}

TEST(Config, ReadsALlama) {
  Json config = llama_config();
  config.set("rms_norm_eps", 1e-5);
  config.set("attention_bias", true);
  config.set("mlp_bias", true);
  config.set("tie_word_embeddings", true);
  config.set("eos_token_id", Json::Array{7, 9});
  config.set("bos_token_id", nullptr);
  const ModelSpec spec = spec_of(config);
  EXPECT_EQ(spec.architecture, "LlamaForCausalLM");
  EXPECT_EQ(spec.vocab_size, 50);
  EXPECT_EQ(spec.hidden_size, 64);
  EXPECT_EQ(spec.layers.size(), 2u);
  const AttentionSpec& attention = spec.layers[1].attention();
  EXPECT_EQ(attention.heads, 4);
  EXPECT_EQ(attention.kv_heads, 2);
  EXPECT_EQ(attention.head_dim, 16);
  EXPECT_EQ(attention.scale, 0.25);
  EXPECT_EQ(spec.layers[1].dense().width, 96);
  EXPECT_EQ(spec.norm_eps, 1e-5);
  EXPECT_TRUE(attention.qkv_bias && attention.out_bias && spec.layers[1].dense().bias && spec.tied_head);
  EXPECT_FALSE(attention.qk_norm);
  EXPECT_EQ(spec.eos_token_ids, (std::vector<std::int32_t>{7, 9}));
  EXPECT_EQ(spec.bos_token_id, -1);
}

// Facts: the configuration classes of transformers 5.23.
TEST(Config, AbsentKeysHaveTheFamilysDefaults) {
  const auto spec = [](std::string_view architecture, std::string_view type, bool drop_kv_heads) {
    Json config = config_of(architecture, type);
    Json::Object members;
    for (const auto& [key, value] : config.as_object()) {
      if (!drop_kv_heads || key != "num_key_value_heads") members.emplace_back(key, value);
    }
    Json out{members};
    out.set("num_attention_heads", 32);
    return spec_of(out);
  };
  const ModelSpec llama = spec("LlamaForCausalLM", "llama", true);
  EXPECT_EQ(llama.layers[0].attention().kv_heads, 32);
  EXPECT_EQ(llama.max_positions, 2048);
  EXPECT_EQ(llama.norm_eps, 1e-6);
  EXPECT_EQ(llama.ropes[0].theta, 10000.0);
  EXPECT_EQ(llama.layers[0].dense().activation, "silu");
  EXPECT_EQ(llama.eos_token_ids, std::vector<std::int32_t>{2});
  EXPECT_EQ(llama.bos_token_id, 1);
  EXPECT_FALSE(llama.tied_head || llama.layers[0].dense().bias);
  EXPECT_FALSE(llama.layers[0].attention().qkv_bias || llama.layers[0].attention().out_bias);

  const ModelSpec mistral = spec("MistralForCausalLM", "mistral", true);
  EXPECT_EQ(mistral.layers[0].attention().kv_heads, 8);
  EXPECT_EQ(mistral.max_positions, 131072);
  EXPECT_EQ(windows_of(mistral), (std::vector<int>{4096, 4096}));

  const ModelSpec qwen2 = spec("Qwen2ForCausalLM", "qwen2", true);
  const AttentionSpec& qwen2s = qwen2.layers[0].attention();
  EXPECT_EQ(qwen2s.kv_heads, 32);
  EXPECT_EQ(qwen2s.head_dim, 2);
  EXPECT_EQ(qwen2.max_positions, 32768);
  EXPECT_EQ(qwen2.bos_token_id, -1);
  EXPECT_TRUE(qwen2s.qkv_bias && !qwen2s.out_bias && !qwen2s.qk_norm && qwen2.eos_token_ids.empty());

  const ModelSpec qwen3 = spec("Qwen3ForCausalLM", "qwen3", false);
  const AttentionSpec& qwen3s = qwen3.layers[0].attention();
  EXPECT_EQ(qwen3s.head_dim, 128);
  EXPECT_TRUE(qwen3s.qk_norm && !qwen3s.qkv_bias && !qwen3s.out_bias);
}

// Facts: Gemma3TextConfig of transformers 5.24.
TEST(Config, GemmasLayersAlternateAndHaveTwoRopes) {
  Json config = config_of("Gemma3ForCausalLM", "gemma3_text");
  config.set("num_hidden_layers", 7);
  config.set("sliding_window", 512);
  config.set("query_pre_attn_scalar", 64);
  config.set("rope_theta", 1e6);
  config.set("rope_local_base_freq", 1e4);
  config.set("rope_scaling", Json::parse(R"({"rope_type":"linear","factor":8})"));
  const ModelSpec spec = spec_of(config);
  EXPECT_EQ(windows_of(spec), (std::vector<int>{512, 512, 512, 512, 512, 0, 512}));
  EXPECT_EQ(spec.layers[5].attention().rope, 0);
  EXPECT_EQ(spec.layers[6].attention().rope, 1);
  ASSERT_EQ(spec.ropes.size(), 2u);
  EXPECT_EQ(spec.ropes[0],
            (RopeSpec{.scaling = "linear", .theta = 1e6, .factor = 8, .original_max_positions = 131072}));
  EXPECT_EQ(spec.ropes[1].theta, 1e4);
  EXPECT_EQ(spec.max_positions, 131072);
  EXPECT_EQ(spec.embed_scale, 8);
  EXPECT_EQ(spec.layers[0].attention().head_dim, 256);
  EXPECT_EQ(spec.layers[0].attention().scale, 0.125);
  EXPECT_EQ(spec.layers[0].dense().activation, "gelu_tanh");
  EXPECT_TRUE(spec.tied_head && spec.layers[0].order == NormOrder::sandwich);

  Json newer = config_of("Gemma3ForCausalLM", "gemma3_text");
  newer.set("num_hidden_layers", 7);
  newer.set("sliding_window", 512);
  newer.set("query_pre_attn_scalar", 64);
  newer.set("rope_parameters", Json::parse(R"({"full_attention":{"rope_type":"linear","factor":8,"rope_theta":1e6},
                                               "sliding_attention":{"rope_type":"default","rope_theta":1e4}})"));
  EXPECT_EQ(spec_of(newer), spec);
  newer.set("final_logit_softcapping", 30);
  expect_error(unsupported, "final_logit_softcapping: only null is supported", [&] { spec_of(newer); });
}

TEST(Config, MistralsWindowMayBeNull) {
  Json config = config_of("MistralForCausalLM", "mistral");
  config.set("sliding_window", 17);
  EXPECT_EQ(windows_of(spec_of(config)), (std::vector<int>{17, 17}));
  config.set("sliding_window", nullptr);
  EXPECT_EQ(windows_of(spec_of(config)), (std::vector<int>{0, 0}));
}

TEST(Config, QwensWindowNeedsItsSwitch) {
  Json config = config_of("Qwen2ForCausalLM", "qwen2");
  config.set("num_hidden_layers", 3);
  config.set("sliding_window", 9);
  config.set("max_window_layers", 1);
  EXPECT_EQ(windows_of(spec_of(config)), (std::vector<int>{0, 0, 0}));
  config.set("use_sliding_window", true);
  EXPECT_EQ(windows_of(spec_of(config)), (std::vector<int>{0, 9, 9}));
  config.set("layer_types", Json::Array{"sliding_attention", "full_attention", "sliding_attention"});
  EXPECT_EQ(windows_of(spec_of(config)), (std::vector<int>{9, 0, 9}));
  config.set("use_sliding_window", false);
  expect_error(corrupt, "layer_types: asks for sliding_attention", [&] { spec_of(config); });
  config.set("layer_types", Json::Array{"full_attention"});
  expect_error(corrupt, "layer_types: expected a list of num_hidden_layers=3", [&] { spec_of(config); });
  config.set("layer_types", Json::Array{"full_attention", "chunked_attention", "full_attention"});
  expect_error(unsupported, "layer_types: \"chunked_attention\"", [&] { spec_of(config); });
}

TEST(Config, ActivationsAreNamedOurWay) {
  EXPECT_EQ(llama_with("hidden_act", "\"gelu_pytorch_tanh\"").layers[0].dense().activation, "gelu_tanh");
  EXPECT_EQ(llama_with("hidden_act", "\"gelu\"").layers[0].dense().activation, "gelu");
  EXPECT_EQ(llama_with("hidden_act", "\"relu\"").layers[0].dense().activation, "relu");
  expect_error(unsupported, "config.json: hidden_act: \"mish\"", [] { llama_with("hidden_act", "\"mish\""); });
}

TEST(Config, BadValuesAreNamed) {
  const auto refuse = [](std::string_view words, std::string_view key, std::string_view value) {
    expect_error(corrupt, cat("config.json: ", key, ": ", words), [&] { llama_with(key, value); });
  };
  for (const char* key :
       {"hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size"}) {
    refuse("missing", key, "null");
    refuse("expected an integer, got a string", key, "\"64\"");
    refuse("expected an integer, got 1.5", key, "1.5");
    refuse("expected an integer, got true or false", key, "true");
    refuse("expected an integer, got nan", key, "NaN");
    refuse("expected 1 to", key, "0");
    refuse("expected 1 to", key, "-4");
    refuse("expected 1 to", key, "1000000000000");
  }
  refuse("expected 1 to", "num_key_value_heads", "0");
  refuse("expected 1 to", "max_position_embeddings", "0");
  refuse("expected an even number", "head_dim", "15");
  refuse("expected 1 to", "head_dim", "100000");
  for (const char* bad : {"NaN", "Infinity", "-1", "2"}) refuse("expected 0 to 1", "rms_norm_eps", bad);
  refuse("expected true or false, got an integer", "tie_word_embeddings", "1");
  refuse("expected token ids from 0, got -1", "eos_token_id", "[2, -1]");
  refuse("expected an integer, got a string", "eos_token_id", "\"2\"");
  expect_error(corrupt, "num_attention_heads: 4 is not a multiple of num_key_value_heads=3",
               [] { llama_with("num_key_value_heads", "3"); });
  expect_error(corrupt, "head_dim: expected an even number up to 1024, got 0",
               [] { llama_with("num_attention_heads", "1000"); });
}

TEST(Config, WhatMayChangeTheResultIsRefusedByName) {
  const auto refuse = [](std::string_view words, std::string_view key, std::string_view value) {
    expect_error(unsupported, words, [&] { llama_with(key, value); });
  };
  refuse("auto_map: the checkpoint brings its own code", "auto_map", R"({"AutoModel": "evil.Model"})");
  refuse("quantization_config: quant_method: \"gptq\"", "quantization_config", R"({"quant_method": "gptq"})");
  refuse("weight_block_size: missing", "quantization_config", R"({"quant_method": "fp8"})");
  refuse("weight_block_size: only [128, 128]", "quantization_config",
         R"({"quant_method": "fp8", "weight_block_size": [64, 128]})");
  refuse("activation_scheme: only dynamic", "quantization_config",
         R"({"quant_method": "fp8", "weight_block_size": [128, 128], "activation_scheme": "static"})");
  refuse("unknown key(s) \"kv_cache_scheme\"", "quantization_config",
         R"({"quant_method": "fp8", "weight_block_size": [128, 128], "kv_cache_scheme": {}})");
  refuse("1 unknown key(s) \"logits_scaling\": they may change the result", "logits_scaling", "8.0");
  refuse("unknown key(s) \"attention_multiplier\"", "attention_multiplier", "0.5");
  refuse("unknown key(s) \"per_layer_config\"", "per_layer_config", "{}");
  refuse("partial_rotary_factor: only 1 is supported", "partial_rotary_factor", "0.5");
  refuse("rope_interleaved: only false is supported", "rope_interleaved", "true");
  refuse("is_causal: only true is supported", "is_causal", "false");
  refuse("rope type \"longrope\"", "rope_scaling", R"({"type": "longrope"})");
}

TEST(Config, WhatDoesNotChangeTheResultIsAccepted) {
  const ModelSpec plain = spec_of(llama_config());
  const std::vector<std::pair<const char*, const char*>> keys{{"_name_or_path", "\"x\""},
                                                              {"transformers_version", "\"5.0\""},
                                                              {"use_cache", "false"},
                                                              {"pretraining_tp", "2"},
                                                              {"initializer_range", "0.1"},
                                                              {"neftune_noise_alpha", "5"},
                                                              {"model_max_length", "2048"},
                                                              {"tokenizer_padding_side", "\"left\""},
                                                              {"attention_dropout", "0.5"},
                                                              {"torch_dtype", "\"bfloat16\""},
                                                              {"dtype", "\"float16\""},
                                                              {"id2label", R"({"0": "a"})"},
                                                              {"temperature", "0.6"},
                                                              {"pad_token_id", "0"},
                                                              {"partial_rotary_factor", "1.0"},
                                                              {"auto_map", "null"},
                                                              {"quantization_config", "null"},
                                                              {"anything_new", "null"},
                                                              {"tie_last_hidden_states", "true"}};
  for (const auto& [key, value] : keys) EXPECT_EQ(llama_with(key, value), plain) << key;
}

TEST(Config, WindowsMayBeSaidTwiceWhenBothSayTheSame) {
  Json config = llama_config();
  config.set("use_sliding_window", false);
  config.set("sliding_window", 4096);
  config.set("max_window_layers", 28);
  config.set("layer_types", Json::Array{"full_attention", "full_attention"});
  spec_of(config);
  config.set("layer_types", Json::Array{"full_attention", "sliding_attention"});
  expect_error(unsupported, "layer_types: LlamaForCausalLM has full_attention", [&] { spec_of(config); });
  config.set("layer_types", Json());
  config.set("use_sliding_window", true);
  expect_error(unsupported, "use_sliding_window: only false", [&] { spec_of(config); });
  config.set("use_sliding_window", Json());
  expect_error(unsupported, "sliding_window", [&] { spec_of(config); });

  Json mistral = config_of("MistralForCausalLM", "mistral");
  mistral.set("sliding_window", 16);
  mistral.set("layer_types", Json::Array{"sliding_attention", "sliding_attention"});
  EXPECT_EQ(spec_of(mistral).layers.back().attention().window, 16);
  mistral.set("layer_types", Json::Array{"full_attention", "full_attention"});
  expect_error(unsupported, "layer_types: MistralForCausalLM has sliding_attention", [&] { spec_of(mistral); });
}

TEST(Config, TheArchitectureComesFromEitherKey) {
  Json config = llama_config();
  config.set("architectures", nullptr);
  EXPECT_EQ(spec_of(config).architecture, "LlamaForCausalLM");
  config.set("model_type", "bert");
  expect_error(unsupported, "\"bert\" is not supported; there are LlamaForCausalLM, MistralForCausalLM",
               [&] { spec_of(config); });
  config.set("model_type", nullptr);
  expect_error(corrupt, "architectures: missing", [&] { spec_of(config); });
  config.set("architectures", "LlamaForCausalLM");
  expect_error(corrupt, "architectures: expected a list of names", [&] { spec_of(config); });
  config.set("architectures", Json::Array{"LlamaForSequenceClassification"});
  expect_error(unsupported, "\"LlamaForSequenceClassification\"", [&] { spec_of(config); });
  expect_error(corrupt, "model_type: \"qwen2\" contradicts", [&] { spec_of(config_of("LlamaForCausalLM", "qwen2")); });
  expect_error(corrupt, "expected an object", [&] { spec_of(Json(Json::Array{})); });
}

TEST(Config, DtypeHasTwoSpellings) {
  const auto dtype = [](std::string_view text) { return HfConfig::object(Json::parse(text), "config.json").dtype(); };
  EXPECT_EQ(dtype(R"({"torch_dtype":"bfloat16"})"), DType::bf16);
  EXPECT_EQ(dtype(R"({"torch_dtype":"bfloat16","dtype":"float32"})"), DType::f32);
  EXPECT_EQ(dtype("{}"), std::nullopt);
  EXPECT_EQ(dtype(R"({"dtype":"auto"})"), std::nullopt);
  expect_error(unsupported, "dtype: \"float64\"", [&] { dtype(R"({"dtype":"float64"})"); });
  expect_error(corrupt, "dtype: expected a string", [&] { dtype(R"({"dtype":16})"); });
}

// --- Slots -----------------------------------------------------------------------------------------------------------

std::vector<std::string> slot_names(const ModelSpec& spec) {
  std::vector<std::string> names;
  for (const WeightSlot& slot : weight_slots(spec)) names.push_back(slot.name);
  return names;
}

TEST(Slots, ComeInLoadOrderAndOnlyWhenTheSpecHasThem) {
  ModelSpec spec = spec_of(llama_config());
  spec.layers.resize(1);
  EXPECT_EQ(slot_names(spec),
            (std::vector<std::string>{"embed", "layers.0.norm1", "layers.0.qkv", "layers.0.out", "layers.0.norm2",
                                      "layers.0.gate_up", "layers.0.down", "norm", "head"}));
  AttentionSpec& attention = spec.layers[0].attention();
  attention.qkv_bias = attention.out_bias = attention.qk_norm = spec.layers[0].dense().bias = spec.tied_head = true;
  EXPECT_EQ(slot_names(spec),
            (std::vector<std::string>{"embed", "layers.0.norm1", "layers.0.qkv", "layers.0.qkv.bias", "layers.0.q_norm",
                                      "layers.0.k_norm", "layers.0.out", "layers.0.out.bias", "layers.0.norm2",
                                      "layers.0.gate_up", "layers.0.gate_up.bias", "layers.0.down",
                                      "layers.0.down.bias", "norm"}));
}

TEST(Slots, FollowTheFamilysNamesAndOperations) {
  Json config = config_of("Gemma3ForCausalLM", "gemma3_text");
  const std::vector<WeightSlot> slots = find_family("Gemma3ForCausalLM").slots(spec_of(config));
  const auto part = [&](std::string_view name) {
    for (const WeightSlot& slot : slots) {
      if (slot.name == name) return slot.parts.front();
    }
    return WeightSlot::Part{};
  };
  EXPECT_EQ(part("layers.1.norm2").name, "model.layers.1.pre_feedforward_layernorm.weight");
  EXPECT_EQ(part("layers.1.mixer_norm").name, "model.layers.1.post_attention_layernorm.weight");
  EXPECT_EQ(part("layers.1.mixer_norm").op, PartOp::add_one);
  EXPECT_EQ(part("layers.1.down").name, "model.layers.1.mlp.down_proj.weight");
  EXPECT_EQ(part("layers.1.down").op, PartOp::copy);
}

TEST_F(ModelFiles, ReadSlotAddsOneToGainsStoredAsTheirDistanceFromIt) {
  write("model.safetensors", pack({{"g", {DType::bf16, {3}}}}));
  const SafeTensors tensors = SafeTensors::open(folder_);
  const WeightSlot slot{.name = "g", .shape = {3}, .parts = {{"g", 3, PartOp::add_one}}};
  std::vector<float> gains(3);
  read_slot(slot, tensors, DType::f32,
            [&](std::span<const std::byte> piece) { std::memcpy(gains.data(), piece.data(), piece.size()); });
  EXPECT_EQ(gains, (std::vector<float>{2, 2, 2}));
}

TEST(Slots, StackTheirParts) {
  const std::vector<WeightSlot> slots = named(weight_slots(spec_of(llama_config())), {});
  const WeightSlot& qkv = slots[2];
  EXPECT_EQ(qkv.shape, Shape({128, 64}));
  ASSERT_EQ(qkv.parts.size(), 3u);
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(qkv.parts[i].name, cat("model.layers.0.self_attn.", "qkv"[i], "_proj.weight"));
    EXPECT_EQ(qkv.parts[i].rows, i == 0 ? 64 : 32);
  }
}

// --- Checkpoints -----------------------------------------------------------------------------------------------------

class CheckpointFiles : public ModelFiles {
 protected:
  CheckpointFiles() {
    for (const WeightSlot& slot : named(weight_slots(spec_of(config_)), {})) {
      for (const WeightSlot::Part& part : slot.parts) {
        Shape shape = slot.shape;
        shape[0] = part.rows;
        tensors_[part.name] = {DType::bf16, shape};
      }
    }
  }

  Checkpoint open() const {
    write("config.json", config_.dump());
    write("model.safetensors", pack(tensors_));
    return Checkpoint::open(folder_);
  }

  Json config_ = llama_config();
  Tensors tensors_;
};

TEST_F(CheckpointFiles, OpenChecksSpecSlotsAndTensors) {
  const Checkpoint checkpoint = open();
  EXPECT_EQ(checkpoint.spec, spec_of(config_));
  EXPECT_EQ(checkpoint.spec, Checkpoint::without_weights(folder_).spec);
  EXPECT_EQ(checkpoint.dtype, DType::bf16);
  EXPECT_EQ(checkpoint.slots.front().name, "embed");
  EXPECT_EQ(checkpoint.slots.back().name, "head");
  config_.set("dtype", "float32");
  EXPECT_EQ(open().dtype, DType::f32);
}

TEST_F(CheckpointFiles, TensorsMustFitTheConfig) {
  const Tensors good = tensors_;
  const std::string up = "model.layers.1.mlp.up_proj.weight";
  tensors_.erase(up);
  expect_error(corrupt, cat("tensor \"", up, "\" is missing"), [&] { open(); });
  tensors_[up] = {DType::bf16, {96, 63}};
  expect_error(corrupt, "has shape [96, 63], but config.json asks for [96, 64]", [&] { open(); });
  tensors_ = good;
  tensors_["model.embed_tokens.weight"].shape[0] = 51;
  expect_error(corrupt, "\"model.embed_tokens.weight\" has shape [51, 64]", [&] { open(); });
  tensors_ = good;
  tensors_["model.layers.0.self_attn.q_proj.bias"] = {DType::bf16, {64}};
  expect_error(corrupt, "1 tensor(s) have no place in this architecture: \"model.layers.0.self_attn.q_proj.bias\"",
               [&] { open(); });
  tensors_ = good;
  tensors_["model.layers.2.input_layernorm.weight"] = {DType::bf16, {64}};
  expect_error(corrupt, "have no place", [&] { open(); });
}

TEST_F(CheckpointFiles, RotaryBuffersAndACopyOfATiedHeadAreIgnored) {
  tensors_["model.layers.0.self_attn.rotary_emb.inv_freq"] = {DType::f32, {8}};
  config_.set("tie_word_embeddings", true);
  const Checkpoint checkpoint = open();
  EXPECT_TRUE(checkpoint.spec.tied_head);
  EXPECT_EQ(checkpoint.slots.back().name, "norm");
}

TEST_F(CheckpointFiles, AHeadThatDiffersIsNotTied) {  // as transformers 5 decides
  config_.set("tie_word_embeddings", true);
  write("config.json", config_.dump());
  std::string file = pack(tensors_);
  file[file.find("}}") + 2] ^= 1;  // the first byte of the data, which begins with lm_head.weight
  write("model.safetensors", file);
  set_log_sink([](LogLevel, std::string_view) {});
  const Checkpoint checkpoint = Checkpoint::open(folder_);
  set_log_sink({});
  EXPECT_FALSE(checkpoint.spec.tied_head);
  EXPECT_EQ(checkpoint.slots.back().name, "head");
}

TEST_F(CheckpointFiles, NamesMayLeaveTheBaseModelsPrefixOut) {
  Tensors bare;
  for (const auto& [name, tensor] : tensors_) bare[name.starts_with("model.") ? name.substr(6) : name] = tensor;
  tensors_ = bare;
  const Checkpoint checkpoint = open();
  EXPECT_TRUE(checkpoint.spec.generates);
  read_slot(checkpoint.slots[2], checkpoint.tensors, DType::f32, [](std::span<const std::byte>) {});

  tensors_["model.norm.weight"] = tensors_["norm.weight"];  // said twice
  expect_error(corrupt, "no place in this architecture: \"norm.weight\"", [&] { open(); });
}

TEST_F(CheckpointFiles, TheModelBelowTheHeadEmbedsOnly) {
  tensors_.erase("lm_head.weight");
  expect_error(corrupt, "\"lm_head.weight\" is missing", [&] { open(); });
  config_.set("architectures", Json::Array{"LlamaModel"});
  EXPECT_FALSE(open().spec.generates);
  EXPECT_EQ(open().spec.architecture, "LlamaForCausalLM");

  config_ = llama_config();
  Tensors bare;
  for (const auto& [name, tensor] : tensors_) bare[name.substr(6)] = tensor;
  tensors_ = bare;
  EXPECT_FALSE(open().spec.generates);
  config_.set("tie_word_embeddings", true);
  EXPECT_TRUE(open().spec.generates);
}

TEST_F(CheckpointFiles, OverridesReplaceAndDropKeys) {
  config_.set("a_key_of_tomorrow", 3);
  expect_error(unsupported, "a_key_of_tomorrow", [&] { open(); });
  const Checkpoint checkpoint = Checkpoint::open(folder_, R"({"a_key_of_tomorrow": null, "rms_norm_eps": 0.25})");
  EXPECT_EQ(checkpoint.spec.norm_eps, 0.25);
  expect_error(invalid_argument, "hf_overrides must be a JSON object", [&] { Checkpoint::open(folder_, "[1]"); });
  expect_error(corrupt, "hf_overrides", [&] { Checkpoint::open(folder_, "{"); });
}

TEST_F(CheckpointFiles, GenerationConfigNamesTheEndTokens) {
  write("generation_config.json", R"({"eos_token_id":[3,4],"bos_token_id":5,"temperature":0.6,"unknown":{}})");
  EXPECT_EQ(open().spec.eos_token_ids, (std::vector<std::int32_t>{3, 4}));
  EXPECT_EQ(open().spec.bos_token_id, 5);
  write("generation_config.json", R"({"eos_token_id":[3,99]})");  // 99 is outside the vocabulary
  set_log_sink([](LogLevel, std::string_view) {});
  EXPECT_EQ(open().spec.eos_token_ids, std::vector<std::int32_t>{3});
  set_log_sink({});
  EXPECT_EQ(open().spec.bos_token_id, 1);
  write("generation_config.json", R"({"eos_token_id":"end"})");
  expect_error(corrupt, "generation_config.json: eos_token_id: expected an integer", [&] { open(); });
}

TEST_F(CheckpointFiles, ReadSlotStacksConvertsAndComesInPieces) {
  const Checkpoint checkpoint = open();
  const WeightSlot& qkv = checkpoint.slots[2];
  std::vector<std::byte> raw, wide;
  read_slot(qkv, checkpoint.tensors, DType::bf16, [&](std::span<const std::byte> piece) {
    EXPECT_LE(piece.size(), static_cast<std::size_t>(kCopyPiece));
    raw.insert(raw.end(), piece.begin(), piece.end());
  });
  read_slot(qkv, checkpoint.tensors, DType::f32,
            [&](std::span<const std::byte> piece) { wide.insert(wide.end(), piece.begin(), piece.end()); });
  ASSERT_EQ(raw.size(), static_cast<std::size_t>(qkv.shape.elements() * 2));
  ASSERT_EQ(wide.size(), raw.size() * 2);
  std::vector<std::byte> converted(wide.size());
  convert(raw.data(), DType::bf16, converted.data(), DType::f32, qkv.shape.elements());
  EXPECT_EQ(converted, wide);
}

// Codes and scales of 1.0's bytes: what matters is where they go.
TEST_F(CheckpointFiles, QuantisedTensorsAreThoseWithScales) {
  config_.set("quantization_config", Json::parse(R"({"quant_method":"fp8","weight_block_size":[128,128]})"));
  const std::string down = "model.layers.0.mlp.down_proj.weight";
  tensors_[down].dtype = DType::f8_e4m3;
  tensors_[down + "_scale_inv"] = {DType::f32, {1, 1}};
  const auto slot = [](const Checkpoint& checkpoint, std::string_view name) {
    return *std::find_if(checkpoint.slots.begin(), checkpoint.slots.end(), [&](auto& s) { return s.name == name; });
  };
  const Checkpoint checkpoint = open();
  EXPECT_EQ(checkpoint.scheme, "fp8_block");
  const Scheme& scheme = find_scheme("fp8_block");
  const WeightSlot quantised = slot(checkpoint, "layers.0.down");
  EXPECT_EQ(quantised.format(scheme), scheme.weight);
  EXPECT_EQ(slot(checkpoint, "layers.1.down").format(scheme), Format(DType::bf16));
  EXPECT_EQ(quantised.format(find_scheme("fp16")), Format(DType::f16));
  std::int64_t bytes = 0, values = 0;
  read_slot(quantised, checkpoint.tensors, scheme.weight, [&](auto piece) { bytes += std::ssize(piece); });
  EXPECT_EQ(bytes, scheme.weight.bytes(quantised.shape));
  read_slot(quantised, checkpoint.tensors, DType::f32, [&](auto piece) { values += std::ssize(piece) / 4; });
  EXPECT_EQ(values, quantised.shape.elements());

  tensors_[down + "_scale_inv"].shape = {2, 1};
  expect_error(corrupt, "expected floats [1, 1]", [&] { open(); });
  tensors_.erase(down + "_scale_inv");
  expect_error(unsupported, "is f8_e4m3", [&] { open(); });
  tensors_[down].dtype = DType::bf16;
  const std::string gate = "model.layers.0.mlp.gate_proj.weight";
  tensors_[gate].dtype = DType::f8_e4m3;
  tensors_[gate + "_scale_inv"] = {DType::f32, {1, 1}};
  const auto gate_up_values = [&](const Checkpoint& mixed) {
    const WeightSlot gate_up = slot(mixed, "layers.0.gate_up");
    EXPECT_EQ(gate_up.format(scheme), Format(DType::bf16));
    std::int64_t elements = 0;
    read_slot(gate_up, mixed.tensors, DType::bf16, [&](auto piece) { elements += std::ssize(piece) / 2; });
    return elements == gate_up.shape.elements();
  };
  EXPECT_TRUE(gate_up_values(open()));  // one of two parts is quantised: both are decoded
  const std::string up = "model.layers.0.mlp.up_proj.weight";
  tensors_[up].dtype = DType::f8_e4m3;
  tensors_[up + "_scale_inv"] = {DType::f32, {1, 1}};
  EXPECT_TRUE(gate_up_values(open()));  // 96 rows are no whole blocks of 128: they cannot be stacked
}

TEST_F(ModelFiles, ReadSlotSplitsALargeTensor) {
  const std::int64_t count = kCopyPiece / 4 + 1000;  // elements: more than one piece of fp32
  write("model.safetensors", pack({{"a", {DType::bf16, {count}}}}));
  const SafeTensors tensors = SafeTensors::open(folder_);
  const WeightSlot slot{.name = "a", .shape = {count}, .parts = {{.name = "a", .rows = count}}};
  std::vector<std::size_t> pieces;
  read_slot(slot, tensors, DType::f32, [&](std::span<const std::byte> piece) { pieces.push_back(piece.size()); });
  EXPECT_EQ(pieces, (std::vector<std::size_t>{kCopyPiece, 4000}));
}

TEST(ShippedModels, Open) {
  const Checkpoint tiny = Checkpoint::open(fs::path(WARPJET_MODELS) / "tiny");
  EXPECT_EQ(tiny.spec.architecture, "LlamaForCausalLM");
  EXPECT_EQ(tiny.dtype, DType::bf16);
  EXPECT_TRUE(tiny.spec.tied_head);
  EXPECT_FALSE(tiny.spec.eos_token_ids.empty());
  EXPECT_NO_THROW(Checkpoint::open(fs::path(WARPJET_TEST_MODELS) / "draft"));
}

}  // namespace
}  // namespace warpjet

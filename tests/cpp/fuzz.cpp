// A seeded mutator over every parser of foreign bytes: fuzz [seconds] [seed]. Each target gets an equal share of the
// time. A parser may accept an input or throw warpjet::Error; anything else, sanitizer reports included, is a failure.
// The same seed gives the same inputs, so a crash is found again by running with the printed seed (and more seconds).
#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <random>

#include <warpjet/vocabulary.h>

#include "core/core.h"
#include "model/model.h"
#include "plan/plan.h"

namespace warpjet {
namespace {

using Random = std::mt19937_64;

// --- Targets ---------------------------------------------------------------------------------------------------------

void fuzz_json(std::string_view input) {
  const Json json = Json::parse(input, {.source = "fuzz"});
  const std::string text = json.dump();
  WJ_CHECK(Json::parse(text).dump() == text, "dump does not read back");
}

void fuzz_safetensors(std::string_view input) {
  const std::int64_t size = std::ssize(input);
  for (const TensorEntry& entry : parse_safetensors(std::as_bytes(std::span(input)), size, "fuzz")) {
    WJ_CHECK(entry.offset >= 0 && entry.bytes >= 0 && entry.offset <= size - entry.bytes, "place of ", entry.name);
    WJ_CHECK(entry.shape.elements() * dtype_bytes(entry.dtype) == entry.bytes, "size of ", entry.name);
  }
}

void fuzz_config(std::string_view input) {
  HfConfig config = HfConfig::from_json(Json::parse(input, {.source = "fuzz", .allow_non_finite = true}), "fuzz");
  config.dtype();
  const Family& family = find_family(config.architecture());
  ModelSpec spec = family.spec(config);
  for (const RopeSpec& rope : spec.ropes) rope_frequencies(rope, spec.layers.front().attention().head_dim);
  spec.layers.resize(1);  // thousands of layers would only be slow
  for (const WeightSlot& slot : family.slots(spec)) WJ_CHECK(slot.shape.elements() > 0, slot.name);
}

// A plan that was accepted may run: every kernel must stay inside its buffers, whatever the plan says.
void run_plan(const Plan& plan) {
  Catalogs catalogs;
  register_reference(catalogs);
  const auto device = make_cpu_device(1);
  Weights weights;
  weights.owned = device->allocate(plan.weight_bytes());
  std::vector<std::byte> cache(static_cast<std::size_t>(2 * 16 * plan.kv_bytes_per_token()));
  KvView kv{.block_size = 16};
  std::byte* free = cache.data();
  for (const CacheSpec& c : plan.caches) {
    CacheView& view = kv.caches.emplace_back();
    for (TensorView* tensor : {&view.k, &view.v}) {
      *tensor = TensorView(free, c.format.element, Shape{2, c.kv_heads, 16, c.head_dim});
      free += 16 * c.bytes_per_token();
    }
  }
  std::array<std::int32_t, 2> ids{0, plan.model.vocab_size - 1}, positions{0, 1}, lengths{2, 2}, starts{0, 2},
      context{2};
  std::array<std::int32_t, 1> table{1}, table_rows{0}, rows{1};
  std::array<std::int64_t, 2> slots{16, 17};
  const auto view = [](auto& values, DType dtype, Shape shape) { return TensorView(values.data(), dtype, shape); };
  Runner runner(plan, std::move(weights), catalogs, *device, 2, 1, 16);
  runner.forward({.tokens = 2,
                  .seqs = 1,
                  .max_context = 2,
                  .token_ids = view(ids, DType::i32, {2}),
                  .positions = view(positions, DType::i32, {2}),
                  .rope_lengths = view(lengths, DType::i32, {2}),
                  .cache_rows = view(slots, DType::i64, {1, 2}),
                  .query_starts = view(starts, DType::i32, {2}),
                  .context_lengths = view(context, DType::i32, {1}),
                  .block_tables = view(table, DType::i32, {1, 1, 1}),
                  .table_rows = view(table_rows, DType::i32, {1})},
                 kv);
  runner.logits(view(rows, DType::i32, {1}));
}

void fuzz_plan(std::string_view input) {
  const Plan plan = plan_from_json(Json::parse(input, {.source = "fuzz"}));
  const std::string text = plan_to_json(plan).dump();
  WJ_CHECK(plan_to_json(plan_from_json(Json::parse(text))).dump() == text, "the plan does not read back");
  std::int64_t bytes = 0;
  lay_out(plan, 8, 2, bytes);
  const Shapes shapes = plan.shapes({.rows = 8, .seqs = 2, .max_context = 100, .block_size = 32});
  for (const Node& node : plan.nodes) node_cost(node.op, shapes);
  if (bytes + plan.weight_bytes() + plan.kv_bytes_per_token() < 1 << 20 && plan.nodes.size() < 64) run_plan(plan);
}

void fuzz_vocabulary(std::string_view input) {
  const Vocabulary vocabulary = Vocabulary::parse(input, "fuzz");
  const std::array<std::int32_t, 6> tokens{-1, 0, 1, 5, 300, 1 << 30};
  vocabulary.text(tokens);
}

// --- Seeds -----------------------------------------------------------------------------------------------------------

std::string safetensors_seed(std::string_view header, std::size_t data_bytes) {
  std::string file(8, '\0');
  for (int i = 0; i < 8; ++i) file[i] = static_cast<char>(header.size() >> (8 * i));
  return file.append(header).append(data_bytes, '\2');
}

std::vector<std::string> json_seeds() {
  return {
      R"({"a": [1, -2.5e-3, true, false, null, "x\u00e9\ud83d\ude00\n"], "b": {"c": {"d": [[], {}]}}, "": 0})",
      R"([9223372036854775807, -9223372036854775808, 1e308, 0.1, -0, "\\\"\/\b\f\r\t"])",
  };
}

std::vector<std::string> safetensors_seeds() {
  return {
      safetensors_seed(R"({"a":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]},)"
                       R"("b":{"dtype":"BF16","shape":[3],"data_offsets":[16,22]},"__metadata__":{"format":"pt"}})",
                       22),
      safetensors_seed(R"({"s":{"dtype":"I64","shape":[],"data_offsets":[0,8]},)"
                       R"("e":{"dtype":"U8","shape":[0,4],"data_offsets":[8,8]}})",
                       8),
      safetensors_seed("{}", 0),
  };
}

std::vector<std::string> config_seeds() {
  return {
      R"({"architectures":["LlamaForCausalLM"],"model_type":"llama","hidden_size":64,"intermediate_size":96,)"
      R"("num_hidden_layers":2,"num_attention_heads":4,"num_key_value_heads":2,"vocab_size":50,"rms_norm_eps":1e-05,)"
      R"("rope_theta":500000.0,"rope_scaling":{"rope_type":"llama3","factor":8.0,"low_freq_factor":1.0,)"
      R"("high_freq_factor":4.0,"original_max_position_embeddings":8192},"eos_token_id":[2,6],"torch_dtype":"bfloat16"})",
      R"({"model_type":"mistral","hidden_size":64,"intermediate_size":96,"num_hidden_layers":2,"sliding_window":17,)"
      R"("num_attention_heads":4,"num_key_value_heads":2,"vocab_size":50,"rope_parameters":{"rope_type":"dynamic",)"
      R"("rope_theta":10000.0,"factor":2.0},"head_dim":16,"hidden_act":"gelu_pytorch_tanh","dtype":"float16"})",
      R"({"architectures":["Qwen2ForCausalLM"],"hidden_size":64,"intermediate_size":96,"num_hidden_layers":2,)"
      R"("num_attention_heads":4,"num_key_value_heads":2,"vocab_size":50,"use_sliding_window":true,"sliding_window":9,)"
      R"("max_window_layers":1,"rope_scaling":{"type":"yarn","factor":4.0,"original_max_position_embeddings":4096,)"
      R"("mscale":1.0,"mscale_all_dim":0.5,"beta_fast":16,"beta_slow":2,"truncate":false}})",
      R"({"architectures":["Qwen3ForCausalLM"],"hidden_size":64,"intermediate_size":96,"num_hidden_layers":2,)"
      R"("num_attention_heads":4,"num_key_value_heads":2,"vocab_size":50,"head_dim":32,"attention_bias":true,)"
      R"("layer_types":["full_attention","sliding_attention"],"use_sliding_window":true,"tie_word_embeddings":true,)"
      R"("rope_parameters":{"rope_type":"linear","factor":4}})",
      R"({"architectures":["Gemma3ForCausalLM"],"hidden_size":64,"intermediate_size":96,"num_hidden_layers":7,)"
      R"("num_attention_heads":4,"num_key_value_heads":2,"vocab_size":50,"head_dim":32,"sliding_window":9,)"
      R"("query_pre_attn_scalar":64,"rope_local_base_freq":10000.0,"rope_parameters":{"full_attention":)"
      R"({"rope_type":"linear","factor":8,"rope_theta":1e6},"sliding_attention":{"rope_type":"default"}}})",
  };
}

std::vector<std::string> plan_seeds() {
  HfConfig config = HfConfig::from_json(Json::parse(config_seeds().front()), "seed");
  ModelSpec spec = kLlama.spec(config);
  spec.layers.resize(1);
  Catalogs catalogs;
  register_reference(catalogs);
  const auto device = make_cpu_device(1);
  const Scheme& scheme = find_scheme("bf16");
  return {plan_to_json(make_plan(spec, kLlama.slots(spec), scheme, scheme.kv, catalogs, device->info())).dump()};
}

std::vector<std::string> vocabulary_seeds() {
  return {
      R"({"model":{"vocab":{"a":0,"\u0120b":1,"\u0100":2,"\u00e9":3}},"decoder":{"type":"ByteLevel"},)"
      R"("added_tokens":[{"id":4,"content":"<s>","special":true},{"id":5,"content":"\u00fc","special":false}]})",
      R"({"model":{"vocab":{"\u2581a\u2581":0,"<0x0A>":1,"<0xZZ>":2}},"decoder":{"type":"Sequence",)"
      R"("decoders":[{"type":"Replace"},{"type":"ByteFallback"},{"type":"Fuse"}]}})",
  };
}

// --- THE TABLE of targets --------------------------------------------------------------------------------------------

struct Target {
  const char* name;
  void (*run)(std::string_view input);
  std::vector<std::string> (*seeds)();
};

const std::array kTargets{
    Target{"json", fuzz_json, json_seeds},
    Target{"safetensors", fuzz_safetensors, safetensors_seeds},
    Target{"config.json", fuzz_config, config_seeds},
    Target{"engine plan", fuzz_plan, plan_seeds},
    Target{"tokenizer.json", fuzz_vocabulary, vocabulary_seeds},
};

// --- Mutations -------------------------------------------------------------------------------------------------------

constexpr std::array<std::string_view, 16> kNumbers{"0",
                                                    "-1",
                                                    "1",
                                                    "2147483647",
                                                    "2147483648",
                                                    "4294967295",
                                                    "9223372036854775807",
                                                    "-9223372036854775808",
                                                    "18446744073709551616",
                                                    "1e999",
                                                    "1e-320",
                                                    "NaN",
                                                    "0.5",
                                                    "65536",
                                                    "1e6",
                                                    "null"};

std::size_t below(Random& random, std::size_t limit) {
  return limit == 0 ? 0 : random() % limit;
}

// Replaces one decimal number in the text.
void edit_number(std::string& input, Random& random) {
  const std::size_t start = input.find_first_of("0123456789", below(random, input.size()));
  if (start == input.npos) return;
  const std::size_t end = std::min(input.find_first_not_of("0123456789.eE+-", start), input.size());
  input.replace(start, end - start, kNumbers[below(random, kNumbers.size())]);
}

// Writes the little-endian length that binary formats begin with: a hostile one, or one that fits an edited header.
void edit_length(std::string& input, Random& random) {
  if (input.size() < 8) return;
  const std::size_t brace = input.rfind('}');
  const std::array<std::uint64_t, 6> lengths{0,
                                             input.size(),
                                             random() >> below(random, 64),
                                             ~std::uint64_t{0},
                                             100'000'001,
                                             brace == input.npos || brace < 8 ? 0 : brace - 7};
  const std::uint64_t length = lengths[std::min<std::size_t>(below(random, 10), lengths.size() - 1)];
  for (int i = 0; i < 8; ++i) input[i] = static_cast<char>(length >> (8 * i));
}

void mutate(std::string& input, const std::string& other, Random& random) {
  const std::size_t at = below(random, input.size());
  const std::size_t count = 1 + below(random, 16);
  switch (random() % 8) {
    case 0:
      if (!input.empty()) input[at] = static_cast<char>(input[at] ^ (1 << below(random, 8)));
      break;
    case 1:
      if (!input.empty()) input[at] = "{}[]\",:\\0-\0\x7f\xff\xed"[below(random, 15)];
      break;
    case 2:
      if (below(random, 4) == 0) input.resize(at);  // truncate, rarely: it loses the most
      break;
    case 3:
      input.erase(at, count);
      break;
    case 4:
      input.insert(at, input.substr(at, count * 4));
      break;
    case 5:
      input.replace(at, count, other, below(random, other.size()), count * 2);
      break;
    case 6:
      edit_number(input, random);
      break;
    case 7:
      edit_length(input, random);
      break;
  }
}

// --- The loop --------------------------------------------------------------------------------------------------------

void print_input(std::string_view input) {
  for (const char c : input) {
    const auto byte = static_cast<unsigned char>(c);
    std::fprintf(stderr, byte >= 0x20 && byte < 0x7f && byte != '\\' ? "%c" : "\\x%02x", byte);
  }
  std::fputc('\n', stderr);
}

// False when the target did anything but accept the input or throw an Error that blames it.
bool survives(const Target& target, const std::string& input, std::int64_t& accepted) {
  // Exactly as long as the input, so that reading beyond it is seen.
  const auto copy = std::make_unique<char[]>(input.size());
  std::copy(input.begin(), input.end(), copy.get());
  std::string trouble;
  try {
    target.run({copy.get(), input.size()});
    ++accepted;
    return true;
  } catch (const Error& error) {
    if (error.code() != ErrorCode::internal) return true;
    trouble = error.what();
  } catch (const std::exception& error) {
    trouble = error.what();
  }
  std::fprintf(stderr, "%s: %s\non the input:\n", target.name, trouble.c_str());
  print_input(input);
  return false;
}

bool fuzz(const Target& target, std::uint64_t seed, Clock::duration share) {
  constexpr std::size_t kMaxCorpus = 256, kMaxBytes = 16384;
  Random random(seed);
  std::vector<std::string> corpus = target.seeds();
  const std::size_t num_seeds = corpus.size();
  std::int64_t runs = 0, accepted = 0;
  for (const std::string& input : corpus) {
    if (!survives(target, input, accepted)) return false;
  }
  if (accepted != std::ssize(corpus)) {
    std::fprintf(stderr, "%s: a seed was refused\n", target.name);
    return false;
  }
  const auto end = Clock::now() + share;
  while (Clock::now() < end) {
    std::string input = corpus[below(random, corpus.size())];
    const std::size_t edits = 1 + below(random, 6);
    for (std::size_t i = 0; i < edits; ++i) mutate(input, corpus[below(random, corpus.size())], random);
    if (input.size() > kMaxBytes) input.resize(kMaxBytes);
    const std::int64_t before = accepted;
    if (!survives(target, input, accepted)) return false;
    ++runs;
    // What a parser accepts leads deeper than what it refuses at once.
    if (accepted == before) continue;
    if (corpus.size() < kMaxCorpus) {
      corpus.push_back(std::move(input));
    } else {
      corpus[num_seeds + below(random, kMaxCorpus - num_seeds)] = std::move(input);
    }
  }
  std::printf("%s: %lld inputs, %lld accepted\n", target.name, static_cast<long long>(runs),
              static_cast<long long>(accepted));
  return true;
}

}  // namespace
}  // namespace warpjet

int main(int argc, char** argv) {
  using namespace warpjet;
  const double seconds = argc > 1 ? std::atof(argv[1]) : 5;
  const std::uint64_t seed = argc > 2 ? std::strtoull(argv[2], nullptr, 10) : std::random_device{}();
  std::printf("seed %llu\n", static_cast<unsigned long long>(seed));
  std::fflush(stdout);
  set_log_sink([](LogLevel, std::string_view) {});
  const auto share =
      std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds / kTargets.size()));
  const bool good =
      std::all_of(kTargets.begin(), kTargets.end(), [&](const Target& target) { return fuzz(target, seed, share); });
  return good ? 0 : 1;
}

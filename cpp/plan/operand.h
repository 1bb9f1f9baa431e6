// What the nodes of a plan are made of: operands that name buffers and weights, the sizes that their problems depend
// on, the memory that they are launched with, and the rules that they are checked by.
#pragma once

#include "core/core.h"
#include "device/device.h"
#include "quant/format.h"

#include <span>
#include <string>
#include <vector>

namespace warpjet {

// --- What a plan holds -----------------------------------------------------------------------------------------------

// How many rows a buffer has in a step, and which rows a phase works on.
enum class Rows : std::uint8_t { tokens, sampled };
constexpr auto names_of(Rows) {
  return std::to_array<std::string_view>({"tokens", "sampled"});
}

// Activations. Offsets are assigned when an engine opens (lay_out), so that buffers whose lifetimes do not overlap
// share memory; first and last are node indices.
struct BufferSpec {
  std::string name;
  DType dtype = DType::f32;
  Rows rows = Rows::tokens;
  std::int64_t width = 0;  // elements in a row
  int first = 0, last = 0;

  static constexpr auto fields() {
    using C = BufferSpec;
    return std::tuple{Field{"name", &C::name},   Field{"dtype", &C::dtype}, Field{"rows", &C::rows},
                      Field{"width", &C::width}, Field{"first", &C::first}, Field{"last", &C::last}};
  }
};

// A packed weight: where it is in the blob and what it looks like.
struct WeightRef {
  std::string name;  // the slot's
  Format format;
  Shape shape;
  std::int64_t offset = 0;  // bytes from the start of the blob, kWeightAlignment aligned
  std::string checksum;     // set when packed to disk

  std::int64_t bytes() const { return format.bytes(shape); }
  static constexpr auto fields() {
    using C = WeightRef;
    return std::tuple{Field{"name", &C::name}, Field{"format", &C::format}, Field{"shape", &C::shape},
                      Field{"offset", &C::offset}, Field{"checksum", &C::checksum}};
  }
};
constexpr std::int64_t kWeightAlignment = 4096;

// The keys and values that one attention layer keeps: [blocks, kv_heads, block_size, head_dim] each.
struct CacheSpec {
  int kv_heads = 0, head_dim = 0;
  int window = 0;  // tokens that are read again; 0: all of them
  Format format;

  std::int64_t bytes_per_token() const { return 2 * format.bytes({kv_heads, head_dim}); }
  static constexpr auto fields() {
    using C = CacheSpec;
    return std::tuple{Field{"kv_heads", &C::kv_heads}, Field{"head_dim", &C::head_dim}, Field{"window", &C::window},
                      Field{"format", &C::format}};
  }
};

// --- Operands --------------------------------------------------------------------------------------------------------

// By index; -1 is none, where that is allowed. Their types say what a node does with them, and lifetimes, range checks
// and the order of reads and writes follow.
struct BufferOperand {
  int index = -1;
  explicit operator bool() const { return index >= 0; }
  bool operator==(const BufferOperand&) const = default;
};
struct In : BufferOperand {};          // read
struct OptionalIn : BufferOperand {};  // read, or none
struct Out : BufferOperand {};         // written
struct InOut : BufferOperand {};       // read and rewritten in place
struct InTokens : BufferOperand {};    // read, with the rows of all tokens whatever the node's phase
struct WeightOperand {
  int index = -1;
  explicit operator bool() const { return index >= 0; }
  bool operator==(const WeightOperand&) const = default;
};
struct Weight : WeightOperand {};
struct OptionalWeight : WeightOperand {};

template <class T>
concept Buffered = std::derived_from<T, BufferOperand>;
template <class T>
concept Weighted = std::derived_from<T, WeightOperand>;
template <class T>
concept Optional = std::same_as<T, OptionalIn> || std::same_as<T, OptionalWeight>;
template <class T>
concept Reads =
    std::same_as<T, In> || std::same_as<T, OptionalIn> || std::same_as<T, InOut> || std::same_as<T, InTokens>;
template <class T>
concept Writes = std::same_as<T, Out> || std::same_as<T, InOut>;

template <class T>
requires Buffered<T> || Weighted<T> Json json_of(const T& operand) {
  return Json(operand.index);
}
template <class T>
requires Buffered<T> || Weighted<T>
void from_json(const Json& json, T& operand) {
  from_json(json, operand.index);
}

// --- What a problem depends on, and what a launch needs --------------------------------------------------------------

// The sizes of one step.
struct StepSizes {
  std::int64_t rows = 1;  // tokens, or sampled rows in a phase of those
  std::int64_t seqs = 1;
  std::int64_t max_context = 1;
  std::int64_t block_size = 32;
};

struct Shapes {
  std::span<const BufferSpec> buffers;
  std::span<const WeightRef> weights;
  std::span<const CacheSpec> caches;
  StepSizes sizes;

  const BufferSpec& operator[](const BufferOperand& operand) const { return buffers[operand.index]; }
  const WeightRef& operator[](const WeightOperand& operand) const { return weights[operand.index]; }
};

// The inputs of one step. Row counts may be anything up to what the runner was opened for.
struct StepInputs {
  std::int64_t tokens = 0, seqs = 0;
  std::int64_t max_context = 0;
  TensorView token_ids;        // [tokens] i32
  TensorView positions;        // [tokens] i32
  TensorView rope_lengths;     // [tokens] i32
  TensorView cache_rows;       // [groups, tokens] i64: block * block_size + offset, -1 is padding
  TensorView query_starts;     // [seqs + 1] i32
  TensorView context_lengths;  // [seqs] i32
  TensorView block_tables;     // [groups, rows, max_blocks] i32
  TensorView table_rows;       // [seqs] i32: the sequence's row in each group of block_tables

  TensorView cache_rows_of(int group) const { return {cache_rows.row<std::int64_t>(group), DType::i64, {tokens}}; }
  TensorView block_tables_of(int group) const {
    return {block_tables.row<std::int32_t>(group), DType::i32, {block_tables.shape[1], block_tables.shape[2]}};
  }
};

// The paged keys and values of a layer, and the group of layers whose block tables it follows.
struct CacheView {
  TensorView k, v;  // [blocks, kv_heads, block_size, head_dim]
  int group = 0;
};
struct KvView {
  std::vector<CacheView> caches;
  std::int64_t block_size = 0;
};

// A node's view of the step that it runs in.
struct Scope : Shapes {
  const StepInputs* inputs = nullptr;  // phases over tokens
  const KvView* kv = nullptr;
  TensorView sample_rows = {};  // phases over sampled rows: [rows] i32
  TensorView workspace = {};
  TensorView constants = {};  // [n] f32: the node's own
  std::byte* arena = nullptr;
  const std::byte* blob = nullptr;
  const std::int64_t* offsets = nullptr;  // of buffers in the arena
  std::int64_t tokens = 0;                // of the last phase over tokens

  TensorView at(const BufferOperand& operand) const {
    if (!operand) return {};
    const BufferSpec& spec = (*this)[operand];
    return {arena + offsets[operand.index], spec.dtype, {spec.rows == Rows::tokens ? tokens : sizes.rows, spec.width}};
  }
  TensorView at(const WeightOperand& operand) const {
    if (!operand) return {};
    const WeightRef& ref = (*this)[operand];
    return {const_cast<std::byte*>(blob + ref.offset), ref.format.element, ref.shape};
  }
  TensorView scales_of(const WeightOperand& operand) const {
    const WeightRef& ref = (*this)[operand];
    if (!ref.format.scaled()) return {};
    return {const_cast<std::byte*>(blob + ref.offset + ref.format.scale_offset(ref.shape)), ref.format.scale,
            ref.format.scale_shape(ref.shape)};
  }
};

// --- Checks ----------------------------------------------------------------------------------------------------------

// A node's check() asks for whatever keeps its kernel inside its memory: widths, types and shapes against each other.
// That operands exist, live and were written before they are read has been checked by then.
struct Rules : Shapes {
  static constexpr std::int64_t kMaxWidth = 1 << 24;  // elements in a row: no product of two overflows
  Rows phase = Rows::tokens;
  std::int64_t vocab_size = 0;  // ids of tokens are below it
  std::string where;            // " node 3 (layers.0.qkv)"

  template <class... Parts>
  void require(bool condition, const Parts&... parts) const {
    if (condition) return;
    WJ_FAIL(corrupt, "plan", where, ": ", parts...);
  }
  void width(const BufferOperand& operand, std::int64_t expected) const {
    const BufferSpec& b = (*this)[operand];
    require(b.width == expected, "buffer ", b.name, " has width ", b.width, ", expected ", expected);
  }
  void type(const BufferOperand& operand, DType expected) const {
    const BufferSpec& b = (*this)[operand];
    require(b.dtype == expected, "buffer ", b.name, " is ", to_string(b.dtype), ", expected ", to_string(expected));
  }
  void vector(const WeightOperand& operand, std::int64_t length) const {
    const WeightRef& w = (*this)[operand];
    require(w.shape == Shape({length}) && is_float(w.format), "weight ", w.name, " has shape ", w.shape.to_string(),
            ", expected [", length, "] of floats");
  }
  void matrix(const WeightOperand& operand) const {
    const WeightRef& w = (*this)[operand];
    require(w.shape.rank() == 2, "weight ", w.name, " has shape ", w.shape.to_string(), ", expected a matrix");
  }
  void plain(const WeightOperand& operand) const {
    const WeightRef& w = (*this)[operand];
    require(is_float(w.format), "weight ", w.name, " is ", to_string(w.format), ", expected floats without scales");
  }
  void over(Rows rows) const {
    require(phase == rows, "runs over ", to_string(rows), ", but stands in a phase over ", to_string(phase));
  }
  void heads(int heads, int kv_heads, int head_dim) const {
    require(heads > 0 && kv_heads > 0 && heads % kv_heads == 0 && heads <= kMaxWidth, heads, " query heads and ",
            kv_heads, " of keys");
    require(head_dim > 0 && head_dim % 2 == 0 && head_dim <= kMaxWidth, "head_dim ", head_dim,
            " is not a positive even number");
  }
  const CacheSpec& cache(int index, int kv_heads, int head_dim) const {
    require(index >= 0 && index < std::ssize(caches), "cache ", index, " does not exist");
    const CacheSpec& cache = caches[index];
    require(cache.kv_heads == kv_heads && cache.head_dim == head_dim, "cache ", index, " has ", cache.kv_heads,
            " heads of ", cache.head_dim, ", expected ", kv_heads, " of ", head_dim);
    return cache;
  }
};

}  // namespace warpjet

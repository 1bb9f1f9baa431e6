// Weights that are made up: the same on every device and every time, of a scale that keeps activations finite.
#include "plan/plan.h"

#include <algorithm>
#include <cmath>
#include <map>

namespace warpjet {
namespace {

constexpr std::int64_t kBlockBytes = 32ll << 20;
constexpr double kDeviation = 0.02;  // what transformers initialises matrices with

// Sebastiano Vigna's splitmix64.
std::uint64_t next_random(std::uint64_t& state) {
  state += 0x9e3779b97f4a7c15u;
  std::uint64_t z = state;
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
  z = (z ^ z >> 27) * 0x94d049bb133111ebu;
  return z ^ z >> 31;
}

// Uniform, of mean 0 and that deviation.
void fill_random(std::span<float> values) {
  const auto scale = static_cast<float>(kDeviation * std::sqrt(3.0) / (1ll << 31));
  std::uint64_t state = 0;
  for (std::size_t i = 0; i < values.size(); i += 2) {
    const std::uint64_t bits = next_random(state);
    values[i] = scale * static_cast<float>(static_cast<std::int32_t>(bits));
    if (i + 1 < values.size()) values[i + 1] = scale * static_cast<float>(static_cast<std::int32_t>(bits >> 32));
  }
}

// Numbers of one type in device memory, which weights are copied out of.
struct Block {
  Buffer memory;
  std::int64_t bytes = 0;
};

Block make_block(std::span<const float> values, DType dtype, Device& device) {
  Block block;
  block.bytes = static_cast<std::int64_t>(values.size()) * dtype_bytes(dtype);
  std::vector<std::byte> converted(static_cast<std::size_t>(block.bytes));
  convert(values.data(), DType::f32, converted.data(), dtype, static_cast<std::int64_t>(values.size()));
  block.memory = device.allocate(converted.size());
  device.stream().copy(block.memory.data(), converted.data(), converted.size());
  device.stream().synchronize();  // `converted` goes
  return block;
}

// The random block of each type, and a block of ones as long as the longest norm or list of scales.
class Blocks {
 public:
  Blocks(const Plan& plan, Device& device) : device_(device) {
    std::int64_t most = 0, longest_norm = 0;
    for (const WeightRef& ref : plan.weights) {
      (ref.shape.rank() > 1 ? most : longest_norm) =
          std::max(ref.shape.rank() > 1 ? most : longest_norm, ref.shape.elements());
      if (ref.format.scaled()) longest_norm = std::max(longest_norm, ref.format.scale_shape(ref.shape).elements());
    }
    random_.resize(static_cast<std::size_t>(std::min<std::int64_t>(most, kBlockBytes / 2)));
    fill_random(random_);
    ones_.assign(static_cast<std::size_t>(longest_norm), 1.0f);
  }

  const Block& random(DType dtype) { return find(random_blocks_, random_, dtype); }
  const Block& ones(DType dtype) { return find(ones_blocks_, ones_, dtype); }

 private:
  const Block& find(std::map<DType, Block>& blocks, std::span<const float> values, DType dtype) {
    const auto found = blocks.find(dtype);
    return found != blocks.end() ? found->second
                                 : blocks.emplace(dtype, make_block(values, dtype, device_)).first->second;
  }

  Device& device_;
  std::vector<float> random_, ones_;
  std::map<DType, Block> random_blocks_, ones_blocks_;
};

// Fills a matrix from the block, beginning somewhere else in it for every weight.
void copy_repeatedly(const Block& block, std::byte* to, std::int64_t bytes, std::uint64_t seed, Stream& stream) {
  constexpr std::int64_t kStep = 256;  // keeps the copies aligned
  const std::int64_t steps = std::max<std::int64_t>(1, block.bytes / kStep);
  std::int64_t from = static_cast<std::int64_t>(next_random(seed) % static_cast<std::uint64_t>(steps)) * kStep;
  while (bytes > 0) {
    const std::int64_t count = std::min(bytes, block.bytes - from);
    stream.copy(to, block.memory.at(from), static_cast<std::size_t>(count));
    to += count;
    bytes -= count;
    from = 0;
  }
}

}  // namespace

Weights make_dummy_weights(const Plan& plan, Device& device) {
  Weights weights;
  weights.owned = device.allocate(plan.weight_bytes());
  Blocks blocks(plan, device);
  Stream& stream = device.stream();
  for (std::size_t i = 0; i < plan.weights.size(); ++i) {
    const WeightRef& ref = plan.weights[i];
    std::byte* to = weights.owned.at(ref.offset);
    const DType dtype = ref.format.element;
    const std::int64_t bytes = ref.format.code_bytes(ref.shape);
    if (ref.shape.rank() > 1) {
      copy_repeatedly(blocks.random(dtype), to, bytes, i, stream);
      if (ref.format.scaled())
        stream.copy(to + ref.format.scale_offset(ref.shape), blocks.ones(ref.format.scale).memory.data(),
                    static_cast<std::size_t>(ref.bytes() - ref.format.scale_offset(ref.shape)));
    } else if (!ref.name.ends_with(".bias")) {  // a norm; biases stay zero
      stream.copy(to, blocks.ones(dtype).memory.data(), static_cast<std::size_t>(bytes));
    }
  }
  stream.synchronize();
  return weights;
}

}  // namespace warpjet

// The memory behind the block ids: keys and values of every layer, on the device and on the host.
#pragma once

#include "memory/kv_layout.h"
#include "memory/memory.h"
#include "ops/catalog.h"

namespace warpjet {

// The tensors that the block ids index: per layer k and v, [blocks, kv_heads, block_size, head_dim], and room for as
// many blocks on the host as asked for. Layers of several groups in one lane share their tensors: a block is of one
// group.
class KvCache {
 public:
  struct Config {
    KvLayout layout;
    int block_size = 0, num_blocks = 0;
    int num_host_blocks = 0;  // the null block included; 0 = no host tier
  };

  // Throws invalid_argument unless the sizes are positive, unsupported for formats with scales and for states of
  // recurrent layers, and out_of_memory as the device does.
  KvCache(const Config& config, const Catalogs& catalogs, Device& device);

  static std::int64_t bytes_per_block(const Config& config);
  int group(int layer) const { return config_.layout.place(layer).group; }
  TensorView k(int layer) const { return view(layer, 0); }
  TensorView v(int layer) const { return view(layer, 1); }

  // As if one after the other. `list` has room for kCopyWords words a copy, in host memory that the device can address
  // (Device::allocate_host); it must stay as it is until the stream has done them.
  static constexpr int kCopyWords = 4;
  void copy(std::span<const Copy> copies, std::int32_t* list, Stream& stream);
  const Config& config() const { return config_; }

 private:
  // Which copies may run together: those whose blocks nobody wrote, and whose targets nobody read, in the same turn.
  struct Use {
    std::uint32_t read = 0, written = 0;  // the turn
  };
  TensorView view(int layer, int which) const;
  Use& use(Tier tier, BlockId block);
  Config config_;
  const Kernel<CopyBlocks>& kernel_;
  Buffer memory_;
  Buffer host_;  // [blocks, lanes, 2, kv_heads, block_size, head_dim]
  std::vector<Use> uses_[2];
  std::uint32_t turn_ = 0;
};

}  // namespace warpjet

// KV memory: a pool of fixed-size blocks with reference counts, a content-addressed prefix tree over them, and the
// paged cache itself. Owned by the engine thread; no locks, no device calls.
//
// A block is in exactly one state, and every change goes through BlockPool:
//   free    nobody holds it, nothing is known of its contents
//   active  held by one or more sequences
//   cached  published in the tree and held by nobody: reusable, and evicted in least-recently-used order
//
// Who holds a published block holds its ancestors in the tree too, and lets go of descendants first. So a cached block
// has cached descendants only, and they are evicted before it: what is evicted is a leaf.
#pragma once

#include "core/core.h"
#include "device/device.h"

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace warpjet {

using BlockId = std::int32_t;
constexpr BlockId kNullBlock = 0;  // reserved: rows that must write nowhere write here
constexpr BlockId kNoBlock = -1;

class PrefixTree;

// Everything is O(1) a block and allocates nothing.
class BlockPool {
 public:
  // num_blocks counts the null block. Throws invalid_argument unless num_blocks >= 2.
  explicit BlockPool(int num_blocks);

  // Appends n blocks to `out`, each with one reference, or none: false = not enough free and cached blocks. Cached
  // blocks are evicted (removed from `tree`) when the free list is empty.
  bool try_acquire(int n, std::vector<BlockId>& out, PrefixTree& tree);

  // Both throw internal when nobody holds the block; retain() also takes cached blocks.
  void retain(BlockId block);   // one more reference; takes it off the LRU list when it was cached
  void release(BlockId block);  // at zero: cached when published, else free

  int references(BlockId block) const { return blocks_[block].references; }
  bool published(BlockId block) const { return blocks_[block].published; }
  int num_blocks() const { return static_cast<int>(blocks_.size()); }
  int num_free() const { return num_free_; }
  int num_cached() const { return num_cached_; }
  int num_active() const { return num_blocks() - 1 - num_free_ - num_cached_; }
  int num_available() const { return num_free_ + num_cached_; }

  // Empties the LRU list into the free list.
  void drop_cached(PrefixTree& tree);

  // Throws internal when lists, counts and states disagree. O(num_blocks); tests call it after every change.
  void check() const;

 private:
  friend class PrefixTree;  // says what is published, and nothing else
  enum class State : std::uint8_t { reserved, free, active, cached };
  struct Block {
    std::int32_t references = 0;
    BlockId previous = kNoBlock, next = kNoBlock;  // free list or LRU list
    State state = State::free;
    bool published = false;
  };
  struct List {
    BlockId head = kNoBlock, tail = kNoBlock;
  };

  void publish(BlockId block);    // an active block entered the tree
  void unpublish(BlockId block);  // it left the tree: a cached one becomes free
  void push_back(List& list, BlockId block);
  void push_front(List& list, BlockId block);
  void unlink(List& list, BlockId block);
  void make_free(BlockId block);
  int check_list(const List& list, State state) const;

  std::vector<Block> blocks_;
  List free_;  // last in, first out: warm reuse
  List lru_;   // least recently released at the head
  int num_free_ = 0, num_cached_ = 0;
};

// Full blocks by content. A node is a published block; its identity is (parent node, its tokens, and for the first
// block the salt): the hash is an index only, everything is compared exactly. Nodes never change once published.
class PrefixTree {
 public:
  // Tests make hashes collide by masking their bits away. The pool must outlive the tree.
  PrefixTree(BlockPool& pool, int block_size, std::uint64_t hash_mask = ~std::uint64_t{0});

  // Appends the longest chain of published blocks that covers a prefix of `tokens`, at most `max_blocks`, each retained
  // on return: there is no such thing as an unpinned match. Returns their number.
  int match_and_retain(std::span<const std::int32_t> tokens, std::string_view salt, int max_blocks,
                       std::vector<BlockId>& out);

  // Publishes the full block `block`, which the caller holds, with `tokens` after `parent`, which the caller holds too
  // (kNoBlock = first; the salt counts there and is inherited by what follows). Returns the block to use from now on:
  // when an equal node is already there, that one, retained, and `block` is released. So contents are kept once, and a
  // holder's published blocks are always a chain of the tree.
  BlockId publish(BlockId parent, std::span<const std::int32_t> tokens, std::string_view salt, BlockId block);

  // Called by the pool when it evicts: forgets the block, and its descendants, which cannot be reached any more.
  void evict(BlockId block);

  int block_size() const { return block_size_; }
  int size() const { return size_; }
  BlockId parent(BlockId block) const { return nodes_[block].parent; }
  void check() const;  // as BlockPool::check

 private:
  struct Node {
    std::uint64_t hash = 0;
    std::string salt;  // of a first block
    BlockId parent = kNoBlock, first_child = kNoBlock;
    BlockId previous_sibling = kNoBlock, next_sibling = kNoBlock;
    BlockId next_in_bucket = kNoBlock;
    bool live = false;
  };
  std::span<std::int32_t> tokens_of(BlockId block) const;
  std::uint64_t hash(BlockId parent, std::span<const std::int32_t> tokens, std::string_view salt) const;
  BlockId find(std::uint64_t hash, BlockId parent, std::span<const std::int32_t> tokens, std::string_view salt) const;
  BlockId& bucket(std::uint64_t hash) { return buckets_[hash & (buckets_.size() - 1)]; }
  BlockId bucket(std::uint64_t hash) const { return buckets_[hash & (buckets_.size() - 1)]; }
  void link(BlockId block);
  void forget(BlockId block);
  void check_node(BlockId block) const;

  BlockPool& pool_;
  int block_size_;
  std::uint64_t hash_mask_;
  std::vector<Node> nodes_;                 // by block id
  std::unique_ptr<std::int32_t[]> tokens_;  // [blocks, block_size]; pages are touched when first used
  std::vector<BlockId> buckets_;            // heads of chains; a power of two
  int size_ = 0;
};

// The tensors that the block ids index: per layer k and v, [blocks, kv_heads, block_size, head_dim].
class KvCache {
 public:
  struct Config {
    int layers = 0, kv_heads = 0, head_dim = 0, block_size = 0, num_blocks = 0;
    DType dtype = DType::f32;
  };

  // Throws invalid_argument unless every number is positive, and out_of_memory as the device does.
  KvCache(const Config& config, Device& device);

  static std::int64_t bytes_per_block(const Config& config);
  TensorView k(int layer) const { return view(layer, 0); }
  TensorView v(int layer) const { return view(layer, 1); }
  const Config& config() const { return config_; }

 private:
  TensorView view(int layer, int which) const;
  Config config_;
  Buffer memory_;
};

}  // namespace warpjet

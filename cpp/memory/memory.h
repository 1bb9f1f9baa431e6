// KV memory: pools of fixed-size blocks with reference counts, a content-addressed prefix tree over them, and the paged
// cache itself. Owned by the engine thread; no locks, no device calls: what must be copied is written into a list that
// the next step carries out.
//
// The device runs batches in the order in which they were made. So a block belongs to whom the newest one says: it can
// be given away while a step that reads it is still in flight, because whatever its new holder does comes later.
//
// A block of a tier is in exactly one state, and every change goes through BlockPool:
//   free    nobody holds it, nothing is known of its contents
//   held    by sequences, or by a lease that looks at it
//   cached  published in the tree and held by nobody: reusable; evicted in least-recently-used order within its class
//
// Layers whose caches are alike, window included, form a group (kv_layout.h). A block belongs to one group at a time
// and holds the tokens of one place in a text for the layers of that group, so a table has a list of blocks for every
// group, and a node of the tree a block for every group and tier. Any free block may serve any group.
//
// In a group without a window, the holder of a published block holds its ancestors too and releases descendants first,
// so what is evicted is a leaf. In a group with a window the front of a text is released first; its nodes stay while
// they have children.
#pragma once

#include <warpjet/engine.h>

#include "core/core.h"
#include "device/device.h"

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

namespace warpjet {

using BlockId = std::int32_t;
using NodeId = std::int32_t;
constexpr BlockId kNullBlock = 0;  // reserved in every tier: rows that must write nowhere write here
constexpr BlockId kNoBlock = -1;
constexpr NodeId kNoNode = -1;

// Where a block lies. The host tier keeps what the device has no room for.
enum class Tier : std::int32_t { device, host };
constexpr int kNumTiers = 2;

// Groups of a cache at most. The order of eviction is one over all groups.
constexpr int kMaxKvGroups = 8;
template <class T>
using PerGroup = std::array<T, kMaxKvGroups>;

// A block to be copied, all layers of it. The copies of a step run in order, before the step writes anything itself.
struct Copy {
  Tier from = Tier::device, to = Tier::device;
  BlockId source = kNoBlock, target = kNoBlock;
};

// Eviction classes: a higher one goes later. Preempted sequences get one more than they asked for.
constexpr int kNumCacheClasses = 8;
constexpr int kDefaultCacheClass = 3;

// The blocks of one tier. Everything is O(1) and allocates nothing; misuse throws internal.
class BlockPool {
 public:
  // num_blocks counts the null block. Throws invalid_argument unless num_blocks >= 1.
  explicit BlockPool(int num_blocks);

  BlockId take();               // a free block, held once; there must be one
  BlockId coldest() const;      // the cached block to evict next: longest unused in the lowest class; kNoBlock = none
  void hold(BlockId block);     // one more holder; takes it off its list when it was cached
  void release(BlockId block);  // one holder less; the last one leaves it cached when it is published, else free

  // Undo of hold(), in reverse order of several: a block that was cached goes back to its very place.
  // `after` is what follows_in_list() said before hold().
  void release_to(BlockId block, BlockId after);
  BlockId follows_in_list(BlockId block) const { return blocks_[block].previous; }

  // What the tree says: a held block was published as this node, for a group of layers, or a held or cached one is no
  // longer.
  void publish(BlockId block, NodeId node, int group = 0);
  void unpublish(BlockId block);
  void raise_class(BlockId block, int cache_class);  // of a held block; never lowers it while it is published

  NodeId node(BlockId block) const { return blocks_[block].node; }
  int group(BlockId block) const { return blocks_[block].group; }  // of a published one
  int holders(BlockId block) const { return blocks_[block].holders; }
  int cache_class(BlockId block) const { return blocks_[block].cache_class; }
  int num_blocks() const { return static_cast<int>(blocks_.size()); }
  int num_free() const { return num_free_; }
  int num_cached() const { return num_cached_; }
  int num_held() const { return num_blocks() - 1 - num_free_ - num_cached_; }
  int num_available() const { return num_free_ + num_cached_; }

  // Throws internal when lists, counts and states disagree. O(num_blocks); tests call it after every change.
  void check() const;
  // Of everything: equal before and after what had no effect.
  std::uint64_t digest() const;

 private:
  enum class State : std::uint8_t { reserved, free, held, cached };
  struct Block {
    std::int32_t holders = 0;
    BlockId previous = kNoBlock, next = kNoBlock;  // free list or the LRU list of its class
    NodeId node = kNoNode;
    State state = State::free;
    std::uint8_t cache_class = 0, group = 0;
  };
  struct List {
    BlockId head = kNoBlock, tail = kNoBlock;
  };
  void insert(List& list, BlockId block, BlockId after);  // kNoBlock: at the head
  void unlink(List& list, BlockId block);
  void make_free(BlockId block);
  void cache(BlockId block, BlockId after);  // into the list of its class
  void uncache(BlockId block);               // and out of it; the state is the caller's
  int check_list(const List& list, State state, int cache_class) const;

  std::vector<Block> blocks_;
  List free_;                               // last in, first out: warm reuse
  std::array<List, kNumCacheClasses> lru_;  // longest unused at the head
  std::uint32_t occupied_ = 0;              // bit c: lru_[c] is not empty
  int num_free_ = 0, num_cached_ = 0;
};

// What must be equal besides tokens for keys and values to be equal. The format of the cache is the engine's, so there
// is only one.
struct PrefixDomain {
  std::string salt;           // of the request, and what else changes its KV
  std::uint64_t adapter = 0;  // LoRA adapter; 0 = none
  bool operator==(const PrefixDomain&) const = default;
};

// Full blocks by content. A node is a text of whole blocks: (parent node, tokens of its last block), and the roots are
// domains. The hash is an index only, everything is compared exactly; nodes never change. A node knows the block that
// keeps it for each group in each tier, if any; one without blocks and children is removed by whoever took the last.
class PrefixTree {
 public:
  // hash_key makes collisions unpredictable; tests make them certain by masking the hash's bits away.
  struct Config {
    int max_nodes = 0, block_size = 0, num_groups = 1;
    std::uint64_t hash_key = 0, hash_mask = ~std::uint64_t{0};
  };
  explicit PrefixTree(const Config& config);

  NodeId find_root(const PrefixDomain& domain) const;                      // kNoNode = nothing of this domain is known
  NodeId make_root(const PrefixDomain& domain);                            // finds or makes it; kNoNode = no node left
  NodeId find(NodeId parent, std::span<const std::int32_t> tokens) const;  // one block of tokens; kNoNode = not there
  NodeId insert(NodeId parent, std::span<const std::int32_t> tokens);      // it is not there; kNoNode = no node left

  // Removes nodes that have neither blocks nor children, from this one upwards.
  void prune(NodeId node);

  // The child of `parent` with a block in `tier` for every group that begins with most of `tokens`, of the newest few;
  // length 0 = none.
  struct Overlap {
    NodeId node = kNoNode;
    int length = 0;
  };
  Overlap best_overlap(NodeId parent, std::span<const std::int32_t> tokens, Tier tier) const;

  BlockId block(NodeId node, Tier tier, int group = 0) const { return blocks_[place(node, tier, group)]; }
  void set_block(NodeId node, Tier tier, int group, BlockId block) { blocks_[place(node, tier, group)] = block; }
  bool has_blocks(NodeId node) const;  // of any group in any tier
  NodeId parent(NodeId node) const { return nodes_[node].parent; }
  bool is_root(NodeId node) const { return nodes_[node].parent == kNoNode; }
  bool has_children(NodeId node) const { return nodes_[node].first_child != kNoNode; }
  std::span<const std::int32_t> tokens(NodeId node) const;
  std::uint64_t key(NodeId node) const { return nodes_[node].key; }  // of the whole text, for events
  int block_size() const { return block_size_; }
  int num_groups() const { return num_groups_; }
  int size() const { return size_; }  // roots included
  int max_nodes() const { return static_cast<int>(nodes_.size()); }
  bool live(NodeId node) const { return nodes_[node].live; }
  void check() const;  // as BlockPool::check
  std::uint64_t digest() const;

 private:
  struct Node {
    std::uint64_t key = 0;
    NodeId parent = kNoNode, first_child = kNoNode, previous_sibling = kNoNode, next_sibling = kNoNode;
    NodeId next_in_bucket = kNoNode;  // the free list, when not live
    bool live = false;
  };
  struct DomainHash {
    std::uint64_t key = 0;
    std::size_t operator()(const PrefixDomain& domain) const;
  };
  NodeId make(NodeId parent, std::uint64_t key);
  void forget(NodeId node);
  std::uint64_t root_key(const PrefixDomain& domain) const;
  std::uint64_t child_key(NodeId parent, std::span<const std::int32_t> tokens) const;
  NodeId& bucket(std::uint64_t key) { return buckets_[key & (buckets_.size() - 1)]; }
  std::size_t place(NodeId node, Tier tier, int group) const {
    return (static_cast<std::size_t>(node) * num_groups_ + group) * kNumTiers + static_cast<std::size_t>(tier);
  }
  bool has_all_blocks(NodeId node, Tier tier) const;  // of every group

  int block_size_, num_groups_;
  std::uint64_t hash_key_, hash_mask_;
  std::vector<Node> nodes_;
  std::vector<BlockId> blocks_;             // [max_nodes, groups, tiers]
  std::unique_ptr<std::int32_t[]> tokens_;  // [max_nodes, block_size]; pages are touched when first used
  std::vector<NodeId> buckets_;             // heads of chains; a power of two
  std::unordered_map<PrefixDomain, NodeId, DomainHash> roots_;
  std::unordered_map<NodeId, const PrefixDomain*> domains_;  // of roots
  NodeId free_ = kNoNode;
  int size_ = 0;
};

// What a sequence holds for one group of layers.
struct BlockList {
  std::vector<BlockId> blocks;   // block i holds tokens [i * block_size, ...); kNullBlock before `first`
  int first = 0;                 // blocks before it lie behind the window and were released
  std::vector<BlockId> swapped;  // on the host, of a preempted sequence: its blocks from swapped_first on
  int swapped_first = 0;
};

// What a sequence holds: lists of one length, as many as the cache has groups. The others are empty.
struct BlockTable {
  int published = 0;      // leading blocks that are in the tree
  NodeId node = kNoNode;  // of the last published one
  PerGroup<BlockList> groups;

  int size() const { return static_cast<int>(groups[0].blocks.size()); }
  int swapped_first() const { return groups[0].swapped_first; }  // the same in every group when prefixes are cached
  bool holds_nothing() const;                                    // on either tier
};

class KvBlocks;

// The longest known prefix of a text, held: nobody can take it away while it is looked at. Dropping a lease leaves
// everything as it was before, order of eviction included.
class Lease {
 public:
  Lease() = default;
  Lease(Lease&& other) noexcept;
  Lease& operator=(Lease&&) = delete;
  ~Lease() { drop(); }

  int tokens() const { return tokens_; }         // that need not be computed
  int blocks_needed() const { return needed_; }  // device blocks to be taken for them: restored or copied ones
  int num_blocks() const { return static_cast<int>(nodes_.size()) + (overlap_ > 0); }  // of a group, once adopted
  int num_held(int group) const { return num_blocks() - first_[group]; }               // those not behind its window
  NodeId node() const { return nodes_.empty() ? kNoNode : nodes_.back(); }             // of the last whole block
  void drop();
  void drop_copy();  // of the beginning of another block: that one is held beside what the table will hold

 private:
  friend class KvBlocks;
  void release_last();
  struct Held {
    Tier tier;
    int group, index;      // index nodes_.size(): to be copied from
    BlockId block, after;  // after: for BlockPool::release_to
    bool was_cached;
  };
  KvBlocks* kv_ = nullptr;
  std::vector<NodeId> nodes_;  // by block
  PerGroup<int> first_{};      // blocks before it are behind the group's window
  int overlap_ = 0;            // tokens of the block after the whole ones, found at the start of the last held one
  int tokens_ = 0, needed_ = 0;
  std::uint64_t change_ = 0;  // the number of KvBlocks::changes_ that this is
  std::vector<Held> held_;    // by index, then by group
};

// Both tiers and the tree, as one: the only place where blocks change hands. Who needs blocks first looks
// (match: everything found is held by the lease; num_available), then takes (adopt, try_grow): taking what was counted
// cannot fail, and nothing that is held can be evicted by it.
class KvBlocks {
 public:
  struct Config {
    int num_blocks = 0;       // the null block included, >= 2
    int num_host_blocks = 0;  // usable ones; 0 = no host tier
    int block_size = 32;
    std::vector<int> windows = {0};  // of each group; > 0: a token sees this many keys, its own included
    bool prefix_caching = true;
    int max_events = 0;  // KvEvents to keep; 0 = none
    std::uint64_t hash_key = 0, hash_mask = ~std::uint64_t{0};
    FaultPlan* faults = nullptr;  // tests: makes blocks scarce
  };
  explicit KvBlocks(const Config& config);
  KvBlocks(const KvBlocks&) = delete;

  // The longest prefix of `tokens`, at most max_tokens long, that is in either tier: whole blocks, then the beginning
  // of another block that is worth copying (at least kMinOverlap tokens). Every group must have what later tokens see
  // in it: all of the text, or the window before its end.
  Lease match(std::span<const std::int32_t> tokens, const PrefixDomain& domain, int max_tokens);
  static constexpr int kMinOverlap = 4;

  // The empty table takes over what the lease holds. There must be lease.blocks_needed() available.
  void adopt(Lease lease, BlockTable& table);

  // Blocks for `tokens` tokens, or false and nothing. Evicts what is cached, keeping it on the host if there is room.
  bool try_grow(BlockTable& table, int tokens);
  int growth(const BlockTable& table, int tokens) const;  // blocks that try_grow() would take

  // Publishes the blocks of `table` that `computed` tokens fill; the table's text begins with `tokens`. A block that is
  // in the tree already is exchanged for that one, so contents are kept once; changed(group, index, block) tells.
  template <class Changed>
  void publish(BlockTable& table, std::span<const std::int32_t> tokens, int computed, const PrefixDomain& domain,
               Changed&& changed);

  // Releases blocks that no token from `position` on can see, in the groups that have a window.
  void release_behind_window(BlockTable& table, int position, int cache_class);

  // THE release path: everything that the table holds, on both tiers, last block first.
  void release(BlockTable& table, int cache_class);

  // Moves the unpublished blocks of `computed` tokens to the host and releases the others. False: no room there, and
  // nothing happened.
  bool try_swap_out(BlockTable& table, int computed, int cache_class);
  // Gives a swapped-out table its blocks back; the lease holds what is published of it. Blocks needed:
  // swap_in_needed().
  int num_swapped(const BlockTable& table) const;
  int swap_in_needed(const BlockTable& table, const Lease& lease) const;
  bool can_swap_in(const BlockTable& table, const Lease& lease) const;  // its front is still known
  void swap_in(Lease lease, BlockTable& table);

  // A table that shares the whole blocks of the first `tokens` tokens and has a copy of the rest, a block in every
  // group. False: no blocks for the copies, which run in the next step and are the last of copies().
  bool try_fork(const BlockTable& parent, int tokens, BlockTable& child);

  void reset_cache();  // forgets every block that nobody holds

  std::vector<Copy>& copies() { return copies_; }  // to be moved into the next batch
  // Appends events from `number` on that are still kept; returns the number of the next event to come.
  std::uint64_t events_since(std::uint64_t number, std::vector<KvEvent>& out) const;

  const BlockPool& device() const { return pools_[0]; }
  const BlockPool& host() const { return pools_[1]; }
  const PrefixTree& tree() const { return tree_; }
  int block_size() const { return config_.block_size; }
  int num_groups() const { return static_cast<int>(config_.windows.size()); }
  std::span<const int> windows() const { return config_.windows; }
  bool has_windows() const { return has_windows_; }  // in some group
  bool prefix_caching() const { return config_.prefix_caching; }
  int blocks_for(int tokens) const {
    return static_cast<int>(ceil_div<std::int64_t>(tokens, config_.block_size));
  }  // of a group
  int num_available() const { return pools_[0].num_available(); }
  std::int64_t num_offloaded() const { return offloaded_; }  // blocks copied to the host so far
  std::int64_t num_restored() const { return restored_; }    // and back

  // Throws internal when pools, tree and these tables disagree: every holder is a table, I1 to I5
  // of tests/README.md. O(everything).
  void check(std::span<const BlockTable* const> tables) const;
  std::uint64_t digest() const;

 private:
  friend class Lease;
  BlockPool& pool(Tier tier) { return pools_[static_cast<int>(tier)]; }
  const BlockPool& pool(Tier tier) const { return pools_[static_cast<int>(tier)]; }
  static constexpr int kSpareNodes = 64;  // roots, and texts whose blocks are gone on the way to ones that are not

  void find_chain(NodeId root, std::span<const std::int32_t> tokens, std::vector<NodeId>& chain) const;
  bool is_known(NodeId node, int group) const;       // in either tier
  int first_visible(int group, int position) const;  // the first block that a token at `position` sees
  int first_needed(int group, int whole) const;      // of a text's first `whole` blocks, to continue after them
  void hold(Lease& lease, Tier tier, int group, int index, NodeId node);
  int restores(const Lease& lease, int whole) const;  // of its first `whole` blocks, those on the host
  void trim(Lease& lease, int whole);
  void take_over(Lease& lease, BlockTable& table);

  BlockId take(Tier tier);  // evicts if it must; the caller counted
  void evict(Tier tier);    // the coldest block
  void offload(BlockId block);
  BlockId restore(BlockId kept);
  void copy(Tier from, BlockId source, Tier to, BlockId target);
  bool scarce();  // only pretended

  NodeId make_node(const BlockTable& table, std::span<const std::int32_t> tokens, const PrefixDomain& domain);
  BlockId exchange(BlockId block, NodeId node, int group);  // for the one that the tree has, if any
  void store(NodeId node, Tier tier, int group, BlockId block);
  void forget(Tier tier, BlockId block);
  void release_block(Tier tier, BlockId block, int cache_class);
  void release_swapped(BlockTable& table, int cache_class);
  void release_device(BlockTable& table, int cache_class);
  void record(KvEvent::Kind kind, Tier tier, NodeId node, int group);
  void check_lists(const BlockTable& table) const;
  void check_block(Tier tier, BlockId block, int holders) const;
  void check_node(NodeId node) const;

  Config config_;
  bool has_windows_;
  std::array<BlockPool, kNumTiers> pools_;
  PrefixTree tree_;
  std::vector<Copy> copies_;
  std::vector<KvEvent> events_;  // a ring
  std::uint64_t next_event_ = 0;
  std::int64_t offloaded_ = 0, restored_ = 0;
  std::uint64_t changes_ = 0;  // of the eviction order; a lease is one, and dropping the latest change undoes it
};

template <class Changed>
void KvBlocks::publish(BlockTable& table, std::span<const std::int32_t> tokens, int computed,
                       const PrefixDomain& domain, Changed&& changed) {
  if (!config_.prefix_caching) return;
  while ((table.published + 1) * config_.block_size <= computed) {
    const int index = table.published;
    const NodeId node = make_node(table, tokens, domain);
    if (node == kNoNode) return;  // the tree is full: this text ends here for others
    for (int group = 0; group < num_groups(); ++group) {
      BlockId& block = table.groups[group].blocks[index];
      const BlockId before = std::exchange(block, exchange(block, node, group));
      if (block != before) changed(group, index, block);
    }
    table.node = node;
    table.published = index + 1;
  }
}

}  // namespace warpjet

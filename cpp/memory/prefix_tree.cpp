#include "memory/memory.h"

#include <algorithm>
#include <bit>

namespace warpjet {

PrefixTree::PrefixTree(BlockPool& pool, int block_size, std::uint64_t hash_mask)
    : pool_(pool), block_size_(block_size), hash_mask_(hash_mask) {
  WJ_REQUIRE(block_size > 0, invalid_argument, "block_size must be positive, got ", block_size);
  const std::size_t num_blocks = pool.num_blocks();
  nodes_.resize(num_blocks);
  tokens_ = std::make_unique_for_overwrite<std::int32_t[]>(num_blocks * block_size);
  buckets_.assign(std::bit_ceil(num_blocks), kNoBlock);
}

int PrefixTree::match_and_retain(std::span<const std::int32_t> tokens, std::string_view salt, int max_blocks,
                                 std::vector<BlockId>& out) {
  const int limit = std::min(max_blocks, static_cast<int>(tokens.size()) / block_size_);
  BlockId parent = kNoBlock;
  for (int matched = 0; matched < limit; ++matched) {
    const auto part = tokens.subspan(static_cast<std::size_t>(matched) * block_size_, block_size_);
    const BlockId block = find(hash(parent, part, salt), parent, part, salt);
    if (block == kNoBlock) return matched;
    out.push_back(block);  // may throw, so before the reference is taken
    pool_.retain(block);
    parent = block;
  }
  return std::max(limit, 0);
}

BlockId PrefixTree::publish(BlockId parent, std::span<const std::int32_t> tokens, std::string_view salt,
                            BlockId block) {
  WJ_CHECK(static_cast<int>(tokens.size()) == block_size_, "only full blocks are published, got ", tokens.size());
  WJ_CHECK(parent == kNoBlock || (pool_.published(parent) && pool_.references(parent) > 0), "parent=", parent);
  const std::uint64_t key = hash(parent, tokens, salt);
  const BlockId equal = find(key, parent, tokens, salt);
  if (equal != kNoBlock) {
    pool_.retain(equal);
    pool_.release(block);
    return equal;
  }
  Node& node = nodes_[block];
  if (parent == kNoBlock) node.salt = salt;
  pool_.publish(block);
  std::ranges::copy(tokens, tokens_of(block).begin());
  node.parent = parent;
  node.hash = key;
  link(block);
  return block;
}

// Leaves first and without recursion: a chain may be as long as the pool.
void PrefixTree::evict(BlockId block) {
  WJ_CHECK(nodes_[block].live, "block=", block);
  for (BlockId at = block;;) {
    while (nodes_[at].first_child != kNoBlock) at = nodes_[at].first_child;
    const BlockId parent = nodes_[at].parent;
    forget(at);
    if (at == block) return;
    at = parent;
  }
}

void PrefixTree::link(BlockId block) {
  Node& node = nodes_[block];
  node.live = true;
  node.next_in_bucket = std::exchange(bucket(node.hash), block);
  if (node.parent != kNoBlock) {
    node.next_sibling = std::exchange(nodes_[node.parent].first_child, block);
    if (node.next_sibling != kNoBlock) nodes_[node.next_sibling].previous_sibling = block;
  }
  ++size_;
}

void PrefixTree::forget(BlockId block) {
  Node& node = nodes_[block];
  BlockId* at = &bucket(node.hash);
  while (*at != block) at = &nodes_[*at].next_in_bucket;
  *at = node.next_in_bucket;
  if (node.next_sibling != kNoBlock) nodes_[node.next_sibling].previous_sibling = node.previous_sibling;
  if (node.previous_sibling != kNoBlock) {
    nodes_[node.previous_sibling].next_sibling = node.next_sibling;
  } else if (node.parent != kNoBlock) {
    nodes_[node.parent].first_child = node.next_sibling;
  }
  node = Node{};
  --size_;
  pool_.unpublish(block);
}

std::span<std::int32_t> PrefixTree::tokens_of(BlockId block) const {
  return {tokens_.get() + static_cast<std::size_t>(block) * block_size_, static_cast<std::size_t>(block_size_)};
}

// The parent's id stands for everything before it, so each block is hashed alone.
std::uint64_t PrefixTree::hash(BlockId parent, std::span<const std::int32_t> tokens, std::string_view salt) const {
  const std::uint64_t before = parent == kNoBlock ? hash64(std::as_bytes(std::span(salt))) : parent;
  return hash64(std::as_bytes(tokens), before) & hash_mask_;
}

BlockId PrefixTree::find(std::uint64_t hash, BlockId parent, std::span<const std::int32_t> tokens,
                         std::string_view salt) const {
  for (BlockId block = bucket(hash); block != kNoBlock; block = nodes_[block].next_in_bucket) {
    const Node& node = nodes_[block];
    if (node.hash != hash || node.parent != parent) continue;
    if (parent == kNoBlock && node.salt != salt) continue;
    if (std::ranges::equal(tokens_of(block), tokens)) return block;
  }
  return kNoBlock;
}

void PrefixTree::check() const {
  int live = 0, indexed = 0;
  for (BlockId block = 0; block < pool_.num_blocks(); ++block) {
    WJ_CHECK(nodes_[block].live == pool_.published(block), "block=", block);
    if (!nodes_[block].live) continue;
    ++live;
    check_node(block);
  }
  for (const BlockId head : buckets_) {
    for (BlockId block = head; block != kNoBlock; block = nodes_[block].next_in_bucket) {
      WJ_CHECK(++indexed <= size_, "a bucket runs in a circle or is shared");
    }
  }
  WJ_CHECK(live == size_ && indexed == size_, "live=", live, " indexed=", indexed, " size=", size_);
}

void PrefixTree::check_node(BlockId block) const {
  const Node& node = nodes_[block];
  WJ_CHECK(node.hash == hash(node.parent, tokens_of(block), node.salt), "block=", block);
  WJ_CHECK(find(node.hash, node.parent, tokens_of(block), node.salt) == block, "block ", block, " is not unique");
  if (node.parent != kNoBlock) {
    WJ_CHECK(nodes_[node.parent].live && node.salt.empty(), "block=", block);
    const bool held = pool_.references(block) > 0;
    WJ_CHECK(!held || pool_.references(node.parent) > 0, "block ", block, " is held and its parent is not");
  }
  if (node.first_child != kNoBlock) WJ_CHECK(nodes_[node.first_child].previous_sibling == kNoBlock, "block=", block);
  for (BlockId child = node.first_child; child != kNoBlock; child = nodes_[child].next_sibling) {
    WJ_CHECK(nodes_[child].live && nodes_[child].parent == block, "child=", child, " of ", block);
    const BlockId next = nodes_[child].next_sibling;
    WJ_CHECK(next == kNoBlock || nodes_[next].previous_sibling == child, "child=", child, " of ", block);
  }
}

}  // namespace warpjet

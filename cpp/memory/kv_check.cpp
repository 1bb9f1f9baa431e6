// The invariants of KV memory, by the numbers of tests/README.md: I1 and I2 are BlockPool::check(), I3 and I4 are here,
// I5 is PrefixTree::check() and check_block().
#include "memory/memory.h"

namespace warpjet {

void KvBlocks::check(std::span<const BlockTable* const> tables) const {
  for (const BlockPool& pool : pools_) pool.check();
  tree_.check();

  // Every holder is a table, and every table holds what it says; a shared block has one place in all texts.
  std::array<std::vector<int>, kNumTiers> holders;
  for (int tier = 0; tier < kNumTiers; ++tier) holders[tier].resize(pools_[tier].num_blocks());
  std::vector<int> places(device().num_blocks(), -1);
  for (const BlockTable* table : tables) {
    const int size = static_cast<int>(table->blocks.size());
    WJ_CHECK(table->first <= size && table->published <= size, "first=", table->first, " size=", size);
    WJ_CHECK(table->published == 0 || table->first < table->published, "first=", table->first);
    for (int i = 0; i < size; ++i) {
      const BlockId block = table->blocks[i];
      WJ_CHECK((block == kNullBlock) == (i < table->first) && block >= 0, "block=", block, " at ", i);
      if (block == kNullBlock) continue;
      WJ_CHECK(holders[0][block]++ == 0 || places[block] == i, "block ", block, " is at ", places[block], " and ", i);
      places[block] = i;
    }
    for (const BlockId block : table->swapped) {
      WJ_CHECK(block > 0 && holders[1][block]++ == 0 && host().node(block) == kNoNode, "block=", block);
    }
    NodeId node = table->node;
    for (int i = table->published - 1; i >= 0; --i, node = tree_.parent(node)) {
      WJ_CHECK(node != kNoNode && tree_.live(node) && !tree_.is_root(node), "node=", node, " of block ", i);
      WJ_CHECK(i < table->first || tree_.block(node, Tier::device) == table->blocks[i], "block=", table->blocks[i]);
    }
    WJ_CHECK(node == kNoNode || (table->published > 0 && tree_.is_root(node)), "node=", node);
  }
  for (int tier = 0; tier < kNumTiers; ++tier) {
    for (BlockId block = 1; block < pools_[tier].num_blocks(); ++block)
      check_block(static_cast<Tier>(tier), block, holders[tier][block]);
  }
  for (NodeId node = 0; node < tree_.max_nodes(); ++node) {
    if (tree_.live(node)) check_node(node);
  }
}

void KvBlocks::check_block(Tier tier, BlockId block, int holders) const {
  const BlockPool& blocks = pool(tier);
  WJ_CHECK(blocks.holders(block) == holders, "block ", block, " has ", blocks.holders(block), " holders; found ",
           holders);
  const NodeId node = blocks.node(block);
  if (node == kNoNode) return;
  WJ_CHECK(tree_.live(node) && tree_.block(node, tier) == block, "block=", block, " node=", node);
  if (tier == Tier::host || config_.window > 0 || tree_.is_root(tree_.parent(node))) return;
  const BlockId parent = tree_.block(tree_.parent(node), tier);
  WJ_CHECK(parent != kNoBlock, "block ", block, " outlived its parent");
  WJ_CHECK(blocks.holders(parent) > 0 || (holders == 0 && blocks.cache_class(parent) >= blocks.cache_class(block)),
           "block ", block, " of class ", blocks.cache_class(block), " with ", holders,
           " holders would outlive its parent ", parent, " of class ", blocks.cache_class(parent), " with ",
           blocks.holders(parent));
}

void KvBlocks::check_node(NodeId node) const {
  bool empty = true;
  for (const Tier tier : {Tier::device, Tier::host}) {
    const BlockId block = tree_.block(node, tier);
    if (block == kNoBlock) continue;
    WJ_CHECK(!tree_.is_root(node) && pool(tier).node(block) == node, "node=", node, " block=", block);
    empty = false;
  }
  WJ_CHECK(!empty || tree_.has_children(node), "node ", node, " is of no use");
}

std::uint64_t KvBlocks::digest() const {
  std::uint64_t digest = hash64({}, next_event_);
  for (const Copy& copy : copies_) {
    const std::array<std::int32_t, 4> words = {static_cast<int>(copy.from), static_cast<int>(copy.to), copy.source,
                                               copy.target};
    digest = hash64(std::as_bytes(std::span(words)), digest);
  }
  const std::array<std::uint64_t, 3> parts = {pools_[0].digest(), pools_[1].digest(), tree_.digest()};
  return hash64(std::as_bytes(std::span(parts)), digest);
}

}  // namespace warpjet

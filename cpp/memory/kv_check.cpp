// The invariants of KV memory, by the numbers of tests/README.md: I1 and I2 are BlockPool::check(), I3, I4 and I16 are
// here, I5 is PrefixTree::check() and check_block().
#include "memory/memory.h"

namespace warpjet {

void KvBlocks::check(std::span<const BlockTable* const> tables) const {
  for (const BlockPool& pool : pools_) pool.check();
  tree_.check();

  // Every holder is a table, and every table holds what it says; a shared block has one group and one place in all
  // texts.
  std::array<std::vector<int>, kNumTiers> holders;
  for (int tier = 0; tier < kNumTiers; ++tier) holders[tier].resize(pools_[tier].num_blocks());
  std::vector<int> places(device().num_blocks(), -1);
  for (const BlockTable* table : tables) {
    check_lists(*table);
    for (int group = 0; group < num_groups(); ++group) {
      const BlockList& list = table->groups[group];
      for (int i = list.first; i < table->size(); ++i) {
        const BlockId block = list.blocks[i];
        const int place = i * num_groups() + group;
        WJ_CHECK(holders[0][block]++ == 0 || places[block] == place, "block ", block, " is at place ", places[block],
                 " and ", place);
        places[block] = place;
      }
      for (const BlockId block : list.swapped) {
        WJ_CHECK(block > 0 && holders[1][block]++ == 0 && host().node(block) == kNoNode, "block=", block);
      }
    }
  }
  for (int tier = 0; tier < kNumTiers; ++tier) {
    for (BlockId block = 1; block < pools_[tier].num_blocks(); ++block)
      check_block(static_cast<Tier>(tier), block, holders[tier][block]);
  }
  for (NodeId node = 0; node < tree_.max_nodes(); ++node) {
    if (tree_.live(node)) check_node(node);
  }
}

// Lists of one length, nothing before `first`, and the published blocks are those of the tree.
void KvBlocks::check_lists(const BlockTable& table) const {
  const int size = table.size();
  WJ_CHECK(table.published <= size, "published=", table.published, " size=", size);
  for (int group = 0; group < kMaxKvGroups; ++group) {
    const BlockList& list = table.groups[group];
    const bool exists = group < num_groups();
    WJ_CHECK(std::ssize(list.blocks) == (exists ? size : 0) && (exists || list.swapped.empty()), "group ", group,
             " has ", list.blocks.size(), " blocks, group 0 has ", size);
    WJ_CHECK(list.first <= size && (table.published == 0 || list.first < table.published), "first=", list.first);
    WJ_CHECK(list.first == 0 || config_.windows[group] > 0, "group ", group, " has no window and released blocks");
    WJ_CHECK(!config_.prefix_caching || !exists || list.swapped_first == table.swapped_first(), "group=", group);
    for (int i = 0; i < std::ssize(list.blocks); ++i) {
      WJ_CHECK((list.blocks[i] == kNullBlock) == (i < list.first) && list.blocks[i] >= 0, "block=", list.blocks[i],
               " at ", i);
    }
  }
  NodeId node = table.node;
  for (int i = table.published - 1; i >= 0; --i, node = tree_.parent(node)) {
    WJ_CHECK(node != kNoNode && tree_.live(node) && !tree_.is_root(node), "node=", node, " of block ", i);
    for (int group = 0; group < num_groups(); ++group) {
      const BlockList& list = table.groups[group];
      WJ_CHECK(i < list.first || tree_.block(node, Tier::device, group) == list.blocks[i], "block=", list.blocks[i],
               " group=", group);
    }
  }
  WJ_CHECK(node == kNoNode || (table.published > 0 && tree_.is_root(node)), "node=", node);
}

void KvBlocks::check_block(Tier tier, BlockId block, int holders) const {
  const BlockPool& blocks = pool(tier);
  WJ_CHECK(blocks.holders(block) == holders, "block ", block, " has ", blocks.holders(block), " holders; found ",
           holders);
  const NodeId node = blocks.node(block);
  if (node == kNoNode) return;
  const int group = blocks.group(block);
  WJ_CHECK(group < num_groups() && tree_.live(node) && tree_.block(node, tier, group) == block, "block=", block,
           " node=", node, " group=", group);
  if (tier == Tier::host || config_.windows[group] > 0 || tree_.is_root(tree_.parent(node))) return;
  const BlockId parent = tree_.block(tree_.parent(node), tier, group);
  WJ_CHECK(parent != kNoBlock, "block ", block, " outlived its parent");
  WJ_CHECK(blocks.holders(parent) > 0 || (holders == 0 && blocks.cache_class(parent) >= blocks.cache_class(block)),
           "block ", block, " of class ", blocks.cache_class(block), " with ", holders,
           " holders would outlive its parent ", parent, " of class ", blocks.cache_class(parent), " with ",
           blocks.holders(parent));
}

void KvBlocks::check_node(NodeId node) const {
  for (int group = 0; group < num_groups(); ++group) {
    for (const Tier tier : {Tier::device, Tier::host}) {
      const BlockId block = tree_.block(node, tier, group);
      if (block == kNoBlock) continue;
      WJ_CHECK(!tree_.is_root(node) && pool(tier).node(block) == node && pool(tier).group(block) == group,
               "node=", node, " block=", block, " group=", group);
    }
  }
  WJ_CHECK(tree_.has_blocks(node) || tree_.has_children(node), "node ", node, " is of no use");
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

#include "memory/memory.h"

#include <algorithm>
#include <utility>

namespace warpjet {

bool BlockTable::holds_nothing() const {
  return std::ranges::all_of(groups, [](const BlockList& list) { return list.blocks.empty() && list.swapped.empty(); });
}

KvBlocks::KvBlocks(const Config& config)
    : config_(config),
      has_windows_(std::ranges::any_of(config.windows, [](int window) { return window > 0; })),
      pools_{BlockPool(config.num_blocks), BlockPool(config.num_host_blocks + 1)},
      tree_({.max_nodes =
                 config.num_blocks + config.num_host_blocks + (has_windows_ ? config.num_blocks : 0) + kSpareNodes,
             .block_size = config.block_size,
             .num_groups = static_cast<int>(config.windows.size()),
             .hash_key = config.hash_key,
             .hash_mask = config.hash_mask}),
      events_(config.max_events) {
  WJ_REQUIRE(config.num_blocks >= 2, invalid_argument, "the KV cache needs at least 2 blocks (one is reserved), got ",
             config.num_blocks, "; give it more memory");
  for (const int window : config.windows) {
    WJ_REQUIRE(window >= 0, invalid_argument, "the window must not be negative, got ", window);
  }
}

// --- Taking ---------------------------------------------------------------------------------------------------------

void KvBlocks::adopt(Lease lease, BlockTable& table) {
  WJ_CHECK(table.holds_nothing(), "the table holds blocks");
  WJ_CHECK(lease.needed_ <= num_available(), "needed=", lease.needed_, " available=", num_available());
  take_over(lease, table);
}

void KvBlocks::take_over(Lease& lease, BlockTable& table) {
  const int whole = static_cast<int>(lease.nodes_.size());
  for (int group = 0; group < num_groups(); ++group) {
    BlockList& list = table.groups[group];
    list.first = lease.first_[group];
    list.blocks.assign(list.first, kNullBlock);
  }
  for (const Lease::Held& held : lease.held_) {
    std::vector<BlockId>& blocks = table.groups[held.group].blocks;
    if (held.index == whole) {
      blocks.push_back(take(Tier::device));
      copy(Tier::device, held.block, Tier::device, blocks.back());
    } else {
      blocks.push_back(held.tier == Tier::device ? held.block : restore(held.block));
    }
  }
  for (; !lease.held_.empty(); lease.held_.pop_back()) {
    const Lease::Held& held = lease.held_.back();
    if (held.index == whole || held.tier == Tier::host) release_block(held.tier, held.block, 0);
  }
  table.published = whole;
  table.node = lease.node();
  lease.kv_ = nullptr;  // its blocks are the table's
}

bool KvBlocks::try_grow(BlockTable& table, int tokens) {
  const int count = growth(table, tokens);
  if (count == 0) return true;
  if (count > num_available() || scarce()) return false;
  for (int i = 0; i < count; ++i) table.groups[i % num_groups()].blocks.push_back(take(Tier::device));
  return true;
}

int KvBlocks::growth(const BlockTable& table, int tokens) const {
  return num_groups() * std::max(0, blocks_for(tokens) - table.size());
}

bool KvBlocks::try_fork(const BlockTable& parent, int tokens, BlockTable& child) {
  const int whole = tokens / config_.block_size, tail = tokens % config_.block_size;
  const int published = std::min(parent.published, whole);
  WJ_CHECK(child.holds_nothing(), "the table holds blocks");
  WJ_CHECK(blocks_for(tokens) <= parent.size(), "the parent does not hold ", tokens);
  if (tail > 0 && (num_available() < num_groups() || scarce())) return false;
  for (int group = 0; group < num_groups(); ++group) {
    const BlockList& from = parent.groups[group];
    BlockList& to = child.groups[group];
    WJ_CHECK(from.first <= first_visible(group, tokens) && (published == 0 || from.first < published),
             "the parent released what the child sees; group=", group, " first=", from.first, " tokens=", tokens);
    to.blocks.assign(from.blocks.begin(), from.blocks.begin() + whole);
    to.first = from.first;
    for (int i = to.first; i < whole; ++i) pool(Tier::device).hold(to.blocks[i]);
  }
  child.published = published;
  child.node = parent.node;
  for (int i = parent.published; i > published; --i) child.node = tree_.parent(child.node);
  if (published == 0) child.node = kNoNode;
  if (tail == 0) return true;
  for (int group = 0; group < num_groups(); ++group) child.groups[group].blocks.push_back(take(Tier::device));
  for (int group = 0; group < num_groups(); ++group) {
    copy(Tier::device, parent.groups[group].blocks[whole], Tier::device, child.groups[group].blocks[whole]);
  }
  return true;
}

BlockId KvBlocks::take(Tier tier) {
  if (pool(tier).num_free() == 0) evict(tier);
  return pool(tier).take();
}

void KvBlocks::evict(Tier tier) {
  const BlockId block = pool(tier).coldest();
  WJ_CHECK(block != kNoBlock, "more blocks are taken than were counted");
  if (tier == Tier::device) offload(block);
  forget(tier, block);
}

// A copy that is there already becomes as young as a new one would be, so the host too evicts leaves first.
void KvBlocks::offload(BlockId block) {
  const NodeId node = pool(Tier::device).node(block);
  const int group = pool(Tier::device).group(block);
  BlockId kept = tree_.block(node, Tier::host, group);
  if (kept != kNoBlock) {
    pool(Tier::host).hold(kept);
  } else {
    if (pool(Tier::host).num_available() == 0) return;
    kept = take(Tier::host);
    copy(Tier::device, block, Tier::host, kept);
    store(node, Tier::host, group, kept);
  }
  release_block(Tier::host, kept, pool(Tier::device).cache_class(block));
}

BlockId KvBlocks::restore(BlockId kept) {
  const BlockId block = take(Tier::device);
  copy(Tier::host, kept, Tier::device, block);
  store(pool(Tier::host).node(kept), Tier::device, pool(Tier::host).group(kept), block);
  pool(Tier::device).raise_class(block, pool(Tier::host).cache_class(kept));
  return block;
}

void KvBlocks::copy(Tier from, BlockId source, Tier to, BlockId target) {
  copies_.push_back({from, to, source, target});
  offloaded_ += to == Tier::host;
  restored_ += from == Tier::host;
}

bool KvBlocks::scarce() {
  return config_.faults != nullptr && config_.faults->hit();
}

// --- Publishing -----------------------------------------------------------------------------------------------------

// Of the table's first block that is not published; kNoNode = there is no room for it.
NodeId KvBlocks::make_node(const BlockTable& table, std::span<const std::int32_t> tokens, const PrefixDomain& domain) {
  const std::size_t size = config_.block_size;
  const NodeId parent = table.published == 0 ? tree_.make_root(domain) : table.node;
  if (parent == kNoNode) return kNoNode;
  const auto part = tokens.subspan(table.published * size, size);
  NodeId node = tree_.find(parent, part);
  if (node == kNoNode) node = tree_.insert(parent, part);
  if (node == kNoNode) tree_.prune(parent);  // the root may be of no use now
  return node;
}

BlockId KvBlocks::exchange(BlockId block, NodeId node, int group) {
  const BlockId equal = tree_.block(node, Tier::device, group);
  if (equal == kNoBlock) {
    store(node, Tier::device, group, block);
    return block;
  }
  pool(Tier::device).hold(equal);
  release_block(Tier::device, block, 0);
  return equal;
}

void KvBlocks::store(NodeId node, Tier tier, int group, BlockId block) {
  tree_.set_block(node, tier, group, block);
  pool(tier).publish(block, node, group);
  record(KvEvent::Kind::stored, tier, node, group);
}

// The tree no longer has this block, which nobody holds.
void KvBlocks::forget(Tier tier, BlockId block) {
  const NodeId node = pool(tier).node(block);
  const int group = pool(tier).group(block);
  ++changes_;
  record(KvEvent::Kind::removed, tier, node, group);
  pool(tier).unpublish(block);
  tree_.set_block(node, tier, group, kNoBlock);
  tree_.prune(node);
}

void KvBlocks::record(KvEvent::Kind kind, Tier tier, NodeId node, int group) {
  if (events_.empty()) return;
  events_[next_event_ % events_.size()] = {
      .number = next_event_,
      .kind = kind,
      .where = tier == Tier::device ? KvEvent::Where::device : KvEvent::Where::host,
      .key = tree_.key(node),
      .parent_key = tree_.key(tree_.parent(node)),
      .num_tokens = config_.block_size,
      .group = group,
  };
  ++next_event_;
}

std::uint64_t KvBlocks::events_since(std::uint64_t number, std::vector<KvEvent>& out) const {
  const std::uint64_t oldest = next_event_ - std::min<std::uint64_t>(next_event_, events_.size());
  for (std::uint64_t i = std::max(number, oldest); i < next_event_; ++i) out.push_back(events_[i % events_.size()]);
  return next_event_;
}

// --- Releasing ------------------------------------------------------------------------------------------------------

// An ancestor must not be evicted before what builds on it in its group, so it is at least of the same class. It is
// still held: what is released is released tail first. (Not so behind a window, where it does not matter.)
void KvBlocks::release_block(Tier tier, BlockId block, int cache_class) {
  BlockPool& blocks = pool(tier);
  ++changes_;
  if (blocks.node(block) != kNoNode) {
    blocks.raise_class(block, cache_class);
    const BlockId parent = tree_.block(tree_.parent(blocks.node(block)), tier, blocks.group(block));
    if (parent != kNoBlock && blocks.holders(parent) > 0) blocks.raise_class(parent, blocks.cache_class(block));
  }
  blocks.release(block);
}

void KvBlocks::release_behind_window(BlockTable& table, int position, int cache_class) {
  const int most = config_.prefix_caching ? table.published - 1 : table.size();
  for (int group = 0; group < num_groups(); ++group) {
    BlockList& list = table.groups[group];
    for (const int end = std::min(first_visible(group, position), most); list.first < end; ++list.first) {
      release_block(Tier::device, std::exchange(list.blocks[list.first], kNullBlock), cache_class);
    }
  }
}

void KvBlocks::release(BlockTable& table, int cache_class) {
  release_swapped(table, cache_class);
  release_device(table, cache_class);
}

void KvBlocks::release_swapped(BlockTable& table, int cache_class) {
  for (BlockList& list : table.groups) {
    for (; !list.swapped.empty(); list.swapped.pop_back()) release_block(Tier::host, list.swapped.back(), cache_class);
    list.swapped_first = 0;
  }
}

void KvBlocks::release_device(BlockTable& table, int cache_class) {
  for (int i = table.size() - 1; i >= 0; --i) {
    for (int group = num_groups() - 1; group >= 0; --group) {
      const BlockList& list = table.groups[group];
      if (i >= list.first) release_block(Tier::device, list.blocks[i], cache_class);
    }
  }
  for (BlockList& list : table.groups) {
    list.blocks.clear();
    list.first = 0;
  }
  table.published = 0;
  table.node = kNoNode;
}

void KvBlocks::reset_cache() {
  for (const Tier tier : {Tier::device, Tier::host}) {
    while (pool(tier).num_cached() > 0) forget(tier, pool(tier).coldest());
  }
}

// --- Swapping -------------------------------------------------------------------------------------------------------

bool KvBlocks::try_swap_out(BlockTable& table, int computed, int cache_class) {
  const int end = blocks_for(computed);
  WJ_CHECK(num_swapped(table) == 0 && end <= table.size());
  const auto first_of = [&](const BlockList& list) { return std::min(end, std::max(table.published, list.first)); };
  int count = 0;
  for (int group = 0; group < num_groups(); ++group) count += end - first_of(table.groups[group]);
  if (count > 0 && (count > pool(Tier::host).num_available() || scarce())) return false;
  for (int group = 0; group < num_groups(); ++group) {
    BlockList& list = table.groups[group];
    list.swapped_first = std::max(table.published, list.first);
    for (int i = first_of(list); i < end; ++i) {
      list.swapped.push_back(take(Tier::host));
      copy(Tier::device, list.blocks[i], Tier::host, list.swapped.back());
    }
  }
  release_device(table, cache_class);
  return true;
}

int KvBlocks::num_swapped(const BlockTable& table) const {
  int count = 0;
  for (const BlockList& list : table.groups) count += static_cast<int>(list.swapped.size());
  return count;
}

int KvBlocks::swap_in_needed(const BlockTable& table, const Lease& lease) const {
  return restores(lease, std::min(table.swapped_first(), static_cast<int>(lease.nodes_.size()))) + num_swapped(table);
}

// Without the cache nothing is published: what lies before a group's swapped_first is behind its window.
bool KvBlocks::can_swap_in(const BlockTable& table, const Lease& lease) const {
  if (!config_.prefix_caching) return true;
  const int front = table.swapped_first();
  if (static_cast<int>(lease.nodes_.size()) < front) return false;
  for (int group = 0; group < num_groups(); ++group) {
    if (first_needed(group, front) < std::min(lease.first_[group], front)) return false;
  }
  return true;
}

void KvBlocks::swap_in(Lease lease, BlockTable& table) {
  WJ_CHECK(can_swap_in(table, lease) && table.size() == 0);
  WJ_CHECK(swap_in_needed(table, lease) <= num_available());
  if (config_.prefix_caching) trim(lease, table.swapped_first());
  take_over(lease, table);
  for (int group = 0; group < num_groups(); ++group) {
    BlockList& list = table.groups[group];
    if (!config_.prefix_caching) list.blocks.assign(list.first = list.swapped_first, kNullBlock);
    for (const BlockId kept : list.swapped) {
      list.blocks.push_back(take(Tier::device));
      copy(Tier::host, kept, Tier::device, list.blocks.back());
    }
  }
  release_swapped(table, 0);
}

}  // namespace warpjet

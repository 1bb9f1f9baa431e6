#include "memory/memory.h"

#include <algorithm>
#include <utility>

namespace warpjet {

KvBlocks::KvBlocks(const Config& config)
    : config_(config),
      pools_{BlockPool(config.num_blocks), BlockPool(config.num_host_blocks + 1)},
      tree_({.max_nodes =
                 config.num_blocks + config.num_host_blocks + (config.window > 0 ? config.num_blocks : 0) + kSpareNodes,
             .block_size = config.block_size,
             .hash_key = config.hash_key,
             .hash_mask = config.hash_mask}),
      events_(config.max_events) {
  WJ_REQUIRE(config.num_blocks >= 2, invalid_argument, "the KV cache needs at least 2 blocks (one is reserved), got ",
             config.num_blocks, "; give it more memory");
  WJ_REQUIRE(config.window >= 0, invalid_argument, "the window must not be negative, got ", config.window);
}

// --- Taking ---------------------------------------------------------------------------------------------------------

void KvBlocks::adopt(Lease lease, BlockTable& table) {
  WJ_CHECK(table.blocks.empty() && table.swapped.empty(), "the table holds blocks");
  WJ_CHECK(lease.needed_ <= num_available(), "needed=", lease.needed_, " available=", num_available());
  take_over(lease, table);
}

void KvBlocks::take_over(Lease& lease, BlockTable& table) {
  const int whole = static_cast<int>(lease.nodes_.size());
  table.blocks.assign(lease.first_, kNullBlock);
  for (int i = lease.first_; i < whole; ++i) {
    const auto& held = lease.held_[i - lease.first_];
    table.blocks.push_back(held.tier == Tier::device ? held.block : restore(lease.nodes_[i], held.block));
  }
  if (lease.overlap_ > 0) {
    table.blocks.push_back(take(Tier::device));
    copy(Tier::device, lease.held_.back().block, Tier::device, table.blocks.back());
    release_block(Tier::device, lease.held_.back().block, 0);
    lease.held_.pop_back();
  }
  for (; !lease.held_.empty(); lease.held_.pop_back()) {
    if (lease.held_.back().tier == Tier::host) release_block(Tier::host, lease.held_.back().block, 0);
  }
  table.first = lease.first_;
  table.published = whole;
  table.node = lease.node();
  lease.kv_ = nullptr;  // its blocks are the table's
}

bool KvBlocks::try_grow(BlockTable& table, int tokens) {
  const int count = growth(table, tokens);
  if (count == 0) return true;
  if (count > num_available() || scarce()) return false;
  for (int i = 0; i < count; ++i) table.blocks.push_back(take(Tier::device));
  return true;
}

int KvBlocks::growth(const BlockTable& table, int tokens) const {
  return std::max(0, blocks_for(tokens) - static_cast<int>(table.blocks.size()));
}

bool KvBlocks::try_fork(const BlockTable& parent, int tokens, BlockTable& child) {
  const int whole = tokens / config_.block_size, tail = tokens % config_.block_size;
  const int published = std::min(parent.published, whole);
  WJ_CHECK(child.blocks.empty() && child.swapped.empty(), "the table holds blocks");
  WJ_CHECK(blocks_for(tokens) <= static_cast<int>(parent.blocks.size()), "the parent does not hold ", tokens);
  WJ_CHECK(parent.first <= first_visible(tokens) && (published == 0 || parent.first < published),
           "the parent let go of what the child sees; first=", parent.first, " tokens=", tokens);
  if (tail > 0 && (num_available() == 0 || scarce())) return false;
  child.blocks.assign(parent.blocks.begin(), parent.blocks.begin() + whole);
  child.first = parent.first;
  child.published = published;
  child.node = parent.node;
  for (int i = parent.published; i > published; --i) child.node = tree_.parent(child.node);
  if (published == 0) child.node = kNoNode;
  for (int i = child.first; i < whole; ++i) pool(Tier::device).hold(child.blocks[i]);
  if (tail > 0) {
    child.blocks.push_back(take(Tier::device));
    copy(Tier::device, parent.blocks[whole], Tier::device, child.blocks[whole]);
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
  if (tier == Tier::device) offload(pool(tier).node(block), block);
  forget(tier, block);
}

// A copy that is there already becomes as young as a new one would be, so the host too evicts leaves first.
void KvBlocks::offload(NodeId node, BlockId block) {
  BlockId kept = tree_.block(node, Tier::host);
  if (kept != kNoBlock) {
    pool(Tier::host).hold(kept);
  } else {
    if (pool(Tier::host).num_available() == 0) return;
    kept = take(Tier::host);
    copy(Tier::device, block, Tier::host, kept);
    store(node, Tier::host, kept);
  }
  release_block(Tier::host, kept, pool(Tier::device).cache_class(block));
}

BlockId KvBlocks::restore(NodeId node, BlockId kept) {
  const BlockId block = take(Tier::device);
  copy(Tier::host, kept, Tier::device, block);
  store(node, Tier::device, block);
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

BlockId KvBlocks::publish_block(BlockTable& table, int index, std::span<const std::int32_t> tokens,
                                const PrefixDomain& domain) {
  const std::size_t size = config_.block_size;
  const NodeId parent = index == 0 ? tree_.make_root(domain) : table.node;
  if (parent == kNoNode) return kNoBlock;
  const auto part = tokens.subspan(index * size, size);
  NodeId node = tree_.find(parent, part);
  if (node == kNoNode) node = tree_.insert(parent, part);
  if (node == kNoNode) {
    tree_.prune(parent);  // the root may be of no use now
    return kNoBlock;
  }
  const BlockId ours = table.blocks[index], equal = tree_.block(node, Tier::device);
  if (equal == kNoBlock) {
    store(node, Tier::device, ours);
  } else {
    pool(Tier::device).hold(equal);
    release_block(Tier::device, ours, 0);
    table.blocks[index] = equal;
  }
  table.node = node;
  table.published = index + 1;
  return table.blocks[index];
}

void KvBlocks::store(NodeId node, Tier tier, BlockId block) {
  tree_.set_block(node, tier, block);
  pool(tier).publish(block, node);
  record(KvEvent::Kind::stored, tier, node);
}

// The tree no longer has this block, which nobody holds.
void KvBlocks::forget(Tier tier, BlockId block) {
  const NodeId node = pool(tier).node(block);
  ++changes_;
  record(KvEvent::Kind::removed, tier, node);
  pool(tier).unpublish(block);
  tree_.set_block(node, tier, kNoBlock);
  tree_.prune(node);
}

void KvBlocks::record(KvEvent::Kind kind, Tier tier, NodeId node) {
  if (events_.empty()) return;
  events_[next_event_ % events_.size()] = {
      .number = next_event_,
      .kind = kind,
      .where = tier == Tier::device ? KvEvent::Where::device : KvEvent::Where::host,
      .key = tree_.key(node),
      .parent_key = tree_.key(tree_.parent(node)),
      .num_tokens = config_.block_size,
  };
  ++next_event_;
}

std::uint64_t KvBlocks::events_since(std::uint64_t number, std::vector<KvEvent>& out) const {
  const std::uint64_t oldest = next_event_ - std::min<std::uint64_t>(next_event_, events_.size());
  for (std::uint64_t i = std::max(number, oldest); i < next_event_; ++i) out.push_back(events_[i % events_.size()]);
  return next_event_;
}

// --- Letting go -----------------------------------------------------------------------------------------------------

// An ancestor must not be evicted before what builds on it, so it is at least of the same class. It is still held: what
// is released is released tail first. (Not so behind a window, where it does not matter.)
void KvBlocks::release_block(Tier tier, BlockId block, int cache_class) {
  BlockPool& blocks = pool(tier);
  ++changes_;
  if (blocks.node(block) != kNoNode) {
    blocks.raise_class(block, cache_class);
    const BlockId parent = tree_.block(tree_.parent(blocks.node(block)), tier);
    if (parent != kNoBlock && blocks.holders(parent) > 0) blocks.raise_class(parent, blocks.cache_class(block));
  }
  blocks.release(block);
}

void KvBlocks::release_behind_window(BlockTable& table, int position, int cache_class) {
  if (config_.window == 0) return;
  const int most = config_.prefix_caching ? table.published - 1 : static_cast<int>(table.blocks.size());
  for (const int end = std::min(first_visible(position), most); table.first < end; ++table.first) {
    release_block(Tier::device, std::exchange(table.blocks[table.first], kNullBlock), cache_class);
  }
}

void KvBlocks::release(BlockTable& table, int cache_class) {
  for (; !table.swapped.empty(); table.swapped.pop_back()) release_block(Tier::host, table.swapped.back(), cache_class);
  release_device(table, cache_class);
  table.swapped_first = 0;
}

void KvBlocks::release_device(BlockTable& table, int cache_class) {
  for (; static_cast<int>(table.blocks.size()) > table.first; table.blocks.pop_back()) {
    release_block(Tier::device, table.blocks.back(), cache_class);
  }
  table.blocks.clear();
  table.first = table.published = 0;
  table.node = kNoNode;
}

void KvBlocks::reset_cache() {
  for (const Tier tier : {Tier::device, Tier::host}) {
    while (pool(tier).num_cached() > 0) forget(tier, pool(tier).coldest());
  }
}

// --- Swapping -------------------------------------------------------------------------------------------------------

bool KvBlocks::try_swap_out(BlockTable& table, int computed, int cache_class) {
  WJ_CHECK(table.swapped.empty() && blocks_for(computed) <= static_cast<int>(table.blocks.size()));
  const int first = std::max(table.published, table.first), count = std::max(0, blocks_for(computed) - first);
  if (count > 0 && (count > pool(Tier::host).num_available() || scarce())) return false;
  for (int i = first; i < first + count; ++i) {
    table.swapped.push_back(take(Tier::host));
    copy(Tier::device, table.blocks[i], Tier::host, table.swapped.back());
  }
  table.swapped_first = first;
  release_device(table, cache_class);
  return true;
}

int KvBlocks::swap_in_needed(const BlockTable& table, const Lease& lease) const {
  return restores(lease, std::min(table.swapped_first, static_cast<int>(lease.nodes_.size()))) +
         static_cast<int>(table.swapped.size());
}

// Without the cache nothing is published: what lies before swapped_first is behind the window.
bool KvBlocks::can_swap_in(const BlockTable& table, const Lease& lease) const {
  return !config_.prefix_caching || (static_cast<int>(lease.nodes_.size()) >= table.swapped_first &&
                                     first_needed(table.swapped_first) >= std::min(lease.first_, table.swapped_first));
}

void KvBlocks::swap_in(Lease lease, BlockTable& table) {
  WJ_CHECK(can_swap_in(table, lease) && table.blocks.empty());
  WJ_CHECK(swap_in_needed(table, lease) <= num_available());
  if (config_.prefix_caching) trim(lease, table.swapped_first);
  take_over(lease, table);
  if (!config_.prefix_caching) table.blocks.assign(table.first = table.swapped_first, kNullBlock);
  for (const BlockId kept : table.swapped) {
    table.blocks.push_back(take(Tier::device));
    copy(Tier::host, kept, Tier::device, table.blocks.back());
  }
  for (; !table.swapped.empty(); table.swapped.pop_back()) release_block(Tier::host, table.swapped.back(), 0);
  table.swapped_first = 0;
}

}  // namespace warpjet

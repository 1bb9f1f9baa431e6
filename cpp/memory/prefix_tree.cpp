#include "memory/memory.h"

#include <algorithm>
#include <bit>

namespace warpjet {
namespace {

// Of a node's children, those that may be worth a copy: a bound, as a popular node has thousands.
constexpr int kMaxOverlapCandidates = 16;

}  // namespace

PrefixTree::PrefixTree(const Config& config)
    : block_size_(config.block_size),
      num_groups_(config.num_groups),
      hash_key_(config.hash_key),
      hash_mask_(config.hash_mask),
      roots_(0, DomainHash{config.hash_key}) {
  WJ_REQUIRE(config.block_size > 0, invalid_argument, "block_size must be positive, got ", config.block_size);
  WJ_REQUIRE(config.max_nodes > 0, invalid_argument, "max_nodes must be positive, got ", config.max_nodes);
  const std::size_t max_nodes = config.max_nodes;
  WJ_REQUIRE(config.num_groups > 0 && config.num_groups <= kMaxKvGroups, invalid_argument, "num_groups must be 1 to ",
             kMaxKvGroups, ", got ", config.num_groups);
  nodes_.resize(max_nodes);
  blocks_.assign(max_nodes * num_groups_ * kNumTiers, kNoBlock);
  tokens_ = std::make_unique_for_overwrite<std::int32_t[]>(max_nodes * block_size_);
  buckets_.assign(std::bit_ceil(max_nodes), kNoNode);
  for (NodeId node = config.max_nodes - 1; node >= 0; --node) nodes_[node].next_in_bucket = std::exchange(free_, node);
}

std::size_t PrefixTree::DomainHash::operator()(const PrefixDomain& domain) const {
  return hash64(std::as_bytes(std::span(domain.salt)), hash64(std::as_bytes(std::span(&domain.adapter, 1)), key));
}

NodeId PrefixTree::find_root(const PrefixDomain& domain) const {
  const auto at = roots_.find(domain);
  return at == roots_.end() ? kNoNode : at->second;
}

NodeId PrefixTree::make_root(const PrefixDomain& domain) {
  if (const NodeId root = find_root(domain); root != kNoNode) return root;
  if (free_ == kNoNode) return kNoNode;
  const auto at = roots_.emplace(domain, kNoNode).first;
  domains_.emplace(free_, &at->first);
  return at->second = make(kNoNode, root_key(domain));
}

NodeId PrefixTree::find(NodeId parent, std::span<const std::int32_t> tokens) const {
  const std::uint64_t key = child_key(parent, tokens);
  for (NodeId at = buckets_[key & (buckets_.size() - 1)]; at != kNoNode; at = nodes_[at].next_in_bucket) {
    if (nodes_[at].key == key && nodes_[at].parent == parent && std::ranges::equal(this->tokens(at), tokens)) return at;
  }
  return kNoNode;
}

NodeId PrefixTree::insert(NodeId parent, std::span<const std::int32_t> tokens) {
  const std::uint64_t key = child_key(parent, tokens);
  if (free_ == kNoNode) return kNoNode;
  const NodeId node = make(parent, key);
  std::ranges::copy(tokens, tokens_.get() + static_cast<std::size_t>(node) * block_size_);
  return node;
}

// Upwards and without recursion: a chain may be as long as the tree.
void PrefixTree::prune(NodeId node) {
  while (node != kNoNode && !has_children(node) && !has_blocks(node)) {
    const NodeId above = parent(node);
    forget(node);
    node = above;
  }
}

bool PrefixTree::has_blocks(NodeId node) const {
  const auto blocks = std::span(blocks_).subspan(place(node, Tier::device, 0), num_groups_ * kNumTiers);
  return std::ranges::any_of(blocks, [](BlockId block) { return block != kNoBlock; });
}

bool PrefixTree::has_all_blocks(NodeId node, Tier tier) const {
  for (int group = 0; group < num_groups_; ++group) {
    if (block(node, tier, group) == kNoBlock) return false;
  }
  return true;
}

PrefixTree::Overlap PrefixTree::best_overlap(NodeId parent, std::span<const std::int32_t> tokens, Tier tier) const {
  Overlap best;
  NodeId child = nodes_[parent].first_child;
  for (int i = 0; i < kMaxOverlapCandidates && child != kNoNode; ++i, child = nodes_[child].next_sibling) {
    if (!has_all_blocks(child, tier)) continue;
    const auto mismatch = std::ranges::mismatch(tokens, this->tokens(child));
    const int length = static_cast<int>(mismatch.in1 - tokens.begin());
    if (length > best.length) best = {child, length};
  }
  return best;
}

std::span<const std::int32_t> PrefixTree::tokens(NodeId node) const {
  if (is_root(node)) return {};
  return {tokens_.get() + static_cast<std::size_t>(node) * block_size_, static_cast<std::size_t>(block_size_)};
}

NodeId PrefixTree::make(NodeId parent, std::uint64_t key) {
  const NodeId id = std::exchange(free_, nodes_[free_].next_in_bucket);
  Node& node = nodes_[id];
  node = {.key = key, .parent = parent, .live = true};
  node.next_in_bucket = std::exchange(bucket(key), id);
  if (parent != kNoNode) {
    node.next_sibling = std::exchange(nodes_[parent].first_child, id);
    if (node.next_sibling != kNoNode) nodes_[node.next_sibling].previous_sibling = id;
  }
  ++size_;
  return id;
}

void PrefixTree::forget(NodeId id) {
  Node& node = nodes_[id];
  NodeId* at = &bucket(node.key);
  while (*at != id) at = &nodes_[*at].next_in_bucket;
  *at = node.next_in_bucket;
  if (node.next_sibling != kNoNode) nodes_[node.next_sibling].previous_sibling = node.previous_sibling;
  if (node.previous_sibling != kNoNode) {
    nodes_[node.previous_sibling].next_sibling = node.next_sibling;
  } else if (node.parent != kNoNode) {
    nodes_[node.parent].first_child = node.next_sibling;
  } else {
    const auto domain = domains_.find(id);
    roots_.erase(roots_.find(*domain->second));
    domains_.erase(domain);
  }
  node = {.next_in_bucket = std::exchange(free_, id)};
  --size_;
}

std::uint64_t PrefixTree::root_key(const PrefixDomain& domain) const {
  return DomainHash{hash_key_}(domain)&hash_mask_;
}

// The parent's key stands for everything before it, so each block is hashed alone.
std::uint64_t PrefixTree::child_key(NodeId parent, std::span<const std::int32_t> tokens) const {
  WJ_CHECK(nodes_[parent].live && static_cast<int>(tokens.size()) == block_size_, "parent=", parent,
           " tokens=", tokens.size());
  return hash64(std::as_bytes(tokens), nodes_[parent].key ^ hash_key_) & hash_mask_;
}

void PrefixTree::check() const {
  int known = 0, indexed = 0, free = 0;
  for (const Node& node : nodes_) known += node.live;
  for (const NodeId head : buckets_) {
    for (NodeId node = head; node != kNoNode; node = nodes_[node].next_in_bucket) {
      WJ_CHECK(nodes_[node].live && ++indexed <= size_, "a bucket runs in a circle or is shared");
    }
  }
  for (NodeId node = free_; node != kNoNode; node = nodes_[node].next_in_bucket) {
    WJ_CHECK(!nodes_[node].live && ++free <= max_nodes(), "the free list runs in a circle");
  }
  WJ_CHECK(known == size_ && indexed == size_ && free == max_nodes() - size_, "live=", known, " indexed=", indexed,
           " free=", free, " size=", size_);

  // What the roots reach is everything, so nothing runs in a circle.
  WJ_CHECK(roots_.size() == domains_.size());
  std::vector<NodeId> reached;
  for (const auto& [domain, root] : roots_) {
    WJ_CHECK(live(root) && is_root(root) && *domains_.at(root) == domain && key(root) == root_key(domain),
             "root=", root);
    reached.push_back(root);
  }
  for (std::size_t i = 0; i < reached.size(); ++i) {
    WJ_CHECK(reached.size() <= static_cast<std::size_t>(size_), "a node has two parents");
    NodeId previous = kNoNode;
    for (NodeId child = nodes_[reached[i]].first_child; child != kNoNode; child = nodes_[child].next_sibling) {
      const Node& node = nodes_[child];
      WJ_CHECK(node.live && node.parent == reached[i] && node.previous_sibling == previous, "node=", child);
      WJ_CHECK(find(node.parent, tokens(child)) == child, "node ", child, " is not unique or has a wrong key");
      previous = child;
      reached.push_back(child);
    }
  }
  WJ_CHECK(reached.size() == static_cast<std::size_t>(size_), "reached=", reached.size(), " size=", size_);
}

std::uint64_t PrefixTree::digest() const {
  std::uint64_t digest = hash64(std::as_bytes(std::span(buckets_)), free_);
  for (NodeId id = 0; id < max_nodes(); ++id) {
    const Node& node = nodes_[id];
    const std::array<std::int32_t, 6> words = {node.parent,       node.first_child,    node.previous_sibling,
                                               node.next_sibling, node.next_in_bucket, node.live};
    digest = hash64(std::as_bytes(std::span(words)), digest ^ node.key);
    if (node.live) digest = hash64(std::as_bytes(tokens(id)), digest);
  }
  return hash64(std::as_bytes(std::span(blocks_)), digest);
}

}  // namespace warpjet

#include "memory/memory.h"

#include <algorithm>
#include <utility>

namespace warpjet {

Lease::Lease(Lease&& other) noexcept
    : kv_(std::exchange(other.kv_, nullptr)),
      nodes_(std::move(other.nodes_)),
      first_(std::exchange(other.first_, {})),
      overlap_(std::exchange(other.overlap_, 0)),
      tokens_(std::exchange(other.tokens_, 0)),
      needed_(std::exchange(other.needed_, 0)),
      change_(other.change_),
      held_(std::move(other.held_)) {}

// A place in a list means something only while nothing else has moved; after that the blocks count as just used.
void Lease::release_last() {
  const auto [tier, group, index, block, after, was_cached] = held_.back();
  held_.pop_back();
  if (kv_->changes_ != change_) {
    kv_->release_block(tier, block, 0);
  } else if (was_cached) {
    kv_->pool(tier).release_to(block, after);
  } else {
    kv_->pool(tier).release(block);
  }
}

void Lease::drop() {
  if (kv_ == nullptr) return;
  const bool undo = kv_->changes_ == change_;
  while (!held_.empty()) release_last();
  if (undo) --kv_->changes_;
  kv_ = nullptr;
  nodes_.clear();
  first_ = {};
  overlap_ = tokens_ = needed_ = 0;
}

void Lease::drop_copy() {
  if (overlap_ == 0) return;
  for (const int whole = static_cast<int>(nodes_.size()); !held_.empty() && held_.back().index == whole; --needed_) {
    release_last();
  }
  tokens_ -= std::exchange(overlap_, 0);
}

Lease KvBlocks::match(std::span<const std::int32_t> tokens, const PrefixDomain& domain, int max_tokens) {
  Lease lease;
  if (!config_.prefix_caching) return lease;
  const NodeId root = tree_.find_root(domain);
  if (root == kNoNode) return lease;
  const int size = config_.block_size;
  tokens = tokens.first(std::min<std::size_t>(std::max(max_tokens, 0), tokens.size()));
  find_chain(root, tokens, lease.nodes_);
  const int whole = static_cast<int>(lease.nodes_.size());
  int begin = whole;
  for (int group = 0; group < num_groups(); ++group) {
    lease.first_[group] = first_needed(group, whole);
    begin = std::min(begin, lease.first_[group]);
  }
  lease.held_.reserve(static_cast<std::size_t>(whole - begin + 1) * num_groups());
  for (int i = begin; i < whole; ++i) {
    for (int group = 0; group < num_groups(); ++group) {
      if (i < lease.first_[group]) continue;
      const NodeId node = lease.nodes_[i];
      hold(lease, tree_.block(node, Tier::device, group) != kNoBlock ? Tier::device : Tier::host, group, i, node);
    }
  }

  // It may be an equal block, if max_tokens hides its end: whoever needs logits must compute the last token.
  const auto rest = tokens.subspan(static_cast<std::size_t>(whole) * size);
  const auto overlap = tree_.best_overlap(whole == 0 ? root : lease.nodes_.back(), rest, Tier::device);
  if (overlap.length >= std::min(kMinOverlap, (size + 1) / 2)) {
    lease.overlap_ = overlap.length;
    for (int group = 0; group < num_groups(); ++group) hold(lease, Tier::device, group, whole, overlap.node);
  }
  lease.tokens_ = whole * size + lease.overlap_;
  lease.needed_ = restores(lease, whole) + (lease.overlap_ > 0 ? num_groups() : 0);
  lease.kv_ = this;
  lease.change_ = ++changes_;
  return lease;
}

// The longest chain of whole blocks of `tokens` whose end can be continued: what each group sees from there is known.
void KvBlocks::find_chain(NodeId root, std::span<const std::int32_t> tokens, std::vector<NodeId>& chain) const {
  const std::size_t size = config_.block_size;
  int length = 0;
  PerGroup<int> present{};  // all blocks of the group from there up to the one looked at are in some tier
  const auto look = [&](NodeId node, int end) {
    bool continues = true;
    for (int group = 0; group < num_groups(); ++group) {
      if (!is_known(node, group)) {
        if (config_.windows[group] == 0) return false;
        present[group] = end;
      }
      continues &= present[group] <= first_needed(group, end);
    }
    if (continues) length = end;
    return true;
  };
  for (NodeId node = root; tokens.size() >= size; tokens = tokens.subspan(size)) {
    node = tree_.find(node, tokens.first(size));
    if (node == kNoNode) break;
    chain.push_back(node);
    if (!look(node, static_cast<int>(chain.size()))) break;
  }
  chain.resize(length);
}

bool KvBlocks::is_known(NodeId node, int group) const {
  return tree_.block(node, Tier::device, group) != kNoBlock || tree_.block(node, Tier::host, group) != kNoBlock;
}

int KvBlocks::first_visible(int group, int position) const {
  const int window = config_.windows[group];
  return window == 0 ? 0 : std::max(0, position - window + 1) / config_.block_size;
}

// The last block is always needed: it keeps its node, and so the whole chain, in the tree.
int KvBlocks::first_needed(int group, int whole) const {
  return std::min(std::max(whole - 1, 0), first_visible(group, whole * config_.block_size));
}

void KvBlocks::hold(Lease& lease, Tier tier, int group, int index, NodeId node) {
  BlockPool& blocks = pool(tier);
  const BlockId block = tree_.block(node, tier, group);
  lease.held_.push_back({tier, group, index, block, blocks.follows_in_list(block), blocks.holders(block) == 0});
  blocks.hold(block);
}

int KvBlocks::restores(const Lease& lease, int whole) const {
  const auto is_restored = [&](const Lease::Held& held) { return held.tier == Tier::host && held.index < whole; };
  return static_cast<int>(std::ranges::count_if(lease.held_, is_restored));
}

// Releases what the lease found after the first `whole` blocks.
void KvBlocks::trim(Lease& lease, int whole) {
  for (int& first : lease.first_) first = std::min(first, whole);
  for (; !lease.held_.empty() && lease.held_.back().index >= whole; lease.held_.pop_back()) {
    release_block(lease.held_.back().tier, lease.held_.back().block, 0);
  }
  lease.nodes_.resize(whole);
  lease.overlap_ = 0;
}

}  // namespace warpjet

#include "memory/memory.h"

#include <algorithm>
#include <utility>

namespace warpjet {

Lease::Lease(Lease&& other) noexcept
    : kv_(std::exchange(other.kv_, nullptr)),
      nodes_(std::move(other.nodes_)),
      first_(std::exchange(other.first_, 0)),
      overlap_(std::exchange(other.overlap_, 0)),
      tokens_(std::exchange(other.tokens_, 0)),
      needed_(std::exchange(other.needed_, 0)),
      change_(other.change_),
      held_(std::move(other.held_)) {}

// A place in a list means something only while nothing else has moved; after that the blocks count as just used.
void Lease::let_go_of_last() {
  const auto [tier, block, after, was_cached] = held_.back();
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
  while (!held_.empty()) let_go_of_last();
  if (undo) --kv_->changes_;
  kv_ = nullptr;
  nodes_.clear();
  first_ = overlap_ = tokens_ = needed_ = 0;
}

void Lease::drop_copy() {
  if (overlap_ == 0) return;
  let_go_of_last();
  tokens_ -= std::exchange(overlap_, 0);
  --needed_;
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
  lease.first_ = first_needed(whole);
  lease.held_.reserve(whole - lease.first_ + 1);
  for (int i = lease.first_; i < whole; ++i) {
    const NodeId node = lease.nodes_[i];
    const Tier tier = tree_.block(node, Tier::device) != kNoBlock ? Tier::device : Tier::host;
    hold(lease, tier, tree_.block(node, tier));
  }

  // It may be an equal block, if max_tokens hides its end: whoever needs logits must compute the last token.
  const auto rest = tokens.subspan(static_cast<std::size_t>(whole) * size);
  const auto overlap = tree_.best_overlap(whole == 0 ? root : lease.nodes_.back(), rest, Tier::device);
  if (overlap.length >= std::min(kMinOverlap, (size + 1) / 2)) {
    lease.overlap_ = overlap.length;
    hold(lease, Tier::device, tree_.block(overlap.node, Tier::device));
  }
  lease.tokens_ = whole * size + lease.overlap_;
  lease.needed_ = restores(lease, whole) + (lease.overlap_ > 0);
  lease.kv_ = this;
  lease.change_ = ++changes_;
  return lease;
}

// The longest chain of whole blocks of `tokens` whose end can be continued: what is visible from there is present.
void KvBlocks::find_chain(NodeId root, std::span<const std::int32_t> tokens, std::vector<NodeId>& chain) const {
  const std::size_t size = config_.block_size;
  int length = 0, present = 0;  // all blocks from `present` up to the one looked at are in some tier
  for (NodeId node = root; tokens.size() >= size; tokens = tokens.subspan(size)) {
    node = tree_.find(node, tokens.first(size));
    if (node == kNoNode) break;
    chain.push_back(node);
    const int end = static_cast<int>(chain.size());
    if (tree_.block(node, Tier::device) == kNoBlock && tree_.block(node, Tier::host) == kNoBlock) {
      if (config_.window == 0) break;
      present = end;
    } else if (present <= first_needed(end)) {
      length = end;
    }
  }
  chain.resize(length);
}

int KvBlocks::first_visible(int position) const {
  return config_.window == 0 ? 0 : std::max(0, position - config_.window + 1) / config_.block_size;
}

// The last block is always needed: it keeps its node, and so the whole chain, in the tree.
int KvBlocks::first_needed(int whole) const {
  return std::min(std::max(whole - 1, 0), first_visible(whole * config_.block_size));
}

void KvBlocks::hold(Lease& lease, Tier tier, BlockId block) {
  BlockPool& blocks = pool(tier);
  lease.held_.push_back({tier, block, blocks.follows_in_list(block), blocks.holders(block) == 0});
  blocks.hold(block);
}

int KvBlocks::restores(const Lease& lease, int whole) const {
  const auto end = lease.held_.begin() + std::max(0, whole - lease.first_);
  return static_cast<int>(std::count_if(lease.held_.begin(), end, [](auto& held) { return held.tier == Tier::host; }));
}

// Lets go of what the lease found after the first `whole` blocks.
void KvBlocks::trim(Lease& lease, int whole) {
  lease.first_ = std::min(lease.first_, whole);
  for (; static_cast<int>(lease.held_.size()) > whole - lease.first_; lease.held_.pop_back()) {
    release_block(lease.held_.back().tier, lease.held_.back().block, 0);
  }
  lease.nodes_.resize(whole);
  lease.overlap_ = 0;
}

}  // namespace warpjet

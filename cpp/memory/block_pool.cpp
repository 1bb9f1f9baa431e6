#include "memory/memory.h"

#include <algorithm>
#include <bit>

namespace warpjet {

BlockPool::BlockPool(int num_blocks) {
  WJ_REQUIRE(num_blocks >= 1, invalid_argument, "a pool of KV blocks needs at least the null block, got ", num_blocks);
  blocks_.resize(num_blocks);
  blocks_[kNullBlock].state = State::reserved;
  for (BlockId block = num_blocks - 1; block > 0; --block) make_free(block);
}

BlockId BlockPool::take() {
  const BlockId block = free_.head;
  WJ_CHECK(block != kNoBlock, "no block is free; cached=", num_cached_, " of ", num_blocks());
  unlink(free_, block);
  --num_free_;
  blocks_[block].state = State::held;
  blocks_[block].holders = 1;
  return block;
}

BlockId BlockPool::coldest() const {
  return occupied_ == 0 ? kNoBlock : lru_[std::countr_zero(occupied_)].head;
}

void BlockPool::hold(BlockId block) {
  Block& b = blocks_[block];
  WJ_CHECK(b.state == State::held || b.state == State::cached, "block=", block);
  if (b.state == State::cached) uncache(block);
  b.state = State::held;
  ++b.holders;
}

void BlockPool::release(BlockId block) {
  Block& b = blocks_[block];
  WJ_CHECK(b.state == State::held, "block=", block);
  if (--b.holders > 0) return;
  if (b.node == kNoNode) return make_free(block);
  cache(block, lru_[b.cache_class].tail);
}

void BlockPool::release_to(BlockId block, BlockId after) {
  Block& b = blocks_[block];
  WJ_CHECK(b.state == State::held && b.holders == 1 && b.node != kNoNode, "block=", block, " holders=", b.holders);
  WJ_CHECK(after == kNoBlock || (blocks_[after].state == State::cached && blocks_[after].cache_class == b.cache_class),
           "block ", block, " cannot go back behind ", after);
  b.holders = 0;
  cache(block, after);
}

void BlockPool::publish(BlockId block, NodeId node, int group) {
  Block& b = blocks_[block];
  WJ_CHECK(b.state == State::held && b.node == kNoNode && node != kNoNode, "block=", block, " node=", b.node);
  WJ_CHECK(group >= 0 && group < kMaxKvGroups, "group=", group);
  b.node = node;
  b.group = static_cast<std::uint8_t>(group);
}

void BlockPool::unpublish(BlockId block) {
  Block& b = blocks_[block];
  WJ_CHECK(b.node != kNoNode, "block=", block);
  if (b.state == State::cached) {
    uncache(block);
    make_free(block);
  }
  b.node = kNoNode;
  b.cache_class = b.group = 0;
}

void BlockPool::raise_class(BlockId block, int cache_class) {
  Block& b = blocks_[block];
  WJ_CHECK(b.state == State::held, "block=", block);
  WJ_CHECK(cache_class >= 0 && cache_class < kNumCacheClasses, "cache_class=", cache_class);
  b.cache_class = std::max(b.cache_class, static_cast<std::uint8_t>(cache_class));
}

void BlockPool::make_free(BlockId block) {
  blocks_[block].state = State::free;
  blocks_[block].cache_class = 0;
  insert(free_, block, kNoBlock);
  ++num_free_;
}

void BlockPool::cache(BlockId block, BlockId after) {
  Block& b = blocks_[block];
  b.state = State::cached;
  insert(lru_[b.cache_class], block, after);
  occupied_ |= 1u << b.cache_class;
  ++num_cached_;
}

void BlockPool::uncache(BlockId block) {
  const int cache_class = blocks_[block].cache_class;
  unlink(lru_[cache_class], block);
  if (lru_[cache_class].head == kNoBlock) occupied_ &= ~(1u << cache_class);
  --num_cached_;
}

void BlockPool::insert(List& list, BlockId block, BlockId after) {
  Block& b = blocks_[block];
  b.previous = after;
  b.next = after == kNoBlock ? list.head : blocks_[after].next;
  (b.previous == kNoBlock ? list.head : blocks_[b.previous].next) = block;
  (b.next == kNoBlock ? list.tail : blocks_[b.next].previous) = block;
}

void BlockPool::unlink(List& list, BlockId block) {
  const Block& b = blocks_[block];
  (b.previous == kNoBlock ? list.head : blocks_[b.previous].next) = b.next;
  (b.next == kNoBlock ? list.tail : blocks_[b.next].previous) = b.previous;
}

void BlockPool::check() const {
  WJ_CHECK(blocks_[kNullBlock].state == State::reserved && blocks_[kNullBlock].holders == 0);
  int free = 0, cached = 0;
  for (BlockId block = 1; block < num_blocks(); ++block) {
    const Block& b = blocks_[block];
    free += b.state == State::free;
    cached += b.state == State::cached;
    WJ_CHECK(b.state != State::reserved, "block=", block);
    WJ_CHECK((b.state == State::held) == (b.holders > 0), "block=", block, " holders=", b.holders);
    WJ_CHECK(b.state != State::cached || b.node != kNoNode, "block=", block);
    WJ_CHECK(b.state != State::free || (b.node == kNoNode && b.cache_class == 0 && b.group == 0), "block=", block);
  }
  int listed = 0;
  for (int c = 0; c < kNumCacheClasses; ++c) {
    listed += check_list(lru_[c], State::cached, c);
    WJ_CHECK((lru_[c].head != kNoBlock) == ((occupied_ >> c & 1) != 0), "class=", c, " occupied=", occupied_);
  }
  WJ_CHECK(free == num_free_ && free == check_list(free_, State::free, 0), "free=", free, " counted=", num_free_);
  WJ_CHECK(cached == num_cached_ && cached == listed, "cached=", cached, " counted=", num_cached_, " listed=", listed);
}

int BlockPool::check_list(const List& list, State state, int cache_class) const {
  int length = 0;
  BlockId previous = kNoBlock;
  for (BlockId block = list.head; block != kNoBlock; block = blocks_[block].next) {
    const Block& b = blocks_[block];
    WJ_CHECK(b.state == state && b.cache_class == cache_class && b.previous == previous, "block=", block);
    WJ_CHECK(++length < num_blocks(), "a list runs in a circle");
    previous = block;
  }
  WJ_CHECK(list.tail == previous, "tail=", list.tail, " last=", previous);
  return length;
}

// The links tell the order of the lists; heads, counts and the mask follow from them.
std::uint64_t BlockPool::digest() const {
  std::uint64_t digest = 0;
  for (const Block& b : blocks_) {
    const std::array<std::int32_t, 7> words = {
        b.holders, b.previous, b.next, b.node, static_cast<std::int32_t>(b.state), b.cache_class, b.group};
    digest = hash64(std::as_bytes(std::span(words)), digest);
  }
  return digest;
}

}  // namespace warpjet

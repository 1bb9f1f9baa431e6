#include "memory/memory.h"

namespace warpjet {

BlockPool::BlockPool(int num_blocks) {
  WJ_REQUIRE(num_blocks >= 2, invalid_argument, "a KV block pool needs at least 2 blocks (one is reserved), got ",
             num_blocks, "; give the KV cache more memory");
  blocks_.resize(num_blocks);
  blocks_[kNullBlock].state = State::reserved;
  for (BlockId block = 1; block < num_blocks; ++block) push_back(free_, block);
  num_free_ = num_blocks - 1;
}

bool BlockPool::try_acquire(int n, std::vector<BlockId>& out, PrefixTree& tree) {
  if (n > num_available()) return false;
  const std::size_t first = out.size();
  out.resize(first + n);  // may throw, so before anything changes
  for (std::size_t i = first; i < out.size(); ++i) {
    if (free_.head == kNoBlock) tree.evict(lru_.head);
    const BlockId block = free_.head;
    unlink(free_, block);
    --num_free_;
    blocks_[block].state = State::active;
    blocks_[block].references = 1;
    out[i] = block;
  }
  return true;
}

void BlockPool::retain(BlockId block) {
  Block& b = blocks_[block];
  WJ_CHECK(b.state == State::active || b.state == State::cached, "block=", block);
  if (b.state == State::cached) {
    unlink(lru_, block);
    --num_cached_;
    b.state = State::active;
  }
  ++b.references;
}

void BlockPool::release(BlockId block) {
  Block& b = blocks_[block];
  WJ_CHECK(b.state == State::active, "block=", block);
  if (--b.references > 0) return;
  if (!b.published) return make_free(block);
  b.state = State::cached;
  push_back(lru_, block);
  ++num_cached_;
}

void BlockPool::publish(BlockId block) {
  WJ_CHECK(blocks_[block].state == State::active && !blocks_[block].published, "block=", block);
  blocks_[block].published = true;
}

void BlockPool::unpublish(BlockId block) {
  blocks_[block].published = false;
  if (blocks_[block].state != State::cached) return;
  unlink(lru_, block);
  --num_cached_;
  make_free(block);
}

void BlockPool::drop_cached(PrefixTree& tree) {
  while (lru_.head != kNoBlock) tree.evict(lru_.head);
}

void BlockPool::make_free(BlockId block) {
  blocks_[block].state = State::free;
  push_front(free_, block);
  ++num_free_;
}

void BlockPool::push_back(List& list, BlockId block) {
  blocks_[block].previous = list.tail;
  blocks_[block].next = kNoBlock;
  (list.tail == kNoBlock ? list.head : blocks_[list.tail].next) = block;
  list.tail = block;
}

void BlockPool::push_front(List& list, BlockId block) {
  blocks_[block].previous = kNoBlock;
  blocks_[block].next = list.head;
  (list.head == kNoBlock ? list.tail : blocks_[list.head].previous) = block;
  list.head = block;
}

void BlockPool::unlink(List& list, BlockId block) {
  const Block& b = blocks_[block];
  (b.previous == kNoBlock ? list.head : blocks_[b.previous].next) = b.next;
  (b.next == kNoBlock ? list.tail : blocks_[b.next].previous) = b.previous;
}

void BlockPool::check() const {
  WJ_CHECK(blocks_[kNullBlock].state == State::reserved && blocks_[kNullBlock].references == 0);
  int free = 0, cached = 0;
  for (BlockId block = 1; block < num_blocks(); ++block) {
    const Block& b = blocks_[block];
    free += b.state == State::free;
    cached += b.state == State::cached;
    WJ_CHECK(b.state != State::reserved, "block=", block);
    WJ_CHECK((b.state == State::active) == (b.references > 0), "block=", block, " references=", b.references);
    WJ_CHECK(b.state != State::cached || b.published, "block=", block);
    WJ_CHECK(b.state != State::free || !b.published, "block=", block);
  }
  WJ_CHECK(free == num_free_ && free == check_list(free_, State::free), "free=", free, " counted=", num_free_);
  WJ_CHECK(cached == num_cached_ && cached == check_list(lru_, State::cached), "cached=", cached,
           " counted=", num_cached_);
}

int BlockPool::check_list(const List& list, State state) const {
  int length = 0;
  BlockId previous = kNoBlock;
  for (BlockId block = list.head; block != kNoBlock; block = blocks_[block].next) {
    WJ_CHECK(blocks_[block].state == state && blocks_[block].previous == previous, "block=", block);
    WJ_CHECK(++length < num_blocks(), "a list runs in a circle");
    previous = block;
  }
  WJ_CHECK(list.tail == previous, "tail=", list.tail, " last=", previous);
  return length;
}

}  // namespace warpjet

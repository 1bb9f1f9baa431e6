#include "memory/memory.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <vector>

namespace warpjet {
namespace {

using Tokens = std::vector<std::int32_t>;
constexpr int kBlockSize = 4;

ErrorCode code_of(const auto& call) {
  try {
    call();
  } catch (const Error& error) {
    return error.code();
  }
  ADD_FAILURE() << "did not throw";
  return ErrorCode::internal;
}

// `count` blocks of tokens that differ by `seed`.
Tokens tokens_of(int count, int seed) {
  Tokens tokens(count * kBlockSize);
  for (int i = 0; i < count * kBlockSize; ++i) tokens[i] = 1000 * seed + i;
  return tokens;
}

struct Memory {
  explicit Memory(int num_blocks, std::uint64_t hash_mask = ~std::uint64_t{0})
      : pool(num_blocks), tree(pool, kBlockSize, hash_mask) {}

  std::vector<BlockId> acquire(int n) {
    std::vector<BlockId> out;
    EXPECT_TRUE(pool.try_acquire(n, out, tree));
    return out;
  }
  // What a sequence does: finds what is there, computes and publishes the rest.
  std::vector<BlockId> hold(const Tokens& tokens, std::string_view salt = "") {
    std::vector<BlockId> chain;
    const int blocks = static_cast<int>(tokens.size()) / kBlockSize;
    const int found = tree.match_and_retain(tokens, salt, blocks, chain);
    EXPECT_TRUE(pool.try_acquire(blocks - found, chain, tree));
    for (int i = found; i < blocks; ++i) {
      const auto part = std::span(tokens).subspan(i * kBlockSize, kBlockSize);
      chain[i] = tree.publish(i == 0 ? kNoBlock : chain[i - 1], part, salt, chain[i]);
    }
    return chain;
  }
  void drop(const std::vector<BlockId>& chain) {
    for (auto block = chain.rbegin(); block != chain.rend(); ++block) pool.release(*block);
  }
  int match(const Tokens& tokens, std::string_view salt = "") {
    std::vector<BlockId> chain;
    const int found = tree.match_and_retain(tokens, salt, 1 << 20, chain);
    EXPECT_EQ(found, static_cast<int>(chain.size()));
    drop(chain);
    return found;
  }
  void check() const {
    pool.check();
    tree.check();
  }

  BlockPool pool;
  PrefixTree tree;
};

TEST(BlockPool, RefusesFewerThanTwoBlocks) {
  EXPECT_EQ(code_of([] { BlockPool pool(1); }), ErrorCode::invalid_argument);
  EXPECT_EQ(code_of([] { BlockPool pool(-5); }), ErrorCode::invalid_argument);
}

TEST(BlockPool, AcquireIsAllOrNothing) {
  Memory m(6);
  std::vector<BlockId> out = m.acquire(3);
  EXPECT_FALSE(m.pool.try_acquire(3, out, m.tree));
  EXPECT_EQ(out.size(), 3u);
  EXPECT_EQ(m.pool.num_free(), 2);
  EXPECT_TRUE(m.pool.try_acquire(2, out, m.tree));
  EXPECT_EQ(m.pool.num_active(), 5);
  m.check();
}

TEST(BlockPool, NeverHandsOutTheNullBlockNorOneBlockTwice) {
  Memory m(9);
  std::vector<BlockId> out = m.acquire(8);
  std::ranges::sort(out);
  EXPECT_EQ(out, (std::vector<BlockId>{1, 2, 3, 4, 5, 6, 7, 8}));
}

TEST(BlockPool, FreesAPrivateBlockWithItsLastReference) {
  Memory m(4);
  const BlockId block = m.acquire(1)[0];
  m.pool.retain(block);
  m.pool.release(block);
  EXPECT_EQ(m.pool.references(block), 1);
  EXPECT_EQ(m.pool.num_free(), 2);
  m.pool.release(block);
  EXPECT_EQ(m.pool.num_free(), 3);
  EXPECT_EQ(m.pool.num_cached(), 0);
  m.check();
}

TEST(BlockPool, ReusesTheBlockThatWasFreedLast) {
  Memory m(6);
  const std::vector<BlockId> out = m.acquire(5);
  for (const BlockId block : {out[1], out[3]}) m.pool.release(block);
  EXPECT_EQ(m.acquire(1)[0], out[3]);
}

TEST(BlockPool, CallsADoubleReleaseABug) {
  Memory m(4);
  const BlockId block = m.acquire(1)[0];
  m.pool.release(block);
  EXPECT_EQ(code_of([&] { m.pool.release(block); }), ErrorCode::internal);
  EXPECT_EQ(code_of([&] { m.pool.retain(block); }), ErrorCode::internal);
  EXPECT_EQ(code_of([&] { m.pool.release(kNullBlock); }), ErrorCode::internal);
  m.check();
}

TEST(BlockPool, KeepsAPublishedBlockCachedUntilItIsNeeded) {
  Memory m(4);
  const Tokens tokens = tokens_of(1, 1);
  m.drop(m.hold(tokens));
  EXPECT_EQ(m.pool.num_cached(), 1);
  m.acquire(2);  // the free ones go first
  EXPECT_EQ(m.match(tokens), 1);
  m.acquire(1);
  EXPECT_EQ(m.match(tokens), 0);
  EXPECT_EQ(m.tree.size(), 0);
  m.check();
}

TEST(BlockPool, EvictsTheLeastRecentlyUsedFirst) {
  Memory m(4);
  for (int seed : {1, 2, 3}) m.drop(m.hold(tokens_of(1, seed)));
  EXPECT_EQ(m.match(tokens_of(1, 1)), 1);  // touched: now 2 is the oldest
  m.acquire(1);
  EXPECT_EQ(m.match(tokens_of(1, 2)), 0);
  EXPECT_EQ(m.match(tokens_of(1, 1)), 1);
  EXPECT_EQ(m.match(tokens_of(1, 3)), 1);
}

TEST(BlockPool, EvictsTailsBeforeHeads) {
  Memory m(6);
  const Tokens tokens = tokens_of(5, 1);
  m.drop(m.hold(tokens));
  for (int left = 4; left >= 0; --left) {
    m.acquire(1);
    EXPECT_EQ(m.match(tokens), left);
    EXPECT_EQ(m.tree.size(), left);
    m.check();
  }
}

TEST(BlockPool, TakesAMatchedBlockOffTheEvictionList) {
  Memory m(4);
  const Tokens tokens = tokens_of(2, 1);
  m.drop(m.hold(tokens));
  const std::vector<BlockId> chain = m.hold(tokens);
  std::vector<BlockId> out;
  EXPECT_FALSE(m.pool.try_acquire(2, out, m.tree));
  EXPECT_TRUE(m.pool.try_acquire(1, out, m.tree));
  EXPECT_EQ(std::ranges::count(chain, out[0]), 0);
  EXPECT_EQ(m.match(tokens), 2);
}

TEST(BlockPool, DropCachedSparesHeldBlocks) {
  Memory m(8);
  const std::vector<BlockId> held = m.hold(tokens_of(2, 1));
  m.drop(m.hold(tokens_of(3, 2)));
  m.pool.drop_cached(m.tree);
  m.check();
  EXPECT_EQ(m.pool.num_cached(), 0);
  EXPECT_EQ(m.pool.num_free(), 5);
  EXPECT_EQ(m.match(tokens_of(3, 2)), 0);
  EXPECT_EQ(m.match(tokens_of(2, 1)), 2);
  m.drop(held);
  m.pool.drop_cached(m.tree);
  EXPECT_EQ(m.pool.num_free(), 7);
  EXPECT_EQ(m.tree.size(), 0);
}

TEST(PrefixTree, MatchesTheLongestCommonPrefixInWholeBlocks) {
  Memory m(16);
  Tokens tokens = tokens_of(3, 1);
  m.drop(m.hold(tokens));
  EXPECT_EQ(m.match(tokens), 3);
  tokens.pop_back();
  EXPECT_EQ(m.match(tokens), 2);
  tokens[kBlockSize] = -1;
  EXPECT_EQ(m.match(tokens), 1);
  tokens[0] = -1;
  EXPECT_EQ(m.match(tokens), 0);
}

TEST(PrefixTree, MatchesNoMoreThanAskedFor) {
  Memory m(16);
  m.drop(m.hold(tokens_of(3, 1)));
  std::vector<BlockId> chain;
  EXPECT_EQ(m.tree.match_and_retain(tokens_of(3, 1), "", 2, chain), 2);
  EXPECT_EQ(m.tree.match_and_retain(tokens_of(3, 1), "", 0, chain), 0);
  EXPECT_EQ(chain.size(), 2u);
}

TEST(PrefixTree, RetainsWhatItMatched) {
  Memory m(16);
  const std::vector<BlockId> mine = m.hold(tokens_of(2, 1));
  std::vector<BlockId> theirs;
  m.tree.match_and_retain(tokens_of(2, 1), "", 2, theirs);
  EXPECT_EQ(theirs, mine);
  EXPECT_EQ(m.pool.references(mine[0]), 2);
  EXPECT_EQ(m.pool.references(mine[1]), 2);
}

TEST(PrefixTree, KeepsSaltsApart) {
  Memory m(16);
  const Tokens tokens = tokens_of(2, 1);
  const auto plain = m.hold(tokens), salted = m.hold(tokens, "tenant a");
  EXPECT_EQ(m.tree.size(), 4);
  EXPECT_EQ(m.match(tokens, "tenant b"), 0);
  EXPECT_NE(m.hold(tokens, "tenant a"), plain);
  EXPECT_EQ(m.hold(tokens, "tenant a"), salted);
}

TEST(PrefixTree, ComparesContentsWhenAllHashesCollide) {
  Memory m(64, /*hash_mask=*/0);
  std::vector<std::vector<BlockId>> chains;
  for (int seed = 0; seed < 8; ++seed) chains.push_back(m.hold(tokens_of(3, seed)));
  const auto salted = m.hold(tokens_of(3, 0), "salt");
  m.check();
  for (int seed = 0; seed < 8; ++seed) EXPECT_EQ(m.hold(tokens_of(3, seed)), chains[seed]);
  EXPECT_EQ(m.hold(tokens_of(3, 0), "salt"), salted);
  EXPECT_EQ(m.match(tokens_of(3, 9)), 0);
  EXPECT_EQ(m.match(tokens_of(3, 1), "salt"), 0);
}

TEST(PrefixTree, TellsEqualTokensAfterDifferentParentsApart) {
  Memory m(16, /*hash_mask=*/0);
  Tokens a = tokens_of(2, 1), b = tokens_of(2, 1);
  b[0] = -1;  // the second blocks are equal
  const auto first = m.hold(a), second = m.hold(b);
  EXPECT_NE(first[1], second[1]);
  EXPECT_EQ(m.match(a), 2);
  EXPECT_EQ(m.match(b), 2);
}

TEST(PrefixTree, ExchangesADuplicateForThePublishedBlock) {
  Memory m(16);
  const Tokens tokens = tokens_of(2, 1);
  const auto a = m.acquire(2), b = m.acquire(2);  // both computed the same, neither saw the other
  const auto part = [&](int i) { return std::span(tokens).subspan(i * kBlockSize, kBlockSize); };
  EXPECT_EQ(m.tree.publish(kNoBlock, part(0), "", a[0]), a[0]);
  EXPECT_EQ(m.tree.publish(kNoBlock, part(0), "", b[0]), a[0]);
  EXPECT_EQ(m.pool.references(a[0]), 2);
  EXPECT_EQ(m.pool.num_active(), 3);  // b[0] is free again
  // Now b is ahead: its next block goes under the shared parent, and a follows.
  EXPECT_EQ(m.tree.publish(a[0], part(1), "", b[1]), b[1]);
  EXPECT_EQ(m.tree.publish(a[0], part(1), "", a[1]), b[1]);
  m.check();
  m.drop({a[0], b[1]});
  m.check();
  EXPECT_EQ(m.match(tokens), 2);
  m.drop({a[0], b[1]});
  EXPECT_EQ(m.pool.num_cached(), 2);
}

TEST(PrefixTree, ExchangesForACachedBlockToo) {
  Memory m(16);
  const auto cached = m.hold(tokens_of(1, 1));
  m.drop(cached);
  const BlockId mine = m.acquire(1)[0];
  EXPECT_EQ(m.tree.publish(kNoBlock, tokens_of(1, 1), "", mine), cached[0]);
  EXPECT_EQ(m.pool.num_cached(), 0);
  EXPECT_EQ(m.pool.references(cached[0]), 1);
  m.check();
}

TEST(PrefixTree, RefusesAParentThatNobodyHoldsOrIsNotPublished) {
  Memory m(16);
  const auto chain = m.hold(tokens_of(1, 1));
  m.drop(chain);
  const auto mine = m.acquire(2);
  const auto publish = [&](BlockId parent) { m.tree.publish(parent, tokens_of(1, 2), "", mine[1]); };
  EXPECT_EQ(code_of([&] { publish(chain[0]); }), ErrorCode::internal);
  EXPECT_EQ(code_of([&] { publish(mine[0]); }), ErrorCode::internal);
  EXPECT_EQ(code_of([&] { m.tree.publish(kNoBlock, Tokens{1}, "", mine[1]); }), ErrorCode::internal);
  m.check();
}

TEST(PrefixTree, ForgetsWhatCannotBeReachedAnyMore) {
  Memory m(16);
  Tokens fork = tokens_of(4, 1);
  const auto chain = m.hold(fork);
  fork.back() = -1;
  const auto other = m.hold(fork);
  EXPECT_EQ(m.tree.size(), 5);
  m.drop(chain);
  m.pool.release(other[3]);
  m.pool.release(other[0]);  // against the rule: the head before the rest
  m.tree.evict(other[0]);
  EXPECT_EQ(m.tree.size(), 0);
  EXPECT_EQ(m.pool.num_cached(), 0);
  EXPECT_EQ(m.pool.num_active(), 2);  // still held, no longer published
  EXPECT_FALSE(m.pool.published(other[1]));
  m.check();
  m.drop({other[1], other[2]});
  EXPECT_EQ(m.pool.num_free(), 15);
}

TEST(PrefixTree, EvictsAChainAsLongAsThePool) {
  Memory m(100001);
  const auto chain = m.hold(tokens_of(100000, 0));
  m.drop(chain);
  m.tree.evict(chain[0]);
  EXPECT_EQ(m.pool.num_free(), 100000);
  m.check();
}

// Random holders against a naive model: what each published block was published as, searched from end to end.
TEST(PrefixTree, AgreesWithANaiveModelUnderRandomUse) {
  const unsigned seed = 20240607;
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  for (const std::uint64_t mask : {~std::uint64_t{0}, std::uint64_t{1}}) {
    std::mt19937 random(seed);
    const auto draw = [&](int n) { return static_cast<int>(random() % n); };
    Memory m(40, mask);
    std::vector<std::vector<BlockId>> holders;
    std::map<BlockId, std::string> contents;
    const auto find = [&](const std::string& text) {
      for (const auto& [block, content] : contents) {
        if (content == text && m.pool.published(block)) return block;
      }
      return kNoBlock;
    };
    for (int step = 0; step < 20000; ++step) {
      if (!holders.empty() && (draw(2) == 0 || holders.size() > 5)) {
        const int victim = draw(static_cast<int>(holders.size()));
        m.drop(holders[victim]);
        holders.erase(holders.begin() + victim);
      } else {
        Tokens tokens((1 + draw(5)) * kBlockSize);
        std::string text(draw(2), 's');
        std::vector<std::string> texts;  // of each block: the salt and one digit a block up to here
        for (std::size_t i = 0; i < tokens.size(); i += kBlockSize) {
          tokens[i] = draw(2);
          texts.push_back(text += static_cast<char>('0' + tokens[i]));
        }
        std::vector<BlockId> expected;
        while (expected.size() < texts.size() && find(texts[expected.size()]) != kNoBlock) {
          expected.push_back(find(texts[expected.size()]));
        }
        const std::string salt = text.substr(0, text.size() - texts.size());
        ASSERT_EQ(m.match(tokens, salt), static_cast<int>(expected.size()));
        const auto& chain = holders.emplace_back(m.hold(tokens, salt));
        ASSERT_TRUE(std::equal(expected.begin(), expected.end(), chain.begin()));
        for (std::size_t i = 0; i < chain.size(); ++i) contents[chain[i]] = texts[i];
      }
      if (draw(500) == 0) m.pool.drop_cached(m.tree);
      m.check();
    }
    for (const auto& chain : holders) m.drop(chain);
    m.pool.drop_cached(m.tree);
    EXPECT_EQ(m.pool.num_free(), 39);
  }
}

TEST(KvCache, GivesEveryLayerItsOwnMemory) {
  const std::unique_ptr<Device> device = make_cpu_device(1);
  const KvCache::Config config{
      .layers = 3, .kv_heads = 2, .head_dim = 8, .block_size = 4, .num_blocks = 5, .dtype = DType::bf16};
  const KvCache kv(config, *device);
  EXPECT_EQ(KvCache::bytes_per_block(config), 3 * 2 * 2 * 4 * 8 * 2);
  const std::byte* expected = static_cast<const std::byte*>(kv.k(0).data);
  for (int layer = 0; layer < 3; ++layer) {
    for (const TensorView& view : {kv.k(layer), kv.v(layer)}) {
      EXPECT_EQ(view.shape, (Shape{5, 2, 4, 8}));
      EXPECT_EQ(view.dtype, DType::bf16);
      EXPECT_EQ(view.row_stride, 2 * 4 * 8);
      EXPECT_EQ(view.data, expected);
      expected += view.bytes();
    }
  }
  EXPECT_EQ(expected - static_cast<const std::byte*>(kv.k(0).data), 5 * KvCache::bytes_per_block(config));
}

TEST(KvCache, RefusesEmptyShapesByName) {
  const std::unique_ptr<Device> device = make_cpu_device(1);
  KvCache::Config config{.layers = 1, .kv_heads = 0, .head_dim = 8, .block_size = 4, .num_blocks = 5};
  try {
    const KvCache kv(config, *device);
    FAIL() << "did not throw";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::invalid_argument);
    EXPECT_NE(error.message().find("kv_heads"), std::string::npos);
  }
  config.kv_heads = 1;
  const KvCache kv(config, *device);
  EXPECT_EQ(code_of([&] { kv.k(1); }), ErrorCode::internal);
  EXPECT_EQ(code_of([&] { kv.v(-1); }), ErrorCode::internal);
}

}  // namespace
}  // namespace warpjet

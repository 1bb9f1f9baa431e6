#include "memory/memory.h"

#include "error_kit.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

namespace warpjet {
namespace {

using Tokens = std::vector<std::int32_t>;
using Blocks = std::vector<BlockId>;
constexpr int kBlockSize = 4;

void expect_bug(const auto& call) {
  expect_error(ErrorCode::internal, "", call);
}

// Blocks of a fixed text that differ by `seed` from the first one on.
Tokens text_of(int num_tokens, int seed = 0) {
  Tokens tokens(num_tokens);
  for (int i = 0; i < num_tokens; ++i) tokens[i] = 1000 * seed + i;
  return tokens;
}

struct Kv {
  explicit Kv(KvBlocks::Config config) : kv(with_size(config)) {}
  static KvBlocks::Config with_size(KvBlocks::Config config) {
    config.block_size = kBlockSize;
    config.hash_key = 1;
    return config;
  }

  Lease match(const Tokens& text, const PrefixDomain& domain = {}) { return kv.match(text, domain, 1 << 20); }
  int known(const Tokens& text, const PrefixDomain& domain = {}) { return match(text, domain).tokens(); }
  // What a sequence does: finds what is there, computes and publishes the rest.
  BlockTable start(const Tokens& text, const PrefixDomain& domain = {}) {
    BlockTable table;
    kv.adopt(match(text, domain), table);
    EXPECT_TRUE(kv.try_grow(table, static_cast<int>(text.size())));
    publish(table, text, domain);
    return table;
  }
  void publish(BlockTable& table, const Tokens& text, const PrefixDomain& domain = {}) {
    kv.publish(table, text, static_cast<int>(text.size()), domain, [&](int, int index, BlockId block) {
      EXPECT_EQ(table.groups[0].blocks[index], block);
      ++exchanged;
    });
  }
  void run(const Tokens& text, int cache_class = kDefaultCacheClass) {
    BlockTable table = start(text);
    kv.release(table, cache_class);
  }
  // Takes every block that is free or cached, and so evicts everything.
  BlockTable take_all() {
    BlockTable table;
    EXPECT_TRUE(kv.try_grow(table, kv.num_available() * kBlockSize));
    return table;
  }
  void check(std::initializer_list<const BlockTable*> tables) const { kv.check(std::vector(tables)); }

  KvBlocks kv;
  int exchanged = 0;
};

bool copied(const Copy& copy, Tier from, BlockId source, Tier to, BlockId target) {
  return copy.from == from && copy.source == source && copy.to == to && copy.target == target;
}

TEST(KvBlocks, RefusesTooFewBlocks) {
  expect_error(ErrorCode::invalid_argument, "at least 2 blocks", [] { KvBlocks kv({.num_blocks = 1}); });
  expect_error(ErrorCode::invalid_argument, "window", [] { KvBlocks kv({.num_blocks = 2, .windows = {-1}}); });
}

TEST(KvBlocks, GrowIsAllOrNothing) {
  Kv m({.num_blocks = 6});
  BlockTable table;
  EXPECT_EQ(m.kv.growth(table, 9), 3);
  EXPECT_TRUE(m.kv.try_grow(table, 9));
  EXPECT_TRUE(m.kv.try_grow(table, 12));  // is there already
  EXPECT_EQ(table.groups[0].blocks.size(), 3u);
  EXPECT_FALSE(m.kv.try_grow(table, 24));
  EXPECT_EQ(m.kv.num_available(), 2);
  EXPECT_TRUE(m.kv.try_grow(table, 20));
  m.check({&table});
  m.kv.release(table, 0);
  EXPECT_EQ(m.kv.num_available(), 5);
  m.check({&table});
}

TEST(KvBlocks, MatchesTheLongestPrefixInWholeBlocks) {
  Kv m({.num_blocks = 16});
  Tokens text = text_of(12);
  m.run(text);
  EXPECT_EQ(m.known(text), 12);
  EXPECT_EQ(m.known(text_of(15)), 12);
  EXPECT_EQ(m.kv.match(text, {}, 8).tokens(), 8);
  EXPECT_EQ(m.kv.match(text, {}, 0).tokens(), 0);
  EXPECT_EQ(m.kv.match(text, {}, -1).tokens(), 0);
  EXPECT_EQ(m.known(text, {.salt = "s"}), 0);
  EXPECT_EQ(m.known(text, {.adapter = 1}), 0);
  text[4] = -1;
  EXPECT_EQ(m.known(text), 4);
}

TEST(KvBlocks, ForgetsTheBlocksThatNobodyHolds) {
  Kv m({.num_blocks = 16, .num_host_blocks = 4});
  BlockTable held = m.start(text_of(8, 1));
  m.run(text_of(12, 2));
  m.kv.reset_cache();
  EXPECT_EQ(m.known(text_of(8, 1)), 8);
  EXPECT_EQ(m.known(text_of(12, 2)), 0);
  EXPECT_TRUE(m.kv.copies().empty());
  m.check({&held});
  m.kv.release(held, 0);
  m.kv.reset_cache();
  EXPECT_EQ(m.kv.device().num_free(), 15);
  EXPECT_EQ(m.kv.tree().size(), 0);
  m.check({});
}

TEST(KvBlocks, KnowsNothingWithoutPrefixCaching) {
  Kv m({.num_blocks = 16, .prefix_caching = false});
  m.run(text_of(12));
  EXPECT_EQ(m.known(text_of(12)), 0);
  EXPECT_EQ(m.kv.device().num_free(), 15);
}

TEST(KvBlocks, ALeaseCannotBeEvicted) {
  Kv m({.num_blocks = 6});
  m.run(text_of(12));
  Lease lease = m.match(text_of(12));
  EXPECT_EQ(m.kv.num_available(), 2);
  BlockTable table;
  EXPECT_FALSE(m.kv.try_grow(table, 12));
  BlockTable all = m.take_all(), adopted;
  m.kv.adopt(std::move(lease), adopted);
  EXPECT_EQ(adopted.groups[0].blocks.size(), 3u);
  m.check({&all, &adopted});
}

TEST(KvBlocks, DroppingALeaseLeavesEverythingAsItWas) {
  Kv m({.num_blocks = 8, .num_host_blocks = 8});
  for (int seed : {1, 2, 3, 1}) m.run(text_of(14, seed));
  Tokens other = text_of(14, 1);
  other[6] = -1;  // overlaps by two tokens after one whole block
  const std::uint64_t before = m.kv.digest();
  for (const Tokens& text : {text_of(14, 1), text_of(14, 2), text_of(14, 3), other}) {
    Lease lease = m.match(text);
    EXPECT_GT(lease.tokens(), 0);
    EXPECT_NE(m.kv.digest(), before);
    Lease inner = m.match(text_of(14, 1)), moved = std::move(lease);
    inner.drop();
    moved.drop();
    EXPECT_EQ(moved.tokens(), 0);
    EXPECT_EQ(m.kv.digest(), before);
  }
}

TEST(KvBlocks, ALeaseDroppedAfterOtherChangesLeavesItsBlocksAsJustUsed) {
  Kv m({.num_blocks = 10});
  m.run(text_of(8));
  BlockTable table;
  ASSERT_TRUE(m.kv.try_grow(table, 12));
  Lease lease = m.match(text_of(8));
  m.publish(table, text_of(12));  // builds on what is looked at
  m.kv.release(table, kDefaultCacheClass);
  lease.drop();
  for (int taken = 1; taken <= 9; ++taken) {
    EXPECT_TRUE(m.kv.try_grow(table, taken * kBlockSize));
    m.check({&table});  // tails still go before heads
  }
}

TEST(KvBlocks, ALeaseMayOutliveItsNeighboursInTheOrderOfEviction) {
  Kv m({.num_blocks = 6});
  m.run(text_of(8, 1));
  m.run(text_of(8, 2));
  Lease lease = m.match(text_of(8, 2));
  const BlockTable all = m.take_all();
  lease.drop();
  EXPECT_EQ(m.known(text_of(8, 2)), 8);
  m.check({&all});
}

TEST(KvBlocks, CopiesTheBeginningOfABlockThatIsWorthIt) {
  Kv m({.num_blocks = 8});
  BlockTable source = m.start(text_of(8));
  Tokens text = text_of(8);
  text[7] = -1;
  Lease lease = m.match(text);
  EXPECT_EQ(lease.tokens(), 7);
  EXPECT_EQ(lease.blocks_needed(), 1);
  EXPECT_EQ(lease.num_blocks(), 2);
  BlockTable table;
  m.kv.adopt(std::move(lease), table);
  EXPECT_EQ(table.published, 1);
  ASSERT_EQ(m.kv.copies().size(), 1u);
  EXPECT_TRUE(
      copied(m.kv.copies()[0], Tier::device, source.groups[0].blocks[1], Tier::device, table.groups[0].blocks[1]));
  EXPECT_EQ(m.kv.device().holders(source.groups[0].blocks[1]), 1);
  m.check({&source, &table});
  text[5] = -1;  // one token is less than half a block
  EXPECT_EQ(m.known(text), 4);
  EXPECT_EQ(m.kv.match(text_of(8), {}, 7).tokens(), 7);  // of an equal block too, when it must not be used whole
  EXPECT_EQ(m.kv.match(text_of(8), {}, 5).tokens(), 4);
}

TEST(KvBlocks, ExchangesADuplicateForThePublishedBlock) {
  Kv m({.num_blocks = 16});
  const Tokens text = text_of(8);
  BlockTable a, b;  // both compute the same, neither saw the other
  for (BlockTable* table : {&a, &b}) EXPECT_TRUE(m.kv.try_grow(*table, 8));
  m.kv.publish(a, text, 4, {}, [](int, int, BlockId) { FAIL(); });
  m.publish(b, text);  // b is ahead now: its second block goes under the shared first one, and a follows
  EXPECT_EQ(m.exchanged, 1);
  m.publish(a, text);
  EXPECT_EQ(m.exchanged, 2);
  EXPECT_EQ(a.groups[0].blocks, b.groups[0].blocks);
  EXPECT_EQ(a.node, b.node);
  EXPECT_EQ(m.kv.device().num_held(), 2);
  m.check({&a, &b});
}

TEST(KvBlocks, PublishesNothingMoreWhenTheTreeIsFull) {
  Kv m({.num_blocks = 80});  // 144 nodes: 64 more than blocks, but roots are nodes too
  const auto run = [&](std::uint64_t adapter, int num_tokens) {
    BlockTable table = m.start(text_of(num_tokens), {.adapter = adapter});
    m.check({&table});
    m.kv.release(table, 0);
    return table;
  };
  run(0, 8);
  for (int i = 1; i <= 70; ++i) run(i, 4);
  EXPECT_EQ(m.kv.tree().size(), 143);
  run(71, 4);  // there is room for its root, but for nothing below
  EXPECT_EQ(m.kv.tree().size(), 143);
  EXPECT_EQ(m.known(text_of(4), {.adapter = 71}), 0);
  EXPECT_EQ(m.known(text_of(4), {.adapter = 70}), 4);
  run(0, 12);
  EXPECT_EQ(m.kv.tree().size(), 144);
  run(71, 4);
  EXPECT_EQ(m.kv.tree().size(), 144);
  m.check({});
}

TEST(KvBlocks, EvictsTailsBeforeHeadsAndLowerClassesFirst) {
  Kv m({.num_blocks = 8});
  m.run(text_of(12, 1), 4);
  m.run(text_of(12, 2), 2);
  BlockTable table;
  const int expected[][2] = {{12, 12}, {12, 8}, {12, 4}, {12, 0}, {8, 0}, {4, 0}, {0, 0}};
  for (int taken = 1; taken <= 7; ++taken) {
    EXPECT_TRUE(m.kv.try_grow(table, taken * kBlockSize));
    EXPECT_EQ(m.known(text_of(12, 1)), expected[taken - 1][0]);
    EXPECT_EQ(m.known(text_of(12, 2)), expected[taken - 1][1]);
    m.check({&table});
  }
}

TEST(KvBlocks, AnAncestorIsOfNoLowerClassThanWhatBuildsOnIt) {
  Kv m({.num_blocks = 8});
  m.run(text_of(12), 6);
  m.run(text_of(4), 1);
  for (const BlockId block : {1, 2, 3}) EXPECT_EQ(m.kv.device().cache_class(block), 6);
  BlockTable shorter = m.start(text_of(8, 2)), longer = m.start(text_of(12, 2));
  m.kv.release(longer, 5);
  m.kv.release(shorter, 0);
  m.check({});
  const BlockTable all = m.take_all();
  m.check({&all});
}

TEST(KvBlocks, KeepsWhatItEvictsOnTheHostAndRestoresIt) {
  Kv m({.num_blocks = 4, .num_host_blocks = 8});
  m.run(text_of(12));
  BlockTable all = m.take_all();
  EXPECT_EQ(m.kv.num_offloaded(), 3);
  ASSERT_EQ(m.kv.copies().size(), 3u);
  for (const Copy& copy : m.kv.copies()) EXPECT_TRUE(copy.from == Tier::device && copy.to == Tier::host);
  EXPECT_EQ(m.kv.copies()[0].source, all.groups[0].blocks[0]);  // copied away before anything is written there
  m.check({&all});
  EXPECT_EQ(m.known(text_of(12)), 12);
  m.kv.release(all, 0);
  m.kv.copies().clear();

  Lease lease = m.match(text_of(12));
  EXPECT_EQ(lease.blocks_needed(), 3);
  BlockTable table;
  m.kv.adopt(std::move(lease), table);
  EXPECT_EQ(m.kv.num_restored(), 3);
  ASSERT_EQ(m.kv.copies().size(), 3u);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(m.kv.copies()[i].target, table.groups[0].blocks[i]);
  EXPECT_EQ(m.kv.host().num_cached(), 3);  // both tiers have it now: evicting it again copies nothing
  m.check({&table});
  m.kv.release(table, 0);
  all = m.take_all();
  EXPECT_EQ(m.kv.copies().size(), 3u);
  EXPECT_EQ(m.known(text_of(12)), 12);
}

TEST(KvBlocks, TheHostEvictsItsColdestForWhatTheDeviceEvicts) {
  Kv m({.num_blocks = 3, .num_host_blocks = 2});
  for (int seed : {1, 2, 3}) m.run(text_of(8, seed));
  EXPECT_EQ(m.known(text_of(8, 1)), 0);
  EXPECT_EQ(m.known(text_of(8, 2)), 8);
  EXPECT_EQ(m.known(text_of(8, 3)), 8);
  m.check({});
}

TEST(KvBlocks, PublishesAgainOnTheDeviceWhatOnlyTheHostHas) {
  Kv m({.num_blocks = 4, .num_host_blocks = 8});
  m.run(text_of(8));
  BlockTable table = m.take_all();
  m.publish(table, text_of(8));
  EXPECT_EQ(m.exchanged, 0);
  EXPECT_EQ(table.published, 2);
  m.check({&table});
  EXPECT_EQ(m.match(text_of(8)).blocks_needed(), 0);
}

TEST(KvBlocks, AForkSharesWholeBlocksAndCopiesTheTail) {
  Kv m({.num_blocks = 8});
  BlockTable parent = m.start(text_of(14)), child, whole, shorter;
  ASSERT_TRUE(m.kv.try_fork(parent, 14, child));
  EXPECT_TRUE(
      std::equal(child.groups[0].blocks.begin(), child.groups[0].blocks.begin() + 3, parent.groups[0].blocks.begin()));
  ASSERT_EQ(m.kv.copies().size(), 1u);
  EXPECT_TRUE(
      copied(m.kv.copies()[0], Tier::device, parent.groups[0].blocks[3], Tier::device, child.groups[0].blocks[3]));
  EXPECT_EQ(child.published, 3);
  EXPECT_EQ(child.node, parent.node);
  ASSERT_TRUE(m.kv.try_fork(parent, 12, whole));
  EXPECT_EQ(whole.groups[0].blocks.size(), 3u);
  ASSERT_TRUE(m.kv.try_fork(parent, 6, shorter));
  EXPECT_EQ(shorter.published, 1);
  BlockTable shortest;
  ASSERT_TRUE(m.kv.try_fork(parent, 3, shortest));
  EXPECT_EQ(shortest.node, kNoNode);
  m.check({&parent, &child, &whole, &shorter, &shortest});
  m.kv.release(shortest, 0);
  const BlockTable all = m.take_all();
  BlockTable none;
  EXPECT_FALSE(m.kv.try_fork(parent, 14, none));
  EXPECT_TRUE(none.groups[0].blocks.empty());
  for (BlockTable* table : {&parent, &child, &whole, &shorter}) m.kv.release(*table, 0);
  m.check({&all});
}

TEST(KvBlocks, ForkedTablesPublishWhatTheyShareOnce) {
  Kv m({.num_blocks = 8});
  BlockTable parent, child;
  EXPECT_TRUE(m.kv.try_grow(parent, 8));
  ASSERT_TRUE(m.kv.try_fork(parent, 8, child));
  m.check({&parent, &child});
  m.publish(parent, text_of(8));
  m.publish(child, text_of(8));
  EXPECT_EQ(m.exchanged, 0);
  EXPECT_EQ(m.kv.device().num_held(), 2);
  m.check({&parent, &child});
}

TEST(KvBlocks, SwapsOutWhatIsNotPublishedAndBackIn) {
  Kv m({.num_blocks = 8, .num_host_blocks = 3});
  const Tokens text = text_of(14);
  BlockTable table = m.start(Tokens(text.begin(), text.begin() + 8));
  ASSERT_TRUE(m.kv.try_grow(table, 20));
  const Blocks before = table.groups[0].blocks;
  ASSERT_TRUE(m.kv.try_swap_out(table, 14, 5));
  EXPECT_EQ(table.swapped_first(), 2);
  EXPECT_EQ(table.groups[0].swapped.size(), 2u);  // the fifth block was still empty
  EXPECT_TRUE(table.groups[0].blocks.empty() && table.published == 0 && table.node == kNoNode);
  EXPECT_EQ(m.kv.num_available(), 7);
  EXPECT_TRUE(copied(m.kv.copies()[1], Tier::device, before[3], Tier::host, table.groups[0].swapped[1]));
  m.check({&table});

  Lease lease = m.match(text);
  ASSERT_TRUE(m.kv.can_swap_in(table, lease));
  EXPECT_EQ(m.kv.swap_in_needed(table, lease), 2);
  const Blocks swapped = table.groups[0].swapped;
  m.kv.swap_in(std::move(lease), table);
  EXPECT_EQ(table.groups[0].blocks.size(), 4u);
  EXPECT_EQ(table.published, 2);
  EXPECT_TRUE(table.groups[0].swapped.empty());
  EXPECT_EQ(m.kv.host().num_free(), 3);
  ASSERT_EQ(m.kv.copies().size(), 4u);
  EXPECT_TRUE(copied(m.kv.copies()[3], Tier::host, swapped[1], Tier::device, table.groups[0].blocks[3]));
  m.check({&table});
}

TEST(KvBlocks, CannotSwapInWhenTheFrontIsGone) {
  Kv m({.num_blocks = 8, .num_host_blocks = 1});
  BlockTable table = m.start(text_of(10));
  ASSERT_TRUE(m.kv.try_swap_out(table, 10, 0));
  m.kv.reset_cache();
  EXPECT_FALSE(m.kv.can_swap_in(table, m.match(text_of(10))));
  m.kv.release(table, 0);
  EXPECT_EQ(m.kv.host().num_free(), 1);
  m.check({&table});
}

TEST(KvBlocks, SwapsInItsOwnBlocksWhenOthersPublishedMoreMeanwhile) {
  Kv m({.num_blocks = 12, .num_host_blocks = 2});
  BlockTable table, other;
  ASSERT_TRUE(m.kv.try_grow(table, 8));
  m.kv.publish(table, text_of(8), 4, {}, [](int, int, BlockId) {});
  ASSERT_TRUE(m.kv.try_swap_out(table, 7, 0));
  m.run(text_of(12));
  Lease lease = m.match(text_of(12));
  EXPECT_EQ(lease.tokens(), 12);
  ASSERT_TRUE(m.kv.can_swap_in(table, lease));
  EXPECT_EQ(m.kv.swap_in_needed(table, lease), 1);
  m.kv.swap_in(std::move(lease), table);
  EXPECT_EQ(table.published, 1);
  EXPECT_EQ(table.groups[0].blocks.size(), 2u);
  m.check({&table});
}

TEST(KvBlocks, SwapsInTheFirstBlockOfATextWhoseFrontOthersLetGoOf) {
  Kv m({.num_blocks = 12, .num_host_blocks = 2, .windows = {6}});
  BlockTable table;
  ASSERT_TRUE(m.kv.try_grow(table, 3));
  ASSERT_TRUE(m.kv.try_swap_out(table, 3, 0));
  m.run(text_of(20));
  Lease lease = m.match(text_of(20));
  EXPECT_EQ(lease.tokens(), 20);  // it looks at blocks 3 and 4 only
  m.kv.swap_in(std::move(lease), table);
  EXPECT_EQ(table.groups[0].blocks.size(), 1u);
  EXPECT_EQ(table.groups[0].first, 0);
  m.check({&table});
}

TEST(KvBlocks, SwapOutIsAllOrNothing) {
  Kv m({.num_blocks = 8, .num_host_blocks = 1});
  BlockTable table;
  ASSERT_TRUE(m.kv.try_grow(table, 8));
  const std::uint64_t before = m.kv.digest();
  EXPECT_FALSE(m.kv.try_swap_out(table, 8, 0));
  EXPECT_EQ(m.kv.digest(), before);
  EXPECT_EQ(table.groups[0].blocks.size(), 2u);
  EXPECT_TRUE(m.kv.try_swap_out(table, 3, 0));
  m.check({&table});
}

TEST(KvBlocks, LetsGoOfWhatLiesBehindTheWindow) {
  Kv m({.num_blocks = 12, .windows = {6}});
  BlockTable table = m.start(text_of(20));
  m.kv.release_behind_window(table, 12, 0);  // sees tokens 7 and later
  EXPECT_EQ(table.groups[0].first, 1);
  EXPECT_EQ(table.groups[0].blocks[0], kNullBlock);
  m.kv.release_behind_window(table, 20, 0);  // 15 and later
  EXPECT_EQ(table.groups[0].first, 3);
  m.kv.release_behind_window(table, 100, 0);
  EXPECT_EQ(table.groups[0].first, 4);  // the last published one keeps the text known
  EXPECT_EQ(m.kv.device().num_cached(), 4);
  m.check({&table});
  m.kv.release(table, 0);
  m.check({&table});
  EXPECT_EQ(m.known(text_of(20)), 20);
}

TEST(KvBlocks, WithoutAWindowEverythingIsVisible) {
  Kv m({.num_blocks = 12});
  BlockTable table = m.start(text_of(20));
  m.kv.release_behind_window(table, 1000, 0);
  EXPECT_EQ(table.groups[0].first, 0);
}

TEST(KvBlocks, WithoutPrefixCachingAnyBlockBehindTheWindowGoes) {
  Kv m({.num_blocks = 12, .num_host_blocks = 4, .windows = {6}, .prefix_caching = false});
  BlockTable table;
  ASSERT_TRUE(m.kv.try_grow(table, 20));
  m.kv.release_behind_window(table, 20, 0);
  EXPECT_EQ(table.groups[0].first, 3);
  EXPECT_EQ(m.kv.device().num_free(), 9);
  ASSERT_TRUE(m.kv.try_swap_out(table, 20, 0));
  EXPECT_EQ(table.groups[0].swapped.size(), 2u);
  ASSERT_TRUE(m.kv.can_swap_in(table, Lease()));
  m.kv.swap_in(Lease(), table);
  EXPECT_EQ(table.groups[0].first, 3);
  EXPECT_EQ(table.groups[0].blocks.size(), 5u);
  m.check({&table});
}

TEST(KvBlocks, WithAWindowOnlyWhatIsVisibleMustBeThere) {
  Kv m({.num_blocks = 12, .windows = {6}});
  BlockTable table = m.start(text_of(20));
  m.kv.release_behind_window(table, 20, 0);  // blocks 0 to 2 are cached, the front coldest
  BlockTable filler;
  ASSERT_TRUE(m.kv.try_grow(filler, 8 * kBlockSize));  // evicts blocks 0 and 1
  Lease lease = m.match(text_of(20));
  EXPECT_EQ(lease.tokens(), 20);
  EXPECT_EQ(m.kv.match(text_of(20), {}, 16).tokens(), 16);  // token 16 sees 11 and later
  EXPECT_EQ(m.kv.match(text_of(20), {}, 12).tokens(), 0);   // token 12 sees 7
  BlockTable adopted;
  m.kv.adopt(std::move(lease), adopted);
  EXPECT_EQ(adopted.groups[0].first, 3);
  EXPECT_EQ(adopted.published, 5);
  m.check({&table, &filler, &adopted});
}

// --- Groups ---------------------------------------------------------------------------------------------------------

TEST(KvBlocks, AGroupReleasesWhatLiesBehindItsOwnWindow) {
  Kv m({.num_blocks = 21, .windows = {0, 6}});
  BlockTable table = m.start(text_of(20));
  EXPECT_EQ(m.kv.device().num_held(), 10);
  m.kv.release_behind_window(table, 20, 0);  // the second group sees 15 and later
  EXPECT_EQ(table.groups[0].first, 0);
  EXPECT_EQ(table.groups[1].first, 3);
  EXPECT_EQ(m.kv.device().num_held(), 7);
  EXPECT_EQ(m.kv.device().num_cached(), 3);
  m.check({&table});
}

TEST(KvBlocks, APrefixIsKnownWhereEveryGroupHasWhatItsWindowSees) {
  Kv m({.num_blocks = 15, .windows = {0, 6}});
  BlockTable table = m.start(text_of(20));
  m.kv.release_behind_window(table, 20, 0);
  BlockTable filler;
  ASSERT_TRUE(m.kv.try_grow(filler, 3 * kBlockSize));  // evicts blocks 0 and 1 of the second group
  EXPECT_EQ(m.kv.match(text_of(20), {}, 20).tokens(), 20);
  EXPECT_EQ(m.kv.match(text_of(20), {}, 16).tokens(), 16);
  EXPECT_EQ(m.kv.match(text_of(20), {}, 12).tokens(), 0);  // the first group has it, the second does not
  BlockTable adopted;
  m.kv.adopt(m.match(text_of(20)), adopted);
  EXPECT_EQ(adopted.groups[0].first, 0);
  EXPECT_EQ(adopted.groups[1].first, 3);
  EXPECT_EQ(adopted.groups[0].blocks, table.groups[0].blocks);
  m.check({&table, &filler, &adopted});
}

TEST(KvBlocks, ABlockServesAnyGroup) {
  Kv m({.num_blocks = 8, .windows = {0, 1}});
  BlockTable table = m.start(text_of(12));
  m.kv.release_behind_window(table, 12, 0);
  EXPECT_EQ(table.groups[1].first, 2);
  EXPECT_EQ(m.kv.num_available(), 3);
  ASSERT_TRUE(m.kv.try_grow(table, 16));  // takes what is free and evicts what the second group released
  EXPECT_EQ(m.known(text_of(4)), 0);
  EXPECT_EQ(m.known(text_of(12)), 12);
  EXPECT_EQ(m.kv.num_available(), 1);
  EXPECT_FALSE(m.kv.try_grow(table, 20)) << "a block is there for one group only";
  m.check({&table});
}

TEST(KvBlocks, AForkCopiesTheTailInEveryGroup) {
  Kv m({.num_blocks = 20, .windows = {0, 0, 6}});
  BlockTable parent, child;
  ASSERT_TRUE(m.kv.try_grow(parent, 6));
  ASSERT_TRUE(m.kv.try_fork(parent, 6, child));
  ASSERT_EQ(m.kv.copies().size(), 3u);
  for (int group = 0; group < 3; ++group) {
    EXPECT_EQ(child.groups[group].blocks[0], parent.groups[group].blocks[0]);
    EXPECT_TRUE(copied(m.kv.copies()[group], Tier::device, parent.groups[group].blocks[1], Tier::device,
                       child.groups[group].blocks[1]));
  }
  m.check({&parent, &child});
}

TEST(KvBlocks, EveryGroupIsSwappedOutAndBackIn) {
  Kv m({.num_blocks = 20, .num_host_blocks = 12, .windows = {0, 6}, .prefix_caching = false});
  BlockTable table;
  ASSERT_TRUE(m.kv.try_grow(table, 20));
  m.kv.release_behind_window(table, 20, 0);
  ASSERT_TRUE(m.kv.try_swap_out(table, 20, 0));
  EXPECT_EQ(table.groups[0].swapped.size(), 5u);
  EXPECT_EQ(table.groups[1].swapped.size(), 2u);
  m.check({&table});
  EXPECT_EQ(m.kv.swap_in_needed(table, Lease()), 7);
  m.kv.swap_in(Lease(), table);
  EXPECT_EQ(table.groups[1].first, 3);
  EXPECT_EQ(table.size(), 5);
  EXPECT_EQ(m.kv.copies().size(), 14u);
  m.check({&table});
}

TEST(KvBlocks, ScarcityCanBePretended) {
  FaultPlan faults;
  Kv m({.num_blocks = 12, .num_host_blocks = 4, .faults = &faults});
  BlockTable table, child;
  const std::uint64_t before = m.kv.digest();
  faults.fail_next();
  EXPECT_FALSE(m.kv.try_grow(table, 6));
  EXPECT_EQ(m.kv.digest(), before);
  EXPECT_TRUE(m.kv.try_grow(table, 6));
  faults.fail_next();
  EXPECT_FALSE(m.kv.try_fork(table, 6, child));
  faults.fail_next();
  EXPECT_FALSE(m.kv.try_swap_out(table, 6, 0));
  m.check({&table, &child});
}

TEST(KvBlocks, TellsEveryChangeOfTheCacheAsAnEvent) {
  Kv m({.num_blocks = 4, .num_host_blocks = 1, .max_events = 16});
  m.run(text_of(8));
  BlockTable all = m.take_all();
  std::vector<KvEvent> events;
  EXPECT_EQ(m.kv.events_since(0, events), 7u);
  ASSERT_EQ(events.size(), 7u);
  EXPECT_EQ(events[0].parent_key, m.kv.tree().key(m.kv.tree().find_root({})));
  EXPECT_EQ(events[1].parent_key, events[0].key);
  EXPECT_EQ(events[1].num_tokens, kBlockSize);
  const auto is = [&](int i, KvEvent::Kind kind, KvEvent::Where where, std::uint64_t key) {
    const KvEvent& e = events[i];
    return e.number == static_cast<std::uint64_t>(i) && e.kind == kind && e.where == where && e.key == key;
  };
  const std::uint64_t head = events[0].key, tail = events[1].key;
  using enum KvEvent::Kind;
  using enum KvEvent::Where;
  EXPECT_TRUE(is(0, stored, device, head) && is(1, stored, device, tail));
  EXPECT_TRUE(is(2, stored, host, tail) && is(3, removed, device, tail));
  EXPECT_TRUE(is(4, removed, host, tail) && is(5, stored, host, head) && is(6, removed, device, head));
}

TEST(KvBlocks, KeepsTheNewestEvents) {
  Kv m({.num_blocks = 8, .max_events = 3}), none({.num_blocks = 8});
  m.run(text_of(20));
  none.run(text_of(20));
  std::vector<KvEvent> events;
  EXPECT_EQ(m.kv.events_since(0, events), 5u);
  ASSERT_EQ(events.size(), 3u);
  EXPECT_EQ(events[0].number, 2u);
  EXPECT_EQ(m.kv.events_since(4, events), 5u);
  EXPECT_EQ(events.size(), 4u);
  EXPECT_EQ(m.kv.events_since(9, events), 5u);
  EXPECT_EQ(none.kv.events_since(0, events), 0u);
  EXPECT_EQ(events.size(), 4u);
}

}  // namespace
}  // namespace warpjet

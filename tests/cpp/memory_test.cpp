#include "memory/kv_cache.h"

#include "error_kit.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <set>
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

// --- BlockPool ------------------------------------------------------------------------------------------------------

// Published blocks 1, 2, ... in the order in which they are to be evicted.
BlockPool cached_pool(int count) {
  BlockPool pool(count + 1);
  for (int i = 0; i < count; ++i) pool.publish(pool.take(), i);
  for (int i = 0; i < count; ++i) pool.release(i + 1);
  return pool;
}

Blocks eviction_order(BlockPool pool) {
  Blocks order;
  for (; pool.coldest() != kNoBlock; pool.unpublish(order.back())) order.push_back(pool.coldest());
  return order;
}

TEST(BlockPool, NeedsTheNullBlock) {
  expect_error(ErrorCode::invalid_argument, "null block", [] { BlockPool pool(0); });
  BlockPool pool(1);
  EXPECT_EQ(pool.num_available(), 0);
  pool.check();
}

TEST(BlockPool, NeverHandsOutTheNullBlockNorOneBlockTwice) {
  BlockPool pool(9);
  Blocks out;
  while (pool.num_free() > 0) out.push_back(pool.take());
  std::ranges::sort(out);
  EXPECT_EQ(out, (Blocks{1, 2, 3, 4, 5, 6, 7, 8}));
  EXPECT_EQ(pool.num_held(), 8);
  expect_bug([&] { pool.take(); });
  pool.check();
}

TEST(BlockPool, TakesTheBlockThatWasFreedLast) {
  BlockPool pool(6);
  for (int i = 0; i < 5; ++i) pool.take();
  for (const BlockId block : {2, 4}) pool.release(block);
  EXPECT_EQ(pool.take(), 4);
  EXPECT_EQ(pool.take(), 2);
}

TEST(BlockPool, FreesAnUnpublishedBlockWithItsLastHolder) {
  BlockPool pool(4);
  const BlockId block = pool.take();
  EXPECT_EQ(pool.holders(block), 1);
  pool.hold(block);
  pool.release(block);
  EXPECT_EQ(pool.num_free(), 2);
  pool.release(block);
  EXPECT_EQ(pool.num_free(), 3);
  EXPECT_EQ(pool.num_cached(), 0);
  pool.check();
}

TEST(BlockPool, CachesAPublishedBlockUntilItIsUnpublished) {
  BlockPool pool(4);
  const BlockId block = pool.take();
  pool.publish(block, 7);
  EXPECT_EQ(pool.node(block), 7);
  pool.release(block);
  EXPECT_EQ(pool.num_cached(), 1);
  EXPECT_EQ(pool.num_available(), 3);
  EXPECT_EQ(pool.coldest(), block);
  pool.check();
  pool.unpublish(block);
  EXPECT_EQ(pool.node(block), kNoNode);
  EXPECT_EQ(pool.num_free(), 3);
  EXPECT_EQ(pool.coldest(), kNoBlock);
  pool.check();
}

TEST(BlockPool, LetsAHeldBlockBeUnpublished) {
  BlockPool pool(4);
  const BlockId block = pool.take();
  pool.publish(block, 7);
  pool.raise_class(block, 5);
  pool.unpublish(block);
  EXPECT_EQ(pool.holders(block), 1);
  EXPECT_EQ(pool.cache_class(block), 0);
  pool.release(block);
  EXPECT_EQ(pool.num_free(), 3);
  pool.check();
}

TEST(BlockPool, EvictsTheLongestUnusedOfTheLowestClass) {
  BlockPool pool = cached_pool(5);
  for (const auto& [block, cache_class] : {std::pair{2, 7}, {1, 3}, {4, 3}, {3, 0}}) {
    pool.hold(block);
    pool.raise_class(block, cache_class);
    pool.release(block);
    pool.check();
  }
  EXPECT_EQ(eviction_order(pool), (Blocks{5, 3, 1, 4, 2}));
}

TEST(BlockPool, TakesAHeldBlockOffItsList) {
  BlockPool pool = cached_pool(3);
  pool.hold(1);
  EXPECT_EQ(pool.num_held(), 1);
  EXPECT_EQ(eviction_order(pool), (Blocks{2, 3}));
  pool.release(1);
  EXPECT_EQ(eviction_order(pool), (Blocks{2, 3, 1}));
}

TEST(BlockPool, NeverLowersAClass) {
  BlockPool pool = cached_pool(1);
  pool.hold(1);
  pool.raise_class(1, 5);
  pool.raise_class(1, 2);
  EXPECT_EQ(pool.cache_class(1), 5);
}

TEST(BlockPool, PutsBlocksBackToTheirVeryPlaces) {
  BlockPool pool = cached_pool(5);
  const std::uint64_t before = pool.digest();
  for (const Blocks& blocks : {Blocks{1}, {5}, {3, 2}, {1, 2, 3, 4, 5}, {5, 3, 4, 1, 2}}) {
    Blocks after;
    for (const BlockId block : blocks) {
      after.push_back(pool.follows_in_list(block));
      pool.hold(block);
      EXPECT_NE(pool.digest(), before);
    }
    for (std::size_t i = blocks.size(); i-- > 0;) pool.release_to(blocks[i], after[i]);
    pool.check();
    EXPECT_EQ(pool.digest(), before);
  }
}

TEST(BlockPool, CallsMisuseABug) {
  BlockPool pool = cached_pool(2);
  pool.hold(2);
  pool.unpublish(2);
  const std::uint64_t before = pool.digest();
  expect_bug([&] { pool.hold(kNullBlock); });
  expect_bug([&] { pool.release(kNullBlock); });
  expect_bug([&] { pool.release(1); });
  expect_bug([&] { pool.publish(1, 3); });        // cached
  expect_bug([&] { pool.publish(2, kNoNode); });  // as nothing
  expect_bug([&] { pool.unpublish(2); });         // not published
  expect_bug([&] { pool.raise_class(1, 3); });    // cached
  expect_bug([&] { pool.raise_class(2, kNumCacheClasses); });
  expect_bug([&] { pool.release_to(2, kNoBlock); });  // was never cached
  EXPECT_EQ(pool.digest(), before);
  pool.release(2);
  expect_bug([&] { pool.release(2); });
  expect_bug([&] { pool.hold(2); });
  pool.check();
}

// --- PrefixTree -----------------------------------------------------------------------------------------------------

PrefixTree::Config tree_config(int max_nodes, std::uint64_t hash_mask = ~std::uint64_t{0}) {
  return {.max_nodes = max_nodes, .block_size = kBlockSize, .hash_key = 1, .hash_mask = hash_mask};
}

// One block: `value` and zeros.
Tokens block_of(std::int32_t value) {
  Tokens tokens(kBlockSize);
  tokens[0] = value;
  return tokens;
}

TEST(PrefixTree, RefusesEmptySizes) {
  expect_error(ErrorCode::invalid_argument, "max_nodes", [] { PrefixTree tree(tree_config(0)); });
  expect_error(ErrorCode::invalid_argument, "block_size", [] { PrefixTree tree({.max_nodes = 1}); });
}

TEST(PrefixTree, FindsWhatWasInserted) {
  PrefixTree tree(tree_config(8));
  const NodeId root = tree.make_root({});
  EXPECT_EQ(tree.make_root({}), root);
  EXPECT_EQ(tree.find(root, block_of(1)), kNoNode);
  const NodeId first = tree.insert(root, block_of(1)), second = tree.insert(first, block_of(2));
  EXPECT_EQ(tree.find(root, block_of(1)), first);
  EXPECT_EQ(tree.find(first, block_of(2)), second);
  EXPECT_EQ(tree.find(first, block_of(1)), kNoNode);
  EXPECT_EQ(tree.parent(second), first);
  EXPECT_TRUE(tree.is_root(root) && !tree.is_root(first));
  EXPECT_TRUE(std::ranges::equal(tree.tokens(second), block_of(2)));
  EXPECT_EQ(tree.size(), 3);
  tree.check();
}

TEST(PrefixTree, KeepsDomainsApart) {
  PrefixTree tree(tree_config(8));
  const PrefixDomain plain, salted{.salt = "tenant a"}, adapted{.adapter = 3};
  EXPECT_EQ(tree.find_root(salted), kNoNode);
  const NodeId a = tree.make_root(plain), b = tree.make_root(salted), c = tree.make_root(adapted);
  EXPECT_TRUE(a != b && b != c && a != c);
  EXPECT_EQ(tree.find_root({.salt = "tenant b"}), kNoNode);
  EXPECT_EQ(tree.find_root({.salt = "tenant a"}), b);
  tree.insert(a, block_of(1));
  EXPECT_EQ(tree.find(b, block_of(1)), kNoNode);
  tree.check();
}

TEST(PrefixTree, ComparesContentsWhenAllKeysCollide) {
  PrefixTree tree(tree_config(64, /*hash_mask=*/0));
  const NodeId a = tree.make_root({}), b = tree.make_root({.salt = "b"});
  std::vector<NodeId> nodes;
  for (const NodeId root : {a, b}) {
    for (int value = 0; value < 8; ++value) nodes.push_back(tree.insert(root, block_of(value)));
    for (int value = 0; value < 8; ++value) nodes.push_back(tree.insert(nodes[value], block_of(root)));
  }
  tree.check();
  EXPECT_EQ(tree.find(a, block_of(5)), nodes[5]);
  EXPECT_EQ(tree.find(b, block_of(5)), nodes[16 + 5]);
  EXPECT_EQ(tree.find(nodes[3], block_of(a)), nodes[8 + 3]);
  EXPECT_EQ(tree.find(a, block_of(8)), kNoNode);
}

TEST(PrefixTree, GivesEveryTextAKeyOfItsOwnThatNobodyCanForesee) {
  PrefixTree tree(tree_config(8)), same(tree_config(8)), other({.max_nodes = 8, .block_size = 4, .hash_key = 2});
  std::vector<std::uint64_t> keys;
  for (PrefixTree* t : {&tree, &same, &other}) {
    const NodeId root = t->make_root({}), node = t->insert(root, block_of(1));
    for (const NodeId id : {root, node, t->insert(root, block_of(2)), t->insert(node, block_of(1))}) {
      keys.push_back(t->key(id));
    }
  }
  EXPECT_TRUE(std::equal(keys.begin(), keys.begin() + 4, keys.begin() + 4));
  keys.erase(keys.begin(), keys.begin() + 4);
  std::ranges::sort(keys);
  EXPECT_EQ(std::ranges::adjacent_find(keys), keys.end());
}

TEST(PrefixTree, TakesWholeBlocksOnly) {
  PrefixTree tree(tree_config(8));
  const NodeId root = tree.make_root({});
  expect_bug([&] { tree.insert(root, Tokens{1}); });
  expect_bug([&] { tree.find(root, Tokens(kBlockSize + 1)); });
}

TEST(PrefixTree, PrunesUpwardsWhatHasNeitherBlocksNorChildren) {
  PrefixTree tree(tree_config(8));
  const NodeId a = tree.insert(tree.make_root({}), block_of(1)), b = tree.insert(a, block_of(2));
  const NodeId c = tree.insert(b, block_of(3)), sibling = tree.insert(b, block_of(4));
  tree.set_block(sibling, Tier::host, 0, 9);
  tree.set_block(a, Tier::device, 0, 5);
  tree.prune(b);  // it has children
  EXPECT_EQ(tree.size(), 5);
  tree.prune(c);
  EXPECT_TRUE(tree.live(b) && !tree.live(c));
  tree.prune(sibling);  // it has a block
  EXPECT_TRUE(tree.live(sibling));
  tree.set_block(sibling, Tier::host, 0, kNoBlock);
  tree.prune(sibling);
  EXPECT_TRUE(tree.live(a) && !tree.live(b));
  tree.check();
  tree.set_block(a, Tier::device, 0, kNoBlock);
  tree.prune(a);
  EXPECT_EQ(tree.size(), 0);
  EXPECT_EQ(tree.find_root({}), kNoNode);
  tree.check();
}

TEST(PrefixTree, PrunesAChainAsLongAsTheTree) {
  PrefixTree tree(tree_config(100'000));
  NodeId node = tree.make_root({});
  while (tree.size() < tree.max_nodes()) node = tree.insert(node, block_of(1));
  tree.prune(node);
  EXPECT_EQ(tree.size(), 0);
  tree.check();
}

TEST(PrefixTree, SaysWhenItIsFull) {
  PrefixTree tree(tree_config(2));
  const NodeId root = tree.make_root({}), node = tree.insert(root, block_of(1));
  const std::uint64_t before = tree.digest();
  EXPECT_EQ(tree.insert(node, block_of(2)), kNoNode);
  EXPECT_EQ(tree.make_root({.salt = "x"}), kNoNode);
  EXPECT_EQ(tree.digest(), before);
  tree.prune(node);
  EXPECT_NE(tree.make_root({.salt = "x"}), kNoNode);
  tree.check();
}

TEST(PrefixTree, FindsTheLongestOverlapOfTheNewestFewChildren) {
  PrefixTree tree(tree_config(64));
  const NodeId root = tree.make_root({});
  const auto add = [&](const Tokens& tokens, Tier tier) {
    const NodeId node = tree.insert(root, tokens);
    tree.set_block(node, tier, 0, 1);
    return node;
  };
  const auto best = [&](const Tokens& tokens) { return tree.best_overlap(root, tokens, Tier::device); };
  const NodeId two = add({1, 2, 0, 0}, Tier::device), three = add({1, 2, 3, 0}, Tier::device);
  add({1, 2, 3, 4}, Tier::host);
  EXPECT_EQ(best({1, 2, 3, 4}).node, three);
  EXPECT_EQ(best({1, 2, 3, 4}).length, 3);
  EXPECT_EQ(best({1, 2, 3, 4, 5, 6}).length, 3);
  EXPECT_EQ(best({1, 2}).length, 2);
  EXPECT_EQ(best({1, 2, 0, 1}).node, two);
  EXPECT_EQ(best({2}).length, 0);
  EXPECT_EQ(best({}).node, kNoNode);
  for (int i = 0; i < 16; ++i) add({1, 5, i, 0}, Tier::device);
  EXPECT_EQ(best({1, 2, 3, 4}).length, 1);  // the old ones are not looked at
}

// --- KvCache --------------------------------------------------------------------------------------------------------

const Catalogs& reference() {
  static const Catalogs catalogs = [] {
    Catalogs made;
    register_reference(made);
    return made;
  }();
  return catalogs;
}

// --- KvLayout -------------------------------------------------------------------------------------------------------

std::vector<KvShape> layers_with(const std::vector<int>& windows) {
  std::vector<KvShape> layers;
  for (const int window : windows) layers.push_back({.kv_heads = 1, .head_dim = 256, .window = window});
  return layers;
}

// Every layer has a lane of its own in its group, and the window of the group.
void expect_complete(const KvLayout& layout, const std::vector<KvShape>& layers) {
  EXPECT_EQ(layout.num_layers(), std::ssize(layers));
  std::set<std::pair<int, int>> places;
  for (int layer = 0; layer < std::ssize(layers); ++layer) {
    const auto [group, lane] = layout.place(layer);
    EXPECT_LT(lane, layout.lanes());
    EXPECT_TRUE(places.emplace(group, lane).second) << "layer " << layer;
    EXPECT_EQ(layout.groups[group].shape, layers[layer]);
  }
}

TEST(KvLayout, LayersThatAreAlikeAreOneGroup) {
  for (const int window : {0, 4096}) {
    const std::vector<KvShape> layers = layers_with(std::vector<int>(32, window));
    const KvLayout layout = make_layout(layers, 32768);
    EXPECT_EQ(layout.windows(), std::vector<int>{window});
    EXPECT_EQ(layout.lanes(), 32);
    EXPECT_EQ(layout.bytes_per_token(), 32 * 2 * 256 * 4);
    expect_complete(layout, layers);
  }
}

// As Gemma 3 1B: five layers that slide, one that sees everything.
TEST(KvLayout, SlidingLayersAreDividedIntoGroupsOfTheSizeOfTheFullOnes) {
  std::vector<int> windows(26, 512);
  for (int layer = 5; layer < 26; layer += 6) windows[layer] = 0;
  const std::vector<KvShape> layers = layers_with(windows);
  const KvLayout layout = make_layout(layers, 32768);
  EXPECT_EQ(layout.lanes(), 4);
  EXPECT_EQ(layout.groups.size(), 7u);
  EXPECT_EQ(std::ranges::count(layout.windows(), 0), 1);
  expect_complete(layout, layers);
}

TEST(KvLayout, AWindowThatNoTextFillsIsNone) {
  const KvLayout layout = make_layout(layers_with({512, 0, 512}), 512);
  EXPECT_EQ(layout.windows(), std::vector<int>{0});
  EXPECT_EQ(layout.lanes(), 3);
}

TEST(KvLayout, KeepsToTheMostGroups) {
  std::vector<int> windows(62, 100);
  windows[0] = 0;
  const KvLayout layout = make_layout(layers_with(windows), 1 << 20);
  EXPECT_LE(layout.groups.size(), kMaxKvGroups);
  EXPECT_EQ(layout.lanes(), 9);
  expect_error(ErrorCode::unsupported, "9 shapes and windows", [] {
    make_layout(layers_with({1, 2, 3, 4, 5, 6, 7, 8, 9}), 100);
  });
}

TEST(KvLayout, RefusesLayersOfOtherSizes) {
  std::vector<KvShape> layers = layers_with({0, 0});
  layers[1].format = DType::bf16;
  expect_error(ErrorCode::unsupported, "different numbers of bytes", [&] { make_layout(layers); });
  layers[1].head_dim = 512;  // another shape of the same size
  EXPECT_EQ(make_layout(layers).groups.size(), 2u);
}

TEST(KvLayout, ATextHoldsItsWindowAChunkAndTheEnds) {
  EXPECT_EQ(resident_blocks(0, 1000, 64, 32), 32);
  EXPECT_EQ(resident_blocks(128, 1000, 64, 32), 4 + 2 + 2);
  EXPECT_EQ(resident_blocks(128, 100, 64, 32), 4);
  EXPECT_EQ(resident_blocks(std::vector<int>{0, 128, 128}, 1000, 64, 32), 32 + 8 + 8);
}

KvLayout alike(int layers, const KvShape& shape) {
  return make_layout(std::vector<KvShape>(layers, shape));
}

TEST(KvCache, GivesEveryLayerItsOwnMemory) {
  const std::unique_ptr<Device> device = make_cpu_device(1);
  const KvCache::Config config{
      .layout = alike(3, {.kv_heads = 2, .head_dim = 8, .format = DType::bf16}), .block_size = 4, .num_blocks = 5};
  const KvCache kv(config, reference(), *device);
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

TEST(KvCache, LayersOfSeveralGroupsShareALane) {
  const std::unique_ptr<Device> device = make_cpu_device(1);
  const std::vector<KvShape> layers = {{.kv_heads = 2, .head_dim = 8, .window = 5},
                                       {.kv_heads = 2, .head_dim = 8},
                                       {.kv_heads = 2, .head_dim = 8, .window = 5},
                                       {.kv_heads = 1, .head_dim = 16}};
  const KvCache kv({.layout = make_layout(layers), .block_size = 4, .num_blocks = 5}, reference(), *device);
  EXPECT_EQ(kv.config().layout.lanes(), 1);
  for (int layer = 0; layer < 4; ++layer) {
    EXPECT_EQ(kv.k(layer).data, kv.k(0).data);
    EXPECT_EQ(kv.v(layer).data, kv.v(0).data);
  }
  EXPECT_EQ(kv.k(3).shape, (Shape{5, 1, 4, 16}));
  EXPECT_EQ(std::set({kv.group(0), kv.group(1), kv.group(2), kv.group(3)}).size(), 4u);
}

TEST(KvCache, RefusesEmptyShapesByName) {
  const std::unique_ptr<Device> device = make_cpu_device(1);
  KvCache::Config config{.layout = alike(1, {.kv_heads = 0, .head_dim = 8}), .block_size = 4, .num_blocks = 5};
  expect_error(ErrorCode::invalid_argument, "kv_heads", [&] { KvCache(config, reference(), *device); });
  config.layout = alike(1, {.kv_heads = 1, .head_dim = 8});
  config.num_host_blocks = -1;
  expect_error(ErrorCode::invalid_argument, "num_host_blocks", [&] { KvCache(config, reference(), *device); });
  config.num_host_blocks = 0;
  const KvCache kv(config, reference(), *device);
  expect_bug([&] { kv.k(1); });
  expect_bug([&] { kv.v(-1); });
}

TEST(KvCache, CopiesBlocksOfAllLayersWithinAndBetweenTiers) {
  const std::unique_ptr<Device> device = make_cpu_device(1);
  KvCache kv(
      {.layout = alike(2, {.kv_heads = 1, .head_dim = 2}), .block_size = 2, .num_blocks = 4, .num_host_blocks = 3},
      reference(), *device);
  std::int32_t list[8 * KvCache::kCopyWords];
  const auto copy = [&](std::initializer_list<Copy> copies) { kv.copy(copies, list, device->stream()); };
  const auto value = [&](int tensor, BlockId block, int i) -> float& {
    const TensorView view = tensor % 2 == 0 ? kv.k(tensor / 2) : kv.v(tensor / 2);
    return static_cast<float*>(view.data)[block * 4 + i];
  };
  const auto fill = [&](BlockId block, float base) {
    for (int tensor = 0; tensor < 4; ++tensor) {
      for (int i = 0; i < 4; ++i) value(tensor, block, i) = base + static_cast<float>(10 * tensor + i);
    }
  };
  const auto expect_filled = [&](BlockId block, float base) {
    for (int tensor = 0; tensor < 4; ++tensor) {
      for (int i = 0; i < 4; ++i) EXPECT_EQ(value(tensor, block, i), base + static_cast<float>(10 * tensor + i));
    }
  };
  fill(1, 100);
  fill(2, 200);
  copy({{Tier::device, Tier::host, 1, 1}});
  copy({{Tier::device, Tier::host, 2, 2}});
  copy({{Tier::device, Tier::device, 2, 1}});
  expect_filled(1, 200);
  copy({{Tier::host, Tier::device, 1, 3}});
  copy({{Tier::host, Tier::device, 2, 0}});
  expect_filled(3, 100);
  expect_filled(2, 200);
  expect_filled(0, 200);
  // In one call, each where the one before wrote or read.
  copy({{Tier::device, Tier::host, 3, 1},
        {Tier::device, Tier::device, 2, 3},
        {Tier::host, Tier::device, 1, 2},
        {Tier::device, Tier::device, 3, 0},
        {Tier::device, Tier::device, 2, 0}});
  expect_filled(3, 200);
  expect_filled(2, 100);
  expect_filled(0, 100);
  expect_bug([&] { copy({{Tier::device, Tier::host, 1, 3}}); });
  expect_bug([&] { copy({{Tier::device, Tier::device, 4, 1}}); });
}

}  // namespace
}  // namespace warpjet

#include "memory/kv_layout.h"

#include <algorithm>
#include <optional>

#include "memory/memory.h"

namespace warpjet {

namespace {

int num_parts(const KvGroup& kind, int lanes) {
  return static_cast<int>(ceil_div<std::int64_t>(std::ssize(kind.layers), lanes));
}

// Layers that are alike. A window that a text of `longest` tokens does not fill is none.
std::vector<KvGroup> kinds_of(std::span<const KvShape> layers, int longest) {
  std::vector<KvGroup> kinds;
  for (std::size_t layer = 0; layer < layers.size(); ++layer) {
    KvShape shape = layers[layer];
    if (shape.window >= longest) shape.window = 0;
    auto kind = std::ranges::find(kinds, shape, &KvGroup::shape);
    if (kind == kinds.end()) kind = kinds.insert(kind, {.shape = shape, .layers = {}});
    kind->layers.push_back(static_cast<int>(layer));
  }
  return kinds;
}

// Rows that a text takes in all lanes of all groups; nothing when there are too many groups.
std::optional<double> rows_of(std::span<const KvGroup> kinds, int lanes, int longest) {
  int groups = 0;
  double rows = 0;
  for (const KvGroup& kind : kinds) {
    const int window = kind.shape.window, parts = num_parts(kind, lanes);
    groups += parts;
    rows += 1.0 * lanes * parts * (window == 0 ? longest : window);
  }
  return groups <= kMaxKvGroups ? std::optional(rows) : std::nullopt;
}

}  // namespace

KvLayout make_layout(std::span<const KvShape> layers, int longest) {
  WJ_REQUIRE(!layers.empty(), invalid_argument, "a KV cache needs at least one layer");
  const std::int64_t bytes = layers.front().row_bytes();
  for (const KvShape& layer : layers) {
    WJ_REQUIRE(layer.row_bytes() == bytes, unsupported,
               "layers share no block pool when they keep different numbers of ",
               "bytes of a token: ", layers.front().kv_heads, " heads of ", layers.front().head_dim, " and ",
               layer.kv_heads, " of ", layer.head_dim);
  }
  const std::vector<KvGroup> kinds = kinds_of(layers, longest);
  WJ_REQUIRE(kinds.size() <= kMaxKvGroups, unsupported, "layers of ", kinds.size(), " shapes and windows; at most ",
             kMaxKvGroups, " are supported");
  int best = static_cast<int>(layers.size());
  for (int lanes = best; lanes > 0; --lanes) {
    const auto rows = rows_of(kinds, lanes, longest);
    if (rows && *rows < *rows_of(kinds, best, longest)) best = lanes;
  }
  KvLayout layout;
  for (const KvGroup& kind : kinds) {
    const int count = static_cast<int>(kind.layers.size()), parts = num_parts(kind, best);
    for (int part = 0; part < parts; ++part) {
      const auto begin = kind.layers.begin() + count * part / parts,
                 end = kind.layers.begin() + count * (part + 1) / parts;
      layout.groups.push_back({.shape = kind.shape, .layers = {begin, end}});
    }
  }
  return layout;
}

KvLayout::Place KvLayout::place(int layer) const {
  for (std::size_t group = 0; group < groups.size(); ++group) {
    const auto& layers = groups[group].layers;
    const auto at = std::ranges::find(layers, layer);
    if (at != layers.end()) return {static_cast<int>(group), static_cast<int>(at - layers.begin())};
  }
  WJ_FAIL(internal, "no group has layer ", layer, " of ", num_layers());
}

int KvLayout::num_layers() const {
  int count = 0;
  for (const KvGroup& group : groups) count += static_cast<int>(group.layers.size());
  return count;
}

int KvLayout::lanes() const {
  std::size_t most = 0;
  for (const KvGroup& group : groups) most = std::max(most, group.layers.size());
  return static_cast<int>(most);
}

std::int64_t KvLayout::lane_bytes() const {
  return groups.empty() ? 0 : groups.front().shape.row_bytes();
}

std::int64_t KvLayout::bytes_per_token() const {
  return checked_mul(2 * static_cast<std::int64_t>(lanes()), lane_bytes());
}

std::vector<int> KvLayout::windows() const {
  std::vector<int> windows;
  for (const KvGroup& group : groups) windows.push_back(group.shape.window);
  return windows;
}

// With a window: that, a chunk in front of it, and a block that each of the two ends within.
int resident_blocks(int window, int length, int chunk, int block_size) {
  const auto blocks_for = [&](int tokens) { return static_cast<int>(ceil_div<std::int64_t>(tokens, block_size)); };
  const int all = blocks_for(length);
  return window == 0
             ? all
             : static_cast<int>(std::min<std::int64_t>(all, std::int64_t{blocks_for(window)} + blocks_for(chunk) + 2));
}

std::int64_t resident_blocks(std::span<const int> windows, int length, int chunk, int block_size) {
  std::int64_t blocks = 0;
  for (const int window : windows) blocks += resident_blocks(window, length, chunk, block_size);
  return blocks;
}

}  // namespace warpjet

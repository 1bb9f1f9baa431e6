// How the keys and values of a model's layers lie in blocks. Layers that keep the same shape and see the same window
// form a group. A block has as many lanes as the largest group has layers; it holds block_size tokens for the layers of
// one group, a lane each. All blocks have the same size, so any free block may serve any group, and memory is not
// divided between groups beforehand.
#pragma once

#include "quant/format.h"

#include <cstdint>
#include <limits>
#include <span>
#include <vector>

namespace warpjet {

// What a layer keeps of every token: keys and values, [kv_heads, head_dim] each.
struct KvShape {
  int kv_heads = 0, head_dim = 0;
  int window = 0;  // tokens that are read again; 0: all of them
  Format format;

  std::int64_t row_bytes() const { return format.bytes({kv_heads, head_dim}); }  // keys of a token, or its values
  bool operator==(const KvShape&) const = default;
};

struct KvGroup {
  KvShape shape;
  std::vector<int> layers;  // by lane
};

// The state that recurrent layers keep of a sequence, of one size however long it is.
struct StatePool {
  std::vector<int> layers;
  std::int64_t bytes = 0;
};

struct KvLayout {
  std::vector<KvGroup> groups;
  std::vector<StatePool> states;  // empty: no family has recurrent layers

  struct Place {
    int group = 0, lane = 0;
  };
  Place place(int layer) const;  // throws internal when no group has it
  int num_layers() const;
  int lanes() const;                     // of a block
  std::int64_t lane_bytes() const;       // keys of a token, or its values, in one lane
  std::int64_t bytes_per_token() const;  // in a block of any group
  std::vector<int> windows() const;      // of each group
};

// The layout in which a text of `longest` tokens takes the least memory; of equal ones, the one with the fewest groups.
// A lane that a group has no layer for stays empty. Throws unsupported when rows of the layers differ in bytes, or when
// there are more kinds of layers than groups may be.
KvLayout make_layout(std::span<const KvShape> layers, int longest = std::numeric_limits<int>::max());

// Blocks that a text of `length` tokens holds at most in groups with these windows, computed in chunks of up to `chunk`
// tokens.
std::int64_t resident_blocks(std::span<const int> windows, int length, int chunk, int block_size);
int resident_blocks(int window, int length, int chunk, int block_size);  // of one group

}  // namespace warpjet

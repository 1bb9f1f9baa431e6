// KvBlocks under random use, in lock step with a model that keeps texts in maps and counts holders by looking at
// everybody, with one group of layers and with several. Besides what is where, it follows the contents: whatever is
// copied and written, every sequence finds its own text in its blocks.
#include "memory/memory.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>
#include <set>
#include <string>
#include <tuple>
#include <vector>

namespace warpjet {
namespace {

constexpr int kBlockSize = 4;
using Text = std::string;  // a letter for the domain, then one for each token

PrefixDomain domain_of(const Text& text) {
  return {.salt = text[0] == 'B' ? "b" : "", .adapter = text[0] == 'C' ? 1u : 0u};
}

std::vector<std::int32_t> tokens_of(const Text& text) {
  return {text.begin() + 1, text.end()};
}

Text blocks_of(const Text& text, int count) {
  return text.substr(0, 1 + count * kBlockSize);
}

// The group and the text that a block holds if it is published, a name of its own if it is not, nothing behind the
// window.
using Ref = std::string;

Ref ref_of(int group, const Text& text) {
  return std::string(1, static_cast<char>('0' + group)) + text;
}

struct Sequence {
  Text text;
  int computed = 0;
  BlockTable table;
  PerGroup<std::vector<Ref>> refs, swapped;  // the model's

  bool is_swapped() const {
    return std::ranges::any_of(swapped, [](const std::vector<Ref>& list) { return !list.empty(); });
  }
};

// What is published and evicted, by the rules.
struct Model {
  struct Entry {
    int cache_class = 0;
    std::int64_t used = 0;  // when it was let go of
  };
  struct Held {
    int tier = 0, group = 0, index = 0;
    Ref ref;
  };
  struct Found {
    int whole = 0, overlap = 0, needed = 0;
    PerGroup<int> first{};
    std::vector<Held> held;  // the whole ones
  };

  KvBlocks::Config config;
  const std::vector<Sequence>& sequences;
  std::map<Ref, Entry> tiers[2];
  std::vector<Held> leased;
  std::int64_t clock = 0;

  int groups() const { return static_cast<int>(config.windows.size()); }
  bool held(int tier, const Ref& ref) const {
    if (std::ranges::any_of(leased, [&](const Held& h) { return h.tier == tier && h.ref == ref; })) return true;
    return std::ranges::any_of(sequences, [&](const Sequence& s) {
      return std::ranges::any_of(tier == 0 ? s.refs : s.swapped,
                                 [&](const std::vector<Ref>& list) { return std::ranges::count(list, ref) > 0; });
    });
  }
  int num_cached(int tier) const {
    return static_cast<int>(std::ranges::count_if(tiers[tier], [&](auto& at) { return !held(tier, at.first); }));
  }
  int num_free(int tier) const {
    std::set<Ref> used;
    for (const auto& [text, entry] : tiers[tier]) used.insert(text);
    for (const Sequence& s : sequences) {
      for (const std::vector<Ref>& list : tier == 0 ? s.refs : s.swapped) used.insert(list.begin(), list.end());
    }
    used.erase("");
    return (tier == 0 ? config.num_blocks - 1 : config.num_host_blocks) - static_cast<int>(used.size());
  }
  int num_available(int tier) const { return num_free(tier) + num_cached(tier); }

  Ref take(int tier) {
    if (num_free(tier) == 0) evict(tier);
    return "#" + std::to_string(++clock);
  }
  void evict(int tier) {
    Ref coldest;
    std::pair<int, std::int64_t> least = {kNumCacheClasses, 0};
    for (const auto& [text, entry] : tiers[tier]) {
      if (held(tier, text) || std::pair(entry.cache_class, entry.used) >= least) continue;
      least = {entry.cache_class, entry.used};
      coldest = text;
    }
    ASSERT_NE(coldest, "");
    if (tier == 0 && (tiers[1].contains(coldest) || num_available(1) > 0)) {
      if (!tiers[1].contains(coldest)) take(1);
      tiers[1][coldest];
      release(1, coldest, least.first);
    }
    tiers[tier].erase(coldest);
  }
  void release(int tier, const Ref& ref, int cache_class) {
    if (!tiers[tier].contains(ref)) return;
    Entry& entry = tiers[tier][ref];
    entry = {std::max(entry.cache_class, cache_class), ++clock};
    const Ref parent = ref.substr(0, ref.size() - kBlockSize);
    if (!tiers[tier].contains(parent) || !held(tier, parent)) return;
    tiers[tier][parent].cache_class = std::max(tiers[tier][parent].cache_class, entry.cache_class);
  }

  int first_needed(int group, int whole) const {
    const int position = whole * kBlockSize, window = config.windows[group];
    if (whole == 0 || window == 0) return 0;
    return std::min(whole - 1, std::max(0, position - window + 1) / kBlockSize);
  }
  Found match(const Text& text, int max_tokens) const {
    if (!config.prefix_caching) return {};
    for (int whole = max_tokens / kBlockSize;; --whole) {
      Found found{.whole = whole};
      int missing = 0;
      for (int group = 0; group < groups(); ++group) {
        found.first[group] = first_needed(group, whole);
        missing += whole - found.first[group];
      }
      for (int i = 0; i < whole; ++i) {
        for (int group = 0; group < groups(); ++group) {
          const Ref prefix = ref_of(group, blocks_of(text, i + 1));
          for (const int tier : {0, 1}) {
            if (i < found.first[group] || !tiers[tier].contains(prefix)) continue;
            found.held.push_back({tier, group, i, prefix});
            found.needed += tier;
            --missing;
            break;
          }
        }
      }
      if (missing > 0) continue;
      const int most = std::min(max_tokens, whole * kBlockSize + kBlockSize - 1);
      for (const Text& other : on_device()) {
        found.overlap = std::max(found.overlap, std::min(overlap(text, other, whole), most - whole * kBlockSize));
      }
      if (found.overlap < 2) found.overlap = 0;
      found.needed += found.overlap > 0 ? groups() : 0;
      return found;
    }
  }
  // Texts whose last block is there for every group.
  std::vector<Text> on_device() const {
    std::vector<Text> texts;
    for (const auto& [ref, entry] : tiers[0]) {
      const Text text = ref.substr(1);
      int count = 0;
      for (int group = 0; group < groups(); ++group) count += tiers[0].contains(ref_of(group, text));
      if (ref[0] == '0' && count == groups()) texts.push_back(text);
    }
    return texts;
  }
  // Tokens after the first `whole` blocks that `other`, a block longer than these, has too.
  static int overlap(const Text& text, const Text& other, int whole) {
    const Text front = blocks_of(text, whole);
    if (other.size() != front.size() + kBlockSize || !other.starts_with(front)) return 0;
    return static_cast<int>(std::ranges::mismatch(text, other).in1 - text.begin() - front.size());
  }

  // `source`: which of the longest overlaps is copied is not promised.
  void adopt(Sequence& s, const Found& found, const Text& source) {
    lease(found, source);
    take_over(s, found.first, found.whole);
  }
  void swap_in(Sequence& s, Found found, const Text& source, const PerGroup<int>& swapped_first) {
    lease(found, source);
    const int whole = swapped_first[0];
    while (!leased.empty() && leased.back().index >= whole) release_leased();
    for (int group = 0; group < groups(); ++group) {
      const int first = swapped_first[group];
      found.first[group] = config.prefix_caching ? std::min(found.first[group], first) : first;
    }
    take_over(s, found.first, whole);
    for (int group = 0; group < groups(); ++group) {
      for (std::size_t i = 0; i < s.swapped[group].size(); ++i) s.refs[group].push_back(take(0));
    }
    s.swapped = {};
  }
  void lease(const Found& found, const Text& source) {
    leased = found.held;
    for (int group = 0; found.overlap > 0 && group < groups(); ++group) {
      leased.push_back({0, group, found.whole, ref_of(group, source)});
    }
  }
  // What lies at `whole` is copied.
  void take_over(Sequence& s, const PerGroup<int>& first, int whole) {
    for (int group = 0; group < groups(); ++group) s.refs[group].assign(first[group], "");
    for (const auto& [tier, group, index, ref] : leased) {
      if (tier == 1) {
        take(0);
        tiers[0][ref].cache_class = tiers[1][ref].cache_class;
      }
      s.refs[group].push_back(index == whole ? take(0) : ref);
    }
    while (!leased.empty()) {
      if (leased.back().tier == 1 || leased.back().index == whole) {
        release_leased();
      } else {
        leased.pop_back();
      }
    }
  }
  void release_leased() {
    const Held last = leased.back();
    leased.pop_back();
    release(last.tier, last.ref, 0);
  }
  void release(Sequence& s, int cache_class) {
    while (!s.refs[0].empty()) {
      for (int group = groups() - 1; group >= 0; --group) {
        const Ref ref = s.refs[group].back();
        s.refs[group].pop_back();
        release(0, ref, cache_class);
      }
    }
  }
  void publish(std::vector<Sequence>& all, Sequence& s, int index) {
    for (int group = 0; group < groups(); ++group) {
      const Ref ours = s.refs[group][index], ref = ref_of(group, blocks_of(s.text, index + 1));
      if (!tiers[0].contains(ref)) {
        for (Sequence& other : all) std::ranges::replace(other.refs[group], ours, ref);
        tiers[0][ref] = {};
      }
      s.refs[group][index] = ref;
    }
  }
};

class Lockstep {
 public:
  Lockstep(KvBlocks::Config config, unsigned seed) : kv_(config), model_{config, sequences_}, random_(seed) {
    sequences_.reserve(16);
    memory_[0].resize(config.num_blocks, std::vector<Text>(kBlockSize));
    memory_[1].resize(config.num_host_blocks + 1, std::vector<Text>(kBlockSize));
  }

  void run(int steps) {
    for (int i = 0; i < steps && !testing::Test::HasFatalFailure(); ++i) {
      SCOPED_TRACE(testing::Message() << "step " << i);
      act();
      compare();
    }
    while (!sequences_.empty()) release(0);
    compare();
    kv_.reset_cache();
    EXPECT_EQ(kv_.device().num_free(), model_.config.num_blocks - 1);
    EXPECT_EQ(kv_.host().num_free(), model_.config.num_host_blocks);
    EXPECT_EQ(kv_.tree().size(), 0);
  }

 private:
  int draw(int n) { return static_cast<int>(random_() % n); }

  void act() {
    const int what = draw(100), count = static_cast<int>(sequences_.size());
    if (what == 99) {
      kv_.reset_cache();
      for (const int tier : {0, 1}) {
        std::erase_if(model_.tiers[tier], [&](auto& at) { return !model_.held(tier, at.first); });
      }
    } else if (count == 0 || (what < 20 && count < 8)) {
      start();
    } else if (const int i = draw(count); sequences_[i].is_swapped()) {
      what < 30 ? release(i) : swap_in(sequences_[i]);
    } else if (what < 80) {
      advance(sequences_[i]);
    } else if (what < 88) {
      release(i);
    } else if (what < 93 && count < 8) {
      fork(i);
    } else {
      swap_out(sequences_[i]);
    }
  }

  // Few texts, much alike.
  Text draw_text() {
    Text text(1, static_cast<char>('A' + draw(8) / 6 + draw(8) / 7));
    const int length = 1 + draw(36);
    if (!sequences_.empty() && draw(3) == 0) text = sequences_[draw(static_cast<int>(sequences_.size()))].text;
    text = text.substr(0, 1 + draw(static_cast<int>(text.size())));
    while (static_cast<int>(text.size()) < 1 + length) text += draw(8) == 0 ? 'b' : 'a';
    return text;
  }

  // Also finds out which overlap was chosen: source_.
  Lease match(const Text& text, int max_tokens, const Model::Found& expected) {
    std::map<Text, int> holders;
    for (const Text& other : model_.on_device()) holders[other] = kv_.device().holders(block_of(other));
    Lease lease = kv_.match(tokens_of(text), domain_of(text), max_tokens);
    EXPECT_EQ(lease.tokens(), expected.whole * kBlockSize + expected.overlap) << text;
    EXPECT_EQ(lease.blocks_needed(), expected.needed);
    EXPECT_EQ(lease.num_blocks(), expected.whole + (expected.overlap > 0));
    source_.clear();
    for (const auto& [other, before] : holders) {
      if (Model::overlap(text, other, expected.whole) < std::max(expected.overlap, 1)) continue;
      if (kv_.device().holders(block_of(other)) > before) source_ = other;
    }
    EXPECT_EQ(source_.empty(), expected.overlap == 0) << text;
    return lease;
  }
  BlockId block_of(const Text& text) const {
    const auto tokens = tokens_of(text);
    NodeId node = kv_.tree().find_root(domain_of(text));
    for (std::size_t i = 0; i < tokens.size(); i += kBlockSize) {
      node = kv_.tree().find(node, std::span(tokens).subspan(i, kBlockSize));
    }
    return kv_.tree().block(node, Tier::device);
  }

  void start() {
    Sequence s{.text = draw_text()};
    const int max_tokens = static_cast<int>(s.text.size()) - 1 - draw(2);
    const Model::Found found = model_.match(s.text, max_tokens);
    const std::uint64_t before = kv_.digest();
    match(s.text, max_tokens, found).drop();
    EXPECT_EQ(kv_.digest(), before);

    Lease lease = match(s.text, max_tokens, found);
    if (lease.blocks_needed() > kv_.num_available()) return;
    s.computed = lease.tokens();
    kv_.adopt(std::move(lease), s.table);
    sequences_.push_back(std::move(s));
    model_.adopt(sequences_.back(), found, source_);
  }

  void advance(Sequence& s) {
    const int end = std::min(static_cast<int>(s.text.size()) - 1, s.computed + 1 + draw(9));
    const int count = kv_.growth(s.table, end);
    EXPECT_EQ(count, groups() * std::max(0, (end + kBlockSize - 1) / kBlockSize - static_cast<int>(s.refs[0].size())));
    const bool grown = kv_.try_grow(s.table, end);
    EXPECT_EQ(grown, count <= model_.num_available(0));
    if (!grown) return step();
    for (int i = 0; i < count; ++i) s.refs[i % groups()].push_back(model_.take(0));
    step();
    for (int i = s.computed; i < end; ++i) {
      for (int group = 0; group < groups(); ++group) slot(s, group, i) = ref_of(group, s.text.substr(0, 2 + i));
    }
    s.computed = end;
    const int before = s.table.published;
    kv_.publish(s.table, tokens_of(s.text), end, domain_of(s.text), [](int, int, BlockId) {});
    if (model_.config.prefix_caching) {
      for (int i = before; i < end / kBlockSize; ++i) model_.publish(sequences_, s, i);
    }
    release_behind_window(s);
  }

  void release_behind_window(Sequence& s) {
    kv_.release_behind_window(s.table, s.computed, 3);
    const int published = s.computed / kBlockSize;
    for (int group = 0; group < groups(); ++group) {
      const int window = model_.config.windows[group];
      std::vector<Ref>& refs = s.refs[group];
      for (int i = 0; window > 0 && i < static_cast<int>(refs.size()); ++i) {
        const bool visible = (i + 1) * kBlockSize > s.computed - window + 1;
        if (visible || refs[i].empty() || (model_.config.prefix_caching && i >= published - 1)) continue;
        model_.release(0, std::exchange(refs[i], ""), 3);
      }
    }
  }

  void release(int i) {
    const int cache_class = draw(kNumCacheClasses);
    kv_.release(sequences_[i].table, cache_class);
    model_.release(sequences_[i], cache_class);
    sequences_.erase(sequences_.begin() + i);
  }

  void fork(int i) {
    const Sequence& parent = sequences_[i];
    Sequence child{.text = parent.text.substr(0, 1 + parent.computed) + "ba", .computed = parent.computed};
    const int whole = parent.computed / kBlockSize, tail = parent.computed % kBlockSize;
    const bool forked = kv_.try_fork(parent.table, parent.computed, child.table);
    EXPECT_EQ(forked, tail == 0 || model_.num_available(0) >= groups());
    if (!forked) return;
    for (int group = 0; group < groups(); ++group) {
      child.refs[group].assign(parent.refs[group].begin(), parent.refs[group].begin() + whole);
    }
    sequences_.push_back(std::move(child));
    for (int group = 0; tail > 0 && group < groups(); ++group) {
      const Ref copy = model_.take(0);
      sequences_.back().refs[group].push_back(copy);
    }
  }

  void swap_out(Sequence& s) {
    const int cache_class = draw(kNumCacheClasses);
    PerGroup<int> counts{};
    int count = 0;
    for (int group = 0; group < groups(); ++group) {
      const int first = std::max(s.table.published, s.table.groups[group].first);
      count += counts[group] = std::max(0, (s.computed + kBlockSize - 1) / kBlockSize - first);
    }
    const bool swapped = kv_.try_swap_out(s.table, s.computed, cache_class);
    EXPECT_EQ(swapped, count <= model_.num_available(1));
    if (!swapped) return;
    for (int group = 0; group < groups(); ++group) {
      for (int i = 0; i < counts[group]; ++i) s.swapped[group].push_back(model_.take(1));
    }
    model_.release(s, cache_class);
    if (count == 0) release(static_cast<int>(&s - sequences_.data()));  // a table of nothing: as if it had ended
  }

  void swap_in(Sequence& s) {
    const int first = s.table.swapped_first(), max_tokens = static_cast<int>(s.text.size()) - 1;
    const Model::Found found = model_.match(s.text, max_tokens);
    Lease lease = match(s.text, max_tokens, found);
    const bool caching = model_.config.prefix_caching;
    bool known = !caching || first == 0 || found.whole >= first;
    PerGroup<int> swapped_first{};
    for (int group = 0; group < groups(); ++group) {
      swapped_first[group] = s.table.groups[group].swapped_first;
      known &= !caching || first == 0 || found.first[group] <= model_.first_needed(group, first);
    }
    EXPECT_EQ(kv_.can_swap_in(s.table, lease), known);
    if (!known || kv_.swap_in_needed(s.table, lease) > kv_.num_available()) return;
    kv_.swap_in(std::move(lease), s.table);
    model_.swap_in(s, found, source_, swapped_first);
  }

  // A step's copies, and a look at all contents, before the step writes its own.
  void step() {
    for (const Copy& copy : kv_.copies()) {
      memory_[static_cast<int>(copy.to)][copy.target] = memory_[static_cast<int>(copy.from)][copy.source];
    }
    kv_.copies().clear();
    for (const Sequence& s : sequences_) {
      for (int group = 0; group < groups() && !s.is_swapped(); ++group) {
        const int window = model_.config.windows[group];
        for (int i = window > 0 ? std::max(0, s.computed - window + 1) : 0; i < s.computed; ++i) {
          ASSERT_EQ(slot(s, group, i), ref_of(group, s.text.substr(0, 2 + i)));
        }
      }
    }
    for (NodeId node = 0; node < kv_.tree().max_nodes(); ++node) {
      for (int group = 0; kv_.tree().live(node) && group < groups(); ++group) {
        for (const Tier tier : {Tier::device, Tier::host}) {
          const BlockId block = kv_.tree().block(node, tier, group);
          if (block == kNoBlock) continue;
          ASSERT_EQ(memory_[static_cast<int>(tier)][block].back(), ref_of(group, text_of(node)));
        }
      }
    }
  }
  int groups() const { return model_.groups(); }
  Ref& slot(const Sequence& s, int group, int position) {
    return memory_[0][s.table.groups[group].blocks[position / kBlockSize]][position % kBlockSize];
  }
  Text text_of(NodeId node) const {
    Text text;
    for (; !kv_.tree().is_root(node); node = kv_.tree().parent(node)) {
      const auto tokens = kv_.tree().tokens(node);
      text.insert(text.begin(), tokens.begin(), tokens.end());
    }
    for (const char* domain : {"A", "B", "C"}) {
      if (kv_.tree().find_root(domain_of(domain)) == node) return domain + text;
    }
    return "?";
  }

  void compare() {
    std::vector<const BlockTable*> tables;
    for (const Sequence& s : sequences_) {
      tables.push_back(&s.table);
      for (int group = 0; group < kMaxKvGroups; ++group) {
        const std::vector<Ref>& refs = s.refs[group];
        const BlockList& list = s.table.groups[group];
        ASSERT_EQ(list.blocks.size(), refs.size());
        ASSERT_EQ(list.swapped.size(), s.swapped[group].size());
        for (std::size_t i = 0; i < refs.size(); ++i) {
          const BlockId block = list.blocks[i];
          const NodeId node = block == kNullBlock ? kNoNode : kv_.device().node(block);
          ASSERT_EQ(block == kNullBlock, refs[i].empty());
          ASSERT_EQ(node == kNoNode ? "" : ref_of(group, text_of(node)), refs[i].starts_with('#') ? "" : refs[i]);
        }
      }
    }
    kv_.check(tables);

    Contents contents;
    for (const int tier : {0, 1}) {
      const BlockPool& pool = tier == 0 ? kv_.device() : kv_.host();
      ASSERT_EQ(pool.num_free(), model_.num_free(tier)) << "tier " << tier;
      ASSERT_EQ(pool.num_cached(), model_.num_cached(tier));
      std::map<Ref, int> classes, expected;
      for (const auto& [ref, entry] : model_.tiers[tier]) expected[ref] = entry.cache_class;
      for (BlockId block = 1; block < pool.num_blocks(); ++block) {
        if (pool.node(block) == kNoNode) continue;
        classes[ref_of(pool.group(block), text_of(pool.node(block)))] = pool.cache_class(block);
        contents.emplace(kv_.tree().key(pool.node(block)), tier == 0 ? KvEvent::Where::device : KvEvent::Where::host,
                         pool.group(block));
      }
      ASSERT_EQ(classes, expected);
    }
    if (model_.config.hash_mask == ~std::uint64_t{0}) replay(contents);
  }
  using Contents = std::set<std::tuple<std::uint64_t, KvEvent::Where, int>>;
  void replay(const Contents& expected) {
    std::vector<KvEvent> events;
    const std::uint64_t next = kv_.events_since(next_event_, events);
    for (const KvEvent& event : events) {
      ASSERT_EQ(event.number, next_event_++);
      const bool stored = event.kind == KvEvent::Kind::stored;
      const std::tuple entry(event.key, event.where, event.group);
      ASSERT_TRUE(stored ? replayed_.insert(entry).second : replayed_.erase(entry) == 1);
    }
    ASSERT_EQ(next, next_event_);
    ASSERT_EQ(replayed_, expected);
  }

  KvBlocks kv_;
  std::vector<Sequence> sequences_;
  Model model_;
  std::mt19937 random_;
  Text source_;
  std::vector<std::vector<Ref>> memory_[2];  // group, and the text up to each token whose keys and values lie there
  std::uint64_t next_event_ = 0;
  Contents replayed_;
};

TEST(KvBlocksModel, AgreesUnderRandomUse) {
  unsigned seed = 20261123;
  for (const std::uint64_t hash_mask : {~std::uint64_t{0}, std::uint64_t{1}}) {
    for (const std::vector<int>& windows :
         std::initializer_list<std::vector<int>>{{0}, {1}, {6}, {14}, {0, 6}, {14, 6}, {6, 0, 1}, {0, 0}}) {
      for (const int host : {0, 9}) {
        for (const bool prefix_caching : {true, false}) {
          if (!prefix_caching && hash_mask == 1) continue;
          SCOPED_TRACE(testing::Message()
                       << "seed " << ++seed << " mask " << hash_mask << " windows " << testing::PrintToString(windows)
                       << " host " << host << " caching " << prefix_caching);
          Lockstep({.num_blocks = 1 + 24 * static_cast<int>(windows.size()),
                    .num_host_blocks = host,
                    .block_size = kBlockSize,
                    .windows = windows,
                    .prefix_caching = prefix_caching,
                    .max_events = 1024,
                    .hash_key = seed,
                    .hash_mask = hash_mask},
                   seed)
              .run(1500);
          if (testing::Test::HasFailure()) return;
        }
      }
    }
  }
}

}  // namespace
}  // namespace warpjet

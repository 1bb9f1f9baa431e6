// The scheduler against a mock model, at random. The model's state at a position is a hash of everything up to there;
// it is kept where the real keys and values would be, at (block, offset), and the next token comes from the state that
// is read there. So a stale block, a wrong reuse or a mixed-up table changes tokens, and is found before that by
// comparing every position that a chunk reads with the state which the sequence should have.
#include "schedule/schedule.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <iostream>
#include <memory>
#include <random>
#include <set>
#include <vector>

namespace warpjet {
namespace {

using Tokens = std::vector<std::int32_t>;
using KvState = std::uint64_t;

constexpr int kVocab = 3;  // few tokens: outputs share prefixes too
constexpr int kMaxPrompt = 30;

KvState mix(KvState a, KvState b) {
  const std::uint64_t words[] = {a, b};
  return hash64(std::as_bytes(std::span(words)));
}
KvState state_before_first(const std::string& salt) {
  return hash64(std::as_bytes(std::span(salt)), 99);
}
std::int32_t draw_token(KvState state, KvState sample_seed) {
  return static_cast<std::int32_t>(mix(state, sample_seed) % kVocab);
}

// What a sequence must turn out to be: computed alone, when it is added.
struct Script {
  KvState sample_seed = 0;
  Tokens tokens;                // prompt and the whole output
  std::vector<KvState> states;  // after each token
  Sequence* sequence = nullptr;
};

// One random way to run.
struct Setting {
  SchedulerConfig config;
  int max_length = 0, num_blocks = 0, max_live = 0;
  std::uint64_t hash_mask = ~std::uint64_t{0};

  explicit Setting(std::mt19937& random) {
    const auto one_of = [&](std::initializer_list<int> list) { return list.begin()[random() % list.size()]; };
    config.block_size = one_of({1, 2, 4, 8});
    config.max_num_seqs = one_of({1, 2, 5, 12});
    config.max_batched_tokens = one_of({1, 4, 9, 64});
    config.chunked_prefill = one_of({0, 1, 1});
    config.prefix_caching = one_of({0, 1, 1, 1});
    config.policy = policies()[random() % policies().size()].name;
    max_length = kMaxPrompt + one_of({2, 20, 60});
    num_blocks = 1 + ceil_div(max_length, config.block_size) * one_of({1, 1, 2, 3, 10}) + one_of({0, 1, 3});
    max_live = one_of({3, 12, 40});
    hash_mask = random() % 4 == 0 ? random() % 4 : ~std::uint64_t{0};
  }
};

struct Totals {
  std::int64_t steps = 0, finished = 0, canceled = 0, preemptions = 0, cached = 0, shared = 0, parked = 0;
};

class World {
 public:
  World(unsigned seed, Totals& totals)
      : random_(seed),
        setting_(random_),
        pool_(setting_.num_blocks),
        tree_(pool_, setting_.config.block_size, setting_.hash_mask),
        scheduler_(setting_.config, pool_, tree_),
        totals_(totals),
        kv_(static_cast<std::size_t>(setting_.num_blocks) * setting_.config.block_size) {
    for (Tokens& base : bases_) {
      for (int i = 0; i < kMaxPrompt; ++i) base.push_back(draw(kVocab));
    }
  }

  void run(int steps) {
    for (int i = 0; i < steps && !testing::Test::HasFatalFailure(); ++i) {
      while (static_cast<int>(scripts_.size()) < setting_.max_live && draw(3) == 0) arrive();
      if (!scripts_.empty() && draw(40) == 0) cancel(draw(static_cast<int>(scripts_.size())));
      if (draw(200) == 0) pool_.drop_cached(tree_);
      if (draw(100) == 0) scheduler_.schedule(batch_);  // a batch that is given up
      step();
    }
    // The first in order comes a token nearer to its end in every step, so this many are enough for all of them.
    std::size_t enough = 1;
    for (const auto& script : scripts_) enough += script->tokens.size();
    while (!scheduler_.idle() && !testing::Test::HasFatalFailure()) {
      ASSERT_GT(enough--, 0u) << "no progress";
      step();
    }
    finish();
  }

 private:
  int draw(int n) { return static_cast<int>(random_() % n); }

  void arrive() {
    auto prompt = bases_[draw(3)];
    prompt.resize(1 + draw(kMaxPrompt));
    if (draw(2) == 0) prompt.back() = draw(kVocab);
    const std::string salt = draw(4) == 0 ? "salt" : "";
    const int samples = draw(4) == 0 ? 3 : 1, priority = draw(3);
    const bool read = draw(8) != 0;
    const SequenceId leader = next_id_;
    for (int i = 0; i < samples; ++i) {
      auto s = std::make_unique<Sequence>();
      s->id = next_id_++;
      s->tokens = prompt;
      s->prompt_length = s->length();
      s->max_length = s->length() + 1 + draw(setting_.max_length - s->length());
      s->priority = priority;
      s->salt = salt;
      s->read_prefix_cache = read;
      s->leader = i == 0 ? 0 : leader;
      auto script = write_script(*s);
      s->user = script.get();
      script->sequence = &scheduler_.add(std::move(s));
      totals_.parked += script->sequence->state == Sequence::State::parked;
      scripts_.push_back(std::move(script));
    }
  }

  std::unique_ptr<Script> write_script(const Sequence& s) {
    auto script = std::make_unique<Script>();
    script->sample_seed = random_();
    script->tokens = s.tokens;
    KvState state = state_before_first(s.salt);
    for (int i = 0; i < s.max_length; ++i) {
      if (i >= s.prompt_length) script->tokens.push_back(draw_token(state, script->sample_seed));
      state = mix(state, script->tokens[i]);
      script->states.push_back(state);
    }
    return script;
  }

  KvState& kv_at(const Sequence& s, int position) {
    const int size = setting_.config.block_size;
    return kv_[static_cast<std::size_t>(s.blocks[position / size]) * size + position % size];
  }

  void step() {
    ++totals_.steps;
    std::set<const Sequence*> running;
    for (const auto& script : scripts_) {
      if (script->sequence->state == Sequence::State::running) running.insert(script->sequence);
    }
    const std::int64_t preemptions = scheduler_.num_preemptions();
    scheduler_.schedule(batch_);
    check_batch(running, scheduler_.num_preemptions() > preemptions);
    if (testing::Test::HasFatalFailure()) return;
    execute();
    if (testing::Test::HasFatalFailure()) return;
    scheduler_.commit(batch_, sampled_);
    scheduler_.check();
    for (const Chunk& chunk : batch_.chunks) {
      if (chunk.sampled) deliver(*chunk.sequence);
    }
    scheduler_.check();
  }

  void check_batch(const std::set<const Sequence*>& ran_before, bool preempted) {
    ASSERT_EQ(batch_.chunks.empty(), scheduler_.idle());
    ASSERT_LE(batch_.num_tokens, setting_.config.max_batched_tokens);
    std::set<const Sequence*> seen;
    int tokens = 0, sampled = 0;
    for (const Chunk& chunk : batch_.chunks) {
      const Sequence& s = *chunk.sequence;
      ASSERT_TRUE(seen.insert(&s).second) << "twice in a batch";
      ASSERT_EQ(s.state, Sequence::State::running) << "a stale chunk";
      ASSERT_EQ(chunk.start, s.computed);
      ASSERT_GT(chunk.count, 0);
      ASSERT_LE(chunk.start + chunk.count, s.length());
      ASSERT_EQ(chunk.sampled, chunk.start + chunk.count == s.length());
      const bool is_new = !ran_before.contains(&s), is_short = s.length() <= setting_.config.max_batched_tokens;
      ASSERT_FALSE(preempted && is_new) << "admitted beside a preemption";
      ASSERT_TRUE(setting_.config.chunked_prefill || !is_new || !is_short || chunk.sampled) << "a prompt was cut";
      tokens += chunk.count;
      sampled += chunk.sampled;
    }
    ASSERT_EQ(tokens, batch_.num_tokens);
    ASSERT_EQ(sampled, batch_.num_sampled);
    ASSERT_LE(scheduler_.num_running(), setting_.config.max_num_seqs);
  }

  // All reads of what earlier steps wrote come before all writes: nothing may rest on the order of chunks.
  void execute() {
    for (const Chunk& chunk : batch_.chunks) {
      const Sequence& s = *chunk.sequence;
      const Script& script = *static_cast<Script*>(s.user);
      ASSERT_GE(static_cast<int>(s.blocks.size()) * setting_.config.block_size, chunk.start + chunk.count);
      for (int i = 0; i < chunk.start; ++i) {
        ASSERT_EQ(kv_at(s, i), script.states[i]) << "sequence " << s.id << " reads foreign state at " << i;
      }
    }
    sampled_.clear();
    for (const Chunk& chunk : batch_.chunks) {
      const Sequence& s = *chunk.sequence;
      KvState state = chunk.start == 0 ? state_before_first(s.salt) : kv_at(s, chunk.start - 1);
      for (int i = chunk.start; i < chunk.start + chunk.count; ++i) {
        const BlockId block = s.blocks[i / setting_.config.block_size];
        ASSERT_TRUE(block != kNullBlock && pool_.references(block) == 1 && !pool_.published(block));
        state = kv_at(s, i) = mix(state, s.tokens[i]);
      }
      if (chunk.sampled) sampled_.push_back(draw_token(state, static_cast<Script*>(s.user)->sample_seed));
    }
  }

  void deliver(Sequence& s) {
    const Script& script = *static_cast<Script*>(s.user);
    ASSERT_TRUE(std::equal(s.tokens.begin(), s.tokens.end(), script.tokens.begin())) << "sequence " << s.id;
    for (int i = 0; i < s.published; ++i) totals_.shared += pool_.references(s.blocks[i]) > 1;
    if (s.length() < s.max_length) return;
    ++totals_.finished;
    remove(std::ranges::find(scripts_, &script, &std::unique_ptr<Script>::get) - scripts_.begin());
  }

  void cancel(int index) {
    ++totals_.canceled;
    remove(index);
    scheduler_.check();
  }

  void remove(std::ptrdiff_t index) {
    Sequence& s = *scripts_[index]->sequence;
    const std::unique_ptr<Sequence> owned = scheduler_.remove(s);
    ASSERT_EQ(owned.get(), &s);
    totals_.cached += owned->cached;
    scripts_.erase(scripts_.begin() + index);
  }

  void finish() {
    totals_.preemptions += scheduler_.num_preemptions();
    ASSERT_TRUE(scripts_.empty());
    ASSERT_EQ(pool_.num_active(), 0);
    ASSERT_EQ(tree_.size(), pool_.num_cached());
    pool_.drop_cached(tree_);
    ASSERT_EQ(pool_.num_free(), setting_.num_blocks - 1);
    scheduler_.check();
  }

  std::mt19937 random_;
  Setting setting_;
  BlockPool pool_;
  PrefixTree tree_;
  Scheduler scheduler_;
  Totals& totals_;
  std::vector<KvState> kv_;
  Tokens bases_[3];
  std::vector<std::unique_ptr<Script>> scripts_;
  SequenceId next_id_ = 1;
  Batch batch_;
  Tokens sampled_;
};

TEST(Scheduler, GivesEverySequenceTheTokensThatItWouldHaveAlone) {
  constexpr unsigned kFirstSeed = 1000;
  constexpr int kWorlds = 300, kSteps = 300;
  Totals totals;
  for (unsigned seed = kFirstSeed; seed < kFirstSeed + kWorlds; ++seed) {
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    World(seed, totals).run(kSteps);
    ASSERT_FALSE(HasFatalFailure());
  }
  RecordProperty("steps", std::to_string(totals.steps));
  std::cout << "seeds " << kFirstSeed << " to " << kFirstSeed + kWorlds - 1 << ": " << totals.steps << " steps, "
            << totals.finished << " finished, " << totals.canceled << " canceled, " << totals.preemptions
            << " preemptions, " << totals.cached << " cached tokens, " << totals.parked << " parked\n";
  // The test is worth something only if it visited what it is about.
  EXPECT_GT(totals.finished, 1000);
  EXPECT_GT(totals.canceled, 1000);
  EXPECT_GT(totals.preemptions, 1000);
  EXPECT_GT(totals.cached, 10000);
  EXPECT_GT(totals.shared, 10000);
  EXPECT_GT(totals.parked, 1000);
}

}  // namespace
}  // namespace warpjet

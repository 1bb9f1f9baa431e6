#include "schedule/schedule.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <new>
#include <numeric>
#include <string>
#include <vector>

namespace {
std::int64_t allocations = 0;
}

// Not inlined: the compiler would see a malloc() that is freed by delete.
[[gnu::noinline]] void* operator new(std::size_t bytes) {
  ++allocations;
  if (void* data = std::malloc(bytes)) return data;
  throw std::bad_alloc();
}
[[gnu::noinline]] void operator delete(void* data) noexcept {
  std::free(data);
}
[[gnu::noinline]] void operator delete(void* data, std::size_t) noexcept {
  std::free(data);
}

namespace warpjet {
namespace {

using Tokens = std::vector<std::int32_t>;
constexpr int kBlockSize = 4;

Tokens range(int count, int first = 0) {
  Tokens tokens(count);
  std::iota(tokens.begin(), tokens.end(), first);
  return tokens;
}

struct Wish {
  Tokens prompt = {};
  int max_tokens = 100;
  int priority = 0;
  std::string salt = "";
  bool read_prefix_cache = true;
  SequenceId leader = 0;
};

struct Rig {
  explicit Rig(SchedulerConfig config = {}, int num_blocks = 1000)
      : pool(num_blocks), tree(pool, kBlockSize), scheduler(with_block_size(config), pool, tree) {}
  static SchedulerConfig with_block_size(SchedulerConfig config) {
    config.block_size = kBlockSize;
    return config;
  }

  Sequence& add(const Wish& wish) {
    auto s = std::make_unique<Sequence>();
    s->id = next_id++;
    s->tokens = wish.prompt;
    s->prompt_length = static_cast<int>(wish.prompt.size());
    s->max_length = s->prompt_length + wish.max_tokens;
    s->priority = wish.priority;
    s->salt = wish.salt;
    s->read_prefix_cache = wish.read_prefix_cache;
    s->leader = wish.leader;
    return scheduler.add(std::move(s));
  }
  // One step; the chunks as "id:start+count", with a star when sampled.
  std::string step() {
    scheduler.schedule(batch);
    std::string text;
    for (const Chunk& c : batch.chunks) {
      text += cat(text.empty() ? "" : " ", c.sequence->id, ":", c.start, "+", c.count, c.sampled ? "*" : "");
    }
    scheduler.commit(batch, Tokens(batch.num_sampled, 7));
    scheduler.check();
    return text;
  }
  void steps(int count) {
    for (int i = 0; i < count; ++i) step();
  }

  BlockPool pool;
  PrefixTree tree;
  Scheduler scheduler;
  Batch batch;
  SequenceId next_id = 1;
};

std::string message_of(const auto& call) {
  try {
    call();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::invalid_argument);
    return error.message();
  }
  ADD_FAILURE() << "did not throw";
  return "";
}

// --- What can be asked for ------------------------------------------------------------------------------------------

TEST(Scheduler, RefusesWhatCanNeverRunAndStaysAsItWas) {
  Rig rig({}, 5);  // 4 blocks of 4 tokens
  EXPECT_NE(message_of([&] { rig.add({.prompt = {}}); }), "");
  EXPECT_NE(message_of([&] { rig.add({.prompt = range(4), .max_tokens = -1}); }), "");
  EXPECT_NE(message_of([&] { rig.add({.prompt = range(4), .max_tokens = 13}); }).find("17 tokens"), std::string::npos);
  EXPECT_TRUE(rig.scheduler.idle());
  rig.add({.prompt = range(4), .max_tokens = 12});
  --rig.next_id;
  EXPECT_NE(message_of([&] { rig.add({.prompt = range(4), .max_tokens = 12}); }).find("id"), std::string::npos);
  EXPECT_EQ(rig.scheduler.num_waiting(), 1);
  rig.scheduler.check();
}

TEST(Scheduler, RefusesImpossibleLimits) {
  EXPECT_NE(message_of([] { Rig rig({.max_num_seqs = 0}); }).find("max_num_seqs"), std::string::npos);
  EXPECT_NE(message_of([] { Rig rig({.max_batched_tokens = 0}); }).find("max_batched_tokens"), std::string::npos);
  BlockPool pool(4);
  PrefixTree tree(pool, 8);
  EXPECT_NE(message_of([&] { Scheduler s({.block_size = 16}, pool, tree); }).find("block_size"), std::string::npos);
}

TEST(Scheduler, NamesThePoliciesWhenItIsGivenAnother) {
  const std::string message = message_of([] { Rig rig({.policy = "lottery"}); });
  for (const Policy& policy : policies()) EXPECT_NE(message.find(policy.name), std::string::npos);
  EXPECT_NE(message.find("lottery"), std::string::npos);
}

// --- Steps ----------------------------------------------------------------------------------------------------------

TEST(Scheduler, ComputesAPromptAndThenATokenAStep) {
  Rig rig;
  Sequence& s = rig.add({.prompt = range(6)});
  EXPECT_EQ(s.state, Sequence::State::waiting);
  EXPECT_EQ(rig.step(), "1:0+6*");
  EXPECT_EQ(s.state, Sequence::State::running);
  EXPECT_EQ(s.tokens.back(), 7);
  EXPECT_EQ(rig.step(), "1:6+1*");
  EXPECT_EQ(s.output_length(), 2);
  EXPECT_EQ(s.computed, 7);
  EXPECT_EQ(s.published, 1);
}

TEST(Scheduler, HasAnEmptyBatchWhenNothingIsLeft) {
  Rig rig;
  EXPECT_EQ(rig.step(), "");
  Sequence& s = rig.add({.prompt = range(3)});
  rig.step();
  rig.scheduler.remove(s);
  EXPECT_TRUE(rig.scheduler.idle());
  EXPECT_EQ(rig.step(), "");
}

TEST(Scheduler, CutsALongPromptToTheBudgetAndSamplesItsLastChunk) {
  Rig rig({.max_batched_tokens = 8});
  rig.add({.prompt = range(20)});
  EXPECT_EQ(rig.step(), "1:0+8");
  EXPECT_EQ(rig.step(), "1:8+8");
  EXPECT_EQ(rig.step(), "1:16+4*");
  EXPECT_EQ(rig.step(), "1:20+1*");
}

TEST(Scheduler, FillsAStepWithDecodesFirstAndPromptsAfter) {
  Rig rig({.max_batched_tokens = 8});
  rig.add({.prompt = range(3)});
  rig.add({.prompt = range(2, 50)});
  EXPECT_EQ(rig.step(), "1:0+3* 2:0+2*");
  rig.add({.prompt = range(9, 100)});
  EXPECT_EQ(rig.step(), "1:3+1* 2:2+1* 3:0+6");
  EXPECT_EQ(rig.step(), "1:4+1* 2:3+1* 3:6+3*");
}

TEST(Scheduler, DoesNotLetALongPromptStopTheDecodesBehindIt) {
  Rig rig({.max_batched_tokens = 8, .policy = "priority"});
  rig.add({.prompt = range(1), .priority = 5});
  rig.add({.prompt = range(1, 9), .priority = 5});
  rig.step();
  rig.add({.prompt = range(20, 100), .priority = 0});
  EXPECT_EQ(rig.step(), "1:1+1* 2:1+1* 3:0+6");
  EXPECT_EQ(rig.step(), "3:6+6 1:2+1* 2:2+1*");
}

TEST(Scheduler, RunsAPromptWholeWhenChunkingIsOff) {
  Rig rig({.max_batched_tokens = 8, .chunked_prefill = false});
  rig.add({.prompt = range(6)});
  rig.add({.prompt = range(6, 50)});
  EXPECT_EQ(rig.step(), "1:0+6*");
  EXPECT_EQ(rig.step(), "1:6+1* 2:0+6*");
}

TEST(Scheduler, SplitsOnlyAPromptBeyondTheBudgetWhenChunkingIsOff) {
  Rig rig({.max_batched_tokens = 8, .chunked_prefill = false});
  rig.add({.prompt = range(12)});
  EXPECT_EQ(rig.step(), "1:0+8");
  EXPECT_EQ(rig.step(), "1:8+4*");
}

TEST(Scheduler, RunsNoMoreSequencesThanItMay) {
  Rig rig({.max_num_seqs = 2});
  Sequence& first = rig.add({.prompt = range(2)});
  rig.add({.prompt = range(2)});
  rig.add({.prompt = range(2)});
  EXPECT_EQ(rig.step(), "1:0+2* 2:0+2*");
  EXPECT_EQ(rig.step(), "1:2+1* 2:2+1*");
  EXPECT_EQ(rig.scheduler.num_waiting(), 1);
  rig.scheduler.remove(first);
  EXPECT_EQ(rig.step(), "2:3+1* 3:0+2*");
}

TEST(Scheduler, ServesByArrivalOrByPriority) {
  for (const std::string_view policy : {"fcfs", "priority"}) {
    Rig rig({.max_num_seqs = 1, .policy = policy});
    for (const int priority : {3, 1, 2, 1}) rig.add({.prompt = range(2), .priority = priority});
    std::vector<SequenceId> order;
    while (!rig.scheduler.idle()) {
      rig.step();
      order.push_back(rig.batch.chunks[0].sequence->id);
      rig.scheduler.remove(*rig.batch.chunks[0].sequence);
    }
    EXPECT_EQ(order, policy == "fcfs" ? (std::vector<SequenceId>{1, 2, 3, 4}) : (std::vector<SequenceId>{2, 4, 3, 1}));
  }
}

TEST(Scheduler, SchedulesABatchAgainThatWasGivenUp) {
  Rig rig({.max_batched_tokens = 8});
  Sequence& s = rig.add({.prompt = range(12)});
  rig.step();
  rig.scheduler.schedule(rig.batch);
  rig.scheduler.check();
  EXPECT_EQ(rig.step(), "1:8+4*");
  rig.scheduler.schedule(rig.batch);
  rig.scheduler.remove(s);
  rig.scheduler.check();
  EXPECT_EQ(rig.pool.num_active(), 0);
}

TEST(Scheduler, RemovesASequenceInAnyState) {
  Rig rig({.max_num_seqs = 1});
  Sequence& running = rig.add({.prompt = range(9)});
  rig.step();
  Sequence& leader = rig.add({.prompt = range(9, 50)});
  Sequence& parked = rig.add({.prompt = range(9, 50), .leader = leader.id});
  EXPECT_EQ(parked.state, Sequence::State::parked);
  EXPECT_EQ(rig.scheduler.num_waiting(), 2);
  const auto a = rig.scheduler.remove(parked);
  rig.scheduler.check();
  const auto b = rig.scheduler.remove(leader);
  rig.scheduler.check();
  const auto c = rig.scheduler.remove(running);
  rig.scheduler.check();
  for (const Sequence* s : {a.get(), b.get(), c.get()}) EXPECT_EQ(s->state, Sequence::State::finished);
  EXPECT_EQ(c->output_length(), 1);
  EXPECT_TRUE(rig.scheduler.idle());
  EXPECT_EQ(rig.pool.num_active(), 0);
  EXPECT_EQ(rig.pool.num_cached(), 2);
}

// --- Prefix cache ---------------------------------------------------------------------------------------------------

TEST(Scheduler, ReusesThePrefixButComputesTheLastToken) {
  Rig rig;
  rig.add({.prompt = range(8)});
  rig.step();
  EXPECT_EQ(rig.add({.prompt = range(8)}).id, 2u);
  Sequence& longer = rig.add({.prompt = range(11)});
  EXPECT_EQ(rig.step(), "1:8+1* 2:4+4* 3:8+3*");
  EXPECT_EQ(longer.cached, 8);
}

TEST(Scheduler, ReusesWhatAFinishedSequenceGenerated) {
  Rig rig;
  Sequence& s = rig.add({.prompt = range(4)});
  rig.steps(6);
  const Tokens conversation = rig.scheduler.remove(s)->tokens;
  EXPECT_EQ(conversation.size(), 10u);
  EXPECT_EQ(rig.add({.prompt = conversation}).id, 2u);
  EXPECT_EQ(rig.step(), "2:8+2*");
}

TEST(Scheduler, ReusesNothingAcrossSalts) {
  Rig rig;
  rig.add({.prompt = range(8), .salt = "a"});
  rig.step();
  rig.add({.prompt = range(9)});
  rig.add({.prompt = range(9), .salt = "b"});
  rig.add({.prompt = range(9), .salt = "a"});
  EXPECT_EQ(rig.step(), "1:8+1* 2:0+9* 3:0+9* 4:8+1*");
}

TEST(Scheduler, PublishesForOthersWhatItComputedWithoutReading) {
  Rig rig;
  rig.add({.prompt = range(8), .salt = "", .read_prefix_cache = false});
  rig.step();
  Sequence& unread = rig.add({.prompt = range(9), .read_prefix_cache = false});
  EXPECT_EQ(rig.step(), "1:8+1* 2:0+9*");
  EXPECT_EQ(unread.cached, 0);
  rig.add({.prompt = range(9)});
  EXPECT_EQ(rig.step(), "1:9+1* 2:9+1* 3:8+1*");
}

TEST(Scheduler, LeavesTheTreeAloneWhenCachingIsOff) {
  Rig rig({.prefix_caching = false});
  Sequence& first = rig.add({.prompt = range(8)});
  rig.step();
  Sequence& second = rig.add({.prompt = range(8), .leader = first.id});
  EXPECT_EQ(rig.step(), "1:8+1* 2:0+8*");
  EXPECT_EQ(rig.tree.size(), 0);
  rig.scheduler.remove(first);
  rig.scheduler.remove(second);
  EXPECT_EQ(rig.pool.num_free(), 999);
}

TEST(Scheduler, KeepsOneCopyOfPromptsComputedSideBySide) {
  Rig rig;
  Sequence& a = rig.add({.prompt = range(9)});
  Sequence& b = rig.add({.prompt = range(9)});
  EXPECT_EQ(rig.step(), "1:0+9* 2:0+9*");
  EXPECT_EQ(a.blocks[0], b.blocks[0]);
  EXPECT_EQ(a.blocks[1], b.blocks[1]);
  EXPECT_NE(a.blocks[2], b.blocks[2]);
  EXPECT_EQ(rig.pool.num_active(), 4);
  rig.scheduler.remove(a);  // b keeps what it shares
  rig.steps(8);
  EXPECT_EQ(rig.pool.num_active(), 5);
}

// --- Scarcity -------------------------------------------------------------------------------------------------------

TEST(Scheduler, PreemptsTheLastInOrderAndAdmitsNothingInThatStep) {
  Rig rig({}, 6);  // 5 blocks
  Sequence& first = rig.add({.prompt = range(7), .max_tokens = 13});
  Sequence& second = rig.add({.prompt = range(3, 50), .max_tokens = 10});
  EXPECT_EQ(rig.step(), "1:0+7* 2:0+3*");
  EXPECT_EQ(rig.step(), "1:7+1* 2:3+1*");
  Sequence& third = rig.add({.prompt = range(1, 90), .max_tokens = 1});
  EXPECT_EQ(rig.step(), "1:8+1* 2:4+1*");  // all 5 blocks are held
  rig.steps(3);
  EXPECT_EQ(rig.scheduler.num_preemptions(), 0);
  EXPECT_EQ(rig.step(), "1:12+1*");  // needs a fourth block
  EXPECT_EQ(rig.scheduler.num_preemptions(), 1);
  EXPECT_EQ(second.state, Sequence::State::waiting);
  EXPECT_EQ(second.computed, 0);
  EXPECT_LT(second.arrival, third.arrival);
  rig.scheduler.remove(first);
  EXPECT_EQ(rig.step(), "2:4+5* 3:0+1*");  // its full block was still cached, and it keeps its place
  EXPECT_EQ(second.cached, 0);             // of the first admission
}

TEST(Scheduler, LetsTheFirstInOrderFillThePool) {
  Rig rig({}, 6);
  Sequence& first = rig.add({.prompt = range(4), .max_tokens = 16});
  Sequence& second = rig.add({.prompt = range(4, 50), .max_tokens = 16});
  while (first.length() < first.max_length) {
    const int before = first.length();
    rig.step();
    EXPECT_EQ(first.length(), before + 1);
  }
  rig.scheduler.remove(first);
  while (second.length() < second.max_length) {
    const int before = second.length();
    rig.step();
    EXPECT_EQ(second.length(), before + 1);
  }
  EXPECT_GT(rig.scheduler.num_preemptions(), 0);
}

TEST(Scheduler, DoesNotAdmitWhatWouldBePreemptedAtOnce) {
  Rig rig({}, 6);
  rig.add({.prompt = range(15), .max_tokens = 5});
  rig.add({.prompt = range(4, 50), .max_tokens = 5});
  rig.steps(4);  // 1 takes 4 blocks, then the fifth
  EXPECT_EQ(rig.scheduler.num_running(), 1);
  EXPECT_EQ(rig.scheduler.num_preemptions(), 0);
}

TEST(Scheduler, PreemptsByPriority) {
  Rig rig({.policy = "priority"}, 6);
  Sequence& low = rig.add({.prompt = range(3), .max_tokens = 17, .priority = 9});
  rig.step();
  Sequence& high = rig.add({.prompt = range(3, 50), .max_tokens = 17, .priority = 1});
  while (rig.scheduler.num_preemptions() == 0) rig.step();
  EXPECT_EQ(low.state, Sequence::State::waiting);
  EXPECT_EQ(high.state, Sequence::State::running);
}

TEST(Scheduler, AdmitsAgainOnceWhatBlockedItIsGone) {
  Rig rig({}, 6);
  Sequence& first = rig.add({.prompt = range(15), .max_tokens = 5});
  rig.add({.prompt = range(8, 50), .max_tokens = 5});
  rig.steps(2);
  EXPECT_EQ(rig.scheduler.num_running(), 1);
  rig.add({.prompt = range(1, 90), .max_tokens = 1});
  EXPECT_EQ(rig.step(), "1:16+1*");  // nobody overtakes the second
  rig.scheduler.remove(first);
  EXPECT_EQ(rig.step(), "2:0+8* 3:0+1*");
}

// --- Siblings -------------------------------------------------------------------------------------------------------

TEST(Scheduler, HoldsSiblingsBackUntilTheLeadersPromptIsComputed) {
  Rig rig({.max_batched_tokens = 6});
  Sequence& leader = rig.add({.prompt = range(9)});
  Sequence& sibling = rig.add({.prompt = range(9), .leader = leader.id});
  EXPECT_EQ(rig.step(), "1:0+6");
  EXPECT_EQ(sibling.state, Sequence::State::parked);
  EXPECT_EQ(rig.step(), "1:6+3*");
  EXPECT_EQ(sibling.state, Sequence::State::waiting);
  EXPECT_EQ(rig.step(), "1:9+1* 2:8+1*");
  EXPECT_EQ(rig.add({.prompt = range(9), .leader = leader.id}).state, Sequence::State::waiting);
}

TEST(Scheduler, FreesSiblingsWhenTheLeaderIsGone) {
  Rig rig;
  Sequence& leader = rig.add({.prompt = range(9)});
  rig.add({.prompt = range(9), .leader = leader.id});
  rig.scheduler.remove(leader);
  EXPECT_EQ(rig.step(), "2:0+9*");
  EXPECT_EQ(rig.add({.prompt = range(9), .leader = 1}).state, Sequence::State::waiting);
}

TEST(Scheduler, FreesSiblingsOfALeaderThatCameBackFromThePrefixCache) {
  Rig rig({.policy = "priority"}, 8);
  Sequence& leader = rig.add({.prompt = range(3), .max_tokens = 25, .priority = 5});
  rig.steps(6);  // computed 8, of which the prompt is 3
  Sequence& urgent = rig.add({.prompt = range(7, 50), .max_tokens = 21, .priority = 1});
  while (leader.state == Sequence::State::running) rig.step();
  Sequence& sibling = rig.add({.prompt = range(3), .max_tokens = 25, .leader = leader.id});
  EXPECT_EQ(sibling.state, Sequence::State::parked);
  rig.scheduler.remove(urgent);
  rig.step();
  EXPECT_GT(rig.batch.chunks[0].start, leader.prompt_length);
  EXPECT_EQ(sibling.state, Sequence::State::waiting);
}

// --- Cost -----------------------------------------------------------------------------------------------------------

TEST(Scheduler, AllocatesNothingInSteadyDecode) {
  Rig rig({.max_num_seqs = 64}, 3000);
  for (int i = 0; i < 80; ++i) rig.add({.prompt = range(5, 100 * i), .max_tokens = 150});
  const Tokens sampled(64, 7);
  const auto step = [&] {
    rig.scheduler.schedule(rig.batch);
    rig.scheduler.commit(rig.batch, std::span(sampled).first(rig.batch.num_sampled));
  };
  step();
  const std::int64_t before = allocations;
  for (int i = 0; i < 100; ++i) step();  // across many block boundaries
  EXPECT_EQ(allocations, before);
  EXPECT_EQ(rig.batch.num_sampled, 64);
  EXPECT_EQ(rig.scheduler.num_waiting(), 16);
}

}  // namespace
}  // namespace warpjet

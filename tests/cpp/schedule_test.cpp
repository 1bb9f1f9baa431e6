#include "schedule/schedule.h"
#include "token_ranges.h"

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
  bool lockstep = false;
  std::string tenant = "";
};

struct Rig {
  explicit Rig(SchedulerConfig config = {}, int num_blocks = 1000, KvBlocks::Config blocks = {})
      : kv(with_sizes(blocks, num_blocks)), scheduler(with_defaults(config), kv) {}
  static KvBlocks::Config with_sizes(KvBlocks::Config config, int num_blocks) {
    config.block_size = kBlockSize;
    config.num_blocks = num_blocks;
    return config;
  }
  // Most tests are about what happens when blocks run out, so nothing is kept back for it.
  static SchedulerConfig with_defaults(SchedulerConfig config) {
    if (config.admission_quantile == SchedulerConfig{}.admission_quantile) config.admission_quantile = 0;
    return config;
  }

  Sequence& add(const Wish& wish) {
    auto s = std::make_unique<Sequence>();
    s->id = next_id++;
    s->tokens = wish.prompt;
    s->prompt_length = static_cast<int>(wish.prompt.size());
    s->max_length = s->prompt_length + wish.max_tokens;
    s->priority = wish.priority;
    s->tenant = wish.tenant;
    s->domain.salt = wish.salt;
    s->read_prefix_cache = wish.read_prefix_cache;
    s->lockstep = wish.lockstep;
    s->leader = wish.leader;
    return scheduler.add(std::move(s), now);
  }

  bool plan() {
    const bool planned = scheduler.schedule(batch, now);
    scheduler.check();
    return planned;
  }
  // The rows of the oldest plan in flight, as "id:start+count", with a star when sampled; "-" is surplus.
  std::string retire() {
    const int samples = samples_in_flight.front();
    samples_in_flight.erase(samples_in_flight.begin());
    rows = scheduler.retire(one_token_each(samples, 7), now);
    scheduler.check();
    std::string text;
    for (const Scheduler::Row& row : rows) {
      if (!text.empty()) text += " ";
      text += row.sequence ? cat(row.sequence->id, ":", row.start, "+", row.count, row.sampled ? "*" : "") : "-";
    }
    return text;
  }
  bool launch() {
    if (!plan()) return false;
    samples_in_flight.push_back(batch.num_samples());
    return true;
  }
  // One step, planned and retired.
  std::string step() { return launch() ? retire() : ""; }
  void steps(int count) {
    for (int i = 0; i < count; ++i) step();
  }
  void remove(Sequence& s) {
    scheduler.remove(s, now);
    scheduler.check();
  }

  KvBlocks kv;
  Scheduler scheduler;
  Batch batch;
  std::span<const Scheduler::Row> rows;
  std::vector<int> samples_in_flight;
  SequenceId next_id = 1;
  Micros now = 0;
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
  EXPECT_NE(message_of([] { Rig rig({.max_in_flight = 0}); }).find("max_in_flight"), std::string::npos);
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
  EXPECT_EQ(s.state, SequenceState::waiting);
  EXPECT_EQ(rig.step(), "1:0+6*");
  EXPECT_EQ(s.state, SequenceState::running);
  EXPECT_EQ(s.tokens.back(), 7);
  EXPECT_EQ(rig.step(), "1:6+1*");
  EXPECT_EQ(s.output_length(), 2);
  EXPECT_EQ(s.computed, 7);
  EXPECT_EQ(s.table.published, 1);
}

TEST(Scheduler, HasAnEmptyBatchWhenNothingIsLeft) {
  Rig rig;
  EXPECT_EQ(rig.step(), "");
  Sequence& s = rig.add({.prompt = range(3)});
  rig.step();
  rig.remove(s);
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
  EXPECT_EQ(rig.step(), "1:2+1* 2:2+1* 3:6+6");
}

TEST(Scheduler, RunsAPromptWholeWhenChunkingIsOff) {
  Rig rig({.max_batched_tokens = 8, .chunked_prefill = false});
  rig.add({.prompt = range(6)});
  rig.add({.prompt = range(6, 50)});
  EXPECT_EQ(rig.step(), "1:0+6*");
  EXPECT_EQ(rig.step(), "1:6+1* 2:0+6*");
}

TEST(Scheduler, DoesNotLetAWholePromptWaitForDecodesToEnd) {
  Rig rig({.max_batched_tokens = 8, .chunked_prefill = false});
  rig.add({.prompt = range(1)});
  rig.step();
  rig.add({.prompt = range(8, 50)});
  EXPECT_EQ(rig.step(), "1:1+1* 2:0+7");
  EXPECT_EQ(rig.step(), "1:2+1* 2:7+1*");
}

TEST(TenantClocks, ChargeForWhatWasUsed) {
  TenantClocks clocks;
  clocks.enter("a");
  clocks.enter("a");
  EXPECT_EQ(clocks.start("a", 1000), 0);
  EXPECT_EQ(clocks.start("a", 1000), 1000);
  clocks.give_back("a", 900);
  clocks.leave("a");
  clocks.enter("a");
  EXPECT_EQ(clocks.start("a", 1000), 1100);
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
  rig.remove(first);
  EXPECT_EQ(rig.step(), "2:3+1* 3:0+2*");
}

TEST(Scheduler, ServesByArrivalOrByPriority) {
  for (const std::string_view policy : {"fcfs", "priority"}) {
    Rig rig({.max_num_seqs = 1, .policy = policy});
    for (const int priority : {3, 1, 2, 1}) rig.add({.prompt = range(2), .priority = priority});
    std::vector<SequenceId> order;
    while (!rig.scheduler.idle()) {
      rig.step();
      order.push_back(rig.rows[0].sequence->id);
      rig.remove(*rig.rows[0].sequence);
    }
    EXPECT_EQ(order, policy == "fcfs" ? (std::vector<SequenceId>{1, 2, 3, 4}) : (std::vector<SequenceId>{2, 4, 3, 1}));
  }
}

TEST(Scheduler, RemovesASequenceInAnyState) {
  Rig rig({.max_num_seqs = 1});
  Sequence& running = rig.add({.prompt = range(9)});
  rig.step();
  Sequence& leader = rig.add({.prompt = range(9, 50)});
  Sequence& parked = rig.add({.prompt = range(9, 50), .leader = leader.id});
  EXPECT_EQ(parked.state, SequenceState::parked);
  EXPECT_EQ(rig.scheduler.num_waiting(), 2);
  rig.remove(parked);
  rig.remove(leader);
  rig.remove(running);
  EXPECT_TRUE(rig.scheduler.idle());
  EXPECT_EQ(rig.kv.device().num_held(), 0);
  EXPECT_EQ(rig.kv.device().num_cached(), 2);
}

// --- Prefix cache ---------------------------------------------------------------------------------------------------

TEST(Scheduler, ReusesThePrefixButComputesTheLastToken) {
  Rig rig;
  rig.add({.prompt = range(8)});
  rig.step();
  EXPECT_EQ(rig.add({.prompt = range(8)}).id, 2u);
  Sequence& longer = rig.add({.prompt = range(11)});
  EXPECT_EQ(rig.step(), "1:8+1* 2:7+1* 3:8+3*");  // three tokens of the last block are copied
  EXPECT_EQ(longer.cached, 8);
}

TEST(Scheduler, ReusesWhatAFinishedSequenceGenerated) {
  Rig rig;
  Sequence& s = rig.add({.prompt = range(4)});
  rig.steps(6);
  const Tokens conversation = s.tokens;
  rig.remove(s);
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
  Rig rig({}, 1000, {.prefix_caching = false});
  Sequence& first = rig.add({.prompt = range(8)});
  rig.step();
  Sequence& second = rig.add({.prompt = range(8), .leader = first.id});
  EXPECT_EQ(rig.step(), "1:8+1* 2:0+8*");
  EXPECT_EQ(rig.kv.tree().size(), 0);
  rig.remove(first);
  rig.remove(second);
  EXPECT_EQ(rig.kv.device().num_free(), 999);
}

TEST(Scheduler, KeepsOneCopyOfPromptsComputedSideBySide) {
  Rig rig;
  Sequence& a = rig.add({.prompt = range(9)});
  Sequence& b = rig.add({.prompt = range(9), .read_prefix_cache = false});  // else it would wait for a
  EXPECT_EQ(rig.step(), "1:0+9* 2:0+9*");
  EXPECT_EQ(a.table.groups[0].blocks[0], b.table.groups[0].blocks[0]);
  EXPECT_EQ(a.table.groups[0].blocks[1], b.table.groups[0].blocks[1]);
  EXPECT_NE(a.table.groups[0].blocks[2], b.table.groups[0].blocks[2]);
  EXPECT_EQ(rig.kv.device().num_held(), 4);
  rig.remove(a);  // b keeps what it shares
  rig.steps(8);
  EXPECT_EQ(rig.kv.device().num_held(), 5);
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
  EXPECT_EQ(second.state, SequenceState::waiting);
  EXPECT_EQ(second.computed, 0);
  EXPECT_LT(second.arrival, third.arrival);
  rig.remove(first);
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
  rig.remove(first);
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
  EXPECT_EQ(low.state, SequenceState::waiting);
  EXPECT_EQ(high.state, SequenceState::running);
}

TEST(Scheduler, AdmitsAgainOnceWhatBlockedItIsGone) {
  Rig rig({}, 6);
  Sequence& first = rig.add({.prompt = range(15), .max_tokens = 5});
  rig.add({.prompt = range(8, 50), .max_tokens = 5});
  rig.steps(2);
  EXPECT_EQ(rig.scheduler.num_running(), 1);
  rig.add({.prompt = range(1, 90), .max_tokens = 1});
  EXPECT_EQ(rig.step(), "1:16+1*");  // nobody overtakes the second
  rig.remove(first);
  EXPECT_EQ(rig.step(), "2:0+8* 3:0+1*");
}

// --- Siblings -------------------------------------------------------------------------------------------------------

TEST(Scheduler, StartsSiblingsFromTheLeadersPromptWithoutComputingItAgain) {
  Rig rig({.max_batched_tokens = 6});
  Sequence& leader = rig.add({.prompt = range(9)});
  Sequence& sibling = rig.add({.prompt = range(9), .leader = leader.id});
  EXPECT_EQ(rig.step(), "1:0+6");
  EXPECT_EQ(sibling.state, SequenceState::parked);
  EXPECT_EQ(rig.step(), "1:6+3* 2:9+0*");
  EXPECT_EQ(sibling.table.groups[0].blocks[1], leader.table.groups[0].blocks[1]);
  EXPECT_NE(sibling.table.groups[0].blocks[2], leader.table.groups[0].blocks[2]);
  EXPECT_EQ(rig.step(), "1:9+1* 2:9+1*");
  ASSERT_EQ(rig.batch.copies.size(), 1u);  // the page that both go on writing
  EXPECT_EQ(rig.batch.copies[0].source, leader.table.groups[0].blocks[2]);
  EXPECT_EQ(rig.batch.copies[0].target, sibling.table.groups[0].blocks[2]);
  EXPECT_EQ(rig.add({.prompt = range(9), .leader = leader.id}).state, SequenceState::waiting);
}

TEST(Scheduler, LetsSiblingsWithoutASlotStartOnTheirOwnLater) {
  Rig rig({.max_num_seqs = 2});
  Sequence& leader = rig.add({.prompt = range(9)});
  for (int i = 0; i < 2; ++i) rig.add({.prompt = range(9), .leader = leader.id});
  EXPECT_EQ(rig.step(), "1:0+9* 2:9+0*");
  EXPECT_EQ(rig.step(), "1:9+1* 2:9+1*");
  rig.remove(leader);
  EXPECT_EQ(rig.step(), "2:10+1* 3:8+1*");
}

TEST(Scheduler, SharesThePromptBetweenSiblingsWithoutAPrefixCache) {
  Rig rig({}, 1000, {.prefix_caching = false});
  Sequence& leader = rig.add({.prompt = range(8)});
  Sequence& sibling = rig.add({.prompt = range(8), .leader = leader.id});
  EXPECT_EQ(rig.step(), "1:0+8* 2:8+0*");
  EXPECT_EQ(sibling.table.groups[0].blocks, leader.table.groups[0].blocks);
  EXPECT_TRUE(rig.kv.copies().empty());
}

TEST(Scheduler, FreesSiblingsWhenTheLeaderIsGone) {
  Rig rig;
  Sequence& leader = rig.add({.prompt = range(9)});
  rig.add({.prompt = range(9), .leader = leader.id});
  rig.remove(leader);
  EXPECT_EQ(rig.step(), "2:0+9*");
  EXPECT_EQ(rig.add({.prompt = range(9), .leader = 1}).state, SequenceState::waiting);
}

TEST(Scheduler, FreesSiblingsOfALeaderThatCameBackFromThePrefixCache) {
  Rig rig({.policy = "priority"}, 8);
  Sequence& leader = rig.add({.prompt = range(3), .max_tokens = 25, .priority = 5});
  rig.steps(6);  // computed 8, of which the prompt is 3
  Sequence& urgent = rig.add({.prompt = range(7, 50), .max_tokens = 21, .priority = 1});
  while (leader.state == SequenceState::running) rig.step();
  Sequence& sibling = rig.add({.prompt = range(3), .max_tokens = 25, .leader = leader.id});
  EXPECT_EQ(sibling.state, SequenceState::parked);
  rig.remove(urgent);
  rig.step();
  EXPECT_GT(rig.rows[0].start, leader.prompt_length);
  EXPECT_EQ(sibling.state, SequenceState::waiting);
}

// --- Planning ahead -------------------------------------------------------------------------------------------------

TEST(Scheduler, PlansTheNextStepBeforeItKnowsTheLastOnesToken) {
  Rig rig({.max_in_flight = 3});
  Sequence& s = rig.add({.prompt = range(3), .max_tokens = 3});
  EXPECT_TRUE(rig.launch());
  EXPECT_TRUE(rig.launch());
  EXPECT_TRUE(rig.launch());
  EXPECT_EQ(s.length(), 3);
  EXPECT_EQ(s.planned, 5);
  EXPECT_EQ(rig.retire(), "1:0+3*");
  EXPECT_FALSE(rig.plan()) << "three tokens are wanted and three are on their way";
  EXPECT_EQ(rig.retire(), "1:3+1*");
  EXPECT_EQ(rig.retire(), "1:4+1*");
  EXPECT_EQ(s.length(), 6);
}

TEST(Scheduler, DropsTheRowsOfWhoEndedWhileTheyWereInFlight) {
  Rig rig({.max_in_flight = 2});
  Sequence& s = rig.add({.prompt = range(3)});
  Sequence& other = rig.add({.prompt = range(2, 50)});
  rig.launch();
  rig.launch();
  EXPECT_EQ(rig.retire(), "1:0+3* 2:0+2*");
  rig.remove(s);
  EXPECT_EQ(rig.kv.device().num_held(), static_cast<int>(other.table.groups[0].blocks.size()));
  EXPECT_EQ(rig.retire(), "- 2:2+1*");
  EXPECT_EQ(rig.step(), "2:3+1*");
}

TEST(Scheduler, TakesSeveralTokensOfOneSample) {
  Rig rig({.max_in_flight = 2});
  Sequence& s = rig.add({.prompt = range(3), .max_tokens = 20});
  Sequence& other = rig.add({.prompt = range(2, 50), .max_tokens = 20});
  rig.steps(2);  // 5 and 4 tokens, of which 4 and 3 are computed
  EXPECT_TRUE(rig.plan());
  EXPECT_TRUE(rig.plan());
  TokenRanges drawn;
  drawn.tokens = {7, 8, 9};
  drawn.ends = {2, 3};
  auto rows = rig.scheduler.retire(drawn, 0);
  rig.scheduler.check();
  EXPECT_EQ(rows[0].start, 4);
  EXPECT_EQ(rows[0].count, 2);
  EXPECT_EQ(s.length(), 7);
  EXPECT_EQ(s.computed, 6);
  EXPECT_EQ(other.length(), 5);
  EXPECT_EQ(other.computed, 4);
  EXPECT_EQ(s.tokens.back(), 8);
  EXPECT_EQ(other.tokens.back(), 9);

  rows = rig.scheduler.retire(one_token_each(2, 3), 0);  // planned before the length was known
  rig.scheduler.check();
  EXPECT_EQ(rows[0].start, 6);
  EXPECT_EQ(s.computed, 7);
  EXPECT_EQ(rows[1].start, 4);

  drawn.tokens = {};
  drawn.ends = {0, 0};
  EXPECT_TRUE(rig.plan());
  rig.scheduler.retire(drawn, 0);
  EXPECT_EQ(s.length(), 8);
}

TEST(Scheduler, SendsNothingButTheStepInSteadyDecode) {
  Rig rig;
  rig.add({.prompt = range(3)});
  rig.add({.prompt = range(3, 50)});
  rig.steps(4);
  EXPECT_EQ(rig.batch.num_decodes, 2);
  EXPECT_TRUE(rig.batch.changes.empty() && rig.batch.chunks.empty() && rig.batch.words.empty());
  rig.steps(4);  // a block a sequence in four steps
  rig.step();
  EXPECT_TRUE(rig.batch.changes.empty());
}

TEST(Scheduler, WaitsForTheChoiceOfALockstepSequence) {
  Rig rig({.max_in_flight = 2});
  Sequence& s = rig.add({.prompt = range(3), .lockstep = true});
  EXPECT_TRUE(rig.launch());
  EXPECT_FALSE(rig.launch());
  rig.retire();
  EXPECT_FALSE(rig.launch());
  rig.scheduler.choose(s, 42);
  EXPECT_EQ(rig.step(), "1:3+1*");
  EXPECT_EQ(s.tokens[3], 42);
  EXPECT_EQ(rig.batch.changes.back().kind, SlotChange::Kind::token);
}

TEST(Scheduler, ForksASequenceOntoSharedBlocks) {
  Rig rig;
  Sequence& parent = rig.add({.prompt = range(6), .lockstep = true});
  rig.step();
  auto child = std::make_unique<Sequence>();
  child->id = rig.next_id++;
  child->tokens = range(6);
  child->tokens.push_back(99);
  child->prompt_length = 6;
  child->max_length = 20;
  child->lockstep = true;
  Sequence& s = rig.scheduler.fork(parent, std::move(child), 0);
  rig.scheduler.choose(parent, 98);
  rig.scheduler.check();
  EXPECT_EQ(s.table.groups[0].blocks[0], parent.table.groups[0].blocks[0]);
  EXPECT_NE(s.table.groups[0].blocks[1], parent.table.groups[0].blocks[1]);
  EXPECT_EQ(rig.step(), "1:6+1* 2:6+1*");
  EXPECT_EQ(rig.batch.copies.size(), 1u);
}

TEST(Scheduler, AFailedAdmissionChangesNothing) {
  Rig rig({}, 6);
  Sequence& gone = rig.add({.prompt = range(8), .max_tokens = 1});
  rig.step();
  rig.remove(gone);
  rig.add({.prompt = range(7, 50), .max_tokens = 9});
  rig.step();
  rig.add({.prompt = range(16), .max_tokens = 4});  // begins with cached blocks, and does not fit
  const std::uint64_t before = rig.kv.digest();
  EXPECT_TRUE(rig.launch());
  EXPECT_EQ(rig.scheduler.num_waiting(), 1);
  EXPECT_EQ(rig.kv.digest(), before);
}

// --- Admission ------------------------------------------------------------------------------------------------------

TEST(Scheduler, NeverPreemptsWhenItCountsOnTheLongestOutputs) {
  Rig rig({.admission_quantile = 1}, 21);  // 20 blocks
  for (int i = 0; i < 10; ++i) rig.add({.prompt = range(4, 100 * i), .max_tokens = 16});
  int finished = 0;
  while (!rig.scheduler.idle()) {
    ASSERT_NE(rig.step(), "");
    EXPECT_LE(rig.scheduler.num_running(), 4);  // five blocks each
    const std::vector<Scheduler::Row> rows(rig.rows.begin(), rig.rows.end());
    for (const Scheduler::Row& row : rows) {
      if (row.sequence->length() < row.sequence->max_length) continue;
      rig.remove(*row.sequence);
      ++finished;
    }
  }
  EXPECT_EQ(finished, 10);
  EXPECT_EQ(rig.scheduler.num_preemptions(), 0);
}

TEST(OutputLengths, LearnWhatOutputsTurnOutToBe) {
  OutputLengths lengths;
  EXPECT_EQ(lengths.quantile(1000, 0.9), 0);
  for (int i = 1; i <= 200; ++i) lengths.add(1000, i % 2 == 0 ? 100 : 10);
  EXPECT_NEAR(lengths.quantile(1000, 0.9), 100, 17);
  EXPECT_NEAR(lengths.quantile(1000, 0.4), 10, 17);
  EXPECT_EQ(lengths.quantile(1000, 1.0) <= 1000, true);
  EXPECT_EQ(lengths.quantile(8, 0.9), 0) << "another class of wishes";
}

TEST(StepTimeModel, FindsTheCostOfTokensAndContext) {
  StepTimeModel model;
  unsigned state = 1;
  for (int i = 0; i < 400; ++i) {
    state = state * 1664525u + 1013904223u;
    const double tokens = state >> 22, context = state >> 12;
    model.add(tokens, context, 500 + 2 * tokens + 0.001 * context);
  }
  EXPECT_TRUE(model.known());
  EXPECT_NEAR(model.predict(300, 100000), 500 + 600 + 100, 12);
  EXPECT_NEAR(model.tokens_within(2000, 100, 0), (2000 - 700) / 2.0, 20);
  EXPECT_EQ(model.tokens_within(100, 100, 0), 0);
}

TEST(Scheduler, KeepsStepsShortWhenItIsGivenATarget) {
  Rig rig({.max_batched_tokens = 1000, .step_target = 1000});
  rig.add({.prompt = range(30)});
  for (int i = 0; i < 60; ++i) {  // 10 us a token, 100 us a step
    if (rig.step().empty()) break;
    double tokens = 0;
    for (const Scheduler::Row& row : rig.rows) tokens += row.count;
    rig.scheduler.observe_time(100 + 10 * tokens);
    if (i % 4 == 0) rig.add({.prompt = range(10 + i, 1000 * i), .max_tokens = 100});
  }
  rig.add({.prompt = range(900, 5)});
  rig.step();
  EXPECT_LE(rig.batch.num_tokens, 110);
  EXPECT_GE(rig.batch.num_tokens, 60);
}

TEST(Scheduler, DoesNotLetOneLongPromptKeepShortOnesOut) {
  Rig rig({.max_batched_tokens = 1024});
  rig.add({.prompt = range(3000)});
  rig.step();
  rig.add({.prompt = range(10, 9000)});
  const std::string step = rig.step();
  EXPECT_NE(step.find("2:0+10*"), std::string::npos) << step;
}

TEST(Scheduler, WaitsForAPrefixThatAnotherIsComputing) {
  Rig rig({.max_batched_tokens = 8});
  rig.add({.prompt = range(16)});
  Sequence& second = rig.add({.prompt = range(15)});
  EXPECT_EQ(rig.step(), "1:0+8");
  EXPECT_EQ(rig.step(), "1:8+8*");
  EXPECT_EQ(second.state, SequenceState::waiting);
  EXPECT_EQ(rig.step(), "1:16+1* 2:14+1*");
  EXPECT_EQ(second.cached, 14);
}

TEST(Scheduler, DoesNotWaitForAPrefixForEver) {
  Rig rig({.max_batched_tokens = 600});
  rig.add({.prompt = range(3000)});
  Sequence& second = rig.add({.prompt = range(2900)});
  rig.step();
  rig.step();
  EXPECT_EQ(second.state, SequenceState::parked);
  rig.now += 60'000;
  rig.step();
  EXPECT_NE(second.state, SequenceState::parked);
}

TEST(Scheduler, SharesTheEngineBetweenTenants) {
  Rig rig({.max_num_seqs = 1, .policy = "fair"});
  for (int i = 0; i < 5; ++i) rig.add({.prompt = range(8), .max_tokens = 1, .tenant = "greedy"});
  rig.add({.prompt = range(8), .max_tokens = 1, .tenant = "modest"});
  std::vector<SequenceId> order;
  while (!rig.scheduler.idle()) {
    rig.step();
    order.push_back(rig.rows[0].sequence->id);
    rig.remove(*rig.rows[0].sequence);
  }
  EXPECT_EQ(order, (std::vector<SequenceId>{1, 6, 2, 3, 4, 5}));
}

TEST(Scheduler, ALowPriorityDoesNotStarveUnderFair) {
  Rig rig({.max_num_seqs = 1, .policy = "fair"});
  Sequence& low = rig.add({.prompt = range(8), .max_tokens = 1000, .priority = 2, .tenant = "a"});
  int served = 0;
  while (low.state == SequenceState::waiting && served < 1000) {  // urgent ones keep coming
    if (rig.scheduler.num_waiting() < 3) rig.add({.prompt = range(2000), .max_tokens = 1, .tenant = "b"});
    rig.step();
    if (rig.rows.empty() || rig.rows[0].sequence == &low) break;
    rig.remove(*rig.rows[0].sequence);
    ++served;
  }
  EXPECT_GT(served, 10);
  EXPECT_LT(served, 2 * 65536 / 2000 + 10) << "two steps of priority are worth 131,072 tokens";
}

// --- Swapping and pausing -------------------------------------------------------------------------------------------

TEST(Scheduler, ASwappedSequenceGoesOnWhereItWas) {
  for (const bool caching : {true, false}) {
    Rig rig({.preemption = Preemption::swap}, 6, {.num_host_blocks = 8, .prefix_caching = caching});
    Sequence& first = rig.add({.prompt = range(7), .max_tokens = 13});
    Sequence& second = rig.add({.prompt = range(3, 50), .max_tokens = 10});
    while (rig.scheduler.num_preemptions() == 0) rig.step();
    EXPECT_EQ(rig.scheduler.num_swaps(), 1);
    EXPECT_EQ(second.state, SequenceState::waiting);
    const int computed = second.length() - 1;
    EXPECT_EQ(second.swapped_tokens, computed);
    rig.remove(first);
    EXPECT_EQ(rig.step(), cat("2:", computed, "+1*"));
    EXPECT_FALSE(rig.batch.copies.empty());
    EXPECT_EQ(second.swapped_tokens, 0);
  }
}

TEST(Scheduler, APausedSequenceHoldsNothingAndComesBack) {
  Rig rig;
  Sequence& s = rig.add({.prompt = range(6)});
  rig.steps(2);
  rig.scheduler.pause(s, 0, WaitReason::reader);
  rig.scheduler.check();
  EXPECT_EQ(rig.kv.device().num_held(), 0);
  EXPECT_EQ(rig.step(), "");
  rig.scheduler.resume(s, 0);
  EXPECT_EQ(rig.step(), "1:4+4*");
  EXPECT_EQ(s.output_length(), 3);
}

TEST(Scheduler, PausesASequenceInFlight) {
  Rig rig({.max_in_flight = 2});
  Sequence& s = rig.add({.prompt = range(6)});
  rig.launch();
  rig.launch();
  rig.scheduler.pause(s, 0, WaitReason::reader);
  rig.scheduler.check();
  EXPECT_EQ(rig.retire(), "1:0+6*");
  rig.scheduler.resume(s, 0);
  EXPECT_FALSE(rig.launch()) << "a token of it is still to come";
  EXPECT_EQ(rig.retire(), "1:6+1*");
  EXPECT_EQ(s.output_length(), 2);
  EXPECT_EQ(rig.step(), "1:0+8*");
}

TEST(Scheduler, LetsGoOfBlocksBehindTheWindow) {
  Rig rig({.max_batched_tokens = 8}, 12, {.windows = {6}});
  Sequence& s = rig.add({.prompt = range(60), .max_tokens = 20});
  while (s.output_length() < 20) {
    ASSERT_NE(rig.step(), "");
    EXPECT_LE(rig.kv.device().num_held(), 6);
  }
}

// --- Cost -----------------------------------------------------------------------------------------------------------

TEST(Scheduler, AllocatesNothingInSteadyDecode) {
  Rig rig({.max_num_seqs = 64, .max_in_flight = 2}, 3000);
  for (int i = 0; i < 80; ++i) rig.add({.prompt = range(5, 100 * i), .max_tokens = 150});
  const TokenRanges sampled = one_token_each(64, 7);
  const auto step = [&] {
    ASSERT_TRUE(rig.scheduler.schedule(rig.batch, 0));
    if (rig.scheduler.num_in_flight() == 2) rig.scheduler.retire(sampled, 0);
  };
  for (int i = 0; i < 4; ++i) step();
  const std::int64_t before = allocations;
  for (int i = 0; i < 100; ++i) step();  // across many block boundaries
  EXPECT_EQ(allocations, before);
  EXPECT_EQ(rig.batch.num_samples(), 64);
  EXPECT_EQ(rig.scheduler.num_waiting(), 16);
}

}  // namespace
}  // namespace warpjet

// Histories: an engine's configuration and what happens to it, command by command, as a script that can be made from a
// seed, printed, read back, run and shrunk. A run drives the step loop by hand over the toy device, so it is the same
// every time; it reports the first thing that is not as the engine's contract says.
#pragma once

#include <deque>
#include <functional>
#include <iosfwd>
#include <map>

#include "history_device.h"
#include "history_ledger.h"

namespace warpjet::history {

// --- Scripts --------------------------------------------------------------------------------------------------------

// An engine. Policies and modes are indices of their names.
struct Settings {
  int block_size = 4, blocks = 40, host_blocks = 0;
  int window = 0, second_window = -1;  // of the first group of layers, and of a second; -1: there is none
  int seqs = 4, batch = 16, depth = 2;
  int policy = 0;      // fcfs, priority, fair
  int preemption = 0;  // auto, swap, recompute
  int caching = 1, chunked = 1;
  int quantile = 90;    // admission_quantile, in percent
  int itl_target = 0;   // ms
  int unread = 100000;  // max_unread_tokens
  int events = 0;       // kept; 0: none
  int queued = 1000, queued_tokens = 100000, queued_tenant = 0;
  int model_len = 40;
  int rope_original = 0;
  int turn_us = 100;  // how far the clock goes in a turn

  std::vector<int> windows() const {
    return second_window < 0 ? std::vector<int>{window} : std::vector<int>{window, second_window};
  }
  int capacity() const { return blocks / static_cast<int>(windows().size()) * block_size; }  // tokens
};

// A request. -1: not given.
struct Submission {
  int queue = 0;
  std::vector<int> prompt;
  int n = 1, beams = 1, length_penalty = 1;
  int seed = 1;  // 0: none
  int salt = 0, tenant = 0, priority = 0, cache_priority = 3, skip_cache = 0;
  int deadline = -1;  // us from now
  int max_tokens = 8, min_tokens = 0, ignore_eos = 0;
  std::vector<int> stop;
  int logprobs = -1, prompt_logprobs = -1;
  int guided = 0;
};

constexpr int kNumQueues = 2;

struct Command {
  enum class Kind : std::uint8_t {
    submit,    // request a
    cancel,    // request a, sample b or all of it (-1)
    pause,     // request a
    resume,    // request a
    turn,      // a times
    complete,  // a steps, by the device
    step,      // a times: the device completes one, then a turn
    read,      // queue a
    clock,     // goes on by a us
    reset,     // the prefix cache
    events,    // are fetched
    close,
    guide,  // answers a samples that wait for it, as far as there are so many
  };
  Kind kind = Kind::turn;
  int a = 1, b = -1;
  Submission submission;
};

struct History {
  Settings settings;
  std::vector<Command> commands;
};

// A line for the settings, then one a command; what has its default value is left out.
std::string to_text(const History& history);
History parse_history(const std::string& text);  // throws corrupt

// 200 commands, for an engine of any settings or of these. (history_make.cpp)
History make_history(std::uint64_t seed);
History make_history(std::uint64_t seed, const Settings& settings);

// What it describes: the model's text decides what a guide says. (history_setup.cpp)
StepLoop::Config loop_config(const Settings& settings);
ToyDevice::Config device_config(const Settings& settings);
Ledger::Config ledger_config(const Settings& settings, bool faults);
Request make_request(const Submission& submission, const Rules& rules, Micros now);

// --- Running --------------------------------------------------------------------------------------------------------

// What happened: a test of everything should have seen everything.
struct Totals {
  std::int64_t histories = 0, commands = 0, turns = 0, requests = 0, samples = 0, refused = 0, cancels = 0;
  std::int64_t stopped = 0, at_length = 0, aborted = 0, errors = 0, late = 0, too_long = 0, broken = 0;
  std::int64_t no_memory = 0, masks = 0, completed = 0, dead_ends = 0;
  std::int64_t steps = 0, rows = 0, surplus = 0, joins = 0, forks = 0, siblings = 0, exchanges = 0, rewrites = 0;
  std::int64_t copies = 0, offloads = 0, restores = 0, beyond_window = 0, grouped = 0;
  std::int64_t tokens = 0, cached = 0, preemptions = 0, swaps = 0, pauses = 0, events = 0, closes = 0;
  Totals& operator+=(const Totals& other);
};
std::string to_text(const Totals& totals);

struct Report {
  std::string failure;  // empty: all is well
  Totals totals;
  Ledger::Results results;          // of the samples that ended by themselves
  std::map<RequestId, int> labels;  // which request of the script it was
  bool engine_failed = false;       // only with faults
};

// What may be done to a run.
struct Faults {
  StepwiseExecutor::Faults device;
  std::function<bool(StepLoop&)> turn;  // instead of StepLoop::turn()
  double watchdog_s = 1e6;
  bool check = true;      // the engine checks itself after every transaction
  bool injected = false;  // the engine may fail, or requests with out_of_memory
};
Report run(const History& history, const Faults& faults = {});  // (history_run.cpp)

// A smaller history that fails too: commands are left out, requests and settings made simpler (history_shrink.cpp).
History shrink(const History& history, const std::function<bool(const History&)>& fails);
// Runs it. When it fails: shrinks it, writes that to history_<name>.txt here and returns what there is to say.
std::string run_and_explain(const History& history, const std::string& name, Totals& totals);
// The histories of seeds [first, first + count) on `threads` threads, until one fails or `seconds` are over.
std::string run_many(std::uint64_t first, std::uint64_t count, int threads, double seconds, Totals& totals);

}  // namespace warpjet::history

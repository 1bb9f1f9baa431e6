// Failing histories, made small: commands are left out (ddmin, Zeller & Hildebrandt 2002), then what is left is made
// plain, for as long as it fails in the same way.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <fstream>
#include <mutex>
#include <thread>

#include "history.h"

namespace warpjet::history {
namespace {

using Fails = std::function<bool(const History&)>;

// Leaves out ranges of commands, from halves down to single ones.
bool leave_out(History& history, const Fails& fails) {
  bool changed = false;
  for (std::size_t size = std::max<std::size_t>(1, history.commands.size() / 2); size > 0; size /= 2) {
    for (std::size_t begin = 0; begin < history.commands.size();) {
      History smaller = history;
      const auto first = smaller.commands.begin() + static_cast<std::ptrdiff_t>(begin);
      const std::size_t count = std::min(size, history.commands.size() - begin);
      smaller.commands.erase(first, first + static_cast<std::ptrdiff_t>(count));
      if (fails(smaller)) {
        history = std::move(smaller);
        changed = true;
      } else {
        begin += size;
      }
    }
  }
  return changed;
}

bool try_change(History& history, const Fails& fails, const std::function<bool(History&)>& change) {
  History changed = history;
  if (!change(changed) || !fails(changed)) return false;
  history = std::move(changed);
  return true;
}

// One number: its default, else nearer to it.
bool simplify(History& history, const Fails& fails, const std::function<int&(History&)>& member, int plain) {
  const auto set = [&](int value) {
    return try_change(history, fails, [&](History& h) { return std::exchange(member(h), value) != value; });
  };
  if (set(plain)) return true;
  const int value = member(history);
  return set(plain + (value - plain) / 2) || (value > plain && set(value - 1));
}

bool simplify_settings(History& history, const Fails& fails) {
  const Settings plain;
  bool changed = false;
  for (const auto member :
       {&Settings::host_blocks,   &Settings::window,        &Settings::second_window, &Settings::depth,
        &Settings::policy,        &Settings::preemption,    &Settings::caching,       &Settings::chunked,
        &Settings::quantile,      &Settings::itl_target,    &Settings::unread,        &Settings::events,
        &Settings::queued,        &Settings::queued_tokens, &Settings::queued_tenant, &Settings::model_len,
        &Settings::rope_original, &Settings::turn_us,       &Settings::seqs,          &Settings::batch,
        &Settings::blocks,        &Settings::block_size}) {
    changed |= simplify(
        history, fails, [&](History& h) -> int& { return h.settings.*member; }, plain.*member);
  }
  return changed;
}

bool simplify_submission(History& history, const Fails& fails, std::size_t index) {
  const Submission plain;
  const auto at = [index](History& h) -> Submission& { return h.commands[index].submission; };
  bool changed = false;
  for (const auto member :
       {&Submission::queue, &Submission::n, &Submission::beams, &Submission::length_penalty, &Submission::salt,
        &Submission::tenant, &Submission::priority, &Submission::cache_priority, &Submission::skip_cache,
        &Submission::deadline, &Submission::max_tokens, &Submission::min_tokens, &Submission::ignore_eos,
        &Submission::logprobs, &Submission::prompt_logprobs, &Submission::guided}) {
    changed |= simplify(
        history, fails, [&](History& h) -> int& { return at(h).*member; }, plain.*member);
  }
  changed |= try_change(history, fails, [&](History& h) { return !std::exchange(at(h).stop, {}).empty(); });
  while (try_change(history, fails, [&](History& h) {
    std::vector<int>& prompt = at(h).prompt;
    if (prompt.size() > 1) prompt.pop_back();
    return prompt.size() > 1;
  })) {
    changed = true;
  }
  return changed;
}

bool simplify_commands(History& history, const Fails& fails) {
  bool changed = false;
  for (std::size_t i = 0; i < history.commands.size(); ++i) {
    if (history.commands[i].kind == Command::Kind::submit) {
      changed |= simplify_submission(history, fails, i);
    } else if (history.commands[i].kind == Command::Kind::turn || history.commands[i].kind == Command::Kind::step) {
      changed |= simplify(
          history, fails, [i](History& h) -> int& { return h.commands[i].a; }, 1);
    }
  }
  return changed;
}

}  // namespace

History shrink(const History& history, const Fails& fails) {
  using Seconds = std::chrono::duration<double>;
  const auto start = std::chrono::steady_clock::now();
  constexpr Seconds kPatience{60};
  const Fails in_time = [&](const History& smaller) {
    return std::chrono::steady_clock::now() - start < kPatience && fails(smaller);
  };
  History smallest = history;
  while (leave_out(smallest, in_time) | simplify_settings(smallest, in_time) | simplify_commands(smallest, in_time)) {
  }
  return smallest;
}

namespace {

// What failed, without the numbers.
std::string kind_of(std::string failure) {
  std::erase_if(failure, [](char c) { return c >= '0' && c <= '9'; });
  return failure.substr(0, 80);
}

}  // namespace

std::string run_and_explain(const History& history, const std::string& name, Totals& totals) {
  const Report report = run(history);
  totals += report.totals;
  if (report.failure.empty()) return {};
  const History smallest =
      shrink(history, [&](const History& smaller) { return kind_of(run(smaller).failure) == kind_of(report.failure); });
  const std::string failure = run(smallest).failure, path = cat("history_", name, ".txt");
  const std::string text = cat("# ", name, ": ", failure, "\n", to_text(smallest));
  std::ofstream(path) << text;
  return cat("history ", name, " fails: ", report.failure, "\nshrunk, in ", path, " (replay: histories --replay ", path,
             "):\n", text);
}

std::string run_many(std::uint64_t first, std::uint64_t count, int threads, double seconds, Totals& totals) {
  using Seconds = std::chrono::duration<double>;
  const auto start = std::chrono::steady_clock::now();
  std::atomic<std::uint64_t> next{first};
  std::mutex mutex;
  std::string failure;
  const auto work = [&] {
    Totals mine;
    for (;;) {
      const std::uint64_t seed = next.fetch_add(1);
      if (seed >= first + count || Seconds(std::chrono::steady_clock::now() - start).count() > seconds) break;
      const std::string explained = run_and_explain(make_history(seed), std::to_string(seed), mine);
      if (explained.empty()) continue;
      next.store(first + count);
      const std::lock_guard lock(mutex);
      failure += explained;
    }
    const std::lock_guard lock(mutex);
    totals += mine;
  };
  std::vector<std::thread> others;
  for (int i = 1; i < threads; ++i) others.emplace_back(work);
  work();
  for (std::thread& thread : others) thread.join();
  return failure;
}

}  // namespace warpjet::history

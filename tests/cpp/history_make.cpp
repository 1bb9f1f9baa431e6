// Histories from seeds. Everything is small, so that every corner is near: pools of a few tiny blocks, prompts out of a
// few texts, outputs that say the same.
#include <algorithm>
#include <numeric>

#include "history.h"

namespace warpjet::history {
namespace {

constexpr int kCommands = 200;

// SplitMix64 (Steele, Lea & Flood 2014): the same everywhere.
class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(seed * 0x9e3779b97f4a7c15 + 1) {}
  std::uint64_t next() {
    std::uint64_t z = state_ += 0x9e3779b97f4a7c15;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return z ^ (z >> 31);
  }
  int below(int n) { return static_cast<int>(next() % static_cast<std::uint64_t>(n)); }
  int from(int low, int high) { return low + below(high - low + 1); }  // both included
  bool one_in(int n) { return below(n) == 0; }
  int one_of(std::initializer_list<int> list) { return list.begin()[below(static_cast<int>(list.size()))]; }
  int zipf(int n) { return std::min(below(n), below(n)); }  // small ones more often

 private:
  std::uint64_t state_;
};

class Maker {
 public:
  explicit Maker(std::uint64_t seed) : random_(seed) {}

  History make(const Settings* settings) {
    history_.settings = settings ? *settings : make_settings();
    for (auto& text : texts_) {
      const int alphabet = random_.from(1, kVocab - 3);
      for (int i = 0; i < history_.settings.model_len; ++i) text.push_back(3 + random_.below(alphabet));
    }
    // How fast requests come, compared with how fast they go.
    weights_ = {random_.one_of({10, 20, 40}),  // submit
                random_.one_of({0, 3, 8}),     // cancel
                random_.one_of({0, 1, 3}),     // pause
                random_.one_of({1, 3}),        // resume
                random_.one_of({5, 15}),       // turn
                random_.one_of({5, 10}),       // complete
                random_.one_of({20, 40}),      // step
                random_.one_of({3, 12}),       // read
                random_.one_of({1, 4}),        // clock
                random_.one_of({0, 1}),        // reset
                random_.one_of({0, 1}),        // events
                0,                             // close
                random_.one_of({5, 30})};      // guide
    const bool closes = random_.one_in(12);
    const int close_at = closes ? random_.from(kCommands / 2, kCommands - 1) : -1;
    for (int i = 0; i < kCommands; ++i) {
      history_.commands.push_back(i == close_at ? Command{.kind = Command::Kind::close} : make_command());
    }
    return std::move(history_);
  }

 private:
  Settings make_settings() {
    Settings s;
    s.block_size = random_.one_of({1, 2, 2, 4, 4, 4, 8});
    s.blocks = random_.one_in(3) ? random_.from(4, 12) : random_.from(8, 40);
    s.host_blocks = random_.one_of({0, 0, 3, 10, 40});
    s.window = random_.one_in(4) ? random_.from(3, 9) : 0;
    if (random_.one_in(3)) s.second_window = random_.one_in(4) ? 0 : random_.from(3, 9);
    s.seqs = random_.from(1, 6);
    s.batch = random_.one_of({random_.from(1, 8), random_.from(4, 40), 40});
    s.depth = random_.from(1, 3);
    s.policy = random_.below(3);
    s.preemption = random_.below(3);
    s.caching = !random_.one_in(6);
    s.chunked = !random_.one_in(4);
    s.quantile = random_.one_of({0, 50, 90, 100});
    s.itl_target = random_.one_in(6) ? 1 : 0;
    s.unread = random_.one_in(3) ? random_.from(1, 12) : 100000;
    s.events = random_.one_in(2) ? (random_.one_in(6) ? 16 : 8192) : 0;
    if (random_.one_in(6)) s.queued = random_.from(1, 8);
    if (random_.one_in(8)) s.queued_tokens = random_.from(10, 100);
    if (random_.one_in(6)) s.queued_tenant = random_.from(1, 4);
    const int capacity = s.capacity();
    s.model_len = std::clamp(capacity * random_.from(3, random_.one_in(6) ? 14 : 10) / 10, 3, 64);
    if (random_.one_in(6)) s.rope_original = random_.from(2, s.model_len);
    s.turn_us = random_.one_of({1, 100, 100, 3000});
    return s;
  }

  Command make_command() {
    using enum Command::Kind;
    int pick = random_.below(std::accumulate(weights_.begin(), weights_.end(), 0));
    std::size_t kind = 0;
    for (; pick >= weights_[kind]; ++kind) pick -= weights_[kind];
    Command command{.kind = static_cast<Command::Kind>(kind)};
    switch (command.kind) {
      case submit:
        command.a = num_requests_++;
        command.submission = make_submission(command.a);
        break;
      case cancel:
        command.a = some_request();
        command.b = random_.one_in(3) ? random_.from(0, 3) : -1;
        break;
      case pause:
      case resume:
        command.a = some_request();
        break;
      case turn:
      case step:
        command.a = random_.one_in(4) ? random_.from(1, 12) : random_.from(1, 3);
        break;
      case complete:
        command.a = random_.from(1, 3);
        break;
      case read:
        command.a = random_.below(kNumQueues);
        break;
      case clock:
        command.a = random_.one_of({100, 10'000, 60'000});
        break;
      case guide:
        command.a = random_.one_in(3) ? random_.from(1, 3) : 100;
        break;
      case reset:
      case events:
      case close:
        break;
    }
    return command;
  }

  // Any, but mostly one that is still there; now and then one that never was.
  int some_request() {
    if (num_requests_ == 0 || random_.one_in(30)) return 100000 + random_.below(10);
    return random_.one_in(4) ? random_.below(num_requests_) : num_requests_ - 1 - random_.zipf(num_requests_);
  }

  Submission make_submission(int number) {
    const Settings& settings = history_.settings;
    Submission s;
    s.queue = random_.below(kNumQueues);
    s.salt = random_.one_in(4) ? random_.from(1, kNumSalts - 1) : 0;
    s.seed = number + 1;
    if (s.salt == 0 && random_.one_in(8)) s.seed = 0;
    s.prompt = make_prompt();
    const int room = std::max(1, settings.model_len - static_cast<int>(s.prompt.size()));
    s.max_tokens = random_.from(1, std::min(room + 2, settings.model_len));
    if (random_.one_in(10)) s.max_tokens = -1;
    s.tenant = random_.below(3);
    if (settings.policy > 0) s.priority = random_.from(-2, 2);
    s.cache_priority = random_.one_in(4) ? random_.from(0, 7) : 3;
    s.skip_cache = random_.one_in(12);
    s.ignore_eos = random_.one_in(6);
    if (random_.one_in(12)) s.deadline = random_.one_of({0, 500, 20'000, 200'000});
    if (random_.one_in(3)) {
      for (int i = random_.from(1, 2); i > 0; --i) s.stop.push_back(random_.from(3, kVocab - 1));
    }
    const int most_beams = std::min(settings.seqs, settings.batch);
    if (most_beams > 1 && random_.one_in(8)) {
      s.beams = random_.from(2, std::min(3, most_beams));
      s.length_penalty = random_.from(-1, 2);
      return s;
    }
    if (random_.one_in(4)) s.n = random_.from(2, 3);
    s.guided = random_.one_in(4);
    if (random_.one_in(6)) s.min_tokens = random_.from(0, std::max(0, s.max_tokens));
    if (random_.one_in(8)) s.logprobs = random_.from(0, 3);
    if (random_.one_in(10)) s.prompt_logprobs = random_.from(0, 2);
    if (s.prompt_logprobs >= 0 && random_.one_in(3)) s.max_tokens = s.min_tokens = 0;
    if (random_.one_in(60)) make_invalid(s);
    remember(s);
    return s;
  }

  // The beginning of a common text, perhaps with another end; or a conversation that goes on.
  std::vector<int> make_prompt() {
    const int longest = history_.settings.model_len - 1;
    std::vector<int> prompt = texts_[random_.zipf(std::ssize(texts_))];
    prompt.resize(random_.one_in(4) ? random_.from(1, longest) : random_.from(1, std::min(longest, 20)));
    if (!talks_.empty() && random_.one_in(4)) prompt = talks_[random_.below(std::ssize(talks_))];
    for (int i = random_.one_in(2) ? random_.from(1, 4) : 0; i > 0 && std::cmp_less(prompt.size(), longest); --i) {
      prompt.push_back(random_.below(kVocab));
    }
    return prompt;
  }

  void make_invalid(Submission& s) {
    switch (random_.below(4)) {
      case 0:
        return s.prompt.clear();
      case 1:
        return s.prompt.push_back(kVocab);
      case 2:
        return s.prompt.resize(history_.settings.model_len, 3);
      case 3:
        s.max_tokens = history_.settings.model_len + 1;
    }
  }

  void remember(const Submission& s) {
    if (s.seed == 0 || s.prompt.empty() || s.max_tokens < 0 || std::ssize(talks_) > 5) return;
    Request request{.prompt = {s.prompt.begin(), s.prompt.end()}};
    request.sampling.seed = make_seed(s.seed, s.salt);
    request.sampling.max_tokens = s.max_tokens;
    const Rules rules{.max_model_len = history_.settings.model_len};
    const Tokens output = run_alone(request, rules, 0)[0].tokens;
    std::vector<int> talk = s.prompt;
    talk.insert(talk.end(), output.begin(), output.end());
    if (std::cmp_less(talk.size(), history_.settings.model_len)) talks_.push_back(std::move(talk));
  }

  Random random_;
  History history_;
  std::array<std::vector<int>, 3> texts_;
  std::vector<std::vector<int>> talks_;
  std::array<int, 13> weights_{};
  int num_requests_ = 0;
};

}  // namespace

History make_history(std::uint64_t seed) {
  return Maker(seed).make(nullptr);
}

History make_history(std::uint64_t seed, const Settings& settings) {
  return Maker(seed).make(&settings);
}

}  // namespace warpjet::history

// What was promised to whoever submitted requests, and whether it was kept: C1 to C3 of the engine's contract, and that
// all outputs are what the toy model says they must be. One user thread's.
#pragma once

#include <map>
#include <optional>

#include "history_model.h"

namespace warpjet::history {

constexpr const char* kGuideFailed = "the toy guide has no answer";

class Ledger {
 public:
  struct Config {
    Rules rules;
    int capacity = 0;  // tokens that the KV cache holds
    int max_unread = 1 << 30, depth = 3;
    std::int64_t engine_seed = 0;
    bool caching = true;
    bool faults = false;  // injected ones may end requests with out_of_memory or device
  };
  explicit Ledger(const Config& config) : config_(config) {}

  // What happened, in the order in which it did. `now` is the engine's clock.
  void accepted(const Request& request, RequestId id, int queue = 0);
  void canceled(RequestId id, std::optional<int> sample);
  void closed() { closed_ = true; }  // or failed: whatever is live ends
  void turned(Micros now);           // the engine has seen everything before this
  // All that there was to read in a queue.
  void take(const std::vector<Output>& outputs, int queue = 0);
  void take_all(const std::vector<Output>& outputs, int queue);  // and so there is nothing more

  bool complete() const { return num_live_ == 0; }  // every sample has had its final output
  int num_live() const { return num_live_; }        // samples
  // Requests and prompt tokens that may count against the limits of the engine.
  int live_requests(const std::string* tenant = nullptr) const;
  std::int64_t live_tokens() const;
  std::int64_t work() const;  // tokens that the live samples may still take
  int num_finals() const { return num_finals_; }
  std::int64_t num_tokens() const { return num_tokens_; }
  std::int64_t num_cached() const { return num_cached_; }
  std::int64_t count(FinishReason reason) const { return finals_[static_cast<int>(reason)]; }
  std::int64_t count(ErrorCode code) const { return errors_[static_cast<int>(code)]; }

  // What each sample got when it ended by itself.
  using Results = std::map<std::pair<RequestId, int>, Tokens>;
  const Results& results() const { return results_; }

 private:
  struct Sample {
    Ending expected;
    Tokens tokens;
    std::uint32_t outputs = 0;
    bool ended = false, canceled = false;
    bool must_have_ended = false;  // a cancel or the deadline was seen by the engine
  };
  struct Promise {
    RequestId id = 0;
    Request request;
    int queue = 0;
    std::vector<Sample> samples;
    int num_live = 0;
    bool canceled = false;  // all of it
    std::vector<Logprobs> prompt_logprobs;
  };
  void take(const Output& output, int queue);
  void check_tokens(const Promise& promise, Sample& sample, const Output& output);
  void check_prompt(const Promise& promise, const Sample& sample, const Output& output) const;
  void check_final(const Promise& promise, const Sample& sample, const Output& output);
  void check_error(const Promise& promise, const Sample& sample, const Output& output) const;
  void check_times(const Output& output) const;
  bool fits(const Promise& promise) const;

  const Config config_;
  std::map<RequestId, Promise> promises_;
  Results results_;
  Micros now_ = 0;
  bool closed_ = false;
  int num_live_ = 0, num_finals_ = 0;
  std::int64_t num_tokens_ = 0, num_cached_ = 0;
  std::array<std::int64_t, 8> finals_{};
  std::array<std::int64_t, 16> errors_{};
};

}  // namespace warpjet::history

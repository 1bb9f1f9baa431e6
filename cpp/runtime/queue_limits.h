// How many requests an engine holds, and how many prompt tokens: in all, and for each tenant. Any thread.
#pragma once

#include <warpjet/engine.h>

#include <atomic>
#include <cstdint>
#include <mutex>
#include <string>
#include <unordered_map>

namespace warpjet {

class QueueLimits {
 public:
  explicit QueueLimits(const EngineConfig& config) : config_(config) {}

  // Counts a request. Throws overloaded when there is no room; `seconds` is when a request may be expected to finish.
  void reserve(std::int64_t tokens, const std::string& tenant, double seconds);
  void release(std::int64_t tokens, const std::string& tenant);

  // A request's place, given back unless it was handed over: whatever throws in between.
  class Place {
   public:
    Place(QueueLimits& limits, const Request& request, double seconds)
        : limits_(limits), tokens_(static_cast<std::int64_t>(request.prompt.size())), tenant_(request.tenant) {
      limits_.reserve(tokens_, tenant_, seconds);
    }
    ~Place() {
      if (held_) limits_.release(tokens_, tenant_);
    }
    Place(const Place&) = delete;
    Place& operator=(const Place&) = delete;
    void hand_over() { held_ = false; }

   private:
    QueueLimits& limits_;
    std::int64_t tokens_;
    std::string tenant_;
    bool held_ = true;
  };

 private:
  void reserve_of_tenant(const std::string& tenant);

  const EngineConfig& config_;
  std::atomic<int> requests_{0};
  std::atomic<std::int64_t> tokens_{0};
  std::mutex mutex_;
  std::unordered_map<std::string, int> tenants_;  // their requests; guarded by mutex_
};

}  // namespace warpjet

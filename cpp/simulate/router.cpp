// Which replica gets a request.
#include <queue>
#include <unordered_map>

#include "simulate/simulate.h"

namespace warpjet::sim {
namespace {

class RoundRobin : public Router {
 public:
  explicit RoundRobin(int replicas) : replicas_(replicas) {}
  int choose(const Arrival&) override {
    const int chosen = next_;
    next_ = (next_ + 1) % replicas_;
    return chosen;
  }

 private:
  int replicas_, next_ = 0;
};

// Unfinished requests by replica; of equally loaded ones the first is that which was chosen longest ago.
class Loads {
 public:
  explicit Loads(int replicas) : loads_(replicas), chosen_(replicas) { rebuild(); }

  void set(std::span<const int> loads) {
    loads_.assign(loads.begin(), loads.end());
    rebuild();
  }
  int of(int replica) const { return loads_[replica]; }
  int least() {
    while (stale(heap_.top())) heap_.pop();
    return heap_.top().replica;
  }
  void add(int replica) {
    ++loads_[replica];
    chosen_[replica] = ++choices_;
    heap_.push({loads_[replica], chosen_[replica], replica});
  }

 private:
  struct Entry {
    int load = 0;
    std::int64_t chosen = 0;
    int replica = 0;
    auto operator<=>(const Entry&) const = default;
  };
  bool stale(const Entry& e) const { return e.load != loads_[e.replica] || e.chosen != chosen_[e.replica]; }
  void rebuild() {
    std::vector<Entry> entries;
    for (int i = 0; i < static_cast<int>(loads_.size()); ++i) entries.push_back({loads_[i], chosen_[i], i});
    heap_ = Heap({}, std::move(entries));
  }

  using Heap = std::priority_queue<Entry, std::vector<Entry>, std::greater<>>;
  std::vector<int> loads_;
  std::vector<std::int64_t> chosen_;  // number of the last choice of each
  std::int64_t choices_ = 0;
  Heap heap_;
};

class LeastLoaded : public Router {
 public:
  explicit LeastLoaded(int replicas) : loads_(replicas) {}
  void observe(std::span<const int> loads) override { loads_.set(loads); }
  int choose(const Arrival&) override {
    const int chosen = loads_.least();
    loads_.add(chosen);
    return chosen;
  }

 private:
  Loads loads_;
};

// Remembers where each prefix went last; it does not know what has been evicted there since.
class PrefixAffinity : public Router {
 public:
  PrefixAffinity(const Workload& workload, int replicas) : workload_(workload), loads_(replicas) {}
  void observe(std::span<const int> loads) override { loads_.set(loads); }

  int choose(const Arrival& arrival) override {
    prefixes_.clear();
    std::uint64_t hash = 0;
    for (const Segment& segment : workload_.prefix(arrival)) prefixes_.push_back(hash = mix(hash + mix(segment.key)));
    if (arrival.session) prefixes_.push_back(mix(hash + mix(~std::uint64_t{arrival.key})));
    const int chosen = best();
    for (const std::uint64_t prefix : prefixes_) homes_[prefix] = chosen;
    loads_.add(chosen);
    return chosen;
  }

 private:
  static constexpr int kSlack = 4;  // requests: when there are few, half as many again is soon reached

  int best() {
    const int least = loads_.least(), limit = loads_.of(least) * 3 / 2 + kSlack;
    for (auto prefix = prefixes_.rbegin(); prefix != prefixes_.rend(); ++prefix) {
      const auto home = homes_.find(*prefix);
      if (home != homes_.end() && loads_.of(home->second) <= limit) return home->second;
    }
    return least;
  }

  const Workload& workload_;
  Loads loads_;
  std::unordered_map<std::uint64_t, int> homes_;
  std::vector<std::uint64_t> prefixes_;  // of the request, from the shortest on
};

// THE TABLE of routers.
constexpr RouterKind kRouters[] = {
    {"round_robin", false,
     [](const Workload&, int replicas) -> std::unique_ptr<Router> { return std::make_unique<RoundRobin>(replicas); }},
    {"least_loaded", true,
     [](const Workload&, int replicas) -> std::unique_ptr<Router> { return std::make_unique<LeastLoaded>(replicas); }},
    {"prefix_affinity", true,
     [](const Workload& workload, int replicas) -> std::unique_ptr<Router> {
       return std::make_unique<PrefixAffinity>(workload, replicas);
     }},
};

}  // namespace

const RouterKind& find_router(std::string_view name) {
  std::string known;
  for (const RouterKind& kind : kRouters) {
    if (kind.name == name) return kind;
    known += cat(known.empty() ? "" : ", ", kind.name);
  }
  WJ_FAIL(invalid_argument, "router must be one of ", known, "; got ", quote(name));
}

}  // namespace warpjet::sim

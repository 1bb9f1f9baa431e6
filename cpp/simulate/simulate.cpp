// A run over all replicas, and the search for how many it takes.
#include <algorithm>
#include <cmath>
#include <mutex>
#include <optional>
#include <thread>

#include "simulate/simulate.h"

namespace warpjet {
namespace sim {
namespace {

class Cluster {
 public:
  Cluster(const Setup& setup, int replicas, Team& team)
      : setup_(setup),
        kind_(find_router(setup.config.router)),
        router_(kind_.make(setup.workload, replicas)),
        team_(team),
        replicas_(static_cast<std::size_t>(replicas)),
        inboxes_(static_cast<std::size_t>(replicas)),
        loads_(static_cast<std::size_t>(replicas)) {}

  // Empty: more than `misses` requests miss the objective.
  std::optional<Tally> run(std::int64_t misses) {
    budget_.left = misses;
    const Micros epoch = kind_.needs_loads ? std::llround(setup_.config.router_epoch_ms * 1e3) : kForever;
    const std::vector<Arrival>& arrivals = setup_.workload.arrivals;
    for (std::uint32_t next = 0; next < arrivals.size() && !budget_.spent();) {
      const Micros start = arrivals[next].time / epoch * epoch;
      const Micros end = epoch == kForever ? kForever : start + epoch;
      if (kind_.needs_loads) look(start);
      for (; next < arrivals.size() && arrivals[next].time < end; ++next) {
        inboxes_[static_cast<std::size_t>(router_->choose(arrivals[next]))].push_back(next);
      }
    }
    team_.run(size(), [this](int i) { run_to_end(i); });
    if (budget_.spent()) return std::nullopt;
    WJ_CHECK(total_.requests == static_cast<std::int64_t>(arrivals.size()));
    return total_;
  }

 private:
  int size() const { return static_cast<int>(replicas_.size()); }

  Replica& replica(int index) {
    auto& owned = replicas_[static_cast<std::size_t>(index)];
    if (!owned) owned = std::make_unique<Replica>(setup_, budget_);
    for (const std::uint32_t arrival : inboxes_[static_cast<std::size_t>(index)]) owned->submit(arrival);
    inboxes_[static_cast<std::size_t>(index)].clear();
    return *owned;
  }

  // The loads at `time`.
  void look(Micros time) {
    team_.run(size(), [&](int i) {
      Replica& one = replica(i);
      one.advance(time);
      loads_[static_cast<std::size_t>(i)] = one.load();
    });
    router_->observe(loads_);
  }

  // One after another, and each is gone when it is through: memory is that of a few.
  void run_to_end(int index) {
    constexpr Micros kSlice = 60'000'000;
    Replica& one = replica(index);
    for (Micros time = kSlice; !one.done() && !budget_.spent(); time += kSlice) {
      one.advance(time);
      team_.poll();
    }
    if (!budget_.spent()) {
      const std::lock_guard lock(mutex_);
      total_.add(one.finish());
    }
    replicas_[static_cast<std::size_t>(index)].reset();
    inboxes_[static_cast<std::size_t>(index)] = {};
  }

  const Setup& setup_;
  const RouterKind& kind_;
  std::unique_ptr<Router> router_;
  Team& team_;
  MissBudget budget_;
  std::vector<std::unique_ptr<Replica>> replicas_;
  std::vector<std::vector<std::uint32_t>> inboxes_;  // routed, not yet submitted
  std::vector<int> loads_;
  std::mutex mutex_;
  Tally total_;  // under mutex_; whole numbers, so the order of adding does not matter
};

struct Answer {
  int replicas = 0;
  Tally tally;
  std::vector<Probe> search;
};

// Doubles until it is enough, then halves the interval. A run that is not enough ends when that is certain.
Answer find_smallest(const Setup& setup, Team& team) {
  Answer best;
  const std::int64_t misses = setup.misses_allowed();
  const auto enough = [&](int replicas) {
    std::optional<Tally> tally = Cluster(setup, replicas, team).run(misses);
    best.search.push_back({replicas, tally.has_value()});
    if (!tally) return false;
    best.replicas = replicas;
    best.tally = *tally;
    return true;
  };
  int low = 0, high = 1;  // low is not enough
  while (!enough(high)) {
    low = high;
    if (high == setup.config.max_replicas) {
      best.replicas = high;
      best.tally = *Cluster(setup, high, team).run(kForever);
      return best;
    }
    high = std::min(2 * high, setup.config.max_replicas);
  }
  while (high - low > 1) {
    const int middle = low + (high - low) / 2;
    (enough(middle) ? high : low) = middle;
  }
  return best;
}

}  // namespace
}  // namespace sim

std::string simulate(const SimConfig& config, const std::function<void()>& poll) {
  validate(config);
  const sim::Setup setup(config);
  const int cores = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  sim::Team team(config.threads > 0 ? config.threads : cores, poll);
  sim::Answer answer{.replicas = config.replicas};
  if (config.replicas == 0) {
    answer = sim::find_smallest(setup, team);
  } else {
    answer.tally = *sim::Cluster(setup, config.replicas, team).run(sim::kForever);
  }
  return sim::report(setup, answer.replicas, answer.search, answer.tally).dump();
}

}  // namespace warpjet

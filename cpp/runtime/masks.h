// Samples that wait for the mask of their next token. Engine thread.
#pragma once

#include "runtime/live.h"

#include <algorithm>
#include <cstddef>
#include <limits>
#include <vector>

namespace warpjet {

class Masks {
 public:
  explicit Masks(double timeout_s) : patience_(static_cast<Micros>(1e6 * timeout_s)) {}

  // Samples that have a provider of masks: room for all of them is made before they run. Throws bad_alloc.
  void add(std::size_t samples);
  void remove(std::size_t samples) { samples_ -= samples; }

  bool empty() const { return waiting_.empty(); }
  Micros due() const { return due_; }  // no sample is late before
  // Its provider has been told of the token, and owes a mask.
  void wait(Sample& sample, Micros now);
  // It waits no more.
  void release(Sample& sample);

  // Calls late(sample) for every sample that has waited too long; late() releases it.
  template <class Late>
  void visit_late(Micros now, Late late) {
    if (now < due_) return;
    due_ = std::numeric_limits<Micros>::max();
    for (std::size_t i = waiting_.size(); i-- > 0;) {  // from the end, since a late one leaves the list
      const Micros due = waiting_[i]->sequence->held + patience_;
      if (due <= now)
        late(*waiting_[i]);
      else
        due_ = std::min(due_, due);
    }
  }

 private:
  Micros patience_;
  std::vector<Sample*> waiting_;  // has room for all of samples_
  std::size_t samples_ = 0;
  Micros due_ = 0;
};

}  // namespace warpjet

#include "runtime/masks.h"

namespace warpjet {

void Masks::add(std::size_t samples) {
  if (waiting_.capacity() < samples_ + samples) waiting_.reserve(2 * (samples_ + samples));
  samples_ += samples;
}

void Masks::wait(Sample& sample, Micros now) {
  if (waiting_.empty()) due_ = now + patience_;
  sample.held_index = static_cast<int>(waiting_.size());
  waiting_.push_back(&sample);
}

void Masks::release(Sample& sample) {
  Sample* last = waiting_.back();
  last->held_index = sample.held_index;
  waiting_[sample.held_index] = last;
  waiting_.pop_back();
  sample.held_index = -1;
}

}  // namespace warpjet

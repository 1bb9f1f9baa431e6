// The last steps, for snapshots.
#include "observe/observe.h"

namespace warpjet {

namespace {

constexpr Micros kAttention = 2'000'000;  // after a snapshot, the next one is expected within this time

}  // namespace

// All memory is taken at the first look; what was seen before everybody looked away is forgotten.
void Recorder::watch(Micros now) {
  if (!watched(now)) {
    steps_.items.resize(Snapshot::kMaxSteps);
    rows_.resize(Snapshot::kMaxSteps * Snapshot::kMaxRows);
    first_tokens_.items.resize(Snapshot::kMaxEvents);
    ends_.items.resize(Snapshot::kMaxEvents);
    steps_.pushed = first_tokens_.pushed = ends_.pushed = 0;
  }
  until_ = now + kAttention;
}

bool Recorder::begin_step(std::uint64_t step, Micros now) {
  step_ = step;
  in_step_ = watched(now);
  if (in_step_) steps_.push({.step = step});
  return in_step_;
}

void Recorder::row(const Snapshot::Row& row) {
  Step& step = steps_.newest();
  if (step.rows == Snapshot::kMaxRows) return;
  const std::size_t place = (steps_.pushed - 1) % Snapshot::kMaxSteps;
  rows_[place * Snapshot::kMaxRows + step.rows++] = row;
}

void Recorder::end_step(Micros began, Micros us) {
  if (in_step_) {
    steps_.newest().began = began;
    steps_.newest().us = us;
  }
  in_step_ = false;
  ++step_;
}

void Recorder::first_token(Snapshot::FirstToken event, Micros now) {
  event.step = step_;
  if (watched(now)) first_tokens_.push(event);
}

void Recorder::finished(Snapshot::End event, Micros now) {
  event.step = step_;
  if (watched(now)) ends_.push(event);
}

void Recorder::read(std::uint64_t since_step, Snapshot& out) const {
  steps_.for_each([&](const Step& step, std::size_t place) {
    if (step.step <= since_step) return;
    const auto first = rows_.begin() + static_cast<std::ptrdiff_t>(place * Snapshot::kMaxRows);
    out.steps.push_back({.step = step.step,
                         .us = step.us,
                         .start_us = step.began,
                         .rows = {first, first + static_cast<std::ptrdiff_t>(step.rows)}});
  });
  const auto copy = [&](const auto& ring, auto& events) {
    ring.for_each([&](const auto& event, std::size_t) {
      if (event.step > since_step) events.push_back(event);
    });
  };
  copy(first_tokens_, out.first_tokens);
  copy(ends_, out.finished);
}

}  // namespace warpjet

// One engine in simulated time.
#include <algorithm>

#include "simulate/simulate.h"

namespace warpjet::sim {

Replica::Replica(const Setup& setup, MissBudget& budget)
    : setup_(setup),
      budget_(budget),
      kv_(setup.kv),
      scheduler_(setup.scheduler, kv_),
      device_(scheduler_.num_slots()),
      flights_(static_cast<std::size_t>(setup.scheduler.max_in_flight)) {}

int Replica::load() const {
  return num_live_ + static_cast<int>(inbox_.size() - next_arrival_);
}

// --- Time -----------------------------------------------------------------------------------------------------------

Micros Replica::next_event() const {
  const Micros arrival =
      next_arrival_ < inbox_.size() ? setup_.workload.arrivals[inbox_[next_arrival_]].time : kForever;
  const Micros step = num_flights_ > 0 ? flights_[first_flight_].end : kForever;
  return std::min({arrival, step, look_again_});
}

void Replica::advance(Micros until) {
  while (!budget_.spent()) {
    const Micros next = next_event();
    if (next >= until) return;
    sample_until(next);
    now_ = next;
    // Results come first: what they free is there for whoever arrives.
    while (num_flights_ > 0 && flights_[first_flight_].end <= now_) retire();
    while (next_arrival_ < inbox_.size()) {
      const Arrival& arrival = setup_.workload.arrivals[inbox_[next_arrival_]];
      if (arrival.time > now_) break;
      ++next_arrival_;
      arrive(arrival);
    }
    plan();
  }
}

// Nothing changes between events, so the state now is that at all points before the next one.
void Replica::sample_until(Micros time) {
  for (; next_point_ < kPoints && (next_point_ + 1) * setup_.point <= time; ++next_point_) {
    Point& point = tally_.points[next_point_];
    point.running = scheduler_.num_running();
    point.waiting = scheduler_.num_waiting();
    point.kv_blocks = kv_.device().num_held();
  }
}

const Tally& Replica::finish() {
  WJ_CHECK(done() && num_live_ == 0 && tally_.requests == tally_.finished + tally_.refused);
  sample_until(kForever);
  tally_.end = busy_until_;
  tally_.preemptions = scheduler_.num_preemptions();
  tally_.swaps = scheduler_.num_swaps();
  tally_.least_busy = tally_.most_busy = tally_.busy_in_window;
  return tally_;
}

// --- Requests -------------------------------------------------------------------------------------------------------

void Replica::arrive(const Arrival& arrival) {
  ++tally_.requests;
  if (next_point_ < kPoints) ++tally_.points[next_point_].arrived;
  const int capacity = (kv_.device().num_blocks() - 1) * kv_.block_size();
  const int least = arrival.input + arrival.output;
  if (least > capacity || num_live_ >= setup_.config.max_num_queued_reqs) {
    ++tally_.refused;
    budget_.miss();
    return;
  }
  if (free_lives_.empty()) free_lives_.push_back(&lives_.emplace_back());
  Live* live = free_lives_.back();
  free_lives_.pop_back();
  *live = {.arrival = arrival.time, .wanted = arrival.output};

  auto sequence = std::make_unique<Sequence>();
  sequence->id = next_id_++;
  sequence->tokens = setup_.workload.prompt(arrival, least);
  sequence->prompt_length = arrival.input;
  sequence->max_length = std::min(capacity, arrival.input + std::max(arrival.output, setup_.config.max_tokens));
  sequence->priority = arrival.priority;
  sequence->tenant = setup_.workload.tenants[arrival.tenant];
  sequence->user = live;
  ++num_live_;
  scheduler_.add(std::move(sequence), now_);
}

void Replica::take_token(Sequence& sequence) {
  Live& live = *static_cast<Live*>(sequence.user);
  if (live.got++ == 0) {
    live.first = now_;
    tally_.ttft.add(now_ - live.arrival);
    tally_.prompt_tokens += sequence.prompt_length;
    tally_.cached_tokens += sequence.cached;
  } else {
    tally_.itl.add(now_ - live.last);
  }
  live.last = now_;
  if (live.got == live.wanted) ended_.push_back(&sequence);
}

void Replica::end(Sequence& sequence) {
  Live* live = static_cast<Live*>(sequence.user);
  const Micros ttft = live->first - live->arrival;
  const Micros tpot = live->got > 1 ? (live->last - live->first) / (live->got - 1) : 0;
  if (live->got > 1) tally_.tpot.add(tpot);
  tally_.e2e.add(now_ - live->arrival);
  ++tally_.finished;
  if (ttft <= setup_.ttft && tpot <= setup_.itl) {
    ++tally_.good;
  } else {
    budget_.miss();
  }
  scheduler_.remove(sequence, now_);
  --num_live_;
  free_lives_.push_back(live);
}

// --- Steps ----------------------------------------------------------------------------------------------------------

void Replica::plan() {
  while (num_flights_ < static_cast<int>(flights_.size()) && scheduler_.schedule(batch_, now_)) launch();
  // Who waits for something else than a step gives up after a time.
  constexpr Micros kLook = 1000;
  constexpr int kMostLooks = 10'000;
  if (num_flights_ > 0 || scheduler_.idle()) {
    look_again_ = kForever;
    looks_ = 0;
  } else {
    look_again_ = now_ + kLook;
    WJ_CHECK(++looks_ < kMostLooks, "waiting=", scheduler_.num_waiting(), " running=", scheduler_.num_running());
  }
}

void Replica::launch() {
  const StepWork work = device_.run(batch_);
  const Micros us = setup_.cost.step_us(work);
  const Micros start = std::max(now_ + setup_.host, busy_until_), window = setup_.workload.duration;
  busy_until_ = start + us;
  flights_[(first_flight_ + num_flights_++) % static_cast<int>(flights_.size())] = {
      .us = us, .end = busy_until_, .samples = batch_.num_samples()};
  ++tally_.steps;
  tally_.step_tokens += batch_.num_tokens;
  tally_.step_decodes += batch_.num_decodes;
  tally_.busy_in_window += std::max<Micros>(0, std::min(busy_until_, window) - start);
  if (busy_until_ <= window) tally_.prompt_in_window += batch_.num_tokens - batch_.num_decodes;
}

void Replica::retire() {
  const Flight flight = flights_[first_flight_];
  first_flight_ = (first_flight_ + 1) % static_cast<int>(flights_.size());
  --num_flights_;
  // Every token is new, so outputs of equal prompts differ.
  sampled_.clear();
  for (int i = 0; i < flight.samples; ++i) {
    sampled_.tokens.push_back(static_cast<std::int32_t>(next_token_++ & 0x7fffffff));
    sampled_.end_range();
  }
  std::int64_t taken = 0;
  for (const Scheduler::Row& row : scheduler_.retire(sampled_, now_)) {
    if (row.sequence == nullptr || !row.sampled) continue;
    ++taken;
    take_token(*row.sequence);
  }
  scheduler_.observe_time(static_cast<double>(flight.us));
  tally_.output_tokens += taken;
  if (next_point_ < kPoints) {
    tally_.output_in_window += taken;
    tally_.points[next_point_].output_tokens += taken;
  }
  for (Sequence* sequence : ended_) end(*sequence);
  ended_.clear();
}

// --- What a batch costs ---------------------------------------------------------------------------------------------

void DeviceMirror::change(const SlotChange& change, const Batch& batch) {
  State& slot = slots_[static_cast<std::size_t>(change.slot)];
  const auto stop = [&] {
    if (slot.since < 0) return;
    slot.length += step_ - slot.since;
    slot.since = -1;
    decode_keys_ -= slot.length;
    --decoding_;
  };
  switch (change.kind) {
    case SlotChange::Kind::join:
      slot.length = batch.joins[change.a].prefix + batch.joins[change.a].tokens.count;
      break;
    case SlotChange::Kind::token:
      stop();
      slot.length = change.a + 1;
      break;
    case SlotChange::Kind::decode:
      slot.since = step_;
      decode_keys_ += slot.length;
      ++decoding_;
      break;
    case SlotChange::Kind::pause:
    case SlotChange::Kind::leave:
      stop();
      break;
    case SlotChange::Kind::block:
    case SlotChange::Kind::mask:
      break;
  }
}

StepWork DeviceMirror::run(const Batch& batch) {
  for (const SlotChange& slot_change : batch.changes) {
    if (slot_change.kind != SlotChange::Kind::block) change(slot_change, batch);
  }
  WJ_CHECK(decoding_ == batch.num_decodes, "decoding=", decoding_, " batch=", batch.num_decodes);
  StepWork work{.tokens = batch.num_tokens, .decode_keys = decode_keys_};
  for (const Chunk& chunk : batch.chunks) {
    work.chunk_keys += chunk.start + chunk.count;
    work.chunk_pairs += chunk.count * (chunk.start + (chunk.count + 1) / 2.0);
  }
  for (const Slot slot : batch.sample_slots) ++slots_[static_cast<std::size_t>(slot)].length;
  for (const Copy& copy : batch.copies) ++(copy.from == copy.to ? work.device_copies : work.host_copies);
  ++step_;
  decode_keys_ += decoding_;
  return work;
}

}  // namespace warpjet::sim

// The toy device of histories: slots, block tables and copies as the real runner has them, and in the place of keys and
// values the state of the toy model at that position, in a form that is each group's own. Every row looks at all
// positions that it sees in each group: a block of another text, another salt, another time or another group is found
// where it is read. A step writes before it reads, as kernels do layer by layer, so nothing may rest on the order of
// rows.
#pragma once

#include "history_model.h"

#include <array>
#include <deque>
#include <memory>

namespace warpjet::history {

// What a device saw.
struct DeviceCounts {
  std::int64_t steps = 0, rows = 0, surplus = 0, joins = 0, forks = 0, siblings = 0, exchanges = 0;
  std::int64_t device_copies = 0, offloads = 0, restores = 0, broken = 0, rewrites = 0, beyond_window = 0;
  std::int64_t grouped = 0;  // rows of several groups of layers
};

// Throws internal when a batch breaks the rules.
class ToyDevice final : public StepRunner {
 public:
  struct Config {
    int block_size = 0, num_blocks = 0, num_host_blocks = 0;  // null blocks included
    std::vector<int> windows = {0};                           // of each group
    int max_tokens = 0, max_seqs = 0, num_slots = 0;
    Rules rules;
  };
  explicit ToyDevice(const Config& config);
  void start(const Batch& batch, StepResult& result) override;
  const DeviceCounts& counts() const { return counts_; }

 private:
  struct SlotState {
    std::vector<std::int32_t> record;  // empty: nobody is here
    RecordView sampling;               // of it
    Tokens text;
    std::vector<KvState> states;  // before the first token, and after each
    PerGroup<std::vector<BlockId>> tables;
    int decode_index = -1;
    bool alive = false;
    int next = -1;  // the position to be computed next; -1: not known yet
    std::int32_t mask = kAllAllowed;
    int verified = 0;  // positions before it were seen to be right, as far as they are in the window
    int prompt_length() const { return sampling.sampling.prompt_length; }
  };
  struct Row {
    Slot slot = kNoSlot;
    int start = 0, count = 0;
  };
  struct Sample {
    Slot slot = kNoSlot;
    int row = -1;  // -1: surplus
  };

  SlotState& slot(Slot slot);
  void apply(const SlotChange& change, const Batch& batch);
  void join(Slot slot, const Join& join, const Batch& batch);
  void set_block(SlotState& slot, int group, int index, BlockId block);
  void rewrite(SlotState& slot, int index, std::int32_t token);
  void leave_decoding(SlotState& slot);
  void copy(const Copy& copy);

  void fill(const Batch& batch);
  void add_row(Slot slot, int start, int count);
  void write(const Row& row);
  void check_reads(const Row& row);
  void check_overwrite(Slot writer, int group, BlockId block, int offset, KvState state) const;
  int first_visible(int group, int position) const {
    const int window = config_.windows[group];
    return window == 0 ? 0 : std::max(0, position - window + 1);
  }
  int num_groups() const { return static_cast<int>(config_.windows.size()); }

  void score(const Batch& batch, StepResult& result) const;
  void sample(StepResult& result);
  std::int32_t draw_next(SlotState& slot, KvState state);
  KvState& kv(const SlotState& slot, int group, int position);
  KvState read(const SlotState& slot, int position);
  void append(SlotState& slot, std::int32_t token);

  const Config config_;
  std::array<std::vector<KvState>, kNumTiers> kv_;
  std::vector<SlotState> slots_;
  std::vector<Slot> decoding_;
  std::vector<Row> rows_;
  std::vector<Sample> samples_;
  std::vector<KvState> written_;
  std::uint64_t steps_ = 0;
  DeviceCounts counts_;
};

// Holds the batches that were launched until it is told to complete one: results come when a history says so. They are
// kept in a ring, as the device thread keeps them, and reach the device as bytes.
class StepwiseExecutor final : public Executor {
 public:
  struct Faults {
    FaultPlan* plan = nullptr;  // launches and steps
    int error_at = -1;          // this step fails
    int silent_from = -1;       // from this step on nothing is answered
  };
  StepwiseExecutor(ToyDevice& device, int depth, const Faults& faults);
  ~StepwiseExecutor() override;
  void launch(Batch& batch) override;
  StepResult* poll() override;
  bool complete();  // the oldest batch; false: nothing is in flight, or it is never answered
  int in_flight() const { return static_cast<int>(launched_ - completed_); }

 private:
  struct Entry {
    Batch batch;
    StepResult result;
  };
  Entry& entry(std::uint64_t step) { return ring_[step % ring_.size()]; }

  ToyDevice& device_;
  const Faults faults_;
  std::vector<Entry> ring_;
  std::uint64_t launched_ = 0, completed_ = 0, taken_ = 0;
  std::vector<std::byte> bytes_;
  Batch sent_;
  std::exception_ptr error_;
};

}  // namespace warpjet::history

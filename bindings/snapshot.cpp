// Snapshots as plain Python values, ready for JSON but for the pool.
#include "bindings.h"

#include <nanobind/stl/vector.h>

namespace warpjet::python {
namespace {

nb::str text_of(std::string_view text) {
  return nb::str(text.data(), text.size());
}

template <class T, class Convert>
nb::list list_of(const std::vector<T>& values, Convert convert) {
  nb::list out;
  for (const T& value : values) out.append(convert(value));
  return out;
}

nb::dict sequence_of(const Snapshot::Sequence& sequence) {
  nb::dict out;
  out["id"] = sequence.id;
  out["sample"] = sequence.sample;
  out["state"] = text_of(sequence.state);
  out["prompt"] = sequence.prompt;
  out["computed"] = sequence.computed;
  out["output"] = sequence.output;
  out["cached"] = sequence.cached;
  out["blocks"] = sequence.blocks;
  return out;
}

nb::list row_of(const Snapshot::Row& row) {
  nb::list out;
  out.append(row.id);
  for (const int value : {row.sample, row.start, row.count}) out.append(value);
  return out;
}

nb::dict step_of(const Snapshot::Step& step) {
  nb::dict out;
  out["step"] = step.step;
  out["us"] = step.us;
  out["start_us"] = step.start_us;
  out["rows"] = list_of(step.rows, row_of);
  return out;
}

nb::list first_token_of(const Snapshot::FirstToken& event) {
  nb::list out;
  out.append(event.id);
  out.append(event.step);
  out.append(event.ttft_ms);
  return out;
}

nb::list end_of(const Snapshot::End& event) {
  nb::list out;
  out.append(event.id);
  out.append(event.sample);
  out.append(event.step);
  out.append(text_of(to_string(event.reason)));
  out.append(event.output_tokens);
  out.append(event.total_ms);
  return out;
}

}  // namespace

nb::dict dict_of(const Snapshot& snapshot) {
  nb::dict out;
  out["step"] = snapshot.step;
  out["now_us"] = snapshot.now_us;
  out["block_size"] = snapshot.block_size;
  out["kv_blocks"] = snapshot.kv_blocks;
  out["max_model_len"] = snapshot.max_model_len;
  out["max_num_seqs"] = snapshot.max_num_seqs;
  out["pool"] = nb::bytes(reinterpret_cast<const char*>(snapshot.pool.data()), snapshot.pool.size());
  out["sequences"] = list_of(snapshot.sequences, sequence_of);
  out["steps"] = list_of(snapshot.steps, step_of);
  out["first_tokens"] = list_of(snapshot.first_tokens, first_token_of);
  out["finished"] = list_of(snapshot.finished, end_of);
  return out;
}

}  // namespace warpjet::python

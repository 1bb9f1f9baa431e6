#include "model/model.h"

#include <algorithm>

namespace warpjet {

namespace {

// Elements of one part, from the file's type to the slot's.
void convert_part(PartOp op, const std::vector<std::byte>& from, DType from_type, std::vector<std::byte>& to,
                  DType to_type, std::int64_t count) {
  if (op == PartOp::copy) return convert(from.data(), from_type, to.data(), to_type, count);
  std::vector<float> values(static_cast<std::size_t>(count));
  convert(from.data(), from_type, values.data(), DType::f32, count);
  for (float& value : values) value += 1.0f;
  convert(values.data(), DType::f32, to.data(), to_type, count);
}

}  // namespace

void read_slot(const WeightSlot& slot, const SafeTensors& tensors, DType dtype, const PieceSink& sink) {
  std::vector<std::byte> read, converted;
  for (const WeightSlot::Part& part : slot.parts) {
    const TensorEntry* entry = tensors.find(part.name);
    WJ_REQUIRE(entry != nullptr, corrupt, "tensor ", quote(part.name), " of ", slot.name, " is missing");
    const std::int64_t from_bytes = dtype_bytes(entry->dtype), to_bytes = dtype_bytes(dtype);
    const std::int64_t piece = kCopyPiece / std::max(from_bytes, to_bytes);  // elements
    const std::int64_t total = entry->shape.elements();
    for (std::int64_t done = 0; done < total; done += piece) {
      const std::int64_t count = std::min(piece, total - done);
      const std::int64_t next = done + count;
      read.resize(static_cast<std::size_t>(count * from_bytes));
      entry->file->read(entry->offset + done * from_bytes, read);
      entry->file->prefetch(entry->offset + next * from_bytes, std::min(piece, total - next) * from_bytes);
      if (entry->dtype == dtype && part.op == PartOp::copy) {
        sink(read);
      } else {
        converted.resize(static_cast<std::size_t>(count * to_bytes));
        convert_part(part.op, read, entry->dtype, converted, dtype, count);
        sink(converted);
      }
    }
  }
}

}  // namespace warpjet

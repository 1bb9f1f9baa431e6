#include "model/model.h"

#include <algorithm>

namespace warpjet {

void read_slot(const WeightSlot& slot, const SafeTensors& tensors, DType dtype, const PieceSink& sink) {
  std::vector<std::byte> read, converted;
  for (const std::string& part : slot.parts) {
    const TensorEntry* entry = tensors.find(part);
    WJ_REQUIRE(entry != nullptr, corrupt, "tensor ", quote(part), " of ", slot.name, " is missing");
    const std::int64_t from_bytes = dtype_bytes(entry->dtype), to_bytes = dtype_bytes(dtype);
    const std::int64_t piece = kCopyPiece / std::max(from_bytes, to_bytes);  // elements
    const std::int64_t total = entry->shape.elements();
    for (std::int64_t done = 0; done < total; done += piece) {
      const std::int64_t count = std::min(piece, total - done);
      const std::int64_t next = done + count;
      read.resize(static_cast<std::size_t>(count * from_bytes));
      entry->file->read(entry->offset + done * from_bytes, read);
      entry->file->prefetch(entry->offset + next * from_bytes, std::min(piece, total - next) * from_bytes);
      if (entry->dtype == dtype) {
        sink(read);
      } else {
        converted.resize(static_cast<std::size_t>(count * to_bytes));
        convert(read.data(), entry->dtype, converted.data(), dtype, count);
        sink(converted);
      }
    }
  }
}

}  // namespace warpjet

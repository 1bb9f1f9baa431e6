#include "model/model.h"

#include <algorithm>

namespace warpjet {

void read_slot(const WeightSlot& slot, const SafeTensors& tensors, DType dtype, const PieceSink& sink) {
  std::vector<std::byte> converted;
  for (const std::string& part : slot.parts) {
    const TensorEntry* entry = tensors.find(part);
    WJ_REQUIRE(entry != nullptr, corrupt, "tensor ", quote(part), " of ", slot.name, " is missing");
    const std::int64_t from_bytes = dtype_bytes(entry->dtype), to_bytes = dtype_bytes(dtype);
    const std::int64_t piece = kCopyPiece / std::max(from_bytes, to_bytes);  // elements
    const std::int64_t total = entry->shape.elements();
    const auto bytes_of = [&](std::int64_t begin, std::int64_t count) {
      return entry->bytes.subspan(static_cast<std::size_t>(begin * from_bytes),
                                  static_cast<std::size_t>(count * from_bytes));
    };
    for (std::int64_t done = 0; done < total; done += piece) {
      const std::int64_t count = std::min(piece, total - done);
      const auto source = bytes_of(done, count);
      const std::int64_t next = done + count;
      entry->file->prefetch(bytes_of(next, std::min(piece, total - next)));
      if (entry->dtype == dtype) {
        sink(source);
      } else {
        converted.resize(static_cast<std::size_t>(count * to_bytes));
        convert(source.data(), entry->dtype, converted.data(), dtype, count);
        sink(converted);
      }
      entry->file->drop(source);
    }
  }
}

}  // namespace warpjet

// A slot's parts on their way from the checkpoint into the blob.
#include "model/model.h"

#include <algorithm>

namespace warpjet {
namespace {

const TensorEntry& find(const SafeTensors& tensors, const std::string& name, const WeightSlot& slot) {
  const TensorEntry* entry = tensors.find(name);
  WJ_REQUIRE(entry != nullptr, corrupt, "tensor ", quote(name), " of ", slot.name, " is missing");
  return *entry;
}

// Calls visit(first element, bytes) for an entry in pieces of so many elements, the next one being fetched meanwhile.
template <class Visit>
void for_each_piece(const TensorEntry& entry, std::int64_t piece, Visit visit) {
  std::vector<std::byte> bytes;
  const std::int64_t total = entry.shape.elements(), size = dtype_bytes(entry.dtype);
  for (std::int64_t done = 0; done < total; done += piece) {
    const std::int64_t count = std::min(piece, total - done), next = done + count;
    bytes.resize(static_cast<std::size_t>(count * size));
    entry.file->read(entry.offset + done * size, bytes);
    entry.file->prefetch(entry.offset + next * size, std::min(piece, total - next) * size);
    visit(done, bytes);
  }
}

std::vector<float> read_floats(const TensorEntry& entry) {
  std::vector<float> values(static_cast<std::size_t>(entry.shape.elements()));
  for_each_piece(entry, kCopyPiece / 4, [&](std::int64_t first, const std::vector<std::byte>& bytes) {
    convert(bytes.data(), entry.dtype, values.data() + first, DType::f32, std::ssize(bytes) / dtype_bytes(entry.dtype));
  });
  return values;
}

// Values of a plain part in another plain type.
void convert_part(PartOp op, const std::vector<std::byte>& from, DType from_type, std::vector<std::byte>& to,
                  DType to_type, std::int64_t count) {
  to.resize(static_cast<std::size_t>(count * dtype_bytes(to_type)));
  if (op == PartOp::copy) return convert(from.data(), from_type, to.data(), to_type, count);
  std::vector<float> values(static_cast<std::size_t>(count));
  convert(from.data(), from_type, values.data(), DType::f32, count);
  for (float& value : values) value += 1.0f;
  convert(values.data(), DType::f32, to.data(), to_type, count);
}

void read_plain(const TensorEntry& entry, PartOp op, DType dtype, const PieceSink& sink) {
  std::vector<std::byte> converted;
  const std::int64_t from = dtype_bytes(entry.dtype), to = dtype_bytes(dtype);
  for_each_piece(entry, kCopyPiece / std::max(from, to), [&](std::int64_t, const std::vector<std::byte>& bytes) {
    if (entry.dtype == dtype && op == PartOp::copy) return sink(bytes);
    convert_part(op, bytes, entry.dtype, converted, dtype, std::ssize(bytes) / from);
    sink(converted);
  });
}

// Quantised values in a plain type, whole rows at a time.
void decode(const TensorEntry& entry, const TensorEntry& scales, const Format& from, DType dtype,
            const PieceSink& sink) {
  const std::vector<float> factors = read_floats(scales);
  const std::int64_t columns = entry.shape[1], stride = scales.shape[1];
  const std::int64_t rows = std::max<std::int64_t>(1, kCopyPiece / (columns * std::int64_t{sizeof(float)}));
  std::vector<float> values;
  std::vector<std::byte> converted;
  for_each_piece(entry, rows * columns, [&](std::int64_t first, const std::vector<std::byte>& bytes) {
    const std::int64_t count = std::ssize(bytes) / columns / dtype_bytes(from.element);
    values.resize(static_cast<std::size_t>(count * columns));
    for (std::int64_t r = 0; r < count; ++r) {
      decode_row(from, bytes.data() + r * columns * dtype_bytes(from.element), factors.data(), stride,
                 first / columns + r, 0, columns, values.data() + r * columns);
    }
    converted.resize(values.size() * static_cast<std::size_t>(dtype_bytes(dtype)));
    convert(values.data(), DType::f32, converted.data(), dtype, std::ssize(values));
    sink(converted);
  });
}

// Codes and scales of a slot as they are, but for the scales' type.
void copy_quantised(const WeightSlot& slot, const SafeTensors& tensors, const Format& format, const PieceSink& sink) {
  for (const WeightSlot::Part& part : slot.parts) {
    const TensorEntry& entry = find(tensors, part.name, slot);
    for_each_piece(entry, kCopyPiece, [&](std::int64_t, const std::vector<std::byte>& bytes) { sink(bytes); });
  }
  const std::int64_t gap = format.scale_offset(slot.shape) - format.code_bytes(slot.shape);
  if (gap > 0) sink(std::vector<std::byte>(static_cast<std::size_t>(gap)));
  for (const WeightSlot::Part& part : slot.parts) {
    const std::vector<float> scales = read_floats(find(tensors, part.scales, slot));
    sink(std::as_bytes(std::span(scales)));
  }
}

}  // namespace

void read_slot(const WeightSlot& slot, const SafeTensors& tensors, const Format& format, const PieceSink& sink) {
  if (format.scaled()) {
    WJ_CHECK(slot.comes_as(format), slot.name, " cannot be stacked as ", to_string(format));
    return copy_quantised(slot, tensors, format, sink);
  }
  for (const WeightSlot::Part& part : slot.parts) {
    const TensorEntry& entry = find(tensors, part.name, slot);
    if (part.source.scaled())
      decode(entry, find(tensors, part.scales, slot), part.source, format.element, sink);
    else
      read_plain(entry, part.op, format.element, sink);
  }
}

}  // namespace warpjet

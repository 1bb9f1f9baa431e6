// Batches as plain data: everything about them follows from their list of fields.
#include "schedule/batch.h"

#include <cstring>
#include <type_traits>

namespace warpjet {

namespace {

// What a batch is made of has no padding, so its bytes are its value.
template <class T>
constexpr bool kIsPlain = std::is_trivially_copyable_v<T>&& std::has_unique_object_representations_v<T>;

template <class T>
std::span<const std::byte> bytes_of(const T& number) {
  static_assert(kIsPlain<T>);
  return std::as_bytes(std::span(&number, 1));
}

template <class T>
std::span<const std::byte> bytes_of(const std::vector<T>& list) {
  static_assert(kIsPlain<T>);
  return std::as_bytes(std::span(list));
}

// Visits the bytes of every field, those of a list behind their number.
template <class Visit>
void for_each_part(const Batch& batch, Visit visit) {
  for_each_field<Batch>([&](const auto& field) {
    const auto& value = batch.*(field.member);
    if constexpr (requires { value.size(); }) visit(bytes_of(std::uint64_t{value.size()}));
    visit(bytes_of(value));
  });
}

// Takes bytes from the front of a message.
class Reader {
 public:
  explicit Reader(std::span<const std::byte> bytes) : rest_(bytes) {}
  std::size_t left() const { return rest_.size(); }

  template <class T>
  void read(std::string_view field, T& number) {
    static_assert(kIsPlain<T>);
    std::memcpy(&number, take(field, 1, sizeof(T)), sizeof(T));
  }
  template <class T>
  void read(std::string_view field, std::vector<T>& list) {
    static_assert(kIsPlain<T>);
    std::uint64_t count = 0;
    read(field, count);
    const std::byte* data = take(field, count, sizeof(T));
    list.resize(count);
    if (count > 0) std::memcpy(list.data(), data, count * sizeof(T));
  }

 private:
  const std::byte* take(std::string_view field, std::uint64_t count, std::size_t size) {
    WJ_REQUIRE(count <= rest_.size() / size, invalid_argument, "the bytes of a batch end within ", quote(field));
    const std::byte* data = rest_.data();
    rest_ = rest_.subspan(count * size);
    return data;
  }

  std::span<const std::byte> rest_;
};

}  // namespace

std::span<const std::int32_t> Batch::at(Range range) const {
  const auto end = std::int64_t{range.first} + range.count;
  WJ_CHECK(range.first >= 0 && range.count >= 0 && std::cmp_less_equal(end, words.size()), "words ", range.first,
           " to ", end, " of ", words.size());
  return std::span(words).subspan(range.first, range.count);
}

Range Batch::add(std::span<const std::int32_t> more) {
  const Range range = {static_cast<std::int32_t>(words.size()), static_cast<std::int32_t>(more.size())};
  words.insert(words.end(), more.begin(), more.end());
  return range;
}

void Batch::clear() {
  for_each_field<Batch>([&](const auto& field) {
    auto& value = this->*(field.member);
    if constexpr (requires { value.clear(); }) {
      value.clear();
    } else {
      value = {};
    }
  });
}

void TokenRanges::clear() {
  tokens.clear();
  ends.clear();
  logprobs.clear();
}

std::uint64_t digest(const Batch& batch) {
  std::uint64_t state = 0;
  for_each_part(batch, [&](std::span<const std::byte> bytes) { state = hash64(bytes, state); });
  return state;
}

void to_bytes(const Batch& batch, std::vector<std::byte>& out) {
  out.clear();
  for_each_part(batch, [&](std::span<const std::byte> bytes) { out.insert(out.end(), bytes.begin(), bytes.end()); });
}

void from_bytes(std::span<const std::byte> bytes, Batch& batch) {
  Reader reader(bytes);
  for_each_field<Batch>([&](const auto& field) { reader.read(field.name, batch.*(field.member)); });
  WJ_REQUIRE(reader.left() == 0, invalid_argument, reader.left(), " bytes behind the end of a batch");
}

}  // namespace warpjet

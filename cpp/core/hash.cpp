#include "core/core.h"

#include <algorithm>

namespace warpjet {
namespace {

// Odd constants with about half of their bits set (digits of pi): the mixing steps must not share factors.
constexpr std::uint64_t kFirst = 0x243f6a8885a308d3u;
constexpr std::uint64_t kSecond = 0x13198a2e03707345u;
constexpr std::size_t kPieceBytes = 64 << 10;

// Folds the 128-bit product: every bit of the result depends on every bit of both factors.
std::uint64_t mix(std::uint64_t a, std::uint64_t b) {
  const auto product = static_cast<unsigned __int128>(a) * b;
  return static_cast<std::uint64_t>(product) ^ static_cast<std::uint64_t>(product >> 64);
}

std::uint64_t load(const std::byte* from) {
  std::uint64_t word;
  std::memcpy(&word, from, sizeof word);
  return word;
}

}  // namespace

std::uint64_t hash64(std::span<const std::byte> bytes, std::uint64_t seed) {
  std::uint64_t state = mix(seed ^ kFirst, bytes.size() ^ kSecond);
  while (bytes.size() >= 16) {
    state = mix(load(bytes.data()) ^ state ^ kFirst, load(bytes.data() + 8) ^ kSecond);
    bytes = bytes.subspan(16);
  }
  std::byte tail[16] = {};
  std::copy(bytes.begin(), bytes.end(), tail);
  state = mix(load(tail) ^ state ^ kFirst, load(tail + 8) ^ kSecond);
  return mix(state ^ kSecond, kFirst);
}

void Checksum::update(std::span<const std::byte> bytes) {
  length_ += bytes.size();
  while (!bytes.empty()) {
    if (piece_.empty() && bytes.size() >= kPieceBytes) {  // a whole piece needs no copy
      state_ = hash64(bytes.first(kPieceBytes), state_);
      bytes = bytes.subspan(kPieceBytes);
      continue;
    }
    const std::size_t count = std::min(bytes.size(), kPieceBytes - piece_.size());
    piece_.insert(piece_.end(), bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(count));
    bytes = bytes.subspan(count);
    if (piece_.size() < kPieceBytes) continue;
    state_ = hash64(piece_, state_);
    piece_.clear();
  }
}

std::string Checksum::hex() const {
  const std::uint64_t value = mix(hash64(piece_, state_) ^ kFirst, length_ ^ kSecond);
  std::string out(16, '0');
  for (int i = 0; i < 16; ++i) out[i] = "0123456789abcdef"[(value >> (60 - 4 * i)) & 15];
  return out;
}

}  // namespace warpjet

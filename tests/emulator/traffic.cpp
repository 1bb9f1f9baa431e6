// What a warp's loads and stores cost as a whole: sectors of global memory, passes over the banks of shared memory.
#include "emulator/machine.h"

#include <algorithm>
#include <tuple>

namespace emu {
namespace {

constexpr int kBanks = 32, kBankBytes = 4;
constexpr std::uintptr_t kSectorBytes = 32;
constexpr std::size_t kMostKept = 1 << 16;  // accesses of a warp that never meets are counted in pieces

std::int64_t sectors(std::span<const Access> warp_access) {
  std::vector<std::uintptr_t> touched;
  for (const Access& access : warp_access) {
    for (auto s = access.address / kSectorBytes; s <= (access.address + access.bytes - 1) / kSectorBytes; ++s) {
      touched.push_back(s);
    }
  }
  std::sort(touched.begin(), touched.end());
  return std::unique(touched.begin(), touched.end()) - touched.begin();
}

// A pass moves 128 bytes: all lanes with 4 bytes or less, half of them with 8, a quarter with 16.
std::int64_t conflicts(std::span<const Access> warp_access) {
  const int lanes_a_pass = kBanks * kBankBytes / std::max<int>(warp_access.front().bytes, kBankBytes);
  std::int64_t extra = 0;
  std::vector<std::uintptr_t> words;
  for (std::size_t i = 0; i < warp_access.size(); ++i) {
    const Access& access = warp_access[i];
    for (auto w = access.address / kBankBytes; w <= (access.address + access.bytes - 1) / kBankBytes; ++w) {
      words.push_back(w);
    }
    if (i + 1 == warp_access.size() || warp_access[i + 1].lane / lanes_a_pass != access.lane / lanes_a_pass) {
      extra += bank_conflicts(words);
      words.clear();
    }
  }
  return extra;
}

}  // namespace

int bank_conflicts(std::span<const std::uintptr_t> words) {
  std::vector<std::uintptr_t> distinct(words.begin(), words.end());
  std::sort(distinct.begin(), distinct.end());
  distinct.erase(std::unique(distinct.begin(), distinct.end()), distinct.end());  // lanes may share a word
  int per_bank[kBanks] = {}, most = 1;
  for (const std::uintptr_t word : distinct) most = std::max(most, ++per_bank[word % kBanks]);
  return most - 1;
}

void note_access(Lane& lane, const void* address, int bytes, bool shared, Site site) {
  auto& accesses = lane.warp->accesses;
  accesses.push_back({site, reinterpret_cast<std::uintptr_t>(address), 0, static_cast<std::int16_t>(lane.in_warp),
                      static_cast<std::uint8_t>(bytes), shared});
  if (accesses.size() >= kMostKept) count_traffic(Machine::current(), *lane.warp);
}

// Lanes run one after the other here, so the accesses that a GPU would make together are found again: the n-th of each
// lane at one place.
void count_traffic(Machine& machine, Warp& warp) {
  auto& all = warp.accesses;
  const auto by_place = [](const Access& a) { return std::tuple(a.site.file, a.site.line); };
  std::stable_sort(all.begin(), all.end(), [&](const Access& a, const Access& b) {
    return std::tuple(by_place(a), a.lane) < std::tuple(by_place(b), b.lane);
  });
  for (std::size_t i = 1; i < all.size(); ++i) {
    const bool same = by_place(all[i]) == by_place(all[i - 1]) && all[i].lane == all[i - 1].lane;
    all[i].occurrence = same ? all[i - 1].occurrence + 1 : 0;
  }
  const auto by_instruction = [&](const Access& a) { return std::tuple(by_place(a), a.occurrence); };
  std::stable_sort(all.begin(), all.end(),
                   [&](const Access& a, const Access& b) { return by_instruction(a) < by_instruction(b); });
  for (std::size_t begin = 0, end = 0; begin < all.size(); begin = end) {
    while (end < all.size() && by_instruction(all[end]) == by_instruction(all[begin])) ++end;
    const std::span<const Access> together(all.data() + begin, end - begin);
    if (together.front().shared)
      machine.counters().shared_bank_conflicts += conflicts(together);
    else
      machine.counters().global_sectors += sectors(together);
  }
  all.clear();
}

}  // namespace emu

// Traces from files, in Mooncake's format: a JSON object a line.
#include <algorithm>
#include <cmath>
#include <unordered_map>

#include "simulate/simulate.h"

namespace warpjet::sim {
namespace {

constexpr int kTokensPerHash = 512;
constexpr std::int64_t kMostTokens = 1 << 24;

template <class Get>
auto field(const Json& line, const char* name, Get&& get) {
  try {
    return get(line.at(name));
  } catch (const Error& error) {
    WJ_FAIL(invalid_argument, name, ": ", error.message());
  }
}

double real(const Json& line, const char* name, double low, double high) {
  const double value = field(line, name, [](const Json& v) { return v.as_double(); });
  WJ_REQUIRE(value >= low && value <= high, invalid_argument, name, " must be from ", low, " to ", high, ", got ",
             value);
  return value;
}

std::int32_t integer(const Json& line, const char* name, std::int64_t low, std::int64_t high) {
  const std::int64_t value = field(line, name, [](const Json& v) { return v.as_int(); });
  WJ_REQUIRE(value >= low && value <= high, invalid_argument, name, " must be from ", low, " to ", high, ", got ",
             value);
  return static_cast<std::int32_t>(value);
}

class TraceReader {
 public:
  explicit TraceReader(Workload& workload) : workload_(workload) { tenant(""); }

  void read(const Json& line) {
    Arrival arrival;
    arrival.time = std::llround(real(line, "timestamp", 0, 1e13) * 1e3);
    arrival.input = integer(line, "input_length", 1, kMostTokens);
    arrival.output = integer(line, "output_length", 1, kMostTokens);
    arrival.key = static_cast<std::uint32_t>(workload_.arrivals.size());
    if (line.find("priority")) arrival.priority = static_cast<std::int16_t>(integer(line, "priority", -32768, 32767));
    if (line.find("tenant"))
      arrival.tenant = tenant(field(line, "tenant", [](const Json& v) { return v.as_string(); }));
    if (line.find("hash_ids")) read_hashes(line, arrival);
    workload_.arrivals.push_back(arrival);
  }

 private:
  // The last one may stand for fewer tokens than the others.
  void read_hashes(const Json& line, Arrival& arrival) {
    const Json::Array& ids = *field(line, "hash_ids", [](const Json& v) { return &v.as_array(); });
    if (ids.empty()) return;
    const std::size_t wanted = ceil_div<std::size_t>(arrival.input, kTokensPerHash);
    WJ_REQUIRE(ids.size() == wanted, invalid_argument, "hash_ids must have one for each ", kTokensPerHash,
               " tokens: ", wanted, " for input_length=", arrival.input, ", got ", ids.size());
    arrival.first_segment = static_cast<std::uint32_t>(workload_.segments.size());
    arrival.num_segments = static_cast<std::uint16_t>(ids.size());
    for (const Json& id : ids) {
      const std::int64_t key = field(line, "hash_ids", [&](const Json&) { return id.as_int(); });
      WJ_REQUIRE(key >= 0, invalid_argument, "hash_ids must be from 0, got ", key);
      workload_.segments.push_back({.key = static_cast<std::uint64_t>(key), .length = kTokensPerHash});
    }
  }

  std::uint16_t tenant(const std::string& name) {
    const auto [at, added] = tenants_.try_emplace(name, static_cast<std::uint16_t>(workload_.tenants.size()));
    WJ_REQUIRE(tenants_.size() <= 65536, invalid_argument, "tenant: there are more than 65536");
    if (added) workload_.tenants.push_back(name);
    return at->second;
  }

  Workload& workload_;
  std::unordered_map<std::string, std::uint16_t> tenants_;
};

}  // namespace

Workload read_trace(const std::string& path) {
  Workload workload;
  workload.name = path;
  TraceReader reader(workload);
  const std::string text = read_text_file(path, std::int64_t{1} << 32);
  std::string_view rest = text;
  for (int number = 1; !rest.empty(); ++number) {
    const std::string_view line = rest.substr(0, rest.find('\n'));
    rest.remove_prefix(std::min(rest.size(), line.size() + 1));
    if (line.find_first_not_of(" \t\r") == std::string_view::npos) continue;
    try {
      const Json json = Json::parse(line, {.source = "json"});
      WJ_REQUIRE(json.is_object(), invalid_argument, "must be a JSON object");
      reader.read(json);
    } catch (const Error& error) {
      WJ_FAIL(invalid_argument, "trace: ", path, ":", number, ": ", error.message());
    }
  }
  WJ_REQUIRE(!workload.arrivals.empty(), invalid_argument, "trace: ", path, " has no requests");
  std::ranges::stable_sort(workload.arrivals, {}, &Arrival::time);
  // The first comes at 0. What would follow the last is as long as the mean gap.
  const Micros first = workload.arrivals.front().time, last = workload.arrivals.back().time - first;
  for (Arrival& arrival : workload.arrivals) arrival.time -= first;
  const auto gaps = std::max<Micros>(1, static_cast<Micros>(workload.arrivals.size()) - 1);
  workload.duration = std::max<Micros>(last + last / gaps, 1'000'000);
  return workload;
}

}  // namespace warpjet::sim

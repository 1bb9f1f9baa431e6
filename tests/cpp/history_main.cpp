// Histories for a night, and one again: histories SECONDS [SEED [THREADS]], or histories --replay FILE. Stops at the
// first that fails, which is shrunk and written here.
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <fstream>
#include <iterator>
#include <limits>
#include <string_view>

#include "history.h"

namespace warpjet::history {
namespace {

int finish(const std::string& failure, const Totals& totals) {
  std::printf("%s\n", to_text(totals).c_str());
  if (failure.empty()) return 0;
  std::printf("%s\n", failure.c_str());
  return 1;
}

int replay(const char* path) {
  std::ifstream file(path);
  if (!file) {
    std::printf("cannot read %s\n", path);
    return 2;
  }
  const Report report = run(parse_history({std::istreambuf_iterator<char>(file), {}}));
  return finish(report.failure, report.totals);
}

int search(double seconds, std::uint64_t seed, int threads) {
  std::printf("seed %llu\n", static_cast<unsigned long long>(seed));
  Totals totals;
  const std::uint64_t many = std::numeric_limits<std::uint64_t>::max() - seed;
  const std::string failure = run_many(seed, many, threads, seconds, totals);
  return finish(failure, totals);
}

}  // namespace
}  // namespace warpjet::history

int main(int argc, char** argv) {
  using namespace warpjet::history;
  if (argc == 3 && std::string_view(argv[1]) == "--replay") return replay(argv[2]);
  const double seconds = argc > 1 ? std::atof(argv[1]) : 10;
  const std::uint64_t seed =
      argc > 2 ? std::strtoull(argv[2], nullptr, 10) : static_cast<std::uint64_t>(std::time(nullptr));
  return search(seconds, seed, argc > 3 ? std::atoi(argv[3]) : 1);
}

// Histories as text: "settings blocks=9 ...", then "submit 3 prompt=1,2 n=2", "cancel 3 1", "step 5" and so on.
#include <algorithm>
#include <array>
#include <charconv>
#include <sstream>
#include <variant>

#include "history.h"

namespace warpjet::history {
namespace {

template <class Struct>
struct ScriptField {
  std::string_view name;
  std::variant<int Struct::*, std::vector<int> Struct::*> member;
};

constexpr std::array<ScriptField<Settings>, 22> kSettings{{
    {"block_size", &Settings::block_size},
    {"blocks", &Settings::blocks},
    {"host_blocks", &Settings::host_blocks},
    {"window", &Settings::window},
    {"second_window", &Settings::second_window},
    {"seqs", &Settings::seqs},
    {"batch", &Settings::batch},
    {"depth", &Settings::depth},
    {"policy", &Settings::policy},
    {"preemption", &Settings::preemption},
    {"caching", &Settings::caching},
    {"chunked", &Settings::chunked},
    {"quantile", &Settings::quantile},
    {"itl_target", &Settings::itl_target},
    {"unread", &Settings::unread},
    {"events", &Settings::events},
    {"queued", &Settings::queued},
    {"queued_tokens", &Settings::queued_tokens},
    {"queued_tenant", &Settings::queued_tenant},
    {"model_len", &Settings::model_len},
    {"rope_original", &Settings::rope_original},
    {"turn_us", &Settings::turn_us},
}};

constexpr std::array<ScriptField<Submission>, 19> kSubmission{{
    {"queue", &Submission::queue},
    {"prompt", &Submission::prompt},
    {"n", &Submission::n},
    {"beams", &Submission::beams},
    {"length_penalty", &Submission::length_penalty},
    {"seed", &Submission::seed},
    {"salt", &Submission::salt},
    {"tenant", &Submission::tenant},
    {"priority", &Submission::priority},
    {"cache_priority", &Submission::cache_priority},
    {"skip_cache", &Submission::skip_cache},
    {"deadline", &Submission::deadline},
    {"max_tokens", &Submission::max_tokens},
    {"min_tokens", &Submission::min_tokens},
    {"ignore_eos", &Submission::ignore_eos},
    {"stop", &Submission::stop},
    {"logprobs", &Submission::logprobs},
    {"prompt_logprobs", &Submission::prompt_logprobs},
    {"guided", &Submission::guided},
}};

// In the order of Command::Kind: the name, and how many numbers follow.
struct Verb {
  std::string_view name;
  int numbers;
};
constexpr std::array<Verb, 13> kVerbs{{{"submit", 1},
                                       {"cancel", 2},
                                       {"pause", 1},
                                       {"resume", 1},
                                       {"turn", 1},
                                       {"complete", 1},
                                       {"step", 1},
                                       {"read", 1},
                                       {"clock", 1},
                                       {"reset", 0},
                                       {"events", 0},
                                       {"close", 0},
                                       {"guide", 1}}};

std::string text_of(int value) {
  return std::to_string(value);
}
std::string text_of(const std::vector<int>& values) {
  std::string text;
  for (const int value : values) text += cat(text.empty() ? "" : ",", value);
  return text;
}

int number(std::string_view text) {
  int value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  WJ_REQUIRE(error == std::errc() && end == text.data() + text.size(), corrupt, quote(text), " is not a number");
  return value;
}
void read_value(std::string_view text, int& value) {
  value = number(text);
}
void read_value(std::string_view text, std::vector<int>& values) {
  values.clear();
  while (!text.empty()) {
    const std::size_t comma = text.find(',');
    values.push_back(number(text.substr(0, comma)));
    text = comma == text.npos ? std::string_view() : text.substr(comma + 1);
  }
}

template <class Struct, std::size_t kCount>
void print(const Struct& object, const std::array<ScriptField<Struct>, kCount>& fields, std::ostream& out) {
  const Struct defaults;
  for (const auto& field : fields) {
    std::visit(
        [&](auto member) {
          if (object.*member != defaults.*member) out << ' ' << field.name << '=' << text_of(object.*member);
        },
        field.member);
  }
}

template <class Struct, std::size_t kCount>
void read(Struct& object, const std::array<ScriptField<Struct>, kCount>& fields, std::string_view word) {
  const std::size_t equals = word.find('=');
  WJ_REQUIRE(equals != word.npos, corrupt, "expected name=value, got ", quote(word));
  const auto field = std::ranges::find(fields, word.substr(0, equals), &ScriptField<Struct>::name);
  WJ_REQUIRE(field != fields.end(), corrupt, "unknown name in ", quote(word));
  std::visit([&](auto member) { read_value(word.substr(equals + 1), object.*member); }, field->member);
}

Command read_command(const std::string& name, std::istringstream& line) {
  const auto verb = std::ranges::find(kVerbs, name, &Verb::name);
  WJ_REQUIRE(verb != kVerbs.end(), corrupt, "unknown command ", quote(name));
  Command command{.kind = static_cast<Command::Kind>(verb - kVerbs.begin())};
  std::string word;
  for (int i = 0; i < verb->numbers; ++i) {
    WJ_REQUIRE(line >> word, corrupt, name, " needs ", verb->numbers, " numbers");
    (i == 0 ? command.a : command.b) = number(word);
  }
  while (line >> word) {
    WJ_REQUIRE(command.kind == Command::Kind::submit, corrupt, "too many words after ", name);
    read(command.submission, kSubmission, word);
  }
  return command;
}

}  // namespace

std::string to_text(const History& history) {
  std::ostringstream out;
  out << "settings";
  print(history.settings, kSettings, out);
  out << '\n';
  for (const Command& command : history.commands) {
    const Verb& verb = kVerbs[static_cast<std::size_t>(command.kind)];
    out << verb.name;
    if (verb.numbers > 0) out << ' ' << command.a;
    if (verb.numbers > 1) out << ' ' << command.b;
    if (command.kind == Command::Kind::submit) print(command.submission, kSubmission, out);
    out << '\n';
  }
  return std::move(out).str();
}

// Lines that begin with # are comments.
History parse_history(const std::string& text) {
  History history;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    std::istringstream words(line);
    std::string word;
    if (!(words >> word) || word[0] == '#') continue;
    if (word == "settings") {
      while (words >> word) read(history.settings, kSettings, word);
    } else {
      history.commands.push_back(read_command(word, words));
    }
  }
  return history;
}

// --- Totals ---------------------------------------------------------------------------------------------------------

namespace {

struct TotalsField {
  std::string_view name;
  std::int64_t Totals::*member;
};
constexpr std::array<TotalsField, 38> kTotals{{
    {"histories", &Totals::histories},
    {"commands", &Totals::commands},
    {"turns", &Totals::turns},
    {"requests", &Totals::requests},
    {"samples", &Totals::samples},
    {"refused", &Totals::refused},
    {"cancels", &Totals::cancels},
    {"stopped", &Totals::stopped},
    {"at length", &Totals::at_length},
    {"aborted", &Totals::aborted},
    {"errors", &Totals::errors},
    {"late", &Totals::late},
    {"too long", &Totals::too_long},
    {"broken", &Totals::broken},
    {"out of memory", &Totals::no_memory},
    {"masks", &Totals::masks},
    {"completed by guides", &Totals::completed},
    {"dead ends of guides", &Totals::dead_ends},
    {"steps", &Totals::steps},
    {"rows", &Totals::rows},
    {"surplus rows", &Totals::surplus},
    {"joins", &Totals::joins},
    {"forks", &Totals::forks},
    {"siblings", &Totals::siblings},
    {"exchanges", &Totals::exchanges},
    {"rewrites", &Totals::rewrites},
    {"device copies", &Totals::copies},
    {"offloads", &Totals::offloads},
    {"restores", &Totals::restores},
    {"beyond the window", &Totals::beyond_window},
    {"rows of two groups", &Totals::grouped},
    {"tokens", &Totals::tokens},
    {"cached tokens", &Totals::cached},
    {"preemptions", &Totals::preemptions},
    {"swaps", &Totals::swaps},
    {"pauses", &Totals::pauses},
    {"events", &Totals::events},
    {"closes", &Totals::closes},
}};

}  // namespace

Totals& Totals::operator+=(const Totals& other) {
  for (const TotalsField& field : kTotals) {
    this->*field.member += other.*field.member;
  }
  return *this;
}

std::string to_text(const Totals& totals) {
  std::string text;
  for (const TotalsField& field : kTotals) {
    text += cat(text.empty() ? "" : ", ", totals.*field.member, " ", field.name);
  }
  return text;
}

}  // namespace warpjet::history

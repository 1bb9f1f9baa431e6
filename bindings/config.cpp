// Config structs as Python classes, made from fields(): nothing about a single field is written here.
#include "bindings.h"
#include "values.h"

#include <algorithm>
#include <numeric>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace warpjet::python {
namespace {

// --- Names we do not have -------------------------------------------------------------------------------------------

struct Elsewhere {
  std::string_view name;
  std::string_view closest;
};

// Sampling options that other engines know. None, their neutral value, is accepted.
constexpr Elsewhere kSamplingElsewhere[] = {
    {"beam_width_array", "beam_width"},
    {"best_of", "beam_width, or n and ranking by cumulative_logprob"},
    {"do_sample", "temperature (0 is greedy)"},
    {"ebnf", "structured_outputs"},
    {"end_id", "stop_token_ids"},
    {"extra_args", "logit_bias"},
    {"guided_decoding", "structured_outputs"},
    {"json_schema", "structured_outputs"},
    {"logits_processors", "logit_bias, allowed_token_ids and bad_words"},
    {"logprob_token_ids", "logprobs"},
    {"max_new_tokens", "max_tokens"},
    {"min_new_tokens", "min_tokens"},
    {"no_stop_trim", "include_stop_str_in_output"},
    {"num_beams", "beam_width"},
    {"pad_id", "nothing: batches are not padded"},
    {"random_seed", "seed"},
    {"regex", "structured_outputs"},
    {"repetition_detection", "repetition_penalty and frequency_penalty"},
    {"return_log_probs", "logprobs"},
    {"sampling_seed", "seed"},
    {"stop_regex", "stop"},
    {"stop_words", "stop"},
    {"stream_interval", "output_kind"},
    {"structural_tag", "structured_outputs"},
    {"thinking_token_budget", "max_tokens"},
    {"truncate_prompt_tokens", "shortening prompt_token_ids"},
    {"use_beam_search", "beam_width"},
};

template <class C>
std::span<const Elsewhere> elsewhere() {
  if constexpr (std::same_as<C, SamplingParams>) return kSamplingElsewhere;
  return {};
}

std::size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), std::size_t{0});
  for (std::size_t i = 0; i < a.size(); ++i) {
    std::size_t diagonal = row[0];
    row[0] = i + 1;
    for (std::size_t j = 0; j < b.size(); ++j) {
      const std::size_t replace = diagonal + (a[i] == b[j] ? 0 : 1);
      diagonal = row[j + 1];
      row[j + 1] = std::min({replace, diagonal + 1, row[j] + 1});
    }
  }
  return row[b.size()];
}

template <class C>
[[noreturn]] void raise_unknown(std::string_view class_name, std::string_view name) {
  std::string_view nearest;
  std::size_t distance = name.size();  // beyond this the two have nothing in common
  for_each_field<C>([&](const auto& field) {
    if (const std::size_t d = edit_distance(name, field.name); d < distance) {
      distance = d;
      nearest = field.name;
    }
  });
  std::string message = std::string(class_name) + " has no parameter '" + std::string(name) + "'";
  if (!nearest.empty() && distance <= 3) message += "; did you mean '" + std::string(nearest) + "'?";
  raise_type_error(message);
}

// --- The class ------------------------------------------------------------------------------------------------------

template <class C>
void set_field(C& config, std::string_view class_name, const std::string& name, nb::handle value) {
  bool known = false;
  for_each_field<C>([&](const auto& field) {
    if (field.name != name) return;
    known = true;
    assign(value, name, config.*(field.member));
  });
  if (known) return;
  for (const Elsewhere& other : elsewhere<C>()) {
    if (other.name != name) continue;
    if (value.is_none()) return;
    const std::string message = name + " is not supported; closest is " + std::string(other.closest);
    PyErr_SetString(PyExc_NotImplementedError, message.c_str());
    throw nb::python_error();
  }
  raise_unknown<C>(class_name, name);
}

template <class C>
C with_changes(C config, std::string_view class_name, nb::handle changes) {
  for (const auto& [key, value] : nb::cast<nb::dict>(changes))
    set_field(config, class_name, nb::cast<std::string>(key), value);
  if constexpr (requires { validate(config); }) validate(config);
  return config;
}

template <class C>
nb::dict to_dict(const C& config, bool changed_only) {
  const C defaults;
  nb::dict out;
  for_each_field<C>([&](const auto& field) {
    if (changed_only && config.*(field.member) == defaults.*(field.member)) return;
    out[nb::str(field.name.data(), field.name.size())] = to_object(config.*(field.member), false);
  });
  return out;
}

template <class C>
std::string to_repr(const C& config, const std::string& class_name) {
  std::string out = class_name + "(";
  for (const auto& [key, value] : to_dict(config, true)) {
    if (out.back() != '(') out += ", ";
    out += nb::cast<std::string>(key) + "=" + nb::cast<std::string>(nb::repr(value));
  }
  return out + ")";
}

template <class C>
std::string parameters() {
  const C defaults;
  std::string out;
  for_each_field<C>([&](const auto& field) {
    using Member = std::remove_cvref_t<decltype(defaults.*(field.member))>;
    out += ", " + std::string(field.name) + ": " + qualified(Hint<Member>::in()) + " = " +
           default_text(defaults.*(field.member));
  });
  return out;
}

// (name, type, default, doc) of every field: the command line is made from it.
template <class C>
nb::tuple field_rows() {
  const C defaults;
  nb::list rows;
  for_each_field<C>([&](const auto& field) {
    using Member = std::remove_cvref_t<decltype(defaults.*(field.member))>;
    rows.append(nb::make_tuple(std::string(field.name), Hint<Member>::out(), to_object(defaults.*(field.member), true),
                               std::string(field.doc)));
  });
  return nb::tuple(rows);
}

// {name: the texts that it takes} of the fields where they can be listed.
template <class C>
nb::dict field_choices() {
  nb::dict choices;
  for_each_field<C>([&](const auto& field) {
    if (field.choices.empty()) return;
    nb::list texts;
    for (const std::string_view text : field.choices) texts.append(nb::str(text.data(), text.size()));
    choices[nb::str(field.name.data(), field.name.size())] = nb::tuple(texts);
  });
  return choices;
}

template <class C>
void bind_properties(nb::class_<C>& type, const std::string& name) {
  for_each_field<C>([&](const auto& field) {
    using Member = std::remove_cvref_t<decltype(std::declval<C>().*(field.member))>;
    const std::string field_name(field.name);
    const std::string getter = "def " + field_name + "(self) -> " + qualified(Hint<Member>::out());
    const std::string setter = "def " + field_name + "(self, value: " + qualified(Hint<Member>::in()) + ", /) -> None";
    type.def_prop_rw(
        field_name.c_str(), [member = field.member](const C& self) { return to_object(self.*member, true); },
        [name, field_name](C& self, nb::handle value) {
          nb::dict change;
          change[field_name.c_str()] = value;
          self = with_changes(self, name, change);  // an invalid value leaves the object as it was
        },
        nb::for_getter(nb::sig(getter.c_str())), nb::for_setter(nb::sig(setter.c_str())),
        nb::for_setter(nb::arg("value").none()), std::string(field.doc).c_str());
  });
}

template <class C>
void bind_config(nb::module_& module, const char* class_name, const char* doc) {
  const std::string name = class_name;
  const std::string init = "def __init__(self, *" + parameters<C>() + ") -> None";
  const std::string replace = "def replace(self, **changes: object) -> " + name;
  const std::string copy_replace = "def __replace__(self, **changes: object) -> " + name;
  const std::string from_dict = "def from_dict(values: dict[str, object]) -> " + name;
  nb::class_<C> type(module, class_name, doc);
  type.def(
      "__init__",
      [name](C* self, nb::args args, nb::kwargs kwargs) {
        if (args.size() > 0) raise_type_error(name + " takes keyword arguments only");
        new (self) C(with_changes(C{}, name, kwargs));
      },
      nb::sig(init.c_str()));
  type.def("__repr__", [name](const C& self) { return to_repr(self, name); });
  type.def(
      "__eq__", [](const C& self, const C& other) { return self == other; }, nb::is_operator(),
      nb::sig("def __eq__(self, other: object, /) -> bool"));
  type.attr("__hash__") = nb::none();
  const auto replaced = [name](const C& self, nb::kwargs changes) { return with_changes(self, name, changes); };
  type.def("replace", replaced, nb::sig(replace.c_str()), "A copy with these fields changed.");
  type.def("__replace__", replaced, nb::sig(copy_replace.c_str()));  // copy.replace()
  type.def("__copy__", [](const C& self) { return self; });
  type.def(
      "__deepcopy__", [](const C& self, nb::handle) { return self; }, nb::arg("memo"));
  type.def(
      "to_dict", [](const C& self) { return to_dict(self, false); }, nb::sig("def to_dict(self) -> dict[str, object]"),
      "Every field, as plain Python values.");
  type.def_static(
      "from_dict", [name](nb::dict values) { return with_changes(C{}, name, values); }, nb::arg("values"),
      nb::sig(from_dict.c_str()), "The inverse of to_dict(); missing fields keep their defaults.");
  type.def(
      "__getstate__", [](const C& self) { return to_dict(self, false); },
      nb::sig("def __getstate__(self) -> dict[str, object]"));
  type.def(
      "__setstate__", [name](C& self, nb::dict state) { new (&self) C(with_changes(C{}, name, state)); },
      nb::sig("def __setstate__(self, state: dict[str, object], /) -> None"));
  bind_properties(type, name);
  type.attr("__fields__") = field_rows<C>();
  type.attr("__choices__") = field_choices<C>();
}

}  // namespace

void bind_configs(nb::module_& module) {
  bind_config<SamplingParams>(module, "SamplingParams",
                              "How one request is sampled. Raises ValueError or TypeError naming the field.");
  bind_config<PoolingParams>(module, "PoolingParams",
                             "How a prompt becomes an embedding. Raises ValueError or TypeError naming the field.");
  bind_config<EngineConfig>(module, "EngineConfig",
                            "How an engine runs. 0 means chosen from the model and the machine.");
  bind_config<BuildConfig>(module, "BuildConfig", "How a checkpoint is compiled into an engine directory.");
  bind_config<SimConfig>(module, "SimConfig", "A simulation of arrivals, a router and many engines.");
}

}  // namespace warpjet::python

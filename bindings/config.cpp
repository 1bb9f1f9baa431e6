// Config structs as Python classes, made from fields(): nothing about a single field is written here.
#include "bindings.h"
#include "handles.h"
#include "values.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <string>
#include <string_view>
#include <vector>

namespace warpjet::python {
namespace {

// --- Unknown names --------------------------------------------------------------------------------------------------

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

// --- __fields__ -----------------------------------------------------------------------------------------------------

nb::object number_of(double value) {
  const bool whole = value == std::floor(value) && std::abs(value) < 1e15;
  return whole ? nb::object(nb::int_(static_cast<std::int64_t>(value))) : nb::object(nb::float_(value));
}

// JSON Schema's words for one value of a type within a range.
template <class Member>
struct Shape {
  static nb::dict of(const ValueRange& range) {
    nb::dict shape;
    if constexpr (std::is_arithmetic_v<Member> && !std::same_as<Member, bool>) {
      if (!range.numbers.empty()) {
        nb::list numbers;
        for (const int number : range.numbers) numbers.append(number);
        shape["enum"] = numbers;
        return shape;
      }
      if (std::isfinite(range.low)) shape[range.above ? "exclusiveMinimum" : "minimum"] = number_of(range.low);
      if (std::isfinite(range.high)) shape["maximum"] = number_of(range.high);
      if constexpr (std::integral<Member>) {
        if (!std::isfinite(range.low)) shape["minimum"] = std::numeric_limits<Member>::min();
        if (!std::isfinite(range.high)) shape["maximum"] = std::numeric_limits<Member>::max();
      }
    } else if constexpr (std::same_as<Member, std::string>) {
      if (!range.texts.empty() && !range.aliases) {
        nb::list texts;
        for (const std::string_view text : range.texts) texts.append(text_of(text));
        shape["enum"] = texts;
      }
      if (std::isfinite(range.low)) shape["minLength"] = number_of(range.low);
      if (std::isfinite(range.high)) shape["maxLength"] = number_of(range.high);
    }
    return shape;
  }
};

template <class T>
struct Shape<std::optional<T>> : Shape<T> {};

template <class T>
struct Shape<std::vector<T>> {
  static nb::dict of(const ValueRange& range) {
    nb::dict shape;
    ValueRange each = range;
    each.max_entries = 0;
    if (nb::dict items = Shape<T>::of(each); items.size() > 0) shape["items"] = items;
    if (range.max_entries > 0) shape["maxItems"] = range.max_entries;
    return shape;
  }
};

template <class V>
struct Shape<std::map<std::int32_t, V>> {
  static nb::dict of(const ValueRange& range) {
    nb::dict shape;
    shape["additionalProperties"] = Shape<V>::of(range);
    shape["maxProperties"] = range.max_entries;
    return shape;
  }
};

// The range in words; texts are told by their names alone.
template <class Member>
struct Words {
  static std::string of(const ValueRange& range, std::string_view unit) {
    return range.texts.empty() ? to_string(range, unit) : std::string();
  }
};

template <class T>
struct Words<std::optional<T>> : Words<T> {};

template <class T>
struct Words<std::vector<T>> {
  static std::string of(const ValueRange& range, std::string_view unit) {
    if (range.max_entries == 0) return {};
    const bool said = std::same_as<T, std::string> || std::same_as<T, double>;  // token ids go without saying
    const std::string each = to_string(range, std::same_as<T, std::string> ? "bytes" : unit);
    return "at most " + std::to_string(range.max_entries) + (said && !each.empty() ? ", each " + each : "");
  }
};

template <class V>
struct Words<std::map<std::int32_t, V>> : Words<std::vector<V>> {};

// A Field of each field: command line, HTTP fields and their OpenAPI document are made from it.
template <class C>
nb::tuple field_rows(const nb::object& row) {
  const C defaults;
  nb::list rows;
  for_each_field<C>([&](const auto& field) {
    using Member = std::remove_cvref_t<decltype(defaults.*(field.member))>;
    nb::list choices;
    for (const std::string_view text : field.range.texts) choices.append(text_of(text));
    rows.append(row(text_of(field.name), Hint<Member>::out(), to_object(defaults.*(field.member), true),
                    text_of(field.doc), text_of(field.unit), Words<Member>::of(field.range, field.unit),
                    nb::tuple(choices), Shape<Member>::of(field.range)));
  });
  return nb::tuple(rows);
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
  // Raises for a name of another engine's that asks for something, and is False for one that nobody knows.
  if constexpr (std::same_as<C, SamplingParams>)
    if (nb::cast<bool>(nb::module_::import_("warpjet.common.foreign").attr("check_sampling")(name, value))) return;
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

// The documentation of a property.
template <class Member>
std::string described(const auto& field) {
  const std::string limits = Words<Member>::of(field.range, field.unit);
  return std::string(field.doc) + (limits.empty() ? "" : " (" + limits + ")");
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
        nb::for_setter(nb::arg("value").none()), described<Member>(field).c_str());
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
  type.attr("__fields__") = field_rows<C>(module.attr("Field"));
}

}  // namespace

void bind_configs(nb::module_& module) {
  const nb::object row = nb::module_::import_("collections")
                             .attr("namedtuple")("Field", "name type default doc unit takes choices shape",
                                                 nb::arg("module") = "warpjet._native");
  module.attr("Field") = row;
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

// Values between C++ and Python: strict on the way in, unchangeable on the way out, and how types are spelt in
// signatures.
#pragma once

#include "bindings.h"

#include <concepts>
#include <cstdint>
#include <limits>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

namespace warpjet::python {

// --- Python -> C++: strict, every message names the field -----------------------------------------------------------

inline void assign(nb::handle value, const std::string& name, bool& out) {
  if (value.is_none()) return;  // "not said": the default stays
  if (!PyBool_Check(value.ptr())) raise_type_error(name + " must be a bool, got " + kind_of(value));
  out = value.ptr() == Py_True;
}

template <std::integral T>
requires(!std::same_as<T, bool>) void assign(nb::handle value, const std::string& name, T& out) {
  out = static_cast<T>(to_integer(value, name, std::numeric_limits<T>::min(), std::numeric_limits<T>::max()));
}

inline void assign(nb::handle value, const std::string& name, double& out) {
  const bool number = PyFloat_Check(value.ptr()) || PyIndex_Check(value.ptr()) || nb::hasattr(value, "__float__");
  if (!number || PyBool_Check(value.ptr())) raise_type_error(name + " must be a number, got " + kind_of(value));
  const nb::object real = nb::steal(PyNumber_Float(value.ptr()));
  if (!real.is_valid()) {
    if (!PyErr_ExceptionMatches(PyExc_OverflowError)) throw nb::python_error();
    PyErr_Clear();
    raise_value_error(name + " is too large for a float");
  }
  out = PyFloat_AsDouble(real.ptr());
}

inline void assign(nb::handle value, const std::string& name, std::string& out) {
  if (!PyUnicode_Check(value.ptr())) raise_type_error(name + " must be a str, got " + kind_of(value));
  Py_ssize_t size = 0;
  const char* text = PyUnicode_AsUTF8AndSize(value.ptr(), &size);
  if (text == nullptr) throw nb::python_error();  // a lone surrogate: UnicodeEncodeError is a ValueError
  out.assign(text, static_cast<std::size_t>(size));
}

// Python reads and writes what only Python understands.
inline void assign(nb::handle value, const std::string& name, JsonText& out) {
  out.text.clear();
  if (!value.is_none()) assign(nb::module_::import_("warpjet.structured").attr("to_text")(value), name, out.text);
}

template <class T>
void assign(nb::handle value, const std::string& name, std::optional<T>& out);
template <class T>
void assign(nb::handle value, const std::string& name, std::vector<T>& out);
template <class V>
void assign(nb::handle value, const std::string& name, std::map<std::int32_t, V>& out);

template <class T>
void assign(nb::handle value, const std::string& name, std::optional<T>& out) {
  if (value.is_none()) {
    out.reset();
  } else {
    assign(value, name, out.emplace());
  }
}

template <class T>
void assign(nb::handle value, const std::string& name, std::vector<T>& out) {
  out.clear();
  if (value.is_none()) return;
  if constexpr (std::same_as<T, std::string>) {
    if (PyUnicode_Check(value.ptr())) return assign(value, name, out.emplace_back());  // one string is a list of one
  }
  const bool text = PyUnicode_Check(value.ptr()) || PyBytes_Check(value.ptr());
  if (text || PyDict_Check(value.ptr()) || !nb::hasattr(value, "__iter__"))
    raise_type_error(name + " must be a list, got " + kind_of(value));
  for (const nb::handle item : nb::iter(value)) {
    const std::string item_name = name + "[" + std::to_string(out.size()) + "]";
    assign(item, item_name, out.emplace_back());
  }
}

template <class V>
void assign(nb::handle value, const std::string& name, std::map<std::int32_t, V>& out) {
  out.clear();
  if (value.is_none()) return;
  if (!nb::hasattr(value, "items")) raise_type_error(name + " must be a dict, got " + kind_of(value));
  for (const nb::handle item : nb::iter(value.attr("items")())) {
    const nb::tuple pair = nb::cast<nb::tuple>(item);
    std::int32_t key = 0;
    assign(pair[0], name + " key", key);
    assign(pair[1], name + "[" + std::to_string(key) + "]", out[key]);
  }
}

// --- C++ -> Python: plain values for JSON, unchangeable ones for properties -----------------------------------------
// A property gives a tuple or a read-only mapping: params.stop.append("x") must fail, not be forgotten.

template <class T>
nb::object to_object(const T& value, bool frozen);

template <class T>
nb::object to_object(const std::vector<T>& values, bool frozen) {
  nb::list out;
  for (const auto& value : values) out.append(to_object(value, frozen));
  return frozen ? nb::object(nb::tuple(out)) : nb::object(out);
}

template <class V>
nb::object to_object(const std::map<std::int32_t, V>& values, bool frozen) {
  nb::dict out;
  for (const auto& [key, value] : values) out[nb::int_(key)] = to_object(value, frozen);
  return frozen ? nb::module_::import_("types").attr("MappingProxyType")(out) : nb::object(out);
}

template <class T>
nb::object to_object(const std::optional<T>& value, bool frozen) {
  return value ? to_object(*value, frozen) : nb::none();
}

inline nb::object to_object(const JsonText& value, bool frozen) {
  if (value.text.empty()) return nb::none();
  return nb::module_::import_("warpjet.structured").attr(frozen ? "from_text" : "dict_of")(value.text);
}

template <class T>
nb::object to_object(const T& value, bool) {
  return nb::cast(value);
}

// --- Type names for signatures and stubs ----------------------------------------------------------------------------

template <class T>
struct Hint;
template <>
struct Hint<bool> {
  static std::string out() { return "bool"; }
  static std::string in() { return "bool | None"; }
};
template <std::integral T>
struct Hint<T> {
  static std::string out() { return "int"; }
  static std::string in() { return "int"; }
};
template <>
struct Hint<double> {
  static std::string out() { return "float"; }
  static std::string in() { return "float"; }
};
template <>
struct Hint<std::string> {
  static std::string out() { return "str"; }
  static std::string in() { return "str"; }
};
template <>
struct Hint<JsonText> {
  static std::string out() { return "StructuredOutputsParams | None"; }
  static std::string in() { return "StructuredOutputsParams | Mapping[str, object] | None"; }
};
template <class T>
struct Hint<std::optional<T>> {
  static std::string out() { return Hint<T>::out() + " | None"; }
  static std::string in() {
    const std::string hint = Hint<T>::in();
    return hint.ends_with(" | None") ? hint : hint + " | None";
  }
};
template <class T>
struct Hint<std::vector<T>> {
  static std::string out() { return "tuple[" + Hint<T>::out() + ", ...]"; }
  static std::string in() {
    const std::string item = std::is_arithmetic_v<T> || std::same_as<T, std::string> ? Hint<T>::in() : "Sequence[int]";
    return std::string(std::same_as<T, std::string> ? "str | " : "") + "Sequence[" + item + "] | None";
  }
};
template <class V>
struct Hint<std::map<std::int32_t, V>> {
  static std::string out() { return "Mapping[int, " + Hint<V>::out() + "]"; }
  static std::string in() { return "Mapping[int, " + Hint<V>::in() + "] | None"; }
};

// Names with their modules: the stub generator imports what is spelt in full.
inline std::string qualified(std::string hint) {
  const auto prefix_all = [&](std::string_view name, std::string_view module) {
    for (std::size_t at = hint.find(name); at != std::string::npos;
         at = hint.find(name, at + module.size() + name.size()))
      hint.insert(at, module);
  };
  prefix_all("Sequence[", "collections.abc.");
  prefix_all("Mapping[", "collections.abc.");
  prefix_all("StructuredOutputsParams", "warpjet.structured.");
  return hint;
}

// A field's default as source text; what may be None and is empty is written None.
template <class Member>
std::string default_text(const Member& value) {
  if constexpr (requires { value.empty(); } && !std::same_as<Member, std::string>) return "None";
  return nb::cast<std::string>(nb::repr(to_object(value, true)));
}

}  // namespace warpjet::python

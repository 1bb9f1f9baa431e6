// What the parts of the Python module share. They see the public headers only.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <warpjet/warpjet.h>

#include <string>

namespace nb = nanobind;

namespace warpjet::python {

// A wrong type of a named argument: TypeError.
[[noreturn]] void raise_type_error(const std::string& message);

// A wrong value of a named argument: ValueError.
[[noreturn]] void raise_value_error(const std::string& message);

// The name of an object's type, for messages.
std::string kind_of(nb::handle value);

// A Python integer (or an object with __index__, as NumPy's are) that is no bool and fits in [low, high].
std::int64_t to_integer(nb::handle value, const std::string& name, std::int64_t low, std::int64_t high);

std::int64_t allocations_of_this_thread();

nb::dict dict_of(const Snapshot& snapshot);

void bind_configs(nb::module_& module);
void bind_outputs(nb::module_& module);
void bind_engine(nb::module_& module);
void bind_module_functions(nb::module_& module);

}  // namespace warpjet::python

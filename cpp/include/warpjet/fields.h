// Field descriptors: each config struct lists its members once, in fields(), and that list drives JSON, Python, the
// command line, printing and comparison.
#pragma once

#include <span>
#include <string_view>
#include <tuple>

namespace warpjet {

template <class Class, class Member>
struct Field {
  std::string_view name;
  Member Class::*member;
  std::string_view doc = {};
  std::span<const std::string_view> choices = {};  // the texts that it takes, where they can be listed
};

template <class Class, class Member>
Field(const char*, Member Class::*) -> Field<Class, Member>;

template <class Class, class Member>
Field(const char*, Member Class::*, const char*) -> Field<Class, Member>;

template <class Class, class Member>
Field(const char*, Member Class::*, const char*, std::span<const std::string_view>) -> Field<Class, Member>;

// Calls visit(field) for every field of Class, in order.
template <class Class, class Visitor>
constexpr void for_each_field(Visitor&& visit) {
  std::apply([&](const auto&... field) { (visit(field), ...); }, Class::fields());
}

}  // namespace warpjet

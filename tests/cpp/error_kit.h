// Checks that a call fails as documented: with this code and with these words in the message.
#pragma once

#include <gtest/gtest.h>
#include <warpjet/error.h>

#include <string>
#include <string_view>

namespace warpjet {

inline void expect_error(ErrorCode code, std::string_view words, const auto& call) {
  try {
    call();
    ADD_FAILURE() << "did not throw; expected " << to_string(code) << " with \"" << words << "\"";
  } catch (const Error& error) {
    EXPECT_EQ(to_string(error.code()), to_string(code)) << error.what();
    EXPECT_NE(error.message().find(words), std::string::npos) << error.what() << "\nexpected: " << words;
  }
}

}  // namespace warpjet

// A folder of its own for a test, gone with the object.
#pragma once

#include "core/core.h"

#include <unistd.h>

#include <filesystem>

namespace warpjet {

class TemporaryDirectory {
 public:
  TemporaryDirectory()
      : path_(std::filesystem::temp_directory_path() / cat("warpjet_test_", ::getpid(), "_", count_++)) {
    std::filesystem::create_directories(path_);
  }
  ~TemporaryDirectory() { std::filesystem::remove_all(path_); }
  TemporaryDirectory(const TemporaryDirectory&) = delete;
  TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;
  const std::filesystem::path& path() const { return path_; }

 private:
  inline static int count_ = 0;
  std::filesystem::path path_;
};

}  // namespace warpjet

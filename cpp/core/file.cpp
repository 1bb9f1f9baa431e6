#include "core/core.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <system_error>

namespace warpjet {
namespace {

std::string reason() {
  return std::generic_category().message(errno);
}

// Closes when it goes out of scope.
struct Descriptor {
  int fd;
  ~Descriptor() {
    if (fd >= 0) ::close(fd);
  }
};

// Opens a regular file; returns its size.
std::int64_t open_to_read(const std::filesystem::path& path, Descriptor& file) {
  // Without O_NONBLOCK, opening a named pipe would wait for a writer.
  file.fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  WJ_REQUIRE(file.fd >= 0, io, "cannot open ", path.string(), ": ", reason());
  struct stat status {};
  WJ_REQUIRE(::fstat(file.fd, &status) == 0, io, "cannot read ", path.string(), ": ", reason());
  WJ_REQUIRE(S_ISREG(status.st_mode), io, path.string(), " is not a regular file");
  return status.st_size;
}

}  // namespace

FileReader::FileReader(const std::filesystem::path& path) : path_(path) {
  Descriptor file{-1};
  size_ = open_to_read(path, file);
  fd_ = std::exchange(file.fd, -1);
}

FileReader::~FileReader() {
  ::close(fd_);
}

void FileReader::read(std::int64_t offset, std::span<std::byte> to) const {
  while (!to.empty()) {
    const ::ssize_t count = ::pread(fd_, to.data(), to.size(), offset);
    if (count < 0 && errno == EINTR) continue;
    WJ_REQUIRE(count >= 0, io, "cannot read ", path_.string(), ": ", reason());
    WJ_REQUIRE(count > 0, io, path_.string(), " ends at byte ", offset, ", but ", to.size(), " more are needed");
    offset += count;
    to = to.subspan(static_cast<std::size_t>(count));
  }
}

void FileReader::prefetch(std::int64_t offset, std::int64_t bytes) const {
  if (bytes > 0) ::posix_fadvise(fd_, offset, bytes, POSIX_FADV_WILLNEED);
}

FileWriter::FileWriter(const std::filesystem::path& path)
    : path_(path), fd_(::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666)) {
  WJ_REQUIRE(fd_ >= 0, io, "cannot create ", path.string(), ": ", reason());
}

FileWriter::~FileWriter() {
  if (fd_ >= 0) ::close(fd_);
}

void FileWriter::write(std::span<const std::byte> bytes) {
  WJ_CHECK(fd_ >= 0, path_.string(), " is closed");
  while (!bytes.empty()) {
    const ::ssize_t count = ::write(fd_, bytes.data(), bytes.size());
    if (count < 0 && errno == EINTR) continue;
    WJ_REQUIRE(count >= 0, io, "cannot write ", path_.string(), ": ", reason());
    size_ += count;
    bytes = bytes.subspan(static_cast<std::size_t>(count));
  }
}

void FileWriter::pad_to(std::int64_t offset) {
  static constexpr std::array<std::byte, 4096> kZeros{};
  WJ_CHECK(offset >= size_, "offset ", offset, " is behind the end ", size_, " of ", path_.string());
  while (size_ < offset) {
    const auto count = std::min<std::int64_t>(offset - size_, kZeros.size());
    write(std::span(kZeros).first(static_cast<std::size_t>(count)));
  }
}

void FileWriter::close() {
  if (fd_ < 0) return;
  const Descriptor file{std::exchange(fd_, -1)};
  // Special files such as /dev/null cannot be synchronised and need not be.
  WJ_REQUIRE(::fsync(file.fd) == 0 || errno == EINVAL, io, "cannot write ", path_.string(), ": ", reason());
}

bool path_exists(const std::filesystem::path& path) noexcept {
  struct stat status {};
  return ::lstat(path.c_str(), &status) == 0 || (errno != ENOENT && errno != ENOTDIR);
}

std::string read_text_file(const std::filesystem::path& path, std::int64_t max_bytes) {
  const FileReader file(path);
  WJ_REQUIRE(file.size() <= max_bytes, corrupt, path.string(), " has ", file.size(), " bytes, expected at most ",
             max_bytes);
  std::string text(static_cast<std::size_t>(file.size()), '\0');
  file.read(0, std::as_writable_bytes(std::span(text)));
  return text;
}

void write_text_file(const std::filesystem::path& path, std::string_view text) {
  FileWriter file(path);
  file.write(std::as_bytes(std::span(text)));
  file.close();
}

}  // namespace warpjet

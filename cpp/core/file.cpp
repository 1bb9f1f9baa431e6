#include "core/core.h"

#include <fcntl.h>
#include <sys/mman.h>
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

std::uintptr_t round_down(std::uintptr_t address, std::uintptr_t page) {
  return address - address % page;
}

}  // namespace

MappedFile::MappedFile(const std::filesystem::path& path) : path_(path) {
  Descriptor file{-1};
  size_ = static_cast<std::size_t>(open_to_read(path, file));
  if (size_ == 0) return;  // mmap refuses an empty range
  void* data = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, file.fd, 0);
  WJ_REQUIRE(data != MAP_FAILED, io, "cannot map ", path.string(), ": ", reason());
  data_ = static_cast<const std::byte*>(data);
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) ::munmap(const_cast<std::byte*>(data_), size_);
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : path_(std::move(other.path_)), data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

void MappedFile::drop(std::span<const std::byte> part) const {
  // Whole pages behind a reader that goes front to back: the page of the end is still in use.
  const auto page = static_cast<std::uintptr_t>(::sysconf(_SC_PAGESIZE));
  const std::uintptr_t begin = round_down(reinterpret_cast<std::uintptr_t>(part.data()), page);
  const std::uintptr_t end = round_down(reinterpret_cast<std::uintptr_t>(part.data() + part.size()), page);
  if (end > begin) ::madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED);
}

void MappedFile::prefetch(std::span<const std::byte> part) const {
  const auto page = static_cast<std::uintptr_t>(::sysconf(_SC_PAGESIZE));
  const std::uintptr_t begin = round_down(reinterpret_cast<std::uintptr_t>(part.data()), page);
  const auto end = reinterpret_cast<std::uintptr_t>(part.data() + part.size());
  if (end > begin) ::madvise(reinterpret_cast<void*>(begin), end - begin, MADV_WILLNEED);
}

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
  const MappedFile file(path);
  WJ_REQUIRE(std::cmp_less_equal(file.bytes().size(), max_bytes), corrupt, path.string(), " has ", file.bytes().size(),
             " bytes, expected at most ", max_bytes);
  return {reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()};
}

void write_text_file(const std::filesystem::path& path, std::string_view text) {
  FileWriter file(path);
  file.write(std::as_bytes(std::span(text)));
  file.close();
}

}  // namespace warpjet

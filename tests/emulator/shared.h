// One block's shared memory and a shadow of it that knows who touched each byte, when, and whether that was in order.
#pragma once

#include "emulator/emulator.h"

#include <memory>
#include <vector>

namespace emu {

struct Lane;

class SharedMemory {
 public:
  explicit SharedMemory(int bytes);

  std::byte* data() const { return data_; }
  int bytes() const { return bytes_; }
  bool contains(const void* pointer) const;

  // Each throws Failure: out of bounds or misaligned, bytes nobody wrote, bytes of a copy that nobody waited for, and
  // accesses that no barrier orders (a race).
  void read(Lane& lane, const void* from, int bytes, Site site);
  void write(Lane& lane, const void* to, int bytes, Site site);
  void change(Lane& lane, const void* word, Site site);  // atomically: in no order with other changes of it
  void begin_copy(Lane& lane, const void* to, int bytes, Site site);  // in flight from here on
  void end_copy(Lane& lane, const void* to, int bytes, Site site);    // the lane waited for it

  // The async proxy (TMA, wgmma). What threads touched before must be ordered and behind a fence_async() of theirs.
  void begin_async_write(Lane& lane, int offset, int bytes, Site site);
  void land(int offset, int bytes, std::uint32_t agent_time);  // its barrier's phase is complete
  void begin_async_read(Lane& lane, int offset, int bytes, Site site);
  void end_async_read(Lane& lane, int offset, int bytes);   // the lane waited for it
  void expect_fenced_barrier(int offset, Site site) const;  // fence_init() after mbarrier_init()
  int offset_of(const void* pointer, int bytes, int alignment, Site site) const;

  void check_guard_bands() const;  // plain stores that left the block

 private:
  enum class State : std::uint8_t { unwritten, in_flight, written };
  static constexpr std::uint16_t kNobody = 0xffff, kAgent = 0xfffe;  // the agent is the async proxy
  struct Touch {
    std::uint32_t time = 0;
    std::uint16_t lane = kNobody;  // in the gang
    std::uint16_t site : 14 = 0;   // in sites_
    std::uint16_t async : 1 = 0;   // by way of the async proxy
    std::uint16_t atomic : 1 = 0;
  };
  struct Byte {
    Touch write, read;
    State state = State::unwritten;
    std::uint8_t async_readers = 0;
  };

  std::uint16_t number_of(Site site);
  int place(const void* pointer, int bytes, Site site, const char* what) const;
  void expect_fenced(const Touch& earlier, int offset, Site site, const char* now, const char* then) const;
  void expect_unread(const Byte& byte, int offset, Site site) const;
  void expect_after(Lane& lane, const Touch& earlier, int offset, Site site, const char* now, const char* then) const;

  int bytes_;
  std::vector<std::byte> storage_;
  std::byte* data_;
  std::vector<Byte> shadow_;
  std::vector<Site> sites_;
};

}  // namespace emu

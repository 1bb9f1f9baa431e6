// A batch is plain data: its bytes are its value.
#include "schedule/batch.h"
#include "error_kit.h"

#include <gtest/gtest.h>

namespace warpjet {
namespace {

Batch example() {
  Batch batch;
  batch.step = 7;
  batch.num_decodes = 2;
  batch.num_tokens = 5;
  batch.changes = {{.kind = SlotChange::Kind::join, .slot = 3}, {.kind = SlotChange::Kind::block, .slot = 3, .b = 9}};
  const Range tokens = batch.add(std::vector<std::int32_t>{10, 11, 12});
  batch.joins = {{.source = 1, .prefix = 4, .tokens = tokens, .record = batch.add(std::vector<std::int32_t>{-1})}};
  batch.copies = {{.from = Tier::host, .source = 5, .target = 6}};
  batch.chunks = {{.slot = 3, .start = 4, .count = 3, .num_samples = 1}};
  batch.sample_slots = {3};
  return batch;
}

std::vector<std::byte> bytes_of(const Batch& batch) {
  std::vector<std::byte> bytes;
  to_bytes(batch, bytes);
  return bytes;
}

TEST(Batch, SurvivesARoundTripThroughBytes) {
  const std::vector<std::byte> bytes = bytes_of(example());
  Batch copy = example();
  copy.words.assign(50, 1);  // overwritten
  copy.copies.clear();
  from_bytes(bytes, copy);
  EXPECT_EQ(bytes_of(copy), bytes);
  EXPECT_EQ(digest(copy), digest(example()));
  EXPECT_EQ(copy.at(copy.joins[0].tokens)[2], 12);
  EXPECT_EQ(copy.at(copy.joins[0].record)[0], -1);
  EXPECT_EQ(copy.num_samples(), 3);
}

// Also: every byte can be told from the digest. A change of a count makes bytes that are no batch.
TEST(Batch, DigestCoversEveryByte) {
  const std::vector<std::byte> bytes = bytes_of(example());
  const std::uint64_t expected = digest(example());
  int read = 0, refused = 0;
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    std::vector<std::byte> changed = bytes;
    changed[i] ^= std::byte{0x10};
    Batch batch;
    try {
      from_bytes(changed, batch);
      ++read;
      EXPECT_NE(digest(batch), expected) << "byte " << i;
    } catch (const Error&) {
      ++refused;
    }
  }
  EXPECT_EQ(refused, 6 * 8) << "the counts of six lists";
  EXPECT_EQ(read + refused, std::ssize(bytes));
}

TEST(Batch, EqualWordsInOtherListsHaveOtherDigests) {
  Batch words, slots;
  words.words = {1, 2};
  slots.sample_slots = {1, 2};
  EXPECT_NE(digest(words), digest(slots));
  Batch cleared = example();
  cleared.clear();
  EXPECT_EQ(digest(cleared), digest(Batch()));
}

TEST(Batch, RefusesBytesThatAreNoBatch) {
  std::vector<std::byte> bytes = bytes_of(example());
  Batch batch;
  for (std::size_t size = 0; size < bytes.size(); ++size) {
    EXPECT_THROW(from_bytes(std::span(bytes).first(size), batch), Error) << size;
  }
  bytes.push_back(std::byte{0});
  expect_error(ErrorCode::invalid_argument, "1 bytes behind the end of a batch", [&] { from_bytes(bytes, batch); });
  bytes.resize(20);
  expect_error(ErrorCode::invalid_argument, "end within \"changes\"", [&] { from_bytes(bytes, batch); });
}

TEST(Batch, RefusesRangesBeyondItsWords) {
  const Batch batch = example();
  EXPECT_EQ(batch.at({1, 3}).size(), 3u);
  EXPECT_EQ(batch.at({4, 0}).size(), 0u);
  for (const Range range : {Range{2, 3}, Range{-1, 1}, Range{0, -1}, Range{0x7fffffff, 0x7fffffff}}) {
    EXPECT_THROW((void)batch.at(range), Error) << range.first;
  }
}

}  // namespace
}  // namespace warpjet

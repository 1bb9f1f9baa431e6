// What slots' texts and lists do to their logits, and how texts grow.
//   logits, raw [rows, vocab]    f32
//   slots, tokens, results [rows]    i32; SlotViews as in ops/sampling.h
// Bound: bytes / HBM bandwidth. A block holds one piece of a row in shared memory while all edits are made to it; a row
// whose slot wants none is not touched. Every block reads the whole text and lists, which are short beside the logits.
// Products and sums are rounded one by one, as the reference's are.
#include "cuda/number.cuh"
#include "cuda/ptx/sync.cuh"
#include "cuda/sm80/sampling.h"
#include "cuda/sm80/slots.cuh"

namespace warpjet::sm80 {
namespace {

constexpr int kPieceWords = kPiece / 32;

struct PenalizeSmem {
  alignas(kVectorBytes) float logits[kPiece];
  std::uint32_t counts[kPiece];       // in the output
  std::uint32_t unseen[kPieceWords];  // bits: not in the prompt
  std::uint32_t allowed[kPieceWords];
};

// What a slot wants of its row. Where its lists are, see SlotViews.
struct Edits {
  int slot, length, prompt_length;
  float repetition, presence, frequency;
  int stops_to_ban, num_biases, num_bad_words;
  bool wants_raw, masked;
  const std::int32_t *text, *stops, *biases;

  WJ_DEVICE Edits(const Slots& slots, int at) : slot(at) {
    const SlotSampling* s = slots.sampling(slot);
    length = ptx::load(slots.lengths + slot);
    prompt_length = ptx::load(&s->prompt_length);
    repetition = ptx::load(&s->repetition);
    presence = ptx::load(&s->presence);
    frequency = ptx::load(&s->frequency);
    const int num_stops = ptx::load(&s->num_stops);
    stops_to_ban = length - prompt_length < ptx::load(&s->min_tokens) ? num_stops : 0;
    num_biases = ptx::load(&s->num_biases);
    num_bad_words = ptx::load(&s->num_bad_words);
    wants_raw = ptx::load(&s->logprobs) >= 0;
    masked = ptx::load(&s->masked) != 0;
    text = slots.texts[slot];
    stops = slots.lists[slot];
    biases = stops + num_stops;
  }

  WJ_DEVICE bool penalised() const { return repetition != 1.0f || presence != 0.0f || frequency != 0.0f; }
  WJ_DEVICE bool any() const {
    return penalised() || masked || stops_to_ban > 0 || num_biases > 0 || num_bad_words > 0;
  }
};

// A token's place in the block's piece, or a number outside it.
WJ_DEVICE unsigned place_of(std::int32_t token) {
  return static_cast<unsigned>(token - ptx::block_idx().x * kPiece);
}

WJ_DEVICE void clear(PenalizeSmem& shared, const Edits& e, const Slots& slots, int vocab) {
  for (int i = ptx::thread_idx().x; i < kPiece; i += kThreads) ptx::store_shared(&shared.counts[i], 0u);
  if (ptx::thread_idx().x < kPieceWords) {
    const int word = ptx::block_idx().x * kPieceWords + ptx::thread_idx().x;
    const bool there = e.masked && word * 32 < vocab;
    ptx::store_shared(&shared.unseen[ptx::thread_idx().x], ~0u);
    ptx::store_shared(&shared.allowed[ptx::thread_idx().x], there ? ptx::load(slots.masks[e.slot] + word) : ~0u);
  }
}

WJ_DEVICE void count_history(PenalizeSmem& shared, const Edits& e) {
  for (int i = ptx::thread_idx().x; i < e.length; i += kThreads) {
    const unsigned place = place_of(ptx::load(e.text + i));
    if (place >= kPiece) continue;
    if (i < e.prompt_length)
      ptx::atomic_and_shared(&shared.unseen[place / 32], ~(1u << place % 32));
    else
      ptx::atomic_add_shared(&shared.counts[place], 1u);
  }
}

WJ_DEVICE float penalise(float logit, bool in_prompt, std::uint32_t in_output, const Edits& e) {
  if (in_prompt || in_output > 0) logit = logit > 0.0f ? logit / e.repetition : ptx::mul(logit, e.repetition);
  if (in_output > 0) {
    const float penalty = ptx::add(e.presence, ptx::mul(e.frequency, static_cast<float>(in_output)));
    logit = ptx::add(logit, -penalty);
  }
  return logit;
}

WJ_DEVICE void ban(PenalizeSmem& shared, std::int32_t token) {
  const unsigned place = place_of(token);
  if (place < kPiece) ptx::atomic_and_shared(&shared.allowed[place / 32], ~(1u << place % 32));
}

// Whether the text ends with all but the last of `count` tokens.
WJ_DEVICE bool is_about_to_end(const Edits& e, const std::int32_t* word, int count) {
  if (count - 1 > e.length) return false;
  const std::int32_t* tail = e.text + e.length - (count - 1);
  for (int i = 0; i < count - 1; ++i) {
    if (ptx::load(word + i) != ptx::load(tail + i)) return false;
  }
  return true;
}

WJ_DEVICE void ban_all(PenalizeSmem& shared, const Edits& e) {
  const int thread = ptx::thread_idx().x;
  for (int i = thread; i < e.stops_to_ban; i += kThreads) ban(shared, ptx::load(e.stops + i));
  const std::int32_t* ends = e.biases + 2 * e.num_biases;
  const std::int32_t* words = ends + e.num_bad_words;
  for (int i = thread; i < e.num_bad_words; i += kThreads) {
    const int begin = i > 0 ? ptx::load(ends + i - 1) : 0, end = ptx::load(ends + i);
    const std::int32_t last = ptx::load(words + end - 1);
    if (place_of(last) < kPiece && is_about_to_end(e, words + begin, end - begin)) ban(shared, last);
  }
}

WJ_DEVICE void add_biases(PenalizeSmem& shared, const Edits& e) {
  for (int i = ptx::thread_idx().x; i < e.num_biases; i += kThreads) {
    const unsigned place = place_of(ptx::load(e.biases + i));
    if (place >= kPiece) continue;
    const float value = bit_cast<float>(ptx::load(e.biases + e.num_biases + i));
    ptx::store_shared(&shared.logits[place], ptx::add(ptx::load_shared(&shared.logits[place]), value));
  }
}

__global__ void __launch_bounds__(kThreads) penalize(Rows<float> logits, Rows<float> raw, Slots slots, int vocab) {
  auto& shared = ptx::smem<PenalizeSmem>();
  ptx::grid_wait();
  ptx::grid_launch_dependents();
  const int row = ptx::block_idx().y, slot = slots.at_work(row);
  if (slot < 0) return;
  const Edits e(slots, slot);
  float* target = logits[row];
  if (!e.any()) {
    if (!e.wants_raw) return;
    for (int g = 0; g < kGroups; ++g)
      store_group(raw[row], group_start(g), vocab, load_group(target, group_start(g), vocab, 0.0f));
    return;
  }

  clear(shared, e, slots, vocab);
  ptx::sync_threads();
  if (e.penalised()) count_history(shared, e);
  ban_all(shared, e);
  ptx::sync_threads();
  for (int g = 0; g < kGroups; ++g) {
    Group group = load_group(target, group_start(g), vocab, 0.0f);
    if (e.wants_raw) store_group(raw[row], group_start(g), vocab, group);
    const unsigned place = place_of(group_start(g));
    if (e.penalised()) {
      const std::uint32_t unseen = ptx::load_shared(&shared.unseen[place / 32]) >> place % 32;
      const auto counts = ptx::load_shared(reinterpret_cast<const Vec<std::uint32_t, kGroup>*>(&shared.counts[place]));
      for (int i = 0; i < kGroup; ++i) group[i] = penalise(group[i], (unseen >> i & 1u) == 0, counts[i], e);
    }
    ptx::store_shared(reinterpret_cast<Group*>(&shared.logits[place]), group);
  }
  ptx::sync_threads();
  add_biases(shared, e);
  ptx::sync_threads();
  for (int g = 0; g < kGroups; ++g) {
    const unsigned place = place_of(group_start(g));
    Group group = ptx::load_shared(reinterpret_cast<const Group*>(&shared.logits[place]));
    const std::uint32_t allowed = ptx::load_shared(&shared.allowed[place / 32]) >> place % 32;
    for (int i = 0; i < kGroup; ++i) group[i] = (allowed >> i & 1u) != 0 ? group[i] : kNever;
    store_group(target, group_start(g), vocab, group);
  }
}

// --- AppendTokens ---------------------------------------------------------------------------------------------------

constexpr int kRowsOfABlock = kThreads / kWarpSize;

// One warp a row.
__global__ void __launch_bounds__(kThreads)
    append_tokens(Slots slots, const std::int32_t* tokens, std::int32_t* results, int rows) {
  ptx::grid_wait();
  ptx::grid_launch_dependents();
  const int row = ptx::block_idx().x * kRowsOfABlock + ptx::warp_id(), lane = ptx::lane_id();
  if (row >= rows) return;
  const int slot = slots.at_work(row);
  const std::int32_t token = slot < 0 ? kSurplusToken : ptx::load(tokens + row);
  bool stopped = token < 0;
  if (token >= 0) {
    const SlotSampling* s = slots.sampling(slot);
    const int length = ptx::load(slots.lengths + slot) + 1;
    if (length - ptx::load(&s->prompt_length) >= ptx::load(&s->min_tokens)) {
      const int num_stops = ptx::load(&s->num_stops);
      for (int i = lane; i < num_stops; i += kWarpSize) stopped |= ptx::load(slots.lists[slot] + i) == token;
    }
    stopped = ptx::ballot(stopped) != 0;  // also: all lanes have read the length
    if (lane == 0) {
      ptx::store(slots.texts[slot] + length - 1, token);
      ptx::store(slots.lengths + slot, length);
    }
  }
  ptx::sync_warp();  // all lanes have read `alive`
  if (lane > 0) return;
  ptx::store(results + row, token);
  if (slot >= 0) ptx::store(slots.alive + slot, stopped ? 0 : 1);
}

}  // namespace

bool supports(const Penalize::Problem& p) {
  return fits(p.rows, p.vocab);
}
bool supports(const AppendTokens::Problem& p) {
  constexpr std::int64_t kMost = 1 << 30;
  return p.rows < kMost;
}

void launch(const Penalize::Args& args, Stream& stream) {
  const Penalize::Problem& p = args.problem;
  warpjet::launch(penalize, one_block_a_piece(p.rows, p.vocab, sizeof(PenalizeSmem)), stream,
                  rows_of<float>(args.logits), rows_of<float>(args.raw), slots_of(args.slots, args.views),
                  static_cast<int>(p.vocab));
}

void launch(const AppendTokens::Args& args, Stream& stream) {
  const int rows = static_cast<int>(args.problem.rows);
  warpjet::launch(append_tokens, {.grid = {ceil_div(rows, kRowsOfABlock)}, .block = {kThreads}, .pdl = true}, stream,
                  slots_of(args.slots, args.views), args.tokens.as<const std::int32_t>(),
                  args.results.as<std::int32_t>(), rows);
}

}  // namespace warpjet::sm80

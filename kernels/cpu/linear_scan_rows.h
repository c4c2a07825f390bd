// What the forward and the backward job of the linear scan share: how work is cut, the rows of the
// operands, and the states and summaries that pieces of time hand on.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <thread>
#include <vector>

#include "layout.h"
#include "linear_scan.h"
#include "linear_scan_loops.h"

namespace fastscan {

inline const Loops& LoopsOf(Dtype dtype) {
#if defined(FASTSCAN_HAVE_AVX512)
  if (ChosenIsa() == Isa::kAvx512) return avx512::LoopsOf(dtype);
#endif
#if defined(FASTSCAN_HAVE_AVX2)
  if (ChosenIsa() == Isa::kAvx2) return avx2::LoopsOf(dtype);
#endif
  return baseline::LoopsOf(dtype);
}

// Below this many bytes per array one thread is done about when another would have started.
constexpr int64_t kSerialBytes = 1 << 19;
// Time is split among this many threads or more: it takes a second pass, over inputs of which one
// thread can read about as much as two can, and only where the arrays are larger than this.
constexpr int64_t kSplitThreads = 4;
constexpr int64_t kSplitBytes = 1 << 20;
// A piece of time: its inputs are read twice, the second time from the core's own cache.
constexpr int64_t kPieceBytes = 1 << 17;
// Channels are split where the parts are this wide, else memory sees streams full of gaps.
constexpr int64_t kChunkBytes = 1 << 15;
// Results of this size or more, in rows of whole lines, are written past the caches: the next to read
// them would hardly find them there, and a line that is not read before it is written saves a quarter
// of what the memory moves.
constexpr int64_t kPastCachesBytes = 1 << 25;
constexpr int64_t kLineBytes = 64;
// Rows that are run at once, at most.
constexpr int64_t kMostTogether = 64;
// Tasks for each thread, to even out their speeds.
constexpr int64_t kTasksPerThread = 4;

inline int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

// How rows and channels are cut into tasks.
struct Cut {
  int64_t rows_per_task;
  int64_t lanes_per_task;
  int64_t lane_tasks;
  bool split_time;
};

// `together` rows are run at once.
inline Cut CutWork(const Layout& layout, int64_t element_bytes, int64_t together, int64_t threads) {
  const int64_t rows = std::max<int64_t>(layout.rows, 1);
  const int64_t lanes = std::max<int64_t>(layout.lanes.extent, 1);
  const int64_t row_bytes = layout.time.extent * lanes * element_bytes;
  const int64_t bytes = rows * row_bytes;
  if (threads <= 1 || bytes < kSerialBytes) return {rows, lanes, 1, false};

  if (rows >= threads) {
    const bool gaps = together > 1 && lanes * element_bytes >= kNarrowBytes;
    const int64_t wanted = gaps ? threads : std::min(rows, threads * kTasksPerThread);
    const int64_t at_least = CeilDiv(kSerialBytes / 4, std::max<int64_t>(row_bytes, 1));
    const int64_t per_task = std::max(rows / wanted, std::min(at_least, rows / threads));
    return {per_task < together ? per_task : per_task / together * together, lanes, 1, false};
  }
  const int64_t unit = kChunkBytes / element_bytes;
  const int64_t lane_tasks = std::min(lanes / unit, CeilDiv(threads, rows));
  if (rows * lane_tasks >= threads) {
    const int64_t per_task = CeilDiv(CeilDiv(lanes, lane_tasks), unit) * unit;
    return {1, per_task, CeilDiv(lanes, per_task), false};
  }
  return {1, lanes, 1, threads >= kSplitThreads && bytes >= kSplitBytes};
}

// The states that pieces of time hand on: piece i waits for the state that piece i - 1 publishes.
// Pieces are claimed in order, so the one that is waited for has always started.
class Chain {
 public:
  Chain(int64_t pieces, int64_t state_bytes)
      : state_bytes_(state_bytes), states_(pieces * state_bytes), ready_(pieces) {}

  char* state(int64_t piece) { return states_.data() + piece * state_bytes_; }
  void Publish(int64_t piece) { ready_[piece].store(true, std::memory_order_release); }
  const char* Wait(int64_t piece) {
    for (int spins = 0; !ready_[piece].load(std::memory_order_acquire); ++spins) {
      if (spins > 64) std::this_thread::yield();
    }
    return state(piece);
  }

 private:
  int64_t state_bytes_;
  std::vector<char> states_;
  std::vector<std::atomic<bool>> ready_;
};

constexpr char kNoReset = 0;

enum class Kind { kElement, kState, kFlag };

struct Operand {
  Array array;
  Kind kind = Kind::kElement;
};

// What the two jobs have in common: the operands and how to find a row in them.
class RowJob : public Job {
 protected:
  using Offsets = std::array<int64_t, kMaxOperands>;

  using Operands = std::array<Operand, kMaxOperands>;

  RowJob(Dtype dtype, const Shape& shape, bool reverse, const Operands& operands, int count)
      : loops_(LoopsOf(dtype)),
        reverse_(reverse),
        operands_(operands),
        layout_(shape, Arrays(operands).data(), count) {}

  int64_t steps() const { return layout_.time.extent; }
  int64_t lanes() const { return layout_.lanes.extent; }
  bool narrow() const { return lanes() * loops_.element_bytes < kNarrowBytes; }

  // How many rows to run at once: narrow ones, to overlap, or those that lie between the steps of
  // each other in the result `o`.
  int64_t Together(int o) const {
    if (narrow()) return kOverlap;
    const int64_t gap = layout_.time.stride[o] / std::max<int64_t>(lanes(), 1);
    return std::min(std::max<int64_t>(gap, 1), kMostTogether);
  }

  // Whether the result `o`, which has all elements, is written past the caches.
  bool PastCaches(int o) const {
    const int64_t step_bytes = lanes() * loops_.element_bytes;
    const auto address = reinterpret_cast<uintptr_t>(operands_[o].array.data);
    return layout_.rows * steps() * step_bytes >= kPastCachesBytes &&
           step_bytes % kLineBytes == 0 && address % kLineBytes == 0;
  }

  bool has(int o) const { return operands_[o].array.data != nullptr; }

  int64_t bytes(int o) const {
    const Kind kind = operands_[o].kind;
    return kind == Kind::kState ? loops_.state_bytes
           : kind == Kind::kFlag ? 1
                                 : loops_.element_bytes;
  }

  // Operand `o` from step `begin`, in the order of the scan, and channel `lane` of a row. What was
  // left out reads as a flag that is never set.
  Stream At(int o, const Offsets& offsets, int64_t lane, int64_t begin) const {
    if (!has(o)) return {const_cast<char*>(&kNoReset), 0, 0};
    return At(o, static_cast<char*>(operands_[o].array.data), bytes(o), offsets, lane, begin);
  }

  // The same in another array that lies as operand `o` does.
  Stream At(int o, char* data, int64_t element_bytes, const Offsets& offsets, int64_t lane,
            int64_t begin) const {
    const int64_t stride = layout_.time.stride[o], lane_stride = layout_.lanes.stride[o];
    const int64_t step = reverse_ ? -stride : stride;
    const int64_t first = reverse_ ? (steps() - 1) * stride : 0;
    const int64_t offset = offsets[o] + first + begin * step + lane * lane_stride;
    return {data + offset * element_bytes, step, lane_stride};
  }

  // The states of operand `o`, which may be broadcast over the channels, to where they lie densely.
  void CopyState(void* to, int o, const Offsets& offsets, int64_t lane, int64_t count) const {
    const int64_t size = loops_.state_bytes;
    const Stream from = At(o, offsets, lane, 0);
    if (from.lane == 1) {
      std::memcpy(to, from.data, count * size);
    } else {
      for (int64_t i = 0; i < count; ++i) {
        std::memcpy(static_cast<char*>(to) + i * size, from.data, size);
      }
    }
  }

  // Rounded to whole groups of overlapping parts.
  int64_t PieceSteps() const {
    const int64_t step_bytes = lanes() * loops_.element_bytes;
    return std::max<int64_t>(kPieceBytes / step_bytes / kOverlap, 1) * kOverlap;
  }

  const Loops& loops_;
  const bool reverse_;
  Operands operands_;
  Layout layout_;

 private:
  static std::array<const Array*, kMaxOperands> Arrays(const Operands& operands) {
    std::array<const Array*, kMaxOperands> arrays;
    for (int o = 0; o < kMaxOperands; ++o) arrays[o] = &operands[o].array;
    return arrays;
  }
};

// The summaries of the parts of a piece of time. A narrow piece has kOverlap equal parts, whose
// chains of operations overlap, and what is left over; any other piece is one part.
class Parts {
 public:
  Parts(int64_t steps, int64_t lanes, bool narrow, const Loops& loops)
      : product_bytes_(lanes * loops.product_bytes), state_bytes_(lanes * loops.state_bytes) {
    const int64_t part = narrow ? steps / kOverlap : 0;
    if (part > 0) starts_.assign(kOverlap, 0);
    for (size_t i = 0; i < starts_.size(); ++i) starts_[i] = static_cast<int64_t>(i) * part;
    equal_ = static_cast<int>(starts_.size());
    if (part * kOverlap < steps) starts_.push_back(part * kOverlap);
    starts_.push_back(steps);
    storage_.resize(count() * part_bytes());
    cuts_.resize(count() * lanes);
    rows_.resize(count());
    for (int i = 0; i < count(); ++i) {
      rows_[i].product = storage_.data() + i * part_bytes();
      rows_[i].state = storage_.data() + i * part_bytes() + product_bytes_;
      rows_[i].cut = cuts_.data() + i * lanes;
      rows_[i].steps = starts_[i + 1] - starts_[i];
      rows_[i].lanes = lanes;
    }
  }

  int count() const { return static_cast<int>(starts_.size()) - 1; }
  int equal() const { return equal_; }
  int64_t start(int i) const { return starts_[i]; }
  SummaryRow& row(int i) { return rows_[i]; }
  // A state of the caller's, one for each part.
  char* carry(int i) {
    return storage_.data() + i * part_bytes() + product_bytes_ + state_bytes_;
  }

  void Summarize(const Loops& loops, bool adjoint) {
    if (equal_ > 0) loops.summarize(rows_.data(), equal_, adjoint);
    if (equal_ < count()) loops.summarize(&rows_[equal_], 1, adjoint);
  }

 private:
  int64_t part_bytes() const { return product_bytes_ + 2 * state_bytes_; }

  const int64_t product_bytes_, state_bytes_;  // of all lanes
  std::vector<int64_t> starts_;
  int equal_;
  std::vector<char> storage_;
  std::vector<uint8_t> cuts_;
  std::vector<SummaryRow> rows_;
};

}  // namespace fastscan

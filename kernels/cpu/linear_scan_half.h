// 16-bit floats: copied to float and back, some steps of some channels at a time, so that the loops
// need not be compiled for them.
//
// For linear_scan_isa.cc only, as vector.h is.
#pragma once

#include <cstdint>

#include "linear_scan_tiles.h"

namespace fastscan {
namespace {

// What is copied of an array at a time, in elements: five of these stay in the first-level cache.
constexpr int64_t kCopied = 1024;
// Room for it. Copies at equal distances from a page's start would be taken for each other.
struct Copied {
  float elements[kCopied + 80];
};

struct Block {
  int64_t begin, steps, lane, lanes;
};

// Rows in blocks: `together` rows at a time have room for `room` elements each.
struct Blocks {
  Blocks(int64_t steps, int64_t lanes, int together)
      : together(together),
        room(kCopied / together),
        steps(steps),
        lanes(lanes),
        block_lanes(lanes < room ? lanes : room),
        block_steps(room / block_lanes) {}

  // Calls visit(row, block) in the order of time, or against it; all channels of all rows before
  // the next steps.
  template <class Visit>
  void For(int count, bool against, const Visit& visit) const {
    for (int64_t done = 0; done < steps; done += block_steps) {
      const int64_t n = steps - done < block_steps ? steps - done : block_steps;
      const int64_t begin = against ? steps - done - n : done;
      for (int row = 0; row < count; row += together) {
        for (int64_t lane = 0; lane < lanes; lane += block_lanes) {
          const int64_t width = lanes - lane < block_lanes ? lanes - lane : block_lanes;
          visit(row, Block{begin, n, lane, width});
        }
      }
    }
  }

  const int together;
  const int64_t room;
  const int64_t steps, lanes, block_lanes, block_steps;
};

// The part of `s` that is in the block.
template <class T>
Stream From(const Stream& s, const Block& block) {
  const int64_t offset = block.begin * s.step + block.lane * s.lane;
  return {s.data + offset * static_cast<int64_t>(sizeof(T)), s.step, s.lane};
}

// The same block without gaps, in the order in which it lies in memory, and broadcast as it is.
inline Stream Dense(const Stream& s, const Block& block, float* room) {
  const int64_t width = s.lane == 0 ? 1 : block.lanes;
  const int64_t step = s.step < 0 ? -width : s.step > 0 ? width : 0;
  return {reinterpret_cast<char*>(step < 0 ? room - (block.steps - 1) * step : room), step, s.lane};
}

// Calls copy(half, full, count) for the runs of neighbouring elements in a block of `half`.
template <class E, class Copy>
void ForRuns(const Stream& half, const Stream& full, const Block& block, const Copy& copy) {
  if (block.steps == 0) return;
  auto* p = reinterpret_cast<typename E::Storage*>(From<typename E::Storage>(half, block).data);
  auto* q = reinterpret_cast<float*>(full.data);
  const int64_t width = half.lane == 0 ? 1 : block.lanes;
  if (half.step == full.step) {
    const int64_t last = (block.steps - 1) * half.step, low = last < 0 ? last : 0;
    copy(p + low, q + low, (last < 0 ? -last : last) + width);
  } else {
    for (int64_t t = 0; t < block.steps; ++t) copy(p + t * half.step, q + t * full.step, width);
  }
}

template <class E>
Stream Widened(const Stream& half, const Block& block, float* room) {
  constexpr int N = kWidth<F32>;
  const Stream full = Dense(half, block, room);
  ForRuns<E>(half, full, block, [](const auto* from, float* to, int64_t count) {
    int64_t i = 0;
    for (; i + N <= count; i += N) Store<F32, N>(to + i, Load<E, N>(from + i));
    for (; i < count; ++i) to[i] = Load<E, 1>(from + i);
  });
  return full;
}

template <class E>
void NarrowRun(typename E::Storage* to, const float* from, int64_t count) {
  constexpr int N = kWidth<F32>;
  int64_t i = 0;
  for (; i + N <= count; i += N) Store<E, N>(to + i, Load<F32, N>(from + i));
  for (; i < count; ++i) Store<E, 1>(to + i, from[i]);
}

// What the loops have written to `full`, to the block of `half`.
template <class E>
void Narrow(const Stream& full, const Stream& half, const Block& block) {
  ForRuns<E>(half, full, block, [](auto* to, const float* from, int64_t count) {
    NarrowRun<E>(to, from, count);
  });
}

}  // namespace
}  // namespace fastscan

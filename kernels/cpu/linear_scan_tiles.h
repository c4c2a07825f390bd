// How a row is cut into what the registers hold.
//
// For linear_scan_isa.cc only, as vector.h is.
#pragma once

#include <cstdint>
#include <type_traits>

#include "linear_scan_loops.h"
#include "vector.h"

namespace fastscan {
namespace {

// A row of one tile is worked through with its states in registers. So are wider ones, tile by
// tile, as long as they stay in the core's cache meanwhile. Any others are read and written a step
// at a time (or a few, where steps are short, or where the states would not stay in the first-level
// cache), all channels of it: memory then sees sequential streams only, which is worth more than
// the registers.
constexpr int kTileRegisters = 4;
constexpr int64_t kCachedBytes = 1 << 16;
constexpr int64_t kStateBytes = 1 << 12;
constexpr int64_t kWideSteps = 4;

template <class E>
constexpr int64_t kBytes = static_cast<int64_t>(sizeof(typename E::Storage)) * E::kParts;

template <class E>
bool IsNarrow(int64_t lanes) {
  return lanes * kBytes<E> < kNarrowBytes;
}

// How many steps of a row to work through before the next row has its turn, at least `turn_bytes`;
// `wide_steps` of them where the states would not stay in the first-level cache.
template <class E, int kRegisters = kTileRegisters, int64_t kShortBytes = 512>
int64_t BlockSteps(int64_t steps, int64_t lanes, int64_t rows = 1, int64_t turn_bytes = 0,
                   int64_t wide_steps = kWideSteps) {
  constexpr int64_t bytes = kBytes<E>;
  const bool one_tile = rows == 1 && lanes <= kRegisters * kWidth<E> && (lanes & (lanes - 1)) == 0;
  const int64_t step_bytes = rows * lanes * bytes;
  if (one_tile || steps * step_bytes <= kCachedBytes) return steps;
  const int64_t block = step_bytes > kStateBytes ? wide_steps : kShortBytes / step_bytes;
  const int64_t turn = rows > 1 ? turn_bytes / (lanes * bytes) : 1;
  return block > turn ? block : turn > 0 ? turn : 1;
}

// 16-bit floats have loops of their own where channels fill whole registers. All else goes through
// copies, see linear_scan_half.h.
template <class E>
constexpr bool kIsHalf = sizeof(typename E::Storage) < sizeof(typename E::Scalar);
template <class E>
bool IsCopied(int64_t lanes) {
  return kIsHalf<E> && lanes % kWidth<E> != 0;
}

// The element of `s` at `step` and `lane`, which may be broadcast.
template <class T>
inline T* At(const Stream& s, int64_t step, int64_t lane, int64_t parts) {
  return reinterpret_cast<T*>(s.data) + (step * s.step + lane * s.lane) * parts;
}

// The same place in R rows, from step to step. One pointer moves by itself; of several the distance
// from their beginnings does, which they share.
template <class T, int R>
struct Cursor {
  T* start[R];
  int64_t distance = 0;

  T* operator[](int r) const { return R == 1 ? start[0] : start[r] + distance; }
  void Move(int64_t by) {
    if constexpr (R == 1) {
      start[0] += by;
    } else {
      distance += by;
    }
  }
};

// The states of K registers of N channels.
template <class E, int N, int K>
[[gnu::always_inline]] inline void LoadStates(const void* p, int64_t lane,
                                              Lanes<E, N> (&state)[K]) {
  Unroll<K>([&](auto k) __attribute__((always_inline)) {
    state[k] = LoadState<E, N>(p, lane + k * N);
  });
}
template <class E, int N, int K>
[[gnu::always_inline]] inline void StoreStates(void* p, int64_t lane,
                                               const Lanes<E, N> (&state)[K]) {
  Unroll<K>([&](auto k) __attribute__((always_inline)) {
    StoreState<E, N>(p, lane + k * N, state[k]);
  });
}

// The sum over all channels of K registers.
template <class E, int N, int K>
[[gnu::always_inline]] inline Lanes<E, 1> SumTile(Lanes<E, N> (&tile)[K]) {
  Unroll<K - 1>([&](auto k) __attribute__((always_inline)) { tile[0] += tile[k + 1]; });
  return SumLanes<E, N>(tile[0]);
}

// Calls tile.template Run<N, K>(lane, count, hop) for `count` tiles of K registers of N channels
// each, the first at `lane` and the others a hop from each other, until all channels are covered:
// wide tiles, single registers, then halves of them; `down` from the last channel to the first, so
// that a scan against the order of memory runs against it within a step too.
template <int N, class Tile>
inline void ForTail(int64_t lane, int64_t lanes, bool down, const Tile& tile) {
  if constexpr (N >= 1) {
    const int64_t next = lanes & N ? lane + N : lane;
    if (down) ForTail<N / 2>(next, lanes, down, tile);
    if (lanes & N) tile.template Run<N, 1>(lane, 1, N);
    if (!down) ForTail<N / 2>(next, lanes, down, tile);
  }
}
template <int N, int K, int kShrink, class Tile>
inline void ForWhole(int64_t lane, int64_t lanes, bool down, const Tile& tile) {
  if constexpr (K >= 1) {
    const int64_t count = (lanes - lane) / (N * K), next = lane + count * (N * K);
    if (down) ForWhole<N, K / kShrink, kShrink>(next, lanes, down, tile);
    if (count > 0) {
      const int64_t first = down ? next - N * K : lane;
      tile.template Run<N, K>(first, count, down ? -N * K : N * K);
    }
    if (!down) ForWhole<N, K / kShrink, kShrink>(next, lanes, down, tile);
  }
}
template <class E, int K, int W = kWidth<E>, class Tile>
inline void ForTiles(int64_t lanes, bool down, const Tile& tile) {
  if constexpr (kIsHalf<E>) {
    ForWhole<W, 4, 4>(0, lanes, down, tile);
  } else {
    const int64_t whole = lanes / W * W;
    if (down) ForTail<W / 2>(whole, lanes, down, tile);
    ForWhole<W, K, 2>(0, whole, down, tile);
    if (!down) ForTail<W / 2>(whole, lanes, down, tile);
  }
}

// The same with a single call, where tiles of at least half of K registers cover all channels; else
// false, and nothing is called.
template <class E, int K, class Tile>
inline bool ForEqualTiles(int64_t lanes, bool down, const Tile& tile) {
  const auto fits = [&](auto k) {
    constexpr int64_t wide = decltype(k)::value * kWidth<E>;
    if (lanes % wide != 0) return false;
    tile.template Run<kWidth<E>, decltype(k)::value>(down ? lanes - wide : 0, lanes / wide,
                                                     down ? -wide : wide);
    return true;
  };
  constexpr int kWide = kIsHalf<E> ? 4 : K;
  if (fits(std::integral_constant<int, kWide>())) return true;
  if constexpr (!kIsHalf<E>) return fits(std::integral_constant<int, K / 2>());
  return false;
}

// The same for the few channels of a narrow row.
template <class E, class Tile>
inline void ForNarrow(int64_t lanes, const Tile& tile) {
  constexpr int kMost = (kNarrowBytes - 1) / kBytes<E>;
  ForTail<kMost >= 4 ? 4 : kMost >= 2 ? 2 : kMost>(0, lanes, false, tile);
}

}  // namespace
}  // namespace fastscan

// The forward loops of the linear scan.
#pragma once

#include <cstdint>

#include "linear_scan_along_time.h"
#include "linear_scan_half.h"
#include "linear_scan_tiles.h"

namespace fastscan {
namespace {

constexpr int kForwardRegisters = 8;
constexpr int64_t kForwardTurnBytes = 256;
// Of a wide row that comes from memory, so many steps together, while as many are on their way:
// they lie too far apart for processors to foresee them. From a cache, asking costs more than it
// saves.
constexpr int64_t kAheadSteps = 2;
// States of this size stay in the first-level cache beside what streams through it.
constexpr int64_t kNearBytes = 1 << 13;

// The same K registers of N channels each in R rows, from step `begin` to step `end`, all tiles of
// `block` steps before the next.
template <class E, int R>
struct ForwardTile {
  const ForwardRow* rows;
  int64_t begin, end, block;
  int64_t ahead = 0;  // how many steps ahead to ask for operands, or 0

  template <int N, int K>
  void Run(int64_t lane, int64_t count, int64_t hop) const {
    using Storage = typename E::Storage;
    constexpr int P = E::kParts;
    constexpr int kTileBytes = N * K * kBytes<E>;
    Cursor<const Storage, R> first_a, first_x;
    Cursor<const uint8_t, R> first_reset;
    Cursor<Storage, R> first_h;
    Unroll<R>([&](auto r) __attribute__((always_inline)) {
      first_a.start[r] = At<Storage>(rows[r].a, begin, lane, P);
      first_x.start[r] = At<Storage>(rows[r].x, begin, lane, P);
      first_h.start[r] = At<Storage>(rows[r].h, begin, lane, P);
      first_reset.start[r] = At<uint8_t>(rows[r].reset, begin, lane, 1);
    });
    // Copies, which the compiler knows that no store to h changes; rows differ in their data only.
    const int64_t a_step = rows[0].a.step * P, x_step = rows[0].x.step * P;
    const int64_t h_step = rows[0].h.step * P, reset_step = rows[0].reset.step;
    const int64_t a_lane = rows[0].a.lane, x_lane = rows[0].x.lane;
    const int64_t reset_lane = rows[0].reset.lane;
    const int64_t steps_ahead = ahead;
    const bool past_caches = rows[0].past_caches;
    for (int64_t left = end - begin; left > 0; left -= block) {
      const int64_t steps = left < block ? left : block;
      auto tile_a = first_a, tile_x = first_x;
      auto tile_reset = first_reset;
      auto tile_h = first_h;
      int64_t tile_lane = lane;
      for (int64_t tiles = count; tiles > 0; --tiles) {
        auto a = tile_a, x = tile_x;
        auto reset = tile_reset;
        auto h = tile_h;
        Lanes<E, N> state[R][K];
        Unroll<R>([&](auto r) __attribute__((always_inline)) {
          LoadStates<E, N, K>(rows[r].state, tile_lane, state[r]);
        });
        for (int64_t t = 0; t < steps; ++t) {
          Unroll<R>([&](auto r) __attribute__((always_inline)) {
            Lanes<E, N> a_t[K], x_t[K];
            const uint8_t* flags = reset[r];
            LoadTile<E, N, K>(x[r], x_lane, x_t);
            if (reset_lane == 0 && *flags) {
              Unroll<K>([&](auto k) __attribute__((always_inline)) { state[r][k] = x_t[k]; });
            } else {
              LoadTile<E, N, K>(a[r], a_lane, a_t);
              Unroll<K>([&](auto k) __attribute__((always_inline)) {
                if (reset_lane != 0) {
                  a_t[k] = ZeroWhere<E, N>(flags + k * N, a_t[k]);
                  state[r][k] = ZeroWhere<E, N>(flags + k * N, state[r][k]);
                }
                state[r][k] = MultiplyAdd<E, N>(a_t[k], state[r][k], x_t[k]);
              });
            }
            StoreTile<E, N, K>(h[r], state[r], past_caches);
            if (steps_ahead != 0) {
              Prefetch<kTileBytes>(a[r] + steps_ahead * a_step);
              Prefetch<kTileBytes>(x[r] + steps_ahead * x_step);
            }
          });
          a.Move(a_step);
          x.Move(x_step);
          h.Move(h_step);
          reset.Move(reset_step);
        }
        Unroll<R>([&](auto r) __attribute__((always_inline)) {
          StoreStates<E, N, K>(rows[r].state, tile_lane, state[r]);
        });
        tile_a.Move(hop * a_lane * P);
        tile_x.Move(hop * x_lane * P);
        tile_h.Move(hop * P);
        tile_reset.Move(hop * reset_lane);
        tile_lane += hop;
      }
      first_a.Move(steps * a_step);
      first_x.Move(steps * x_step);
      first_h.Move(steps * h_step);
      first_reset.Move(steps * reset_step);
    }
  }
};

// A single channel. False where it does not lie densely in time.
template <class E, bool down>
bool ForwardAlongTime(const ForwardRow& row) {
  using Along = AlongTime<E, down, false>;
  if (!Along::Fits(row.h, {row.a, row.x, row.reset})) return false;
  const Along along(row.a, row.x, row.reset);
  auto* h = reinterpret_cast<typename E::Storage*>(row.h.data);
  auto& state = *static_cast<typename E::Scalar*>(row.state);
  constexpr int64_t kSteps = 64 * Along::N;
  for (int64_t begin = 0; begin < row.steps; begin += kSteps) {
    const int64_t end = begin + kSteps < row.steps ? begin + kSteps : row.steps;
    const int64_t whole = begin + (end - begin) / Along::N * Along::N;
    const bool finite = along.Scan(begin, whole, state, [h](int64_t t, const auto& now)
                                   __attribute__((always_inline)) {
                                     Store<E, Along::N>(Along::First(h, t), now.State());
                                   });
    ForwardTile<E, 1>{&row, finite ? whole : begin, end, kSteps}.template Run<1, 1>(0, 1, 1);
  }
  return true;
}

template <class E>
void ForwardByTurns(const ForwardRow* rows, int count) {
  const int64_t steps = rows[0].steps, lanes = rows[0].lanes;
  const bool down = rows[0].h.step < 0;
  const bool from_memory = count == 1 && rows[0].past_caches;
  const bool near = count == 1 && lanes * kBytes<E> <= kNearBytes;
  const int64_t wide_steps = from_memory ? kAheadSteps : near ? 1 : kWideSteps;
  const int64_t block =
      BlockSteps<E, kForwardRegisters>(steps, lanes, count, kForwardTurnBytes, wide_steps);
  const int64_t ahead = from_memory && lanes * kBytes<E> > kStateBytes ? kAheadSteps : 0;
  // All blocks at once, if there is a tile that fits everywhere.
  if (count == 1 && ForEqualTiles<E, kForwardRegisters>(
                        lanes, down, ForwardTile<E, 1>{rows, 0, steps, block, ahead})) {
    return;
  }
  for (int64_t begin = 0; begin < steps; begin += block) {
    const int64_t end = begin + block < steps ? begin + block : steps;
    for (int r = 0; r < count; ++r) {
      ForTiles<E, kForwardRegisters>(lanes, down,
                                     ForwardTile<E, 1>{rows + r, begin, end, block, ahead});
    }
  }
}

// Rows that are not copied.
template <class E>
void ForwardDirectly(const ForwardRow* rows, int count) {
  const int64_t lanes = rows[0].lanes;
  if (!IsNarrow<E>(lanes)) return ForwardByTurns<E>(rows, count);
  if (count == kOverlap && (E::kParts > 1 || lanes > 1)) {
    return ForNarrow<E>(lanes, ForwardTile<E, kOverlap>{rows, 0, rows[0].steps, rows[0].steps});
  }
  for (int r = 0; r < count; ++r) {
    if constexpr (E::kParts == 1) {
      const bool one = lanes == 1;
      if (one && (ForwardAlongTime<E, false>(rows[r]) || ForwardAlongTime<E, true>(rows[r]))) {
        continue;
      }
    }
    ForwardByTurns<E>(rows + r, 1);
  }
}

// 16-bit floats, through copies.
template <class E>
void ForwardOfCopies(const ForwardRow* rows, int count) {
  Copied a, x, h;
  const Blocks blocks(rows[0].steps, rows[0].lanes, IsNarrow<E>(rows[0].lanes) ? count : 1);
  blocks.For(count, false, [&](int first, const Block& block) {
    ForwardRow parts[kOverlap];
    for (int i = 0; i < blocks.together; ++i) {
      const ForwardRow& row = rows[first + i];
      const int64_t room = i * blocks.room;
      parts[i] = {Widened<E>(row.a, block, a.elements + room),
                  Widened<E>(row.x, block, x.elements + room),
                  From<uint8_t>(row.reset, block),
                  Dense(row.h, block, h.elements + room),
                  static_cast<float*>(row.state) + block.lane,
                  block.steps,
                  block.lanes};
    }
    ForwardDirectly<F32>(parts, blocks.together);
    for (int i = 0; i < blocks.together; ++i) {
      Narrow<E>(parts[i].h, rows[first + i].h, block);
    }
  });
}

template <class E>
void ForwardRows(const ForwardRow* rows, int count) {
  if constexpr (kIsHalf<E>) {
    IsCopied<E>(rows[0].lanes) ? ForwardOfCopies<E>(rows, count) : ForwardByTurns<E>(rows, count);
  } else {
    ForwardDirectly<E>(rows, count);
  }
  if (rows[0].past_caches) FinishStores();
}

}  // namespace
}  // namespace fastscan

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
// States of this size stay in the first-level cache beside what streams through it. They cost so
// little there that rows take turns of one step, in which memory is read and written in its order.
constexpr int64_t kNearBytes = 1 << 13;

// One step of K registers of N channels each. Operands go from memory into the sum: K registers of
// each would not leave room for the states.
template <class E, int N, int K>
[[gnu::always_inline]] inline void ForwardStep(const typename E::Storage* a, int64_t a_lane,
                                               const typename E::Storage* x, int64_t x_lane,
                                               const uint8_t* reset, int64_t reset_lane,
                                               Lanes<E, N> (&state)[K]) {
  constexpr int P = E::kParts;
  if (reset_lane == 0 && *reset) {
    LoadTile<E, N, K>(x, x_lane, state);
  } else if (reset_lane == 0 && x_lane != 0 && a_lane != 0) {
    Unroll<K>([&](auto k) __attribute__((always_inline)) {
      state[k] = MultiplyAdd<E, N>(Load<E, N>(a + k * N * P), state[k], Load<E, N>(x + k * N * P));
    });
  } else if (reset_lane == 0 && x_lane != 0) {
    Lanes<E, N> one[1];
    LoadTile<E, N, 1>(a, 0, one);
    Unroll<K>([&](auto k) __attribute__((always_inline)) {
      state[k] = MultiplyAdd<E, N>(one[0], state[k], Load<E, N>(x + k * N * P));
    });
  } else {
    Lanes<E, N> a_t[K], x_t[K];
    LoadTile<E, N, K>(a, a_lane, a_t);
    LoadTile<E, N, K>(x, x_lane, x_t);
    Unroll<K>([&](auto k) __attribute__((always_inline)) {
      if (reset_lane != 0) {
        a_t[k] = ZeroWhere<E, N>(reset + k * N, a_t[k]);
        state[k] = ZeroWhere<E, N>(reset + k * N, state[k]);
      }
      state[k] = MultiplyAdd<E, N>(a_t[k], state[k], x_t[k]);
    });
  }
}

// K registers of N channels each in `count` rows, from step `begin` to step `end`: `block` steps of
// all tiles of a row, then the same steps of the next row.
template <class E>
struct ForwardTile {
  const ForwardRow* rows;
  int count;
  int64_t begin, end, block;
  int64_t ahead = 0;  // how many steps ahead to ask for operands, or 0

  template <int N, int K>
  void Run(int64_t lane, int64_t tiles, int64_t hop) const {
    using Storage = typename E::Storage;
    constexpr int P = E::kParts;
    constexpr int kTileBytes = N * K * kBytes<E>;
    // Copies, which the compiler knows that no store to h changes; rows differ in their data only.
    const int64_t a_step = rows[0].a.step * P, x_step = rows[0].x.step * P;
    const int64_t h_step = rows[0].h.step * P, reset_step = rows[0].reset.step;
    const int64_t a_lane = rows[0].a.lane, x_lane = rows[0].x.lane;
    const int64_t reset_lane = rows[0].reset.lane;
    const int64_t block_steps = block, steps_ahead = ahead, last = end;
    const bool past_caches = rows[0].past_caches;
    // A scan against the order of memory takes rows against it too.
    const bool down = h_step < 0;
    const ForwardRow* const first_row = down ? rows + count - 1 : rows;
    const ForwardRow* const last_row = down ? rows : rows + count - 1;
    const int64_t next_row = down ? -1 : 1;
    for (int64_t from = begin; from < last; from += block_steps) {
      const int64_t steps = last - from < block_steps ? last - from : block_steps;
      for (const ForwardRow* row = first_row;; row += next_row) {
        const Storage* tile_a = Offset<Storage>(row->a.data, from * a_step + lane * a_lane * P);
        const Storage* tile_x = Offset<Storage>(row->x.data, from * x_step + lane * x_lane * P);
        const uint8_t* tile_reset =
            Offset<uint8_t>(row->reset.data, from * reset_step + lane * reset_lane);
        Storage* tile_h = Offset<Storage>(row->h.data, from * h_step + lane * P);
        void* const states = row->state;
        int64_t tile_lane = lane;
        for (int64_t left = tiles; left > 0; --left) {
          const Storage *a = tile_a, *x = tile_x;
          const uint8_t* reset = tile_reset;
          Storage* h = tile_h;
          Lanes<E, N> state[K];
          LoadStates<E, N, K>(states, tile_lane, state);
          for (int64_t t = steps; t > 0; --t) {
            ForwardStep<E, N, K>(a, a_lane, x, x_lane, reset, reset_lane, state);
            StoreTile<E, N, K>(h, state, past_caches);
            if (steps_ahead != 0) {
              Prefetch<kTileBytes>(a + steps_ahead * a_step);
              Prefetch<kTileBytes>(x + steps_ahead * x_step);
            }
            a += a_step;
            x += x_step;
            h += h_step;
            reset += reset_step;
          }
          StoreStates<E, N, K>(states, tile_lane, state);
          tile_a += hop * a_lane * P;
          tile_x += hop * x_lane * P;
          tile_h += hop * P;
          tile_reset += hop * reset_lane;
          tile_lane += hop;
        }
        if (row == last_row) break;
      }
    }
  }

 private:
  template <class T>
  static T* Offset(char* data, int64_t elements) {
    return reinterpret_cast<T*>(data) + elements;
  }
};

// Rows that take turns of one step: states are loaded and stored at every step, and nothing else is
// set up for it.
template <class E>
struct ForwardTurns {
  const ForwardRow* rows;
  int count;

  template <int N, int K>
  void Run(int64_t lane, int64_t tiles, int64_t hop) const {
    using Storage = typename E::Storage;
    constexpr int P = E::kParts;
    // A copy, which the compiler knows that no store to h changes; rows differ in their data only.
    const ForwardRow all = rows[0];
    const bool down = all.h.step < 0;
    const ForwardRow* const first = down ? rows + count - 1 : rows;
    const ForwardRow* const last = down ? rows : rows + count - 1;
    const int64_t next = down ? -1 : 1;
    for (int64_t t = 0; t < all.steps; ++t) {
      const int64_t a_begin = (t * all.a.step + lane * all.a.lane) * P;
      const int64_t x_begin = (t * all.x.step + lane * all.x.lane) * P;
      const int64_t h_begin = (t * all.h.step + lane) * P;
      const int64_t reset_begin = t * all.reset.step + lane * all.reset.lane;
      for (const ForwardRow* row = first;; row += next) {
        const auto* a = reinterpret_cast<const Storage*>(row->a.data) + a_begin;
        const auto* x = reinterpret_cast<const Storage*>(row->x.data) + x_begin;
        const auto* reset = reinterpret_cast<const uint8_t*>(row->reset.data) + reset_begin;
        auto* h = reinterpret_cast<Storage*>(row->h.data) + h_begin;
        void* const states = row->state;
        int64_t tile_lane = lane;
        for (int64_t left = tiles; left > 0; --left) {
          Lanes<E, N> state[K];
          LoadStates<E, N, K>(states, tile_lane, state);
          ForwardStep<E, N, K>(a, all.a.lane, x, all.x.lane, reset, all.reset.lane, state);
          StoreTile<E, N, K>(h, state, all.past_caches);
          StoreStates<E, N, K>(states, tile_lane, state);
          a += hop * all.a.lane * P;
          x += hop * all.x.lane * P;
          h += hop * P;
          reset += hop * all.reset.lane;
          tile_lane += hop;
        }
        if (row == last) break;
      }
    }
  }
};

// The few channels of kOverlap rows, whose chains of operations overlap.
template <class E>
struct ForwardNarrow {
  const ForwardRow* rows;

  template <int N, int K>
  void Run(int64_t lane, int64_t, int64_t) const {
    using Storage = typename E::Storage;
    constexpr int P = E::kParts, R = kOverlap;
    Cursor<const Storage, R> a, x;
    Cursor<const uint8_t, R> reset;
    Cursor<Storage, R> h;
    Lanes<E, N> state[R][K];
    Unroll<R>([&](auto r) __attribute__((always_inline)) {
      a.start[r] = At<Storage>(rows[r].a, 0, lane, P);
      x.start[r] = At<Storage>(rows[r].x, 0, lane, P);
      h.start[r] = At<Storage>(rows[r].h, 0, lane, P);
      reset.start[r] = At<uint8_t>(rows[r].reset, 0, lane, 1);
      LoadStates<E, N, K>(rows[r].state, lane, state[r]);
    });
    const int64_t a_step = rows[0].a.step * P, x_step = rows[0].x.step * P;
    const int64_t h_step = rows[0].h.step * P, reset_step = rows[0].reset.step;
    const int64_t a_lane = rows[0].a.lane, x_lane = rows[0].x.lane;
    const int64_t reset_lane = rows[0].reset.lane;
    for (int64_t t = rows[0].steps; t > 0; --t) {
      Unroll<R>([&](auto r) __attribute__((always_inline)) {
        ForwardStep<E, N, K>(a[r], a_lane, x[r], x_lane, reset[r], reset_lane, state[r]);
        StoreTile<E, N, K>(h[r], state[r], false);
      });
      a.Move(a_step);
      x.Move(x_step);
      h.Move(h_step);
      reset.Move(reset_step);
    }
    Unroll<R>([&](auto r) __attribute__((always_inline)) {
      StoreStates<E, N, K>(rows[r].state, lane, state[r]);
    });
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
    ForwardTile<E>{&row, 1, finite ? whole : begin, end, kSteps}.template Run<1, 1>(0, 1, 1);
  }
  return true;
}

template <class E>
void ForwardByTurns(const ForwardRow* rows, int count) {
  const int64_t steps = rows[0].steps, lanes = rows[0].lanes;
  const bool down = rows[0].h.step < 0;
  const bool from_memory = count == 1 && rows[0].past_caches;
  const bool near = count * lanes * kBytes<E> <= kNearBytes;
  const int64_t wide_steps = from_memory ? kAheadSteps : near ? 1 : kWideSteps;
  const int64_t block =
      BlockSteps<E, kForwardRegisters>(steps, lanes, count, kForwardTurnBytes, wide_steps);
  const int64_t ahead = from_memory && lanes * kBytes<E> > kStateBytes ? kAheadSteps : 0;
  // All blocks at once, if there is a tile that fits everywhere.
  const bool one_step = count > 1 && near && block < steps;
  if (one_step ? ForEqualTiles<E, kForwardRegisters>(lanes, down, ForwardTurns<E>{rows, count})
               : ForEqualTiles<E, kForwardRegisters>(
                     lanes, down, ForwardTile<E>{rows, count, 0, steps, block, ahead})) {
    return;
  }
  for (int64_t begin = 0; begin < steps; begin += block) {
    const int64_t end = begin + block < steps ? begin + block : steps;
    for (int r = 0; r < count; ++r) {
      ForTiles<E, kForwardRegisters>(lanes, down,
                                     ForwardTile<E>{rows + r, 1, begin, end, block, ahead});
    }
  }
}

// Rows that are not copied.
template <class E>
void ForwardDirectly(const ForwardRow* rows, int count) {
  const int64_t lanes = rows[0].lanes;
  if (!IsNarrow<E>(lanes)) return ForwardByTurns<E>(rows, count);
  if (count == kOverlap && (E::kParts > 1 || lanes > 1)) {
    return ForNarrow<E>(lanes, ForwardNarrow<E>{rows});
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

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

// The same K registers of N channels each in R rows, from step `begin` to step `end`.
template <class E, int R>
struct ForwardTile {
  const ForwardRow* rows;
  int64_t begin, end;

  template <int N, int K>
  void Run(int64_t lane) const {
    using Storage = typename E::Storage;
    constexpr int P = E::kParts;
    Cursor<const Storage, R> a, x;
    Cursor<const uint8_t, R> reset;
    Cursor<Storage, R> h;
    Lanes<E, N> state[R][K];
    Unroll<R>([&](auto r) __attribute__((always_inline)) {
      a.start[r] = At<Storage>(rows[r].a, begin, lane, P);
      x.start[r] = At<Storage>(rows[r].x, begin, lane, P);
      h.start[r] = At<Storage>(rows[r].h, begin, lane, P);
      reset.start[r] = At<uint8_t>(rows[r].reset, begin, lane, 1);
      LoadStates<E, N, K>(rows[r].state, lane, state[r]);
    });
    // Copies, which the compiler knows that no store to h changes; rows differ in their data only.
    const int64_t a_step = rows[0].a.step * P, x_step = rows[0].x.step * P;
    const int64_t h_step = rows[0].h.step * P, reset_step = rows[0].reset.step;
    const int64_t a_lane = rows[0].a.lane, x_lane = rows[0].x.lane;
    const int64_t reset_lane = rows[0].reset.lane;
    for (int64_t t = begin; t < end; ++t) {
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
        Unroll<K>([&](auto k) __attribute__((always_inline)) {
          Store<E, N>(h[r] + k * N * P, state[r][k]);
        });
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
    ForwardTile<E, 1>{&row, finite ? whole : begin, end}.template Run<1, 1>(0);
  }
  return true;
}

template <class E>
void ForwardByTurns(const ForwardRow* rows, int count) {
  const int64_t steps = rows[0].steps, lanes = rows[0].lanes;
  const bool down = rows[0].h.step < 0;
  const int64_t block = BlockSteps<E, kForwardRegisters>(steps, lanes, count, kForwardTurnBytes);
  for (int64_t begin = 0; begin < steps; begin += block) {
    const int64_t end = begin + block < steps ? begin + block : steps;
    for (int r = 0; r < count; ++r) {
      ForTiles<E, kForwardRegisters>(lanes, down, ForwardTile<E, 1>{rows + r, begin, end});
    }
  }
}

// Rows that are not copied.
template <class E>
void ForwardDirectly(const ForwardRow* rows, int count) {
  const int64_t lanes = rows[0].lanes;
  if (!IsNarrow<E>(lanes)) return ForwardByTurns<E>(rows, count);
  if (count == kOverlap && (E::kParts > 1 || lanes > 1)) {
    return ForNarrow<E>(lanes, ForwardTile<E, kOverlap>{rows, 0, rows[0].steps});
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
}

}  // namespace
}  // namespace fastscan

// The recurrence of linear attention and its adjoint over the steps of a chunk, for some keys by
// some values of the state. These stay in registers; what is loaded and stored at a step are the
// rows that it reads and the sums that it adds to.
//
// Keys lie across the register, values one after another: the cotangents of q, k and their decays
// sum over values and stay whole registers, and only those of v are sums inside a register.
#pragma once

#include <utility>

#include "linear_attention_common.h"

namespace fastscan::attention {
namespace {

// The extents of a tile: its values, and its registers of keys where there are as many.
template <class E>
constexpr int kTileValues = kWidth<E> < 4 ? kWidth<E> : 4;
constexpr int kTileKeys = 2;

// Rows of a chunk, one for each step. Those of keys have as many elements as the tile, those of
// values kTileValues.
template <class E>
struct BackwardTile {
  const Scalar<E>*q, *k, *decay;      // decay: a row of keys, or one element
  const Scalar<E>*u, *g;              // rows of values
  Scalar<E>*dq, *dk, *ddecay;         // added to; ddecay: a row of keys, or a register
  Scalar<E>* dv;                      // rows of values, added to; with the delta rule only read
  const Scalar<E>* S;                 // before the chunk: (values, keys)
  Scalar<E>* dS;                      // from after the chunk to before it
  Scalar<E>* past;                    // room for the states before every step
  const uint8_t* reset;               // or null
  int64_t steps;
};

// Lanes of two sums, in each of which the lanes of `ids` vectors take turns, for their joint sum:
// the first or second half of what is added for each. Halves are of 16 bytes where that is enough
// turns, as shuffles across take longer.
template <int W, int group, int ids, int half, class V, int... I>
inline V HalfOf(V a, V b, std::integer_sequence<int, I...>) {
  constexpr int size = 2 * ids <= group ? group : W;
  return __builtin_shufflevector(
      a, b,
      (I / size * size + (I % size / (2 * ids) + half * (size / (2 * ids))) * ids + I % ids +
       (I % (2 * ids) < ids ? 0 : W))...);
}
template <class V, int... I>
inline auto LowerLanes(V v, std::integer_sequence<int, I...>) {
  return __builtin_shufflevector(v, v, I...);
}
template <class V, int... I>
inline auto UpperLanes(V v, std::integer_sequence<int, I...>) {
  return __builtin_shufflevector(v, v, (I + int{sizeof...(I)})...);
}
// The first R of W lanes that take turns: the sum of those of each.
template <class T, int W, int R, class V>
inline Vector<T, R> FoldLanes(V v) {
  if constexpr (W == R) {
    return v;
  } else {
    constexpr auto index = std::make_integer_sequence<int, W / 2>();
    return FoldLanes<T, W / 2, R>(LowerLanes(v, index) + UpperLanes(v, index));
  }
}
// Lane r is the sum over the lanes of v[r], always in the same order.
template <class E, int R>
inline Vector<Scalar<E>, R> SumEach(const Register<E> (&v)[R]) {
  constexpr int W = kWidth<E>, group = 16 / sizeof(Scalar<E>);
  constexpr auto index = std::make_integer_sequence<int, W>();
  Register<E> sums[R];
  Unroll<R>([&](auto r) __attribute__((always_inline)) { sums[r] = v[r]; });
  if constexpr (R >= 2) {
    Unroll<R / 2>([&](auto r) __attribute__((always_inline)) {
      const Register<E> a = sums[2 * r], b = sums[2 * r + 1];
      sums[r] = HalfOf<W, group, 1, 0>(a, b, index) + HalfOf<W, group, 1, 1>(a, b, index);
    });
  }
  if constexpr (R >= 4) {
    const Register<E> a = sums[0], b = sums[1];
    sums[0] = HalfOf<W, group, 2, 0>(a, b, index) + HalfOf<W, group, 2, 1>(a, b, index);
  }
  return FoldLanes<Scalar<E>, W, R>(sums[0]);
}

// `u` is known: with the delta rule so is dv, and what u owes to the state has gone into both.
template <class E, Decay kind, bool delta, int N>
[[gnu::noinline]] void RunTile(const BackwardTile<E>& tile) {
  using T = Scalar<E>;
  using V = Register<E>;
  constexpr int W = kWidth<E>, R = kTileValues<E>, size = N * W;
  const int64_t steps = tile.steps;
  const uint8_t* reset = tile.reset;
  // Copies, which the compiler knows that no store changes.
  const T *q_rows = tile.q, *k_rows = tile.k, *decay_rows = tile.decay;
  const T *u_rows = tile.u, *g_rows = tile.g;
  T *dq_rows = tile.dq, *dk_rows = tile.dk, *ddecay_rows = tile.ddecay, *dv_rows = tile.dv;
  T* past = tile.past;

  V S[R][N];
  Unroll<R>([&](auto r) __attribute__((always_inline)) {
    Unroll<N>([&](auto n) __attribute__((always_inline)) {
      S[r][n] = LoadRaw<V>(tile.S + r * size + n * W);
    });
  });
  for (int64_t t = 0; t < steps;) {
    if (reset != nullptr && reset[t]) {
      Unroll<R>([&](auto r) __attribute__((always_inline)) {
        Unroll<N>([&](auto n) __attribute__((always_inline)) { S[r][n] = V{}; });
      });
    }
    const int64_t end = NextReset(reset, t + 1, steps);
    for (; t < end; ++t) {
      V k[N], dq[N], dk[N], decay[N];
      Unroll<N>([&](auto n) __attribute__((always_inline)) {
        k[n] = LoadRaw<V>(k_rows + t * size + n * W);
        dq[n] = LoadRaw<V>(dq_rows + t * size + n * W);
        if constexpr (delta) dk[n] = LoadRaw<V>(dk_rows + t * size + n * W);
        if constexpr (kind == Decay::kStep) decay[n] = V{} + decay_rows[t];
        if constexpr (kind == Decay::kKey) decay[n] = LoadRaw<V>(decay_rows + t * size + n * W);
      });
      Unroll<R>([&](auto r) __attribute__((always_inline)) {
        const T u = u_rows[t * R + r], g = g_rows[t * R + r];
        Unroll<N>([&](auto n) __attribute__((always_inline)) {
          V& s = S[r][n];
          if constexpr (kind != Decay::kNone) {
            StoreRaw(past + (t * R + r) * size + n * W, s);
            s *= decay[n];
          }
          if constexpr (delta) dk[n] -= dv_rows[t * R + r] * s;
          s += u * k[n];
          dq[n] += g * s;
        });
      });
      Unroll<N>([&](auto n) __attribute__((always_inline)) {
        StoreRaw(dq_rows + t * size + n * W, dq[n]);
        if constexpr (delta) StoreRaw(dk_rows + t * size + n * W, dk[n]);
      });
    }
  }

  V dS[R][N];
  Unroll<R>([&](auto r) __attribute__((always_inline)) {
    Unroll<N>([&](auto n) __attribute__((always_inline)) {
      dS[r][n] = LoadRaw<V>(tile.dS + r * size + n * W);
    });
  });
  for (int64_t t = steps; t > 0;) {
    const int64_t begin = ResetBefore(reset, t);
    while (t > begin) {
      --t;
      V q[N], k[N], dk[N], decay[N], ddecay[N], du[R];
      Unroll<N>([&](auto n) __attribute__((always_inline)) {
        q[n] = LoadRaw<V>(q_rows + t * size + n * W);
        k[n] = LoadRaw<V>(k_rows + t * size + n * W);
        dk[n] = LoadRaw<V>(dk_rows + t * size + n * W);
        if constexpr (kind == Decay::kStep) {
          decay[n] = V{} + decay_rows[t];
          ddecay[n] = n == 0 ? LoadRaw<V>(ddecay_rows + t * W) : V{};
        }
        if constexpr (kind == Decay::kKey) {
          decay[n] = LoadRaw<V>(decay_rows + t * size + n * W);
          ddecay[n] = LoadRaw<V>(ddecay_rows + t * size + n * W);
        }
      });
      Unroll<R>([&](auto r) __attribute__((always_inline)) {
        const T u = u_rows[t * R + r], g = g_rows[t * R + r];
        Unroll<N>([&](auto n) __attribute__((always_inline)) {
          V& s = dS[r][n];
          s += g * q[n];
          dk[n] += u * s;
          if constexpr (delta) {
            s -= dv_rows[t * R + r] * k[n];
          } else {
            du[r] = n == 0 ? k[n] * s : du[r] + k[n] * s;
          }
          if constexpr (kind != Decay::kNone) {
            ddecay[n] += s * LoadRaw<V>(past + (t * R + r) * size + n * W);
            s *= decay[n];
          }
        });
      });
      Unroll<N>([&](auto n) __attribute__((always_inline)) {
        StoreRaw(dk_rows + t * size + n * W, dk[n]);
        if constexpr (kind == Decay::kKey) StoreRaw(ddecay_rows + t * size + n * W, ddecay[n]);
        if constexpr (kind == Decay::kStep && n > 0) ddecay[0] += ddecay[n];
      });
      if constexpr (kind == Decay::kStep) StoreRaw(ddecay_rows + t * W, ddecay[0]);
      if constexpr (!delta) {
        using Row = Vector<T, R>;
        StoreRaw(dv_rows + t * R, Row(LoadRaw<Row>(dv_rows + t * R) + SumEach<E, R>(du)));
      }
    }
    if (reset != nullptr && reset[begin]) {
      Unroll<R>([&](auto r) __attribute__((always_inline)) {
        Unroll<N>([&](auto n) __attribute__((always_inline)) { dS[r][n] = V{}; });
      });
    }
  }
  Unroll<R>([&](auto r) __attribute__((always_inline)) {
    Unroll<N>([&](auto n) __attribute__((always_inline)) {
      StoreRaw(tile.dS + r * size + n * W, dS[r][n]);
    });
  });
}

}  // namespace
}  // namespace fastscan::attention

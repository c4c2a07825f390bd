// What the delta rule writes at every step of a chunk, and the cotangents of that: sums over all
// keys, one step after another. As in the forward pass, values lie across the register.
#pragma once

#include "linear_attention_common.h"
#include "linear_attention_forward.h"

namespace fastscan::attention {
namespace {

// N registers of values; dS is (keys, N registers).
template <class E>
struct DeltaTile {
  Scalar<E>* dS;
  const Scalar<E>*q, *k, *decay, *beta, *g;
  Scalar<E>* u;  // v - k Z, and then what is written
  Scalar<E>* dv;
  Scalar<E>* dbeta;  // a register for each step, added to
  int64_t keys, g_stride, u_stride, dv_stride;
};

// With `leave`, dS goes from after to before step t; with `enter`, then the cotangent of y at step
// `next` joins it, and du is that of what was written there.
template <class E, Decay kind, int N, bool leave, bool enter>
[[gnu::noinline]] void RetreatOnce(const DeltaTile<E>& tile, int64_t t, int64_t next,
                                   Register<E> (&du)[N]) {
  constexpr int W = kWidth<E>;
  using V = Register<E>;
  const int64_t keys = tile.keys;
  const Scalar<E>*k = tile.k + t * keys, *q_next = tile.q + next * keys;
  const Scalar<E>* k_next = tile.k + next * keys;
  const Scalar<E>* decay = tile.decay + t * (kind == Decay::kKey ? keys : 1);
  const Scalar<E> step_decay = leave && kind == Decay::kStep ? *decay : Scalar<E>{1};
  V dv[N], g[N], sum[kApart<N>][N] = {};
  Unroll<N>([&](auto n) __attribute__((always_inline)) {
    if constexpr (leave) dv[n] = LoadRaw<V>(tile.dv + t * tile.dv_stride + n * W);
    if constexpr (enter) g[n] = LoadRaw<V>(tile.g + next * tile.g_stride + n * W);
  });
  Scalar<E>* dS = tile.dS;
  ForEachKey<kApart<N>>(keys, [&](int64_t i, auto a) __attribute__((always_inline)) {
    Unroll<N>([&](auto n) __attribute__((always_inline)) {
      V s = LoadRaw<V>(dS + (i * N + n) * W);
      if constexpr (leave) {
        s -= k[i] * dv[n];
        if constexpr (kind == Decay::kStep) s *= step_decay;
        if constexpr (kind == Decay::kKey) s *= decay[i];
      }
      if constexpr (enter) {
        s += q_next[i] * g[n];
        sum[a][n] += k_next[i] * s;
      }
      StoreRaw(dS + (i * N + n) * W, s);
    });
  });
  Join(sum);
  Unroll<N>([&](auto n) __attribute__((always_inline)) { du[n] = sum[0][n]; });
}

// Leaves in dv the cotangents of v, in u what is written, and dS before the chunk.
template <class E, Decay kind, int N>
void RetreatDelta(const DeltaTile<E>& tile, const uint8_t* reset, int64_t steps) {
  constexpr int W = kWidth<E>;
  using V = Register<E>;
  for (int64_t end = steps; end > 0;) {
    const int64_t begin = ResetBefore(reset, end);
    V du[N];
    for (int64_t t = end - 1; t >= begin; --t) {
      if (t == end - 1) {
        RetreatOnce<E, Decay::kNone, N, false, true>(tile, t, t, du);
      } else {
        RetreatOnce<E, kind, N, true, true>(tile, t + 1, t, du);
      }
      const Scalar<E> beta = tile.beta[t];
      V dbeta = LoadRaw<V>(tile.dbeta + t * W);
      Unroll<N>([&](auto n) __attribute__((always_inline)) {
        Scalar<E>* u = tile.u + t * tile.u_stride + n * W;
        const V error = LoadRaw<V>(u);
        dbeta += du[n] * error;
        StoreRaw(u, V(beta * error));
        StoreRaw(tile.dv + t * tile.dv_stride + n * W, V(beta * du[n]));
      });
      StoreRaw(tile.dbeta + t * W, dbeta);
    }
    if (reset != nullptr && reset[begin]) {
      Zero(tile.dS, tile.keys * N * W);
    } else {
      RetreatOnce<E, kind, N, true, false>(tile, begin, begin, du);
    }
    end = begin;
  }
}

}  // namespace
}  // namespace fastscan::attention

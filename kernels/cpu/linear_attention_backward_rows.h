// Between arrays and the tiles of the backward loops: rows cut into those of tiles, which lie one
// tile after another and end in zeros, and states turned so that keys lie across the register.
#pragma once

#include <utility>

#include "linear_attention_common.h"

namespace fastscan::attention {
namespace {

// Copies `size` elements.
template <class E, int size>
inline void CopyTile(const Scalar<E>* from, Scalar<E>* to) {
  constexpr int piece = size < kWidth<E> ? size : kWidth<E>;
  using V = Vector<Scalar<E>, piece>;
  Unroll<size / piece>([&](auto n) __attribute__((always_inline)) {
    StoreRaw(to + n * piece, LoadRaw<V>(from + n * piece));
  });
}

// Rows of `count` elements, `stride` apart, to tiles of `size` elements of kChunk rows; the last
// tile has `last` elements, if it has fewer. A row at a time, which memory is read ahead for.
template <class E, int size>
[[gnu::noinline]] void CutRows(const Scalar<E>* rows, int64_t steps, int64_t count, int64_t stride,
                               int64_t last, Scalar<E>* tiles) {
  const int64_t whole = count / size * size, rest = count - whole;
  for (int64_t t = 0; t < steps; ++t, rows += stride) {
    for (int64_t i = 0; i < whole; i += size) {
      CopyTile<E, size>(rows + i, tiles + i * kChunk + t * size);
    }
    if (rest > 0) Pad(rows + whole, 1, rest, 0, tiles + whole * kChunk + t * last, last);
  }
}
// And back.
template <class E, int size>
[[gnu::noinline]] void JoinRows(const Scalar<E>* tiles, int64_t steps, int64_t count,
                                int64_t stride, int64_t last, Scalar<E>* rows) {
  const int64_t whole = count / size * size, rest = count - whole;
  for (int64_t t = 0; t < steps; ++t, rows += stride) {
    for (int64_t i = 0; i < whole; i += size) {
      CopyTile<E, size>(tiles + i * kChunk + t * size, rows + i);
    }
    Copy(tiles + whole * kChunk + t * last, rest, rows + whole);
  }
}

// Vectors of R elements to those of their first, second, ... ones.
template <int R, int half, class V, int... I>
inline V Interleave(V a, V b, std::integer_sequence<int, I...>) {
  return __builtin_shufflevector(a, b, ((I & 1) * R + half * (R / 2) + I / 2)...);
}
template <int R, class V>
inline void Transpose(V (&rows)[R]) {
  constexpr auto index = std::make_integer_sequence<int, R>();
  if constexpr (R == 2) {
    const V a = rows[0], b = rows[1];
    rows[0] = Interleave<R, 0>(a, b, index);
    rows[1] = Interleave<R, 1>(a, b, index);
  } else {
    static_assert(R == 4);
    const V a = Interleave<R, 0>(rows[0], rows[2], index);
    const V b = Interleave<R, 1>(rows[0], rows[2], index);
    const V c = Interleave<R, 0>(rows[1], rows[3], index);
    const V d = Interleave<R, 1>(rows[1], rows[3], index);
    rows[0] = Interleave<R, 0>(a, c, index);
    rows[1] = Interleave<R, 1>(a, c, index);
    rows[2] = Interleave<R, 0>(b, d, index);
    rows[3] = Interleave<R, 1>(b, d, index);
  }
}

// `from`, of `keys` rows of `values` elements, to R rows of `size` elements that end in zeros.
template <class E, int R>
[[gnu::noinline]] void Turn(const Scalar<E>* from, int64_t keys, int64_t values, int64_t stride,
                            int64_t size, Scalar<E>* to) {
  using V = Vector<Scalar<E>, R>;
  int64_t i = 0;
  for (; values == R && i + R <= keys; i += R) {
    V rows[R];
    Unroll<R>([&](auto r) __attribute__((always_inline)) {
      rows[r] = LoadRaw<V>(from + (i + r) * stride);
    });
    Transpose<R>(rows);
    Unroll<R>([&](auto r) __attribute__((always_inline)) { StoreRaw(to + r * size + i, rows[r]); });
  }
  for (; i < size; ++i) {
    for (int64_t r = 0; r < R; ++r) {
      to[r * size + i] = i < keys && r < values ? from[i * stride + r] : Scalar<E>{0};
    }
  }
}

}  // namespace
}  // namespace fastscan::attention

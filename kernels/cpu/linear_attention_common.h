// What the loops of linear attention have in common.
//
// As vector.h, only for linear_attention_isa.cc, which is compiled once per instruction set.
#pragma once

#include <cstdint>

#include "linear_attention_loops.h"
#include "vector.h"

namespace fastscan::attention {
namespace {

enum class Decay { kNone, kStep, kKey };

template <class E>
using Scalar = typename E::Scalar;
template <class E>
using Register = Lanes<E, kWidth<E>>;

template <class T>
const T* As(const char* p) {
  return reinterpret_cast<const T*>(p);
}
template <class T>
T* As(char* p) {
  return reinterpret_cast<T*>(p);
}

inline int64_t Min(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t RoundUp(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

template <class T>
inline void Zero(T* p, int64_t count) {
  for (int64_t i = 0; i < count; ++i) p[i] = T{0};
}
template <class T>
inline void Copy(const T* from, int64_t count, T* to) {
  for (int64_t i = 0; i < count; ++i) to[i] = from[i];
}

// Rows of `count` elements, `from_stride` apart, to rows `to_stride` apart that end in zeros.
template <class T>
void Pad(const T* from, int64_t rows, int64_t count, int64_t from_stride, T* to,
         int64_t to_stride) {
  for (int64_t i = 0; i < rows; ++i) {
    Copy(from + i * from_stride, count, to + i * to_stride);
    Zero(to + i * to_stride + count, to_stride - count);
  }
}

// The first step from `t` on, up to `end`, that forgets the state.
inline int64_t NextReset(const uint8_t* reset, int64_t t, int64_t end) {
  if (reset == nullptr) return end;
  while (t < end && !reset[t]) ++t;
  return t;
}

// The last step before `t` that forgets the state, or the first of all.
inline int64_t ResetBefore(const uint8_t* reset, int64_t t) {
  if (reset == nullptr) return 0;
  do --t;
  while (t > 0 && !reset[t]);
  return t;
}

}  // namespace
}  // namespace fastscan::attention

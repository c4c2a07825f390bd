// Registers of channels, and how rows of arrays come into them, for `selective_scan_isa.cc`. Included
// once per instruction set, after vector.h and as it is: inside an unnamed namespace.

namespace fastscan {
namespace selective {
namespace {

constexpr int kRegisters = 2;

template <class S>
constexpr int kLanes = kVectorBytes / static_cast<int>(sizeof(S));
template <class S>
constexpr int kBlock = kRegisters * kLanes<S>;
template <class S>
using Register = Vector<S, kLanes<S>>;

// One register for each part of a block.
template <class S>
struct Block {
  Register<S> part[kRegisters];

  [[gnu::always_inline]] static Block Load(const S* p) {
    Block b;
    Unroll<kRegisters>([&](auto i) __attribute__((always_inline)) {
      b.part[i] = LoadRaw<Register<S>>(p + i * kLanes<S>);
    });
    return b;
  }
  [[gnu::always_inline]] void Store(S* p) const {
    Unroll<kRegisters>([&](auto i) __attribute__((always_inline)) {
      StoreRaw(p + i * kLanes<S>, part[i]);
    });
  }
};

// Takes memory from a workspace, in whole cache lines.
class Arena {
 public:
  explicit Arena(void* at) : at_(static_cast<char*>(at)) {}
  template <class S>
  S* Take(int64_t count) {
    char* taken = at_;
    at_ += Bytes<S>(count);
    return reinterpret_cast<S*>(taken);
  }
  template <class S>
  static int64_t Bytes(int64_t count) {
    return (count * static_cast<int64_t>(sizeof(S)) + 63) / 64 * 64;
  }

 private:
  char* at_;
};

// ---- copies ----------------------------------------------------------------------------------

template <class E>
using Scalar = typename E::Scalar;
template <class E>
using Storage = typename E::Storage;
template <class E>
using Real = std::conditional_t<sizeof(Scalar<E>) == 4, F32, F64>;
// What the states beside B, C and y of E are in; and u, dt and the parts of B, C and y.
template <class E>
using StateOf = std::conditional_t<E::kParts == 2, E, Real<E>>;
template <class E>
using PartOf = std::conditional_t<E::kParts == 2, Real<E>, E>;

template <class E>
void LoadElements(Scalar<E>* to, const Storage<E>* from, int64_t count) {
  constexpr int N = kLanes<Scalar<E>>;
  int64_t i = 0;
  for (; i + N <= count; i += N) StoreRaw(to + i, Load<E, N>(from + i));
  for (; i < count; ++i) StoreRaw(to + i, Load<E, 1>(from + i));
}
template <class E>
void StoreElements(Storage<E>* to, const Scalar<E>* from, int64_t count) {
  constexpr int N = kLanes<Scalar<E>>;
  int64_t i = 0;
  for (; i + N <= count; i += N) Store<E, N>(to + i, LoadRaw<Lanes<E, N>>(from + i));
  for (; i < count; ++i) Store<E, 1>(to + i, LoadRaw<Lanes<E, 1>>(from + i));
}

// Where the steps of a chunk are in an array of (T, width).
struct Rows {
  int64_t first, step, count;
};

// `count` columns of these rows, densely with `pitch`, and zeros behind them.
template <class E>
void LoadRows(Scalar<E>* to, int64_t pitch, const void* from, const Rows& rows, int64_t width,
              int64_t column, int64_t count) {
  using S = Scalar<E>;
  const auto* row = static_cast<const Storage<E>*>(from) + rows.first * width + column;
  for (int64_t t = 0; t < rows.count; ++t, row += rows.step * width, to += pitch) {
    if (count == kBlock<S> && pitch == kBlock<S>) {
      Unroll<kRegisters>([&](auto i) __attribute__((always_inline)) {
        StoreRaw(to + i * kLanes<S>, Load<E, kLanes<S>>(row + i * kLanes<S>));
      });
      continue;
    }
    LoadElements<E>(to, row, count);
    for (int64_t i = count; i < pitch; ++i) to[i] = 0;
  }
}
template <class E>
void StoreRows(void* to, const Scalar<E>* from, int64_t pitch, const Rows& rows, int64_t width,
               int64_t column, int64_t count) {
  using S = Scalar<E>;
  auto* row = static_cast<Storage<E>*>(to) + rows.first * width + column;
  for (int64_t t = 0; t < rows.count; ++t, row += rows.step * width, from += pitch) {
    if (count == kBlock<S>) {
      Unroll<kRegisters>([&](auto i) __attribute__((always_inline)) {
        Store<E, kLanes<S>>(row + i * kLanes<S>, LoadRaw<Register<S>>(from + i * kLanes<S>));
      });
      continue;
    }
    StoreElements<E>(row, from, count);
  }
}

// The rows of a block's channels, of which `count` are there, in some arrays of (T, width): where they
// are, if that is as the loops want them, else in copies. Rows that are a power of two apart fall on
// the same few lines of the first-level cache: of many arrays one wants copies.
template <class E>
class BlockRows {
 public:
  using S = Scalar<E>;
  BlockRows(const Rows& rows, int64_t width, int64_t channel, int64_t count, bool copy)
      : rows_(rows),
        width_(width),
        channel_(channel),
        count_(count),
        in_place_(std::is_same_v<Storage<E>, S> && count == kBlock<S> && !copy) {}

  int64_t pitch() const { return in_place_ ? rows_.step * width_ : kBlock<S>; }

  const S* Load(const void* from, S* copy) const {
    if (in_place_) return static_cast<const S*>(from) + rows_.first * width_ + channel_;
    LoadRows<E>(copy, kBlock<S>, from, rows_, width_, channel_, count_);
    return copy;
  }
  S* Target(void* to, S* copy) const {
    return in_place_ ? static_cast<S*>(to) + rows_.first * width_ + channel_ : copy;
  }
  void Store(void* to, const S* copy) const {
    if (!in_place_) StoreRows<E>(to, copy, kBlock<S>, rows_, width_, channel_, count_);
  }

 private:
  const Rows rows_;
  const int64_t width_, channel_, count_;
  const bool in_place_;
};

// The states (channel, n) of a block's channels as (n, lane), and back. Complex ones are twice as
// many real ones, (n, part, lane).
template <class S>
void LoadStates(S* to, const void* from, int64_t states, int64_t channel, int64_t count) {
  const S* channels = static_cast<const S*>(from) + channel * states;
  for (int64_t n = 0; n < states; ++n, to += kBlock<S>) {
    for (int64_t i = 0; i < kBlock<S>; ++i) to[i] = i < count ? channels[i * states + n] : S{0};
  }
}
template <class S>
void StoreStates(void* to, const S* from, int64_t states, int64_t channel, int64_t count) {
  S* channels = static_cast<S*>(to) + channel * states;
  for (int64_t n = 0; n < states; ++n, from += kBlock<S>) {
    for (int64_t i = 0; i < count; ++i) channels[i * states + n] = from[i];
  }
}

// ---- complex numbers ------------------------------------------------------------------------

template <class V, int... I>
[[gnu::always_inline]] inline V EveryOther(V a, V b, std::integer_sequence<int, I...>) {
  return __builtin_shufflevector(a, b, (2 * I)...);
}
template <class V, int... I>
[[gnu::always_inline]] inline V EveryOtherFromSecond(V a, V b, std::integer_sequence<int, I...>) {
  return __builtin_shufflevector(a, b, (2 * I + 1)...);
}
// The lanes of two registers by turns, from lane `first` of both.
template <int first, class V, int... I>
[[gnu::always_inline]] inline V ByTurns(V a, V b, std::integer_sequence<int, I...>) {
  constexpr int n = sizeof...(I);
  return __builtin_shufflevector(a, b, (I % 2 * n + first + I / 2)...);
}

// As LoadRows and StoreRows, of complex numbers, which in `to` are (part, lane).
template <class S>
void LoadPlanes(S* to, const void* from, const Rows& rows, int64_t width, int64_t column,
                int64_t count) {
  constexpr int n = kLanes<S>;
  constexpr auto lanes = std::make_integer_sequence<int, n>();
  using V = Register<S>;
  const S* row = static_cast<const S*>(from) + 2 * (rows.first * width + column);
  for (int64_t t = 0; t < rows.count; ++t, row += rows.step * 2 * width, to += 2 * kBlock<S>) {
    if (count == kBlock<S>) {
      for (int64_t i = 0; i < kBlock<S>; i += n) {
        const V first = LoadRaw<V>(row + 2 * i), second = LoadRaw<V>(row + 2 * i + n);
        StoreRaw(to + i, EveryOther(first, second, lanes));
        StoreRaw(to + kBlock<S> + i, EveryOtherFromSecond(first, second, lanes));
      }
      continue;
    }
    for (int64_t i = 0; i < kBlock<S>; ++i) {
      to[i] = i < count ? row[2 * i] : S{0};
      to[kBlock<S> + i] = i < count ? row[2 * i + 1] : S{0};
    }
  }
}
template <class S>
void StorePlanes(void* to, const S* from, const Rows& rows, int64_t width, int64_t column,
                 int64_t count) {
  constexpr int n = kLanes<S>;
  constexpr auto lanes = std::make_integer_sequence<int, n>();
  using V = Register<S>;
  S* row = static_cast<S*>(to) + 2 * (rows.first * width + column);
  for (int64_t t = 0; t < rows.count; ++t, row += rows.step * 2 * width, from += 2 * kBlock<S>) {
    if (count == kBlock<S>) {
      for (int64_t i = 0; i < kBlock<S>; i += n) {
        const V re = LoadRaw<V>(from + i), im = LoadRaw<V>(from + kBlock<S> + i);
        StoreRaw(row + 2 * i, ByTurns<0>(re, im, lanes));
        StoreRaw(row + 2 * i + n, ByTurns<n / 2>(re, im, lanes));
      }
      continue;
    }
    for (int64_t i = 0; i < count; ++i) {
      row[2 * i] = from[i];
      row[2 * i + 1] = from[kBlock<S> + i];
    }
  }
}

// As LoadRows and StoreRows, of a block's channels, in planes where they are complex.
template <class E>
void LoadBlock(Scalar<E>* to, const void* from, const Rows& rows, int64_t width, int64_t column,
               int64_t count) {
  if constexpr (E::kParts == 1) {
    LoadRows<E>(to, kBlock<Scalar<E>>, from, rows, width, column, count);
  } else {
    LoadPlanes(to, from, rows, width, column, count);
  }
}
template <class E>
void StoreBlock(void* to, const Scalar<E>* from, const Rows& rows, int64_t width, int64_t column,
                int64_t count) {
  if constexpr (E::kParts == 1) {
    StoreRows<E>(to, from, kBlock<Scalar<E>>, rows, width, column, count);
  } else {
    StorePlanes(to, from, rows, width, column, count);
  }
}

// ---- what does not change over time ------------------------------------------------------------

template <class S>
void LoadLanes(S* to, const void* from, int64_t channel, int64_t count) {
  for (int64_t i = 0; i < kBlock<S>; ++i) {
    to[i] = from != nullptr && i < count ? static_cast<const S*>(from)[channel + i] : S{0};
  }
}

template <class S>
void Clear(S* p, int64_t count) {
  for (int64_t i = 0; i < count; ++i) p[i] = 0;
}

// ---- sums over lanes --------------------------------------------------------------------------

// Groups of 2 w lanes of two registers, each folded to w lanes: the first group of `a`, that of `b`,
// the second one of `a`, and so on.
template <int w, class V, int... I>
[[gnu::always_inline]] inline V Fold(V a, V b, std::integer_sequence<int, I...>) {
  constexpr int n = sizeof...(I);
  return __builtin_shufflevector(a, b, (I / w % 2 * n + I / w / 2 * 2 * w + I % w)...) +
         __builtin_shufflevector(a, b, (I / w % 2 * n + I / w / 2 * 2 * w + w + I % w)...);
}

// Lane i is the sum over the lanes of register i of the kLanes registers at `p`, added up in the order
// of SumLanes.
template <class S, int stride = 1>
[[gnu::always_inline]] inline Register<S> SumEach(const S* p) {
  // Of the registers at a distance of `stride`: folding takes them apart into even and odd ones.
  constexpr int n = kLanes<S>;
  constexpr auto lanes = std::make_integer_sequence<int, n>();
  if constexpr (stride == n) {
    return LoadRaw<Register<S>>(p);
  } else {
    return Fold<stride>(SumEach<S, 2 * stride>(p), SumEach<S, 2 * stride>(p + stride * n), lanes);
  }
}

// to[i] is the sum over the lanes of register i.
template <class S>
void SumRegisters(S* to, const S* from, int64_t count) {
  constexpr int N = kLanes<S>;
  using State = std::conditional_t<sizeof(S) == 4, F32, F64>;
  int64_t i = 0;
  for (; i + N <= count; i += N) StoreRaw(to + i, SumEach<S>(from + i * N));
  for (; i < count; ++i) {
    StoreRaw(to + i, SumLanes<State, N>(LoadRaw<Register<S>>(from + i * N)));
  }
}

}  // namespace
}  // namespace selective
}  // namespace fastscan

// The loops of `selective_scan_loops.h` for the instruction set that this file is compiled for, under
// the namespace FASTSCAN_ISA.
//
// Channels lie across vector lanes, kRegisters registers of them (a block) at a time; time and states
// run in sequence. Blocks that are not whole, where the channels that are not there read as zeros,
// and 16-bit floats are copied, a chunk of time at a time: the loops know of neither. Nor do they know
// of `reverse`, which is a negative distance between steps.
#include "selective_scan_loops.h"

#include "selective_scan.h"
#include "vector.h"

#include "exponential.h"

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

// The states (channel, n) of a block's channels as (n, lane), and back.
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

// ---- one block, one chunk --------------------------------------------------------------------

// What does not change over time, of one block.
template <class S>
struct Channels {
  S* a;          // (n, lane)
  S* exponent;   // A log2(e), which makes dt A the exponent of a power of two
  S* inverse_a;  // 1 / A, for zoh
  S* d;          // (lane)
  S* limit;      // (lane): up to this |dt| no exponent leaves the range of PowerOfTwo
};

// The operands of one chunk: rows of lanes, `pitch` apart, and of states.
template <class S>
struct Steps {
  const S *u, *dt;
  int64_t pitch;
  const S *b, *c;
  const uint8_t* cut;
  bool has_cut;
  int64_t count, states;
};

// Whether an exponent may leave the range of PowerOfTwo, or there is a reset: then the loops have
// more to do.
template <class S>
bool NeedsCare(const Steps<S>& steps, const Channels<S>& channels) {
  using Bits = Vector<std::conditional_t<sizeof(S) == 4, int32_t, int64_t>, kLanes<S>>;
  const Block<S> limit = Block<S>::Load(channels.limit);
  Bits within = ~Bits{};
  for (int64_t t = 0; t < steps.count; ++t) {
    const Block<S> dt = Block<S>::Load(steps.dt + t * steps.pitch);
    Unroll<kRegisters>([&](auto i) __attribute__((always_inline)) {
      // False of NaN.
      within &= (dt.part[i] <= limit.part[i]) & (-dt.part[i] <= limit.part[i]);
    });
  }
  bool all = !steps.has_cut;
  for (int i = 0; i < kLanes<S>; ++i) all = all && within[i];
  return !all;
}

// exp(dt A), the weight of B u, and (`slope`) the derivative of this weight with respect to A.
template <class S, bool zoh, bool care, bool with_slope>
[[gnu::always_inline]] inline void Discretize(Register<S> dt, const Channels<S>& channels,
                                              int64_t at, Register<S>& e, Register<S>& weight,
                                              Register<S>& slope) {
  using V = Register<S>;
  const Power<S> power = PowerOfTwo<S, care>(dt, LoadRaw<V>(channels.exponent + at));
  e = power.value;
  weight = dt;
  if constexpr (zoh) {
    // Next to A = 0 by the polynomials, elsewhere by what they mean.
    using X = PowerConstants<S>;
    const V inverse = LoadRaw<V>(channels.inverse_a + at);
    const auto near = power.k == 0;
    weight = near ? V(dt * (power.twice_w * (X::kLog2E / 2))) : V((e - S{1}) * inverse);
    if constexpr (with_slope) {
      const V by_series = dt * dt * Horner(X::kSlope, power.f);
      slope = near ? by_series : V((dt * e - weight) * inverse);
    }
  }
}

// Runs over the chunk from the states `h` (n, lane), which it updates.
template <class S, bool zoh, bool care>
void ForwardBlock(Channels<S> channels, Steps<S> steps, S* h, S* y) {
  constexpr int N = kLanes<S>;
  using V = Register<S>;
  const Block<S> d = Block<S>::Load(channels.d);
  const int64_t states = steps.states;
  for (int64_t t = 0; t < steps.count; ++t) {
    const Block<S> dt = Block<S>::Load(steps.dt + t * steps.pitch);
    const Block<S> u = Block<S>::Load(steps.u + t * steps.pitch);
    const S *b = steps.b + t * states, *c = steps.c + t * states;
    const bool cut = care && steps.cut[t];
    Block<S> sum, x;
    Unroll<kRegisters>([&](auto i) __attribute__((always_inline)) {
      sum.part[i] = d.part[i] * u.part[i];
      x.part[i] = dt.part[i] * u.part[i];
    });
    for (int64_t n = 0; n < states; ++n) {
      const S b_n = b[n], c_n = c[n];
      Unroll<kRegisters>([&](auto i) __attribute__((always_inline)) {
        const int64_t at = n * kBlock<S> + i * N;
        V e, weight, slope;
        Discretize<S, zoh, care, false>(dt.part[i], channels, at, e, weight, slope);
        const V drive = zoh ? V(weight * u.part[i]) : x.part[i];
        V past = e * LoadRaw<V>(h + at);
        if constexpr (care) past = cut ? V{} : past;
        const V state = past + drive * b_n;
        StoreRaw(h + at, state);
        sum.part[i] += state * c_n;
      });
    }
    sum.Store(y + t * steps.pitch);
  }
}

// What the backward pass needs of every step and state: (t, n, lane).
template <class S>
struct Tape {
  S* h;  // of t + 1: h[0] is the state before the chunk
  S* e;
  S *weight, *slope;  // with zoh
};

template <class S, bool zoh, bool care>
void Record(Channels<S> channels, Steps<S> steps, Tape<S> tape) {
  constexpr int N = kLanes<S>;
  using V = Register<S>;
  const int64_t states = steps.states, row = states * kBlock<S>;
  for (int64_t t = 0; t < steps.count; ++t) {
    const Block<S> dt = Block<S>::Load(steps.dt + t * steps.pitch);
    const Block<S> u = Block<S>::Load(steps.u + t * steps.pitch);
    const S* b = steps.b + t * states;
    const bool cut = care && steps.cut[t];
    const S* h = tape.h + t * row;
    Block<S> x;
    Unroll<kRegisters>([&](auto i) __attribute__((always_inline)) {
      x.part[i] = dt.part[i] * u.part[i];
    });
    for (int64_t n = 0; n < states; ++n) {
      const S b_n = b[n];
      Unroll<kRegisters>([&](auto i) __attribute__((always_inline)) {
        const int64_t at = n * kBlock<S> + i * N;
        V e, weight, slope;
        Discretize<S, zoh, care, true>(dt.part[i], channels, at, e, weight, slope);
        const V drive = zoh ? V(weight * u.part[i]) : x.part[i];
        V past = e * LoadRaw<V>(h + at);
        if constexpr (care) past = cut ? V{} : past;
        StoreRaw(tape.h + (t + 1) * row + at, V(past + drive * b_n));
        StoreRaw(tape.e + t * row + at, e);
        if constexpr (zoh) {
          StoreRaw(tape.weight + t * row + at, weight);
          StoreRaw(tape.slope + t * row + at, slope);
        }
      });
    }
  }
}

// The cotangents of one block: of the state (n, lane), which comes from the chunk behind and goes to
// the one in front; sums over time (da, dd); and of the chunk's steps. db and dc are sums over the
// blocks, (t, n) and kLanes numbers each, which the caller adds up.
template <class S>
struct Cotangents {
  S *state, *da, *dd;
  const S* g_y;
  S *du, *ddt;
  S *db, *dc;
};

template <class S, bool zoh, bool care>
void BackwardBlock(Channels<S> channels, Steps<S> steps, Tape<S> tape,
                   Cotangents<S> g) {
  constexpr int N = kLanes<S>;
  using V = Register<S>;
  const Block<S> d = Block<S>::Load(channels.d);
  Block<S> dd = Block<S>::Load(g.dd);
  const int64_t states = steps.states, row = states * kBlock<S>;
  for (int64_t t = steps.count - 1; t >= 0; --t) {
    const Block<S> dt = Block<S>::Load(steps.dt + t * steps.pitch);
    const Block<S> u = Block<S>::Load(steps.u + t * steps.pitch);
    const Block<S> g_y = Block<S>::Load(g.g_y + t * steps.pitch);
    const S *b = steps.b + t * states, *c = steps.c + t * states;
    S *db = g.db + t * states * N, *dc = g.dc + t * states * N;
    const S *h = tape.h + t * row, *e = tape.e + t * row;
    const bool cut = care && steps.cut[t];
    Block<S> x, through_b{}, through_z{};
    Unroll<kRegisters>([&](auto i) __attribute__((always_inline)) {
      x.part[i] = dt.part[i] * u.part[i];
    });
    for (int64_t n = 0; n < states; ++n) {
      const S b_n = b[n], c_n = c[n];
      V db_n = LoadRaw<V>(db + n * N), dc_n = LoadRaw<V>(dc + n * N);
      Unroll<kRegisters>([&](auto i) __attribute__((always_inline)) {
        const int64_t at = n * kBlock<S> + i * N;
        const V lambda = LoadRaw<V>(g.state + at) + g_y.part[i] * c_n;
        dc_n += g_y.part[i] * LoadRaw<V>(h + row + at);
        const V e_n = LoadRaw<V>(e + at);
        V carried = lambda * e_n;
        V exponent = carried * LoadRaw<V>(h + at);
        if constexpr (care) {
          carried = cut ? V{} : carried;
          exponent = cut ? V{} : exponent;
        }
        StoreRaw(g.state + at, carried);
        V da = LoadRaw<V>(g.da + at) + exponent * dt.part[i];
        through_z.part[i] += exponent * LoadRaw<V>(channels.a + at);
        if constexpr (zoh) {
          const V weighted = LoadRaw<V>(tape.weight + t * row + at) * lambda;
          const V of_weight = lambda * u.part[i] * b_n;
          db_n += weighted * u.part[i];
          through_b.part[i] += weighted * b_n;
          through_z.part[i] += of_weight * e_n;
          da += of_weight * LoadRaw<V>(tape.slope + t * row + at);
        } else {
          db_n += lambda * x.part[i];
          through_b.part[i] += lambda * b_n;
        }
        StoreRaw(g.da + at, da);
      });
      StoreRaw(db + n * N, db_n);
      StoreRaw(dc + n * N, dc_n);
    }
    Block<S> du, ddt;
    Unroll<kRegisters>([&](auto i) __attribute__((always_inline)) {
      const V scale = zoh ? V(V{} + S{1}) : dt.part[i];
      du.part[i] = g_y.part[i] * d.part[i] + through_b.part[i] * scale;
      ddt.part[i] = through_z.part[i];
      if constexpr (!zoh) ddt.part[i] += through_b.part[i] * u.part[i];
      dd.part[i] += g_y.part[i] * u.part[i];
    });
    du.Store(g.du + t * steps.pitch);
    ddt.Store(g.ddt + t * steps.pitch);
  }
  dd.Store(g.dd);
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

// ---- some channels of a batch entry ----------------------------------------------------------

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

Rows RowsOf(const Extents& x, int64_t chunk) {
  const int64_t begin = chunk * x.chunk;
  const int64_t count = x.steps - begin < x.chunk ? x.steps - begin : x.chunk;
  return {x.reverse ? x.steps - 1 - begin : begin, x.reverse ? -1 : 1, count};
}

// Whether any flag is set.
bool LoadFlags(uint8_t* to, const uint8_t* reset, const Rows& rows) {
  bool any = false;
  for (int64_t t = 0; t < rows.count; ++t) {
    to[t] = reset != nullptr && reset[rows.first + t * rows.step];
    any = any || to[t];
  }
  return any;
}

// The channels of all blocks, one after the other.
template <class S>
class AllChannels {
 public:
  static int64_t Bytes(const Extents& x, int64_t blocks) {
    return Arena::Bytes<S>(blocks * Size(x));
  }
  AllChannels(Arena& arena, const Extents& x, int64_t blocks)
      : states_(x.states), size_(Size(x)), at_(arena.Take<S>(blocks * size_)) {}

  Channels<S> operator[](int64_t block) const {
    S* a = at_ + block * size_;
    const int64_t row = states_ * kBlock<S>;
    return {a, a + row, a + 2 * row, a + 3 * row, a + 3 * row + kBlock<S>};
  }

  void Load(int64_t block, const void* a, const void* d, int64_t channel, int64_t count) const {
    const Channels<S> to = (*this)[block];
    LoadStates(to.a, a, states_, channel, count);
    LoadLanes(to.d, d, channel, count);
    for (int64_t i = 0; i < kBlock<S>; ++i) {
      // Not 0, so that the limit is finite; what is not finite itself makes it NaN.
      S largest = S(1e-30), strange = 0;
      for (int64_t n = 0; n < states_; ++n) {
        const S a_n = to.a[n * kBlock<S> + i], size = a_n < 0 ? -a_n : a_n;
        to.exponent[n * kBlock<S> + i] = a_n * PowerConstants<S>::kLog2E;
        to.inverse_a[n * kBlock<S> + i] = S{1} / a_n;
        largest = size > largest ? size : largest;
        strange += a_n - a_n;
      }
      to.limit[i] = PowerConstants<S>::kSafe * PowerConstants<S>::kLn2 / largest + strange;
    }
  }

 private:
  static int64_t Size(const Extents& x) { return (3 * x.states + 2) * kBlock<S>; }
  int64_t states_, size_;
  S* at_;
};

template <class E>
int64_t ForwardBytes(const Extents& x, int64_t channels) {
  using S = Scalar<E>;
  const int64_t blocks = CeilDiv(channels, kBlock<S>);
  return AllChannels<S>::Bytes(x, blocks) + Arena::Bytes<S>(blocks * x.states * kBlock<S>) +
         3 * Arena::Bytes<S>(x.chunk * kBlock<S>) + 2 * Arena::Bytes<S>(x.chunk * x.states) +
         Arena::Bytes<uint8_t>(x.chunk);
}

// A function for each of (zoh, care).
template <class Function>
struct Variants {
  Function of[2][2];
};

template <class E>
void Forward(const Extents& x, const ForwardEntry& entry, int64_t begin, int64_t end,
             void* workspace) {
  using S = Scalar<E>;
  using State = std::conditional_t<sizeof(S) == 4, F32, F64>;
  static constexpr Variants<decltype(&ForwardBlock<S, false, false>)> kForward = {
      {{ForwardBlock<S, false, false>, ForwardBlock<S, false, true>},
       {ForwardBlock<S, true, false>, ForwardBlock<S, true, true>}}};
  const int64_t blocks = CeilDiv(end - begin, kBlock<S>), row = x.states * kBlock<S>;
  Arena arena(workspace);
  const AllChannels<S> channels(arena, x, blocks);
  S* h = arena.Take<S>(blocks * row);
  S* u = arena.Take<S>(x.chunk * kBlock<S>);
  S* dt = arena.Take<S>(x.chunk * kBlock<S>);
  S* y = arena.Take<S>(x.chunk * kBlock<S>);
  S* b = arena.Take<S>(x.chunk * x.states);
  S* c = arena.Take<S>(x.chunk * x.states);
  auto* cut = arena.Take<uint8_t>(x.chunk);

  const auto for_blocks = [&](const auto& body) {
    for (int64_t i = 0; i < blocks; ++i) {
      const int64_t channel = begin + i * kBlock<S>;
      body(i, channel, end - channel < kBlock<S> ? end - channel : kBlock<S>);
    }
  };
  for_blocks([&](int64_t i, int64_t channel, int64_t count) {
    channels.Load(i, entry.a, entry.d, channel, count);
    LoadStates(h + i * row, entry.h0, x.states, channel, count);
  });
  for (int64_t chunk = 0; chunk < CeilDiv(x.steps, x.chunk); ++chunk) {
    const Rows rows = RowsOf(x, chunk), states_of_chunk{chunk * x.states, 1, x.states};
    LoadRows<E>(b, x.states, entry.b, rows, x.states, 0, x.states);
    LoadRows<E>(c, x.states, entry.c, rows, x.states, 0, x.states);
    const bool has_cut = LoadFlags(cut, entry.reset, rows);
    for_blocks([&](int64_t i, int64_t channel, int64_t count) {
      const BlockRows<E> of(rows, x.channels, channel, count, false);
      StoreRows<State>(entry.starts, h + i * row, kBlock<S>, states_of_chunk, x.channels, channel,
                       count);
      const Steps<S> steps{of.Load(entry.u, u), of.Load(entry.dt, dt), of.pitch(), b, c, cut, has_cut, rows.count, x.states};
      kForward.of[x.zoh][NeedsCare(steps, channels[i])](channels[i], steps, h + i * row,
                                                            of.Target(entry.y, y));
      of.Store(entry.y, y);
    });
  }
  for_blocks([&](int64_t i, int64_t channel, int64_t count) {
    StoreStates(entry.h_last, h + i * row, x.states, channel, count);
  });
}

template <class E>
int64_t BackwardBytes(const Extents& x, int64_t channels) {
  using S = Scalar<E>;
  const int64_t blocks = CeilDiv(channels, kBlock<S>), row = x.states * kBlock<S>;
  return AllChannels<S>::Bytes(x, blocks) + 2 * Arena::Bytes<S>(blocks * row) +
         Arena::Bytes<S>(blocks * kBlock<S>) + Arena::Bytes<S>((x.chunk + 1) * row) +
         (x.zoh ? 3 : 1) * Arena::Bytes<S>(x.chunk * row) + 5 * Arena::Bytes<S>(x.chunk * kBlock<S>) +
         2 * Arena::Bytes<S>(x.chunk * x.states * kLanes<S>) +
         4 * Arena::Bytes<S>(x.chunk * x.states) + Arena::Bytes<uint8_t>(x.chunk);
}

template <class E>
void Backward(const Extents& x, const BackwardEntry& entry, int64_t begin, int64_t end,
              void* workspace) {
  using S = Scalar<E>;
  using State = std::conditional_t<sizeof(S) == 4, F32, F64>;
  static constexpr Variants<decltype(&Record<S, false, false>)> kRecord = {
      {{Record<S, false, false>, Record<S, false, true>},
       {Record<S, true, false>, Record<S, true, true>}}};
  static constexpr Variants<decltype(&BackwardBlock<S, false, false>)> kBackward = {
      {{BackwardBlock<S, false, false>, BackwardBlock<S, false, true>},
       {BackwardBlock<S, true, false>, BackwardBlock<S, true, true>}}};
  constexpr int N = kLanes<S>;
  const int64_t blocks = CeilDiv(end - begin, kBlock<S>), row = x.states * kBlock<S>;
  const int64_t pairs = x.chunk * x.states;
  Arena arena(workspace);
  const AllChannels<S> channels(arena, x, blocks);
  S* state = arena.Take<S>(blocks * row);
  S* da = arena.Take<S>(blocks * row);
  S* dd = arena.Take<S>(blocks * kBlock<S>);
  Tape<S> tape;
  tape.h = arena.Take<S>((x.chunk + 1) * row);
  tape.e = arena.Take<S>(x.chunk * row);
  tape.weight = x.zoh ? arena.Take<S>(x.chunk * row) : nullptr;
  tape.slope = x.zoh ? arena.Take<S>(x.chunk * row) : nullptr;
  S* u = arena.Take<S>(x.chunk * kBlock<S>);
  S* dt = arena.Take<S>(x.chunk * kBlock<S>);
  S* g_y = arena.Take<S>(x.chunk * kBlock<S>);
  S* du = arena.Take<S>(x.chunk * kBlock<S>);
  S* ddt = arena.Take<S>(x.chunk * kBlock<S>);
  S* db_lanes = arena.Take<S>(pairs * N);
  S* dc_lanes = arena.Take<S>(pairs * N);
  S* b = arena.Take<S>(pairs);
  S* c = arena.Take<S>(pairs);
  S* db = arena.Take<S>(pairs);
  S* dc = arena.Take<S>(pairs);
  auto* cut = arena.Take<uint8_t>(x.chunk);

  const auto for_blocks = [&](const auto& body) {
    for (int64_t i = 0; i < blocks; ++i) {
      const int64_t channel = begin + i * kBlock<S>;
      body(i, channel, end - channel < kBlock<S> ? end - channel : kBlock<S>);
    }
  };
  for_blocks([&](int64_t i, int64_t channel, int64_t count) {
    channels.Load(i, entry.a, entry.d, channel, count);
    LoadStates(state + i * row, entry.g_last, x.states, channel, count);
  });
  Clear(da, blocks * row);
  Clear(dd, blocks * kBlock<S>);
  for (int64_t chunk = CeilDiv(x.steps, x.chunk) - 1; chunk >= 0; --chunk) {
    const Rows rows = RowsOf(x, chunk), states_of_chunk{chunk * x.states, 1, x.states};
    LoadRows<E>(b, x.states, entry.b, rows, x.states, 0, x.states);
    LoadRows<E>(c, x.states, entry.c, rows, x.states, 0, x.states);
    const bool has_cut = LoadFlags(cut, entry.reset, rows);
    Clear(db_lanes, rows.count * x.states * N);
    Clear(dc_lanes, rows.count * x.states * N);
    for_blocks([&](int64_t i, int64_t channel, int64_t count) {
      const BlockRows<E> of(rows, x.channels, channel, count, true);
      LoadRows<State>(tape.h, kBlock<S>, entry.starts, states_of_chunk, x.channels, channel,
                      count);
      const Steps<S> steps{of.Load(entry.u, u), of.Load(entry.dt, dt), of.pitch(), b, c, cut, has_cut, rows.count, x.states};
      const bool care = NeedsCare(steps, channels[i]);
      kRecord.of[x.zoh][care](channels[i], steps, tape);
      kBackward.of[x.zoh][care](
          channels[i], steps, tape,
          {state + i * row, da + i * row, dd + i * kBlock<S>, of.Load(entry.g_y, g_y),
           of.Target(entry.du, du), of.Target(entry.ddt, ddt), db_lanes, dc_lanes});
      of.Store(entry.du, du);
      of.Store(entry.ddt, ddt);
    });
    SumRegisters(db, db_lanes, rows.count * x.states);
    SumRegisters(dc, dc_lanes, rows.count * x.states);
    const auto store = entry.partial ? StoreRows<State> : StoreRows<E>;
    store(entry.db, db, x.states, rows, x.states, 0, x.states);
    store(entry.dc, dc, x.states, rows, x.states, 0, x.states);
  }
  for_blocks([&](int64_t i, int64_t channel, int64_t count) {
    StoreStates(entry.dh0, state + i * row, x.states, channel, count);
    StoreStates(entry.da, da + i * row, x.states, channel, count);
    for (int64_t k = 0; k < count; ++k) {
      static_cast<S*>(entry.dd)[channel + k] = dd[i * kBlock<S> + k];
    }
  });
}

template <class E>
void Reduce(void* to, const void* from, int64_t count, int64_t terms) {
  constexpr int N = kLanes<Scalar<E>>;
  const auto* term = static_cast<const Scalar<E>*>(from);
  auto* sums = static_cast<Storage<E>*>(to);
  int64_t i = 0;
  for (; i + N <= count; i += N) {
    auto sum = LoadRaw<Lanes<E, N>>(term + i);
    for (int64_t k = 1; k < terms; ++k) sum += LoadRaw<Lanes<E, N>>(term + k * count + i);
    Store<E, N>(sums + i, sum);
  }
  for (; i < count; ++i) {
    Scalar<E> sum = term[i];
    for (int64_t k = 1; k < terms; ++k) sum += term[k * count + i];
    Store<E, 1>(sums + i, sum);
  }
}

template <class S>
void PowersOfTwo(const void* z, void* e, int64_t count) {
  using V = Register<S>;
  constexpr int N = kLanes<S>;
  for (int64_t i = 0; i < count; i += N) {
    S in[N] = {}, out[N];
    const int64_t n = count - i < N ? count - i : N;
    for (int64_t k = 0; k < n; ++k) in[k] = static_cast<const S*>(z)[i + k];
    StoreRaw(out, PowerOfTwo<S, true>(LoadRaw<V>(in), V{} + S{1}).value);
    for (int64_t k = 0; k < n; ++k) static_cast<S*>(e)[i + k] = out[k];
  }
}

template <class E>
constexpr Loops kLoops = {
    Forward<E>,
    Backward<E>,
    ForwardBytes<E>,
    BackwardBytes<E>,
    Reduce<E>,
    PowersOfTwo<Scalar<E>>,
    kBlock<Scalar<E>>,
    sizeof(Storage<E>),
    sizeof(Scalar<E>),
};

}  // namespace

namespace FASTSCAN_ISA {

const Loops& LoopsOf(Dtype dtype) {
  switch (dtype) {
    case Dtype::kF16:
      return kLoops<F16>;
    case Dtype::kBF16:
      return kLoops<BF16>;
    case Dtype::kF64:
      return kLoops<F64>;
    default:
      return kLoops<F32>;
  }
}

}  // namespace FASTSCAN_ISA
}  // namespace selective
}  // namespace fastscan

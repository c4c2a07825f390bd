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
#include "selective_scan_rows.h"

#include "selective_scan_blocks.h"

namespace fastscan {
namespace selective {
namespace {

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
    return {a, a + row, a + 2 * row, a + 3 * row, a + 4 * row, a + 4 * row + kBlock<S>};
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
        SplitExponent(a_n, to.exponent[n * kBlock<S> + i], to.rest[n * kBlock<S> + i]);
        to.inverse_a[n * kBlock<S> + i] = S{1} / a_n;
        largest = size > largest ? size : largest;
        strange += a_n - a_n;
      }
      to.limit[i] = PowerConstants<S>::kSafe * PowerConstants<S>::kLn2 / largest + strange;
    }
  }

 private:
  static int64_t Size(const Extents& x) { return (4 * x.states + 2) * kBlock<S>; }
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
      const Steps<S> steps{of.Load(entry.u, u), of.Load(entry.dt, dt), of.pitch(), b, c, cut,
                           has_cut, rows.count, x.states};
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
         (x.zoh ? 3 : 1) * Arena::Bytes<S>(x.chunk * row) +
         5 * Arena::Bytes<S>(x.chunk * kBlock<S>) +
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
      const Steps<S> steps{of.Load(entry.u, u), of.Load(entry.dt, dt), of.pitch(), b, c, cut,
                           has_cut, rows.count, x.states};
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
void Exponentials(const void* dt, const void* a, bool care, bool zoh, void* e, int64_t count) {
  using V = Register<S>;
  const auto power = [=](auto any, V s, V b, V rest) {
    return zoh ? PowerOfTwo<S, any.value>(s, b, rest).value
               : ValueOfPower<S, any.value>(s, b, rest);
  };
  constexpr int N = kLanes<S>;
  for (int64_t i = 0; i < count; i += N) {
    S steps[N] = {}, exponent[N] = {}, rest[N] = {}, out[N];
    const int64_t n = count - i < N ? count - i : N;
    for (int64_t k = 0; k < n; ++k) {
      steps[k] = static_cast<const S*>(dt)[i + k];
      SplitExponent(static_cast<const S*>(a)[i + k], exponent[k], rest[k]);
    }
    const V s = LoadRaw<V>(steps), b = LoadRaw<V>(exponent), r = LoadRaw<V>(rest);
    StoreRaw(out, care ? power(std::true_type(), s, b, r) : power(std::false_type(), s, b, r));
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
    Exponentials<Scalar<E>>,
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

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
#include "complex_exponential.h"
#include "selective_scan_rows.h"

#include "selective_scan_blocks.h"
#include "selective_scan_complex.h"

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
template <class S, int parts>
class AllChannels {
 public:
  static int64_t Bytes(const Extents& x, int64_t blocks) {
    return Arena::Bytes<S>(blocks * Size(x));
  }
  AllChannels(Arena& arena, const Extents& x, int64_t blocks)
      : states_(x.states), size_(Size(x)), at_(arena.Take<S>(blocks * size_)) {}

  Channels<S, parts> operator[](int64_t block) const {
    return Channels<S, parts>(at_ + block * size_, states_ * kBlock<S>);
  }

  void Load(int64_t block, const void* a, const void* d, int64_t channel, int64_t count) const {
    Channels<S, parts> to = (*this)[block];
    LoadStates(to.a, a, parts * states_, channel, count);
    LoadLanes(to.d, d, channel, count);
    to.Prepare(states_);
  }

 private:
  static int64_t Size(const Extents& x) {
    return (Channels<S, parts>::kRows * x.states + 2) * kBlock<S>;
  }
  int64_t states_, size_;
  S* at_;
};

template <class E>
int64_t ForwardBytes(const Extents& x, int64_t channels) {
  using S = Scalar<E>;
  const int64_t blocks = CeilDiv(channels, kBlock<S>);
  constexpr int parts = E::kParts;
  return AllChannels<S, parts>::Bytes(x, blocks) +
         Arena::Bytes<S>(blocks * parts * x.states * kBlock<S>) +
         2 * Arena::Bytes<S>(x.chunk * kBlock<S>) + Arena::Bytes<S>(x.chunk * parts * kBlock<S>) +
         2 * Arena::Bytes<S>(x.chunk * parts * x.states) + Arena::Bytes<uint8_t>(x.chunk);
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
  using Part = PartOf<E>;
  constexpr int parts = E::kParts;
  static constexpr Variants<void (*)(Channels<S, parts>, Steps<S>, S*, S*)> kForward = {
      {{ForwardBlock<S, false, false>, ForwardBlock<S, false, true>},
       {ForwardBlock<S, true, false>, ForwardBlock<S, true, true>}}};
  const int64_t blocks = CeilDiv(end - begin, kBlock<S>), states = parts * x.states;
  const int64_t row = states * kBlock<S>;
  Arena arena(workspace);
  const AllChannels<S, parts> channels(arena, x, blocks);
  S* h = arena.Take<S>(blocks * row);
  S* u = arena.Take<S>(x.chunk * kBlock<S>);
  S* dt = arena.Take<S>(x.chunk * kBlock<S>);
  S* y = arena.Take<S>(x.chunk * parts * kBlock<S>);
  S* b = arena.Take<S>(x.chunk * states);
  S* c = arena.Take<S>(x.chunk * states);
  auto* cut = arena.Take<uint8_t>(x.chunk);

  const auto for_blocks = [&](const auto& body) {
    for (int64_t i = 0; i < blocks; ++i) {
      const int64_t channel = begin + i * kBlock<S>;
      body(i, channel, end - channel < kBlock<S> ? end - channel : kBlock<S>);
    }
  };
  for_blocks([&](int64_t i, int64_t channel, int64_t count) {
    channels.Load(i, entry.a, entry.d, channel, count);
    LoadStates(h + i * row, entry.h0, states, channel, count);
  });
  for (int64_t chunk = 0; chunk < CeilDiv(x.steps, x.chunk); ++chunk) {
    const Rows rows = RowsOf(x, chunk), states_of_chunk{chunk * x.states, 1, x.states};
    LoadRows<Part>(b, states, entry.b, rows, states, 0, states);
    LoadRows<Part>(c, states, entry.c, rows, states, 0, states);
    const bool has_cut = LoadFlags(cut, entry.reset, rows);
    for_blocks([&](int64_t i, int64_t channel, int64_t count) {
      const BlockRows<Part> of(rows, x.channels, channel, count, false);
      StoreBlock<StateOf<E>>(entry.starts, h + i * row, states_of_chunk, x.channels, channel,
                             count);
      const Steps<S> steps{of.Load(entry.u, u), of.Load(entry.dt, dt), of.pitch(), b, c, cut,
                           has_cut, rows.count, x.states};
      const auto forward = kForward.of[x.zoh][NeedsCare(steps, channels[i])];
      if constexpr (parts == 1) {
        forward(channels[i], steps, h + i * row, of.Target(entry.y, y));
        of.Store(entry.y, y);
      } else {
        forward(channels[i], steps, h + i * row, y);
        StoreBlock<E>(entry.y, y, rows, x.channels, channel, count);
      }
    });
  }
  for_blocks([&](int64_t i, int64_t channel, int64_t count) {
    StoreStates(entry.h_last, h + i * row, states, channel, count);
  });
}

template <class E>
int64_t BackwardBytes(const Extents& x, int64_t channels) {
  using S = Scalar<E>;
  constexpr int parts = E::kParts;
  const int64_t blocks = CeilDiv(channels, kBlock<S>), states = parts * x.states;
  const int64_t row = states * kBlock<S>;
  return AllChannels<S, parts>::Bytes(x, blocks) + 2 * Arena::Bytes<S>(blocks * row) +
         Arena::Bytes<S>(blocks * kBlock<S>) + Arena::Bytes<S>((x.chunk + 1) * row) +
         (x.zoh ? 3 : 1) * Arena::Bytes<S>(x.chunk * row) +
         4 * Arena::Bytes<S>(x.chunk * kBlock<S>) + Arena::Bytes<S>(x.chunk * parts * kBlock<S>) +
         2 * Arena::Bytes<S>(x.chunk * states * kLanes<S>) +
         4 * Arena::Bytes<S>(x.chunk * states) + Arena::Bytes<uint8_t>(x.chunk);
}

template <class E>
void Backward(const Extents& x, const BackwardEntry& entry, int64_t begin, int64_t end,
              void* workspace) {
  using S = Scalar<E>;
  using Part = PartOf<E>;
  constexpr int parts = E::kParts;
  static constexpr Variants<void (*)(Channels<S, parts>, Steps<S>, Tape<S>)> kRecord = {
      {{Record<S, false, false>, Record<S, false, true>},
       {Record<S, true, false>, Record<S, true, true>}}};
  static constexpr Variants<void (*)(Channels<S, parts>, Steps<S>, Tape<S>, Cotangents<S>)>
      kBackward = {
      {{BackwardBlock<S, false, false>, BackwardBlock<S, false, true>},
       {BackwardBlock<S, true, false>, BackwardBlock<S, true, true>}}};
  constexpr int N = kLanes<S>;
  const int64_t blocks = CeilDiv(end - begin, kBlock<S>), states = parts * x.states;
  const int64_t row = states * kBlock<S>;
  const int64_t pairs = x.chunk * states;
  Arena arena(workspace);
  const AllChannels<S, parts> channels(arena, x, blocks);
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
  S* g_y = arena.Take<S>(x.chunk * parts * kBlock<S>);
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
    LoadStates(state + i * row, entry.g_last, states, channel, count);
  });
  Clear(da, blocks * row);
  Clear(dd, blocks * kBlock<S>);
  for (int64_t chunk = CeilDiv(x.steps, x.chunk) - 1; chunk >= 0; --chunk) {
    const Rows rows = RowsOf(x, chunk), states_of_chunk{chunk * x.states, 1, x.states};
    LoadRows<Part>(b, states, entry.b, rows, states, 0, states);
    LoadRows<Part>(c, states, entry.c, rows, states, 0, states);
    const bool has_cut = LoadFlags(cut, entry.reset, rows);
    Clear(db_lanes, rows.count * states * N);
    Clear(dc_lanes, rows.count * states * N);
    for_blocks([&](int64_t i, int64_t channel, int64_t count) {
      const BlockRows<Part> of(rows, x.channels, channel, count, true);
      LoadBlock<StateOf<E>>(tape.h, entry.starts, states_of_chunk, x.channels, channel, count);
      LoadBlock<E>(g_y, entry.g_y, rows, x.channels, channel, count);
      const Steps<S> steps{of.Load(entry.u, u), of.Load(entry.dt, dt), of.pitch(), b, c, cut,
                           has_cut, rows.count, x.states};
      const bool care = NeedsCare(steps, channels[i]);
      kRecord.of[x.zoh][care](channels[i], steps, tape);
      kBackward.of[x.zoh][care](
          channels[i], steps, tape,
          {state + i * row, da + i * row, dd + i * kBlock<S>, g_y,
           of.Target(entry.du, du), of.Target(entry.ddt, ddt), db_lanes, dc_lanes});
      of.Store(entry.du, du);
      of.Store(entry.ddt, ddt);
    });
    SumRegisters(db, db_lanes, rows.count * states);
    SumRegisters(dc, dc_lanes, rows.count * states);
    const auto store = entry.partial ? StoreRows<PartOf<StateOf<E>>> : StoreRows<Part>;
    store(entry.db, db, states, rows, states, 0, states);
    store(entry.dc, dc, states, rows, states, 0, states);
  }
  for_blocks([&](int64_t i, int64_t channel, int64_t count) {
    StoreStates(entry.dh0, state + i * row, states, channel, count);
    StoreStates(entry.da, da + i * row, states, channel, count);
    for (int64_t k = 0; k < count; ++k) {
      static_cast<S*>(entry.dd)[channel + k] = dd[i * kBlock<S> + k];
    }
  });
}

template <class E>
void Reduce(void* to, const void* from, int64_t count, int64_t terms) {
  using Part = PartOf<E>;
  constexpr int N = kLanes<Scalar<E>>;
  const auto* term = static_cast<const Scalar<E>*>(from);
  auto* sums = static_cast<Storage<E>*>(to);
  count *= E::kParts;
  int64_t i = 0;
  for (; i + N <= count; i += N) {
    auto sum = LoadRaw<Lanes<Part, N>>(term + i);
    for (int64_t k = 1; k < terms; ++k) sum += LoadRaw<Lanes<Part, N>>(term + k * count + i);
    Store<Part, N>(sums + i, sum);
  }
  for (; i < count; ++i) {
    Scalar<E> sum = term[i];
    for (int64_t k = 1; k < terms; ++k) sum += term[k * count + i];
    Store<Part, 1>(sums + i, sum);
  }
}

template <class S, int parts, bool zoh, bool care>
void Exponentials(const S* dt, const S* a, S* e, int64_t count) {
  using V = Register<S>;
  S memory[(Channels<S, parts>::kRows + 2) * kBlock<S>] = {};
  Channels<S, parts> channels(memory, kBlock<S>);
  for (int64_t i = 0; i < count; i += kBlock<S>) {
    const int64_t n = count - i < kBlock<S> ? count - i : kBlock<S>;
    LoadStates(channels.a, a + i * parts, parts, 0, n);
    channels.Prepare(1);
    S steps[kBlock<S>], out[parts * kBlock<S>];
    LoadLanes(steps, dt, i, n);
    for (int64_t k = 0; k < kRegisters; ++k) {
      const int64_t lane = k * kLanes<S>;
      const V step = LoadRaw<V>(steps + lane);
      if constexpr (parts == 1) {
        V value, weight, slope;
        Discretize<S, zoh, care, false>(step, channels, lane, value, weight, slope);
        StoreRaw(out + lane, value);
      } else {
        Complex<S> value, weight, slope;
        Discretize<S, zoh, care, false>(step, channels, 0, k, value, weight, slope);
        StorePair(out + lane, kBlock<S>, value);
      }
    }
    StoreStates(e + i * parts, out, parts, 0, n);
  }
}

template <class S, int parts>
void Exponentials(const void* dt, const void* a, bool care, bool zoh, void* e, int64_t count) {
  static constexpr Variants<void (*)(const S*, const S*, S*, int64_t)> kOf = {
      {{Exponentials<S, parts, false, false>, Exponentials<S, parts, false, true>},
       {Exponentials<S, parts, true, false>, Exponentials<S, parts, true, true>}}};
  kOf.of[zoh][care](static_cast<const S*>(dt), static_cast<const S*>(a), static_cast<S*>(e), count);
}

template <class E>
constexpr Loops kLoops = {
    Forward<E>,
    Backward<E>,
    ForwardBytes<E>,
    BackwardBytes<E>,
    Reduce<E>,
    Exponentials<Scalar<E>, E::kParts>,
    kBlock<Scalar<E>>,
    sizeof(Storage<PartOf<E>>),
    sizeof(Storage<E>) * E::kParts,
    sizeof(Scalar<E>),
    sizeof(Scalar<E>) * E::kParts,
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
    case Dtype::kC64:
      return kLoops<C64>;
    case Dtype::kC128:
      return kLoops<C128>;
    default:
      return kLoops<F32>;
  }
}

}  // namespace FASTSCAN_ISA
}  // namespace selective
}  // namespace fastscan

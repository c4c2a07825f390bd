// The matrix scan and its adjoint over time, for `matrix_scan_isa.cc`. Included once per
// instruction set, after matrix_scan_step.h and as it is: inside an unnamed namespace.

namespace fastscan::matrix {
namespace {

template <class E>
constexpr int kLanes = kVectorBytes / sizeof(typename E::Scalar);

// The arrays that a part works in. Without `memory`, only their size is told.
template <class M>
struct Scratch {
  using S = typename M::S;
  // Lanes of the product that is the gradient of a dense matrix.
  using Wide = Columns<typename M::E, kLanes<typename M::E>>;

  Scratch(const Sizes& sizes, int64_t count, void* memory)
      : groups(M::Groups(sizes, count)), memory(static_cast<S*>(memory)) {
    const int64_t row = groups * M::kSize, state = sizes.n * row;
    for (S*& p : states) p = Take(state);
    work = Take((sizes.r + 1) * (state + row));
    if constexpr (M::kOwnCoefficients) {
      for (int c = 0; c < kCoefficients; ++c) {
        coefficients[c] = Take(sizes.counts[c] * M::kSize);
        gradients[c] = Take(sizes.counts[c] * M::kSize);
      }
    } else if (sizes.counts[0] > 0) {
      const int64_t wide = Wide::Groups(sizes, sizes.n) * Wide::kSize;
      transposed = Take(count * wide);
      gradients[0] = Take(sizes.n * wide);
    }
  }

  S* Take(int64_t count) {
    S* p = memory == nullptr ? nullptr : memory + used;
    used += count;
    return p;
  }

  int64_t groups, used = 0;
  S* memory;
  S* states[3];  // the running state first
  S* work;
  S* transposed = nullptr;
  S* coefficients[kCoefficients] = {};
  S* gradients[kCoefficients] = {};
};

constexpr int64_t kPrefetchBytes = 1024;

template <class M>
struct Pass {
  using S = typename M::S;
  using Step = StepOf<M>;
  using Num = typename M::Num;

  const Sizes& sizes;
  const Part& part;
  const Window window;
  const bool in_place;
  Scratch<M> scratch;
  Step step;

  Pass(const Sizes& sizes, const Part& part, void* memory)
      : sizes(sizes),
        part(part),
        window{sizes.n, sizes.m, part.first, part.count},
        in_place(M::InPlace(window)),
        scratch(sizes, part.count, memory),
        step{sizes, scratch.groups, M::Used(part), {}} {
    for (int l = 0; l < kSystems; ++l) {
      const System& system = part.systems[l < part.count ? l : 0];
      Take(in, l, system.in);
      Take(out, l, system.out);
      Take(H, l, system.H);
      for (int c = 0; c < kCoefficients; ++c) {
        Take(coefficients[c], l, system.coefficients[c]);
        Take(gradients[c], l, system.gradients[c]);
      }
    }
  }

  // An array of all systems in the lanes: where it begins in each, and what a step is in Scalars.
  static constexpr int kSystems = M::kOwnCoefficients ? M::N : 1;
  struct Bundle {
    char* data[kSystems];
    int64_t step;

    S* At(int64_t t) const { return reinterpret_cast<S*>(data[0]) + t * step; }
  };
  Bundle in, out, H, coefficients[kCoefficients], gradients[kCoefficients];

  static void Take(Bundle& bundle, int lane, const Stream& stream) {
    bundle.data[lane] = stream.data;
    bundle.step = stream.step * M::P;
  }

  void LoadCoefficients(int64_t t, bool first) {
    for (int c = 0; c < kCoefficients; ++c) {
      if (sizes.counts[c] == 0) continue;
      const Bundle& from = coefficients[c];
      if constexpr (M::kOwnCoefficients) {
        step.coefficients[c] = scratch.coefficients[c];
        if (from.step == 0 && !first) continue;
        M::GatherElements(sizes.counts[c], from.data, t * from.step, scratch.coefficients[c]);
      } else {
        step.coefficients[c] = from.At(t);
      }
    }
  }

  // Asks for the lines of a step that will be read or written soon. The processor does so itself
  // where addresses ascend, and seldom where they descend, as they do in the adjoint. Inlined always:
  // GCC takes a function that only asks for lines for one without effect, and drops its calls.
  [[gnu::always_inline]] void Prefetch(int64_t t, const Bundle& of, int64_t first, int64_t count) const {
    if (of.step == 0) return;
    for (const char* data : of.data) {
      const char* p = data + (t * of.step + first * M::P) * static_cast<int64_t>(sizeof(S));
      const int64_t bytes = count * M::P * static_cast<int64_t>(sizeof(S));
      for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(p + i);
    }
  }
  // Of a state, this part's columns only: others are being written by other threads.
  [[gnu::always_inline]] void PrefetchState(int64_t t, const Bundle& of) const {
    if (M::kOwnCoefficients || window.count == window.width) {
      return Prefetch(t, of, 0, window.rows * window.width);
    }
    for (int64_t i = 0; i < window.rows; ++i) {
      Prefetch(t, of, i * window.width + window.first, window.count);
    }
  }
  [[gnu::always_inline]] void PrefetchCoefficients(int64_t t) const {
    for (int c = 0; c < kCoefficients; ++c) {
      if (sizes.counts[c] > 0) Prefetch(t, coefficients[c], 0, sizes.counts[c]);
    }
  }
  int64_t Ahead() const {
    const int64_t bytes = sizes.n * sizes.m * M::P * static_cast<int64_t>(sizeof(S));
    return 1 + kPrefetchBytes / (bytes + 1);
  }

  // The matrix that begins `offset` Scalars behind `from`: where it lies, or gathered into `spare`.
  Rows<S> View(char* const* from, int64_t offset, S* spare) const {
    if (in_place) return Place(reinterpret_cast<S*>(from[0]) + offset);
    M::Gather(window, from, offset, spare);
    return step.Dense(spare);
  }
  Rows<S> View(const Bundle& from, int64_t t, S* spare) const {
    return View(from.data, t * from.step, spare);
  }
  Rows<S> Place(S* data) const { return {data + window.first * M::P, window.width * M::P}; }

  // Where step t of `to` is to be computed: in its place, or in `spare`, for `Finish` to bring it
  // there.
  Rows<S> Target(const Bundle& to, int64_t t, S* spare) const {
    return in_place ? Place(to.At(t)) : step.Dense(spare);
  }
  void Finish(Rows<S> from, const Bundle& to, int64_t t) const {
    if (!in_place) M::Scatter(window, part, from.data, to.data, t * to.step);
  }

  // to = add + A past, where the state is kept, with the coefficients of step t.
  void Advance(bool transposed, int64_t t, Rows<S> past, Rows<S> add, Rows<S> to) const {
    const auto keep = M::KeepAt(part, t);
    if (keep.all) return step.Apply(transposed, past, add, to, scratch.work);
    const Rows<S> product = step.Dense(scratch.states[2]);
    if (!keep.none) step.Apply(transposed, past, {}, product, scratch.work);
    step.SumWhere(keep, add, product, to);
  }

  void Forward(int64_t begin, int64_t end) {
    Rows<S> past = step.Dense(scratch.states[0]);
    S *spare = scratch.states[1], *other = scratch.states[0];
    for (int64_t t = begin; t < end; ++t) {
      LoadCoefficients(t, t == begin);
      const Rows<S> X = View(in, t, spare), next = Target(out, t, spare);
      Advance(false, t, past, X, next);
      Finish(next, out, t);
      past = next;
      std::swap(spare, other);
    }
    if (past.data != scratch.states[0]) step.Copy(past, step.Dense(scratch.states[0]));
  }

  // The running state is c of README.md between calls. Within one, lambda[t - 1] is computed from
  // lambda[t] at once.
  void Adjoint(int64_t begin, int64_t end) {
    if (begin == end) return;
    S *spare = scratch.states[1], *other = scratch.states[0];
    const int64_t ahead = Ahead();
    Rows<S> adjoint = Target(out, end - 1, spare);
    step.Sum(View(in, end - 1, spare), step.Dense(other), adjoint);
    Finish(adjoint, out, end - 1);
    for (int64_t t = end - 1; t > begin; --t) {
      if (t > ahead) {
        PrefetchState(t - 1 - ahead, in);
        PrefetchState(t - 1 - ahead, out);
        PrefetchCoefficients(t - ahead);
      }
      std::swap(spare, other);
      LoadCoefficients(t, t == end - 1);
      const Rows<S> g = View(in, t - 1, spare), next = Target(out, t - 1, spare);
      Advance(true, t, adjoint, g, next);
      Finish(next, out, t - 1);
      adjoint = next;
    }
    std::swap(spare, other);
    LoadCoefficients(begin, begin == end - 1);
    const Rows<S> last = step.Dense(spare);
    Advance(true, begin, adjoint, {}, last);
    if (spare != scratch.states[0]) step.Copy(last, step.Dense(scratch.states[0]));
  }

  void Gradients(int64_t begin, int64_t end) {
    typename Step::Gradients to{};
    for (int c = 0; c < kCoefficients; ++c) {
      const bool over_time = gradients[c].step == 0;
      to.add[c] = over_time || (sizes.add[c] && !M::kOwnCoefficients);
      if (!M::kOwnCoefficients || gradients[c].data[0] == nullptr) continue;
      to.to[c] = scratch.gradients[c];
      if (over_time) Zero(scratch.gradients[c], sizes.counts[c] * M::kSize);
    }
    for (int64_t t = begin; t < end; ++t) {
      to.keep = M::KeepAt(part, t);
      if constexpr (!M::kOwnCoefficients) {
        for (int c = 0; c < kCoefficients; ++c) {
          if (gradients[c].data[0] != nullptr) to.to[c] = gradients[c].At(t);
        }
        if (to.keep.none) {
          for (int c = 0; c < kCoefficients; ++c) {
            if (to.to[c] != nullptr && !to.add[c]) Zero(to.to[c], sizes.counts[c] * M::P);
          }
          continue;
        }
      }
      GradientsOfStep(t, t == begin, to);
      ScatterGradients(t, false);
    }
    if (begin < end) ScatterGradients(begin, true);
  }

  void GradientsOfStep(int64_t t, bool first, const typename Step::Gradients& to) {
    char* before[kSystems];
    for (int l = 0; l < kSystems; ++l) before[l] = part.systems[l < part.count ? l : 0].H0;
    if constexpr (!M::kOwnCoefficients) {
      if (sizes.counts[0] > 0) {
        const auto* past = reinterpret_cast<const S*>(before[0]);
        return DenseGradient(this->out.At(t), t > 0 ? H.At(t - 1) : past, to.to[0], to.add[0]);
      }
    }
    LoadCoefficients(t, first);
    const Rows<S> adjoint = View(this->out, t, scratch.states[1]);
    S* spare = scratch.states[2];
    const Rows<S> past = t > 0 ? View(H, t - 1, spare) : View(before, 0, spare);
    if constexpr (M::kOwnCoefficients) {
      if (sizes.counts[0] > 0) return step.DenseGradients(to, adjoint, past);
    }
    step.FactorGradients(to, adjoint, past, scratch.work);
  }

  // lambda H^T as a product of its own: lanes are the columns of A.
  void DenseGradient(const S* adjoint, const S* past, S* to, bool add) const {
    using Wide = typename Scratch<M>::Wide;
    const Window of{sizes.n, sizes.n, 0, sizes.n};
    const bool there = Wide::InPlace(of);
    const int64_t groups = Wide::Groups(sizes, sizes.n), row = groups * Wide::kSize;
    S* sum = there ? to : scratch.gradients[0];
    if (add && !there) Wide::Gather(of, reinterpret_cast<const char*>(to), sum);
    Wide::GatherTransposed(window, reinterpret_cast<const char*>(past), scratch.transposed);
    const Rows<S> out{sum, row}, none{};
    Product<Wide>{adjoint,
                  0,
                  sizes.m,
                  1,
                  sizes.n,
                  sizes.m,
                  groups,
                  {scratch.transposed, row},
                  add ? out : none,
                  out}
        .Run();
    if (!there) Wide::Scatter(of, sum, reinterpret_cast<char*>(to));
  }

  static void Zero(S* p, int64_t count) {
    for (int64_t i = 0; i < count; ++i) p[i] = 0;
  }

  // Those of step t, or those that were added up over time.
  void ScatterGradients(int64_t t, bool over_time) const {
    if constexpr (M::kOwnCoefficients) {
      for (int c = 0; c < kCoefficients; ++c) {
        const Bundle& to = gradients[c];
        if (to.data[0] == nullptr || (to.step == 0) != over_time) continue;
        M::ScatterElements(sizes.counts[c], part, scratch.gradients[c], to.data, t * to.step,
                           sizes.add[c] || over_time);
      }
    }
  }
};

}  // namespace
}  // namespace fastscan::matrix

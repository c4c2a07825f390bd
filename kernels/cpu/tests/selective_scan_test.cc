// Random problems against the recurrence as it is written, in complex numbers of doubles, on
// several threads; and the exponentials over their whole range.
#include "../selective_scan.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <complex>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <thread>
#include <vector>

namespace {

using fastscan::Array;
using fastscan::Dtype;

std::mt19937 random_bits(1);
int failures = 0;

double Uniform(double low, double high) {
  return std::uniform_real_distribution<double>(low, high)(random_bits);
}
int64_t Pick(std::vector<int64_t> choices) {
  return choices[std::uniform_int_distribution<size_t>(0, choices.size() - 1)(random_bits)];
}

void RunJob(fastscan::Job& job, int threads) {
  std::atomic<int64_t> next{0};
  const auto work = [&] {
    for (int64_t i = next++; i < job.tasks(); i = next++) job.Run(i);
  };
  std::vector<std::thread> others;
  for (int i = 1; i < threads; ++i) others.emplace_back(work);
  work();
  for (std::thread& thread : others) thread.join();
  job.Finish();
}

// ---- the exponential ---------------------------------------------------------------------------

// exp(dt A) against the exponential of the exact product: `Wide` holds its digits, or nearly all.
template <class S, class Wide>
class ExponentialCheck {
 public:
  ExponentialCheck(Dtype dtype, bool zoh) : dtype_(dtype), zoh_(zoh) {}

  void Run() {
    using Limits = std::numeric_limits<S>;
    const Wide ln2 = std::log(Wide{2});
    // Below that, half the least number; there is nothing above the largest one.
    const double least = double((Limits::min_exponent - Limits::digits - 1) * ln2);
    const double most = double(Limits::max_exponent * ln2);
    const double worst = Worst(true, least, most);
    const double inside = Worst(false, double((Limits::min_exponent + 1) * ln2), most - 3);
    std::printf("exp(dt A): off by %.3f units in the last place at most, %.3f without care\n", worst,
                inside);
    if (!(worst <= 2 && inside <= 2)) ++failures;

    const S infinity = Limits::infinity(), nan = Limits::quiet_NaN();
    const S over = static_cast<S>(most), under = static_cast<S>(least);
    dt_ = {1, 0, S(0.5), 2, 2, nan, 1, 1, S(1.001), 10, S(1.01), 9, infinity, infinity, 0};
    a_ = {0,    -3,   S(-0.0), -infinity, infinity, 1, nan,     -nan,
          over, over, under,   under,     -1,       1, infinity};
    const std::vector<S> expected = {1,        1,        1, 0, infinity, nan,      nan, nan,
                                     infinity, infinity, 0, 0, 0,        infinity, nan};
    Compute(true);
    for (size_t i = 0; i < e_.size(); ++i) {
      if (e_[i] == expected[i] || (std::isnan(e_[i]) && std::isnan(expected[i]))) continue;
      std::printf("exp(%g * %g) is %g\n", double(dt_[i]), double(a_[i]), double(e_[i]));
      ++failures;
    }
  }

 private:
  void Compute(bool care) {
    e_.resize(dt_.size());
    fastscan::selective::Exponentials(dtype_, dt_.data(), a_.data(), care, zoh_, e_.data(),
                                      static_cast<int64_t>(dt_.size()));
  }

  // The largest error, in units of the last place of the result, of products from `low` to `high`.
  double Worst(bool care, double low, double high) {
    using Limits = std::numeric_limits<S>;
    double worst = 0;
    const int64_t samples = 2'000'000, at_once = 100'000;
    for (int64_t done = 0; done < samples; done += at_once) {
      dt_.clear();
      a_.clear();
      for (int64_t i = done; i < done + at_once; ++i) {
        const double share = (static_cast<double>(i) + Uniform(0, 1)) / samples;
        // Every other one next to 0, on a scale of logarithms; of factors of all sizes.
        const double small = std::exp2(-60 * share) * (i & 2 ? 1 : -1);
        const double z = i & 1 ? small : low + (high - low) * share;
        const S dt = static_cast<S>(std::exp2(Uniform(-20, 20)));
        dt_.push_back(dt);
        a_.push_back(static_cast<S>(z / dt));
      }
      Compute(care);
      for (size_t i = 0; i < e_.size(); ++i) {
        const Wide expected = std::exp(static_cast<Wide>(dt_[i]) * static_cast<Wide>(a_[i]));
        if (expected > static_cast<Wide>(Limits::max())) continue;
        int exponent;
        std::frexp(expected, &exponent);
        const Wide unit =
            std::ldexp(Wide{1}, std::max(exponent, int{Limits::min_exponent}) - Limits::digits);
        const double error = static_cast<double>(std::fabs(e_[i] - expected) / unit);
        worst = std::max(worst, std::isnan(error) ? 1e9 : error);
      }
    }
    return worst;
  }

  const Dtype dtype_;
  const bool zoh_;
  std::vector<S> dt_, a_, e_;
};

// exp(dt A) of complex A against that of the exact product: for doubles of its value in double and
// what is left of it.
template <class S, class Wide>
class ComplexExponentialCheck {
 public:
  ComplexExponentialCheck(Dtype dtype, bool zoh) : dtype_(dtype), zoh_(zoh) {}

  void Run() {
    const double most = std::numeric_limits<S>::max_exponent * std::log(2.0) - 3;
    const double worst = Worst(true, most, sizeof(S) == 4 ? 1e12 : 1e20);
    const double inside = Worst(false, most, 2e4);
    std::printf("exp(dt A), complex: off by %.3f units in the last place, %.3f without care\n",
                worst, inside);
    if (!(worst <= 4 && inside <= 4)) ++failures;

    const S infinity = std::numeric_limits<S>::infinity(), nan = std::nan("");
    dt_ = {0, 1, 1, 1, 1, 1, 2};
    a_ = {3, 4, 0, 0, -infinity, 2, 0, infinity, 0, nan, nan, 0, S(most), 0};
    const std::vector<S> expected = {1, 0, 1, 0, 0, 0, nan, nan, nan, nan, nan, 0, infinity, 0};
    Compute(true);
    for (size_t i = 0; i < e_.size(); ++i) {
      if (e_[i] == expected[i] || (std::isnan(e_[i]) && std::isnan(expected[i]))) continue;
      std::printf("part %zu of exp(%g * (%g + %g i)) is %g\n", i % 2, double(dt_[i / 2]),
                  double(a_[i / 2 * 2]), double(a_[i / 2 * 2 + 1]), double(e_[i]));
      ++failures;
    }
  }

 private:
  void Compute(bool care) {
    e_.resize(a_.size());
    fastscan::selective::Exponentials(dtype_, dt_.data(), a_.data(), care, zoh_, e_.data(),
                                      static_cast<int64_t>(dt_.size()));
  }

  // The largest error of a part, in units of the last place of |exp(dt A)|.
  double Worst(bool care, double most, double largest_angle) {
    double worst = 0;
    const int64_t samples = 500'000, at_once = 100'000;
    for (int64_t done = 0; done < samples; done += at_once) {
      dt_.clear();
      a_.clear();
      for (int64_t i = 0; i < at_once; ++i) {
        // A third each: a few turns, angles of all sizes, and next to multiples of pi / 2.
        const double sign = i & 1 ? 1 : -1;
        double angle = Uniform(-10, 10);
        if (i % 3 == 1) angle = sign * std::pow(largest_angle, Uniform(-1, 1));
        if (i % 3 == 2) angle = std::round(angle * 5) * std::acos(0.0) + Uniform(-1e-3, 1e-3);
        const S dt = static_cast<S>(std::exp2(Uniform(-10, 10)));
        dt_.push_back(dt);
        a_.push_back(static_cast<S>(Uniform(-most, most) / dt));
        a_.push_back(static_cast<S>(angle / dt));
      }
      Compute(care);
      for (size_t i = 0; i < dt_.size(); ++i) {
        const double dt = dt_[i], im = a_[2 * i + 1], angle = dt * im;
        const double left = std::fma(dt, im, -angle);
        const Wide size = std::exp(static_cast<Wide>(dt) * static_cast<Wide>(a_[2 * i]));
        const Wide c = std::cos(Wide(angle)), s = std::sin(Wide(angle));
        const Wide re = size * (c * std::cos(Wide(left)) - s * std::sin(Wide(left)));
        const Wide im_part = size * (s * std::cos(Wide(left)) + c * std::sin(Wide(left)));
        int exponent;
        std::frexp(size, &exponent);
        const Wide unit = std::ldexp(Wide{1}, exponent - std::numeric_limits<S>::digits);
        for (const Wide error : {e_[2 * i] - re, e_[2 * i + 1] - im_part}) {
          const double units = static_cast<double>(std::fabs(error) / unit);
          worst = std::max(worst, std::isnan(units) ? 1e9 : units);
        }
      }
    }
    return worst;
  }

  const Dtype dtype_;
  const bool zoh_;
  std::vector<S> dt_, a_, e_;  // a and e in pairs
};

// ---- the scan --------------------------------------------------------------------------------

using Number = std::complex<double>;

bool IsComplex(Dtype dtype) { return dtype == Dtype::kC64 || dtype == Dtype::kC128; }
bool IsSingle(Dtype dtype) { return dtype == Dtype::kF32 || dtype == Dtype::kC64; }
bool IsFinite(Number x) { return std::isfinite(x.real()) && std::isfinite(x.imag()); }

int64_t Product(const std::vector<int64_t>& dims) {
  int64_t product = 1;
  for (const int64_t n : dims) product *= n;
  return product;
}

// An array with batch axes, of real or complex numbers in float or double.
struct Buffer {
  Dtype dtype = Dtype::kF32;
  std::vector<int64_t> batch, dims;  // `dims` of all axes
  std::vector<char> bytes;

  Buffer() = default;
  Buffer(Dtype dtype_, std::vector<int64_t> batch_, std::vector<int64_t> core)
      : dtype(dtype_), batch(std::move(batch_)), dims(batch) {
    dims.insert(dims.end(), core.begin(), core.end());
    // Exactly as large as the array, so that sanitizers see what goes beyond it.
    bytes.assign(Product(dims) * (IsSingle(dtype) ? 4 : 8) * parts(), 0x55);
  }
  int64_t count() const { return Product(dims); }
  int64_t parts() const { return IsComplex(dtype) ? 2 : 1; }
  double Scalar(int64_t i) const {
    return IsSingle(dtype) ? reinterpret_cast<const float*>(bytes.data())[i]
                           : reinterpret_cast<const double*>(bytes.data())[i];
  }
  void SetScalar(int64_t i, double value) {
    if (IsSingle(dtype)) {
      reinterpret_cast<float*>(bytes.data())[i] = static_cast<float>(value);
    } else {
      reinterpret_cast<double*>(bytes.data())[i] = value;
    }
  }
  Number operator[](int64_t i) const {
    return IsComplex(dtype) ? Number(Scalar(2 * i), Scalar(2 * i + 1)) : Number(Scalar(i));
  }
  double Real(int64_t i) const { return (*this)[i].real(); }
  void Set(int64_t i, Number value) {
    SetScalar(i * parts(), value.real());
    if (IsComplex(dtype)) SetScalar(2 * i + 1, value.imag());
  }
  void Fill(double low, double high) {
    for (int64_t i = 0; i < count() * parts(); ++i) SetScalar(i, Uniform(low, high));
  }
  Array array() { return {bytes.data(), dims.data()}; }
  // The first element of an entry of the full batch.
  int64_t Entry(const std::vector<int64_t>& full, int64_t entry) const {
    int64_t index = 0, step = 1;
    for (int i = static_cast<int>(full.size()) - 1; i >= 0; --i) {
      if (batch[i] != 1) index += entry % full[i] * step;
      step *= batch[i];
      entry /= full[i];
    }
    return index * (count() / std::max<int64_t>(Product(batch), 1));
  }
};

struct Problem {
  Dtype dtype;
  std::vector<int64_t> batch;
  int64_t steps, channels, states, chunk;
  bool zoh, reverse, with_d, with_reset, poison;
  double largest_exponent;
  int threads;

  std::string Describe() const {
    std::string text = "batch";
    for (const int64_t n : batch) text += " " + std::to_string(n);
    text += " T " + std::to_string(steps) + " d " + std::to_string(channels) + " N " +
            std::to_string(states) + " chunk " + std::to_string(chunk) + " threads " +
            std::to_string(threads);
    for (const auto& [flag, name] :
         {std::pair{!IsSingle(dtype), " double"}, {IsComplex(dtype), " complex"}, {zoh, " zoh"},
          {reverse, " reverse"}, {with_d, " d"}, {with_reset, " reset"}, {poison, " poisoned"}}) {
      if (flag) text += name;
    }
    return text;
  }
};

std::vector<int64_t> SomeBatch(const std::vector<int64_t>& batch) {
  std::vector<int64_t> some = batch;
  for (int64_t& n : some) n = Uniform(0, 1) < 0.4 ? 1 : n;
  return some;
}

// `expected` and the sum of the sizes of its terms.
struct Expected {
  std::vector<Number> value;
  std::vector<double> size;
  explicit Expected(int64_t count) : value(count), size(count) {}
  void Add(int64_t i, Number term) { AddSized(i, term, std::abs(term)); }
  void AddSized(int64_t i, Number term, double term_size) {
    value[i] += term;
    size[i] += term_size;
  }
};

// The cotangent of what is real is the real part of what is expected.
void Compare(const std::string& name, const Buffer& got, const Expected& expected) {
  const double precision = IsSingle(got.dtype) ? 2e-5 : 2e-13;
  for (int64_t i = 0; i < got.count(); ++i) {
    const Number value = IsComplex(got.dtype) ? expected.value[i] : expected.value[i].real();
    if (!IsFinite(value) || !std::isfinite(expected.size[i])) continue;
    if (std::abs(got[i] - value) <= precision * (expected.size[i] + 1e-3)) continue;
    std::printf("%s[%lld] is %.9g + %.9g i, not %.9g + %.9g i\n", name.c_str(),
                static_cast<long long>(i), got[i].real(), got[i].imag(), value.real(),
                value.imag());
    ++failures;
    return;
  }
}

// (exp(z) - 1) / z and its derivative.
Number Phi(Number z) {
  if (std::abs(z) > 0.5) return (std::exp(z) - 1.0) / z;
  Number sum = 0, term = 1;  // the terms z^k / (k+1)!
  for (int k = 0; k < 16; ++k) {
    sum += term;
    term *= z / (k + 2.0);
  }
  return sum;
}
Number PhiSlope(Number z) {
  if (std::abs(z) > 0.5) return (std::exp(z) - Phi(z)) / z;
  Number sum = 0, term = 0.5;  // the terms k z^(k-1) / (k+1)!
  for (int k = 1; k < 18; ++k) {
    sum += term;
    term *= z * (k + 1.0) / (k * (k + 2.0));
  }
  return sum;
}

void Check(const Problem& p) {
  using std::vector;
  const int64_t T = p.steps, d = p.channels, N = p.states;
  const vector<int64_t> one(p.batch.size(), 1);
  const Dtype t = p.dtype;
  const Dtype real = IsSingle(t) ? Dtype::kF32 : Dtype::kF64;
  const vector<int64_t> inputs{T, d}, matrices{T, N}, states{d, N};
  const int64_t chunks = (T + p.chunk - 1) / p.chunk;
  const auto some = [&](Dtype dtype, vector<int64_t> core) {
    return Buffer(dtype, SomeBatch(p.batch), core);
  };
  Buffer u = some(real, inputs), dt = some(real, inputs), a = some(t, states);
  Buffer b = some(t, matrices), c = some(t, matrices), skip = some(real, {d});
  Buffer h0 = some(t, states), g_last = some(t, states), g_y = some(t, inputs);
  const auto full = [&](Dtype dtype, vector<int64_t> core) { return Buffer(dtype, p.batch, core); };
  Buffer h_last = full(t, states), y = full(t, inputs), starts = full(t, {chunks, N, d});
  Buffer du = full(real, inputs), ddt = full(real, inputs), da = full(t, states);
  Buffer db = full(t, matrices), dc = full(t, matrices), dd = full(real, {d});
  Buffer dh0 = full(t, states);
  for (Buffer* buffer : {&u, &b, &c, &skip, &h0, &g_last, &g_y}) buffer->Fill(-1, 1);
  dt.Fill(0, 0.5);
  for (int64_t i = 0; i < a.count(); ++i) {
    const double angle = Uniform(-9, 9) * p.largest_exponent;
    const double size = Uniform(-2 * p.largest_exponent, p.largest_exponent < 4 ? 0.2 : 0);
    const double kind = Uniform(0, 1);
    a.Set(i, Number(size, angle) * (kind < 0.1 ? 0 : kind < 0.2 ? 1e-4 : 1));
  }
  vector<uint8_t> flags(T);
  for (int64_t i = 0; i < T; ++i) flags[i] = p.with_reset && Uniform(0, 1) < 0.2;
  vector<int64_t> flag_dims = one;
  flag_dims.push_back(T);
  const auto at = [&](int64_t i) { return p.reverse ? T - 1 - i : i; };  // of step i of the scan
  if (p.poison) {
    for (int64_t i = 0; i + 1 < T; ++i) {
      if (!flags[at(i + 1)]) continue;
      for (int64_t k = 0; k < u.count() / std::max<int64_t>(T, 1) / std::max<int64_t>(d, 1); ++k) {
        if (d > 0) u.Set((k * T + at(i)) * d, std::nan(""));
      }
    }
  }

  fastscan::selective::Extents extents{t, p.batch.data(), static_cast<int>(p.batch.size()),
                                       T, d, N, p.chunk, p.zoh, p.reverse};
  const Array no{}, reset = p.with_reset ? Array{flags.data(), flag_dims.data()} : no;
  const auto forward = [&] {
    RunJob(*fastscan::selective::MakeJob(
               fastscan::selective::Scan{extents, u.array(), dt.array(), a.array(), b.array(),
                                         c.array(), p.with_d ? skip.array() : no, h0.array(), reset,
                                         h_last.array(), y.array(), starts.array()},
               p.threads),
           p.threads);
  };
  const auto backward = [&] {
    RunJob(*fastscan::selective::MakeJob(
               fastscan::selective::Backward{extents, g_last.array(), g_y.array(), u.array(),
                                             dt.array(), a.array(), b.array(), c.array(),
                                             p.with_d ? skip.array() : no, reset, starts.array(),
                                             du.array(), ddt.array(), da.array(), db.array(),
                                             dc.array(), dd.array(), dh0.array()},
               p.threads),
           p.threads);
  };
  forward();
  backward();
  const vector<vector<char>> first{y.bytes, h_last.bytes, du.bytes, db.bytes, da.bytes};
  forward();
  backward();
  if (first != vector<vector<char>>{y.bytes, h_last.bytes, du.bytes, db.bytes, da.bytes}) {
    std::printf("%s: differs from run to run\n", p.Describe().c_str());
    ++failures;
  }

  Expected e_y(y.count()), e_last(h_last.count()), e_starts(starts.count()), e_du(du.count());
  Expected e_ddt(ddt.count()), e_da(da.count()), e_db(db.count()), e_dc(dc.count());
  Expected e_dd(dd.count()), e_dh0(dh0.count());
  vector<Number> h(T + 1), e(T);
  vector<double> size(T + 1);
  for (int64_t entry = 0; entry < Product(p.batch); ++entry) {
    const auto of = [&](const Buffer& x) { return x.Entry(p.batch, entry); };
    for (int64_t k = 0; k < d; ++k) {
      const double d_k = p.with_d ? skip.Real(of(skip) + k) : 0;
      for (int64_t i = 0; i < T; ++i) {
        const double u_t = u.Real(of(u) + i * d + k);
        const Number g = g_y[of(g_y) + i * d + k];
        e_y.Add(of(y) + i * d + k, d_k * u_t);
        e_du.Add(of(du) + i * d + k, d_k * g);
        e_dd.Add(of(dd) + k, u_t * g);
      }
      for (int64_t n = 0; n < N; ++n) {
        const Number A = a[of(a) + k * N + n];
        h[0] = h0[of(h0) + k * N + n];
        size[0] = std::abs(h[0]);
        for (int64_t i = 0; i < T; ++i) {
          const int64_t s = at(i);
          const double dt_t = dt.Real(of(dt) + s * d + k), u_t = u.Real(of(u) + s * d + k);
          const Number weight = p.zoh ? dt_t * Phi(dt_t * A) : dt_t;
          const Number drive = weight * b[of(b) + s * N + n] * u_t;
          e[i] = flags[s] ? 0 : std::exp(dt_t * A);
          h[i + 1] = (flags[s] ? 0 : e[i] * h[i]) + drive;
          size[i + 1] = (flags[s] ? 0 : std::abs(e[i]) * size[i]) + std::abs(drive);
          const Number c_t = c[of(c) + s * N + n];
          e_y.AddSized(of(y) + s * d + k, c_t * h[i + 1], std::abs(c_t) * size[i + 1]);
          if (i % p.chunk == 0) {
            e_starts.AddSized(of(starts) + (i / p.chunk * N + n) * d + k, h[i], size[i]);
          }
        }
        e_last.AddSized(of(h_last) + k * N + n, h[T], size[T]);
        Number carried = g_last[of(g_last) + k * N + n];
        double carried_size = std::abs(carried);
        for (int64_t i = T - 1; i >= 0; --i) {
          const int64_t s = at(i);
          const double dt_t = dt.Real(of(dt) + s * d + k), u_t = u.Real(of(u) + s * d + k);
          const Number b_t = b[of(b) + s * N + n], c_t = c[of(c) + s * N + n];
          const Number g = g_y[of(g_y) + s * d + k], lambda = carried + g * c_t;
          const double sized = carried_size + std::abs(g * c_t);
          const Number z = dt_t * A, weight = p.zoh ? dt_t * Phi(z) : dt_t;
          const int64_t input = s * d + k, pair = s * N + n, state = of(da) + k * N + n;
          e_dc.AddSized(of(dc) + pair, g * h[i + 1], std::abs(g) * size[i + 1]);
          e_db.AddSized(of(db) + pair, lambda * weight * u_t, sized * std::abs(weight * u_t));
          e_du.AddSized(of(du) + input, lambda * weight * b_t, sized * std::abs(weight * b_t));
          const Number of_weight = lambda * u_t * b_t;
          const double of_size = sized * std::abs(u_t * b_t);
          const Number slope = p.zoh ? std::exp(z) : 1;
          e_ddt.AddSized(of(ddt) + input, of_weight * slope, of_size * std::abs(slope));
          if (p.zoh) {
            const Number by_a = dt_t * dt_t * PhiSlope(z);
            e_da.AddSized(state, of_weight * by_a, of_size * std::abs(by_a));
          }
          carried = flags[s] ? 0 : e[i] * lambda;
          carried_size = flags[s] ? 0 : std::abs(e[i]) * sized;
          if (flags[s]) continue;
          e_ddt.AddSized(of(ddt) + input, carried * h[i] * A, carried_size * size[i] * std::abs(A));
          e_da.AddSized(state, carried * h[i] * dt_t, carried_size * size[i] * dt_t);
        }
        e_dh0.AddSized(of(dh0) + k * N + n, carried, carried_size);
      }
    }
  }
  const std::string name = p.Describe();
  Compare(name + " y", y, e_y);
  Compare(name + " h_last", h_last, e_last);
  Compare(name + " starts", starts, e_starts);
  Compare(name + " du", du, e_du);
  Compare(name + " ddt", ddt, e_ddt);
  Compare(name + " da", da, e_da);
  Compare(name + " db", db, e_db);
  Compare(name + " dc", dc, e_dc);
  Compare(name + " dd", dd, e_dd);
  Compare(name + " dh0", dh0, e_dh0);
}

Problem RandomProblem() {
  Problem p;
  const Dtype dtypes[] = {Dtype::kF32, Dtype::kF64, Dtype::kC64, Dtype::kC128};
  p.dtype = dtypes[Pick({0, 1, 2, 3})];
  for (int64_t i = Pick({0, 0, 1, 2}); i > 0; --i) p.batch.push_back(Pick({1, 2, 3}));
  p.steps = Pick({0, 1, 2, 15, 16, 17, 40, 65});
  p.channels = Pick({1, 2, 3, 8, 15, 16, 17, 33, 70});
  p.states = Pick({0, 1, 2, 3, 4, 7, 16, 17});
  p.chunk = Pick({1, 3, 16, 32});
  p.zoh = Pick({0, 1});
  p.reverse = Pick({0, 1});
  p.with_d = Pick({0, 1});
  p.with_reset = Pick({0, 1});
  p.poison = p.with_reset && p.states > 0 && Pick({0, 0, 1});
  p.largest_exponent = static_cast<double>(Pick({1, 1, 3, 400}));
  p.threads = static_cast<int>(Pick({1, 2, 3, 8}));
  return p;
}

}  // namespace

int main(int argc, char** argv) {
  const int problems = argc > 1 ? std::atoi(argv[1]) : 1000;
  for (const bool zoh : {false, true}) {
    ExponentialCheck<float, double>(Dtype::kF32, zoh).Run();
    ExponentialCheck<double, long double>(Dtype::kF64, zoh).Run();
    ComplexExponentialCheck<float, double>(Dtype::kC64, zoh).Run();
    ComplexExponentialCheck<double, long double>(Dtype::kC128, zoh).Run();
  }
  for (int i = 0; i < problems; ++i) Check(RandomProblem());
  std::printf("%s: %d random problems, %d failures\n", fastscan::InstructionSet(), problems,
              failures);
  return failures == 0 ? 0 : 1;
}

// Random problems against the recurrence as it is written, in double, on several threads; and the
// exponential over its whole range.
#include "../selective_scan.h"

#include <algorithm>
#include <atomic>
#include <cmath>
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

// ---- the scan --------------------------------------------------------------------------------

int64_t Product(const std::vector<int64_t>& dims) {
  int64_t product = 1;
  for (const int64_t n : dims) product *= n;
  return product;
}

// An array with batch axes, of float or double.
struct Buffer {
  Dtype dtype = Dtype::kF32;
  std::vector<int64_t> batch, dims;  // `dims` of all axes
  std::vector<char> bytes;

  Buffer() = default;
  Buffer(Dtype dtype_, std::vector<int64_t> batch_, std::vector<int64_t> core)
      : dtype(dtype_), batch(std::move(batch_)), dims(batch) {
    dims.insert(dims.end(), core.begin(), core.end());
    // Exactly as large as the array, so that sanitizers see what goes beyond it.
    bytes.assign(Product(dims) * (dtype == Dtype::kF32 ? 4 : 8), 0x55);
  }
  int64_t count() const { return Product(dims); }
  double operator[](int64_t i) const {
    return dtype == Dtype::kF32 ? reinterpret_cast<const float*>(bytes.data())[i]
                                : reinterpret_cast<const double*>(bytes.data())[i];
  }
  void Set(int64_t i, double value) {
    if (dtype == Dtype::kF32) {
      reinterpret_cast<float*>(bytes.data())[i] = static_cast<float>(value);
    } else {
      reinterpret_cast<double*>(bytes.data())[i] = value;
    }
  }
  void Fill(double low, double high) {
    for (int64_t i = 0; i < count(); ++i) Set(i, Uniform(low, high));
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
         {std::pair{dtype == Dtype::kF64, " double"}, {zoh, " zoh"}, {reverse, " reverse"},
          {with_d, " d"}, {with_reset, " reset"}, {poison, " poisoned"}}) {
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
  std::vector<double> value, size;
  explicit Expected(int64_t count) : value(count), size(count) {}
  void Add(int64_t i, double term) { AddSized(i, term, std::fabs(term)); }
  void AddSized(int64_t i, double term, double term_size) {
    value[i] += term;
    size[i] += term_size;
  }
};

void Compare(const std::string& name, const Buffer& got, const Expected& expected) {
  const double precision = got.dtype == Dtype::kF32 ? 2e-5 : 2e-13;
  for (int64_t i = 0; i < got.count(); ++i) {
    const double error = std::fabs(got[i] - expected.value[i]);
    const bool both_nan = std::isnan(got[i]) && std::isnan(expected.value[i]);
    if (both_nan || error <= precision * (expected.size[i] + 1e-3)) continue;
    if (!std::isfinite(expected.value[i]) || !std::isfinite(expected.size[i])) continue;
    std::printf("%s[%lld] is %.9g, not %.9g\n", name.c_str(), static_cast<long long>(i), got[i],
                expected.value[i]);
    ++failures;
    return;
  }
}

double Phi(double z) { return std::fabs(z) < 1e-8 ? 1 + z / 2 : std::expm1(z) / z; }
double PhiSlope(double z) {
  if (std::fabs(z) > 0.1) return (std::exp(z) - Phi(z)) / z;
  double sum = 0, term = 0.5;  // the terms k z^(k-1) / (k+1)!
  for (int k = 1; k < 14; ++k) {
    sum += term;
    term *= z * (k + 1) / (static_cast<double>(k) * (k + 2));
  }
  return sum;
}

void Check(const Problem& p) {
  using std::vector;
  const int64_t T = p.steps, d = p.channels, N = p.states;
  const vector<int64_t> one(p.batch.size(), 1);
  const Dtype t = p.dtype;
  const vector<int64_t> inputs{T, d}, matrices{T, N}, states{d, N};
  const int64_t chunks = (T + p.chunk - 1) / p.chunk;
  const auto some = [&](vector<int64_t> core) { return Buffer(t, SomeBatch(p.batch), core); };
  Buffer u = some(inputs), dt = some(inputs), a = some(states);
  Buffer b = some(matrices), c = some(matrices);
  Buffer skip = some({d}), h0 = some(states), g_last = some(states), g_y = some(inputs);
  const auto full = [&](vector<int64_t> core) { return Buffer(t, p.batch, core); };
  Buffer h_last = full(states), y = full(inputs), starts = full({chunks, N, d});
  Buffer du = full(inputs), ddt = full(inputs), da = full(states), db = full(matrices);
  Buffer dc = full(matrices), dd = full({d}), dh0 = full(states);
  for (Buffer* buffer : {&u, &b, &c, &skip, &h0, &g_last, &g_y}) buffer->Fill(-1, 1);
  dt.Fill(0, 0.5);
  a.Fill(-2 * p.largest_exponent, p.largest_exponent < 4 ? 0.2 : 0);
  for (int64_t i = 0; i < a.count(); ++i) {
    if (Uniform(0, 1) < 0.2) a.Set(i, Uniform(0, 1) < 0.5 ? 0 : a[i] * 1e-4);
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
  vector<double> h(T + 1), size(T + 1), e(T);
  for (int64_t entry = 0; entry < Product(p.batch); ++entry) {
    const auto of = [&](const Buffer& x) { return x.Entry(p.batch, entry); };
    for (int64_t k = 0; k < d; ++k) {
      const double d_k = p.with_d ? skip[of(skip) + k] : 0;
      for (int64_t i = 0; i < T; ++i) {
        const double u_t = u[of(u) + i * d + k], g = g_y[of(g_y) + i * d + k];
        e_y.Add(of(y) + i * d + k, d_k * u_t);
        e_du.Add(of(du) + i * d + k, d_k * g);
        e_dd.Add(of(dd) + k, u_t * g);
      }
      for (int64_t n = 0; n < N; ++n) {
        const double A = a[of(a) + k * N + n];
        h[0] = h0[of(h0) + k * N + n];
        size[0] = std::fabs(h[0]);
        for (int64_t i = 0; i < T; ++i) {
          const int64_t s = at(i);
          const double dt_t = dt[of(dt) + s * d + k], u_t = u[of(u) + s * d + k];
          const double weight = p.zoh ? dt_t * Phi(dt_t * A) : dt_t;
          const double drive = weight * b[of(b) + s * N + n] * u_t;
          e[i] = flags[s] ? 0 : std::exp(dt_t * A);
          h[i + 1] = (flags[s] ? 0 : e[i] * h[i]) + drive;
          size[i + 1] = (flags[s] ? 0 : e[i] * size[i]) + std::fabs(drive);
          const double c_t = c[of(c) + s * N + n];
          e_y.AddSized(of(y) + s * d + k, c_t * h[i + 1], std::fabs(c_t) * size[i + 1]);
          if (i % p.chunk == 0) {
            e_starts.AddSized(of(starts) + (i / p.chunk * N + n) * d + k, h[i], size[i]);
          }
        }
        e_last.AddSized(of(h_last) + k * N + n, h[T], size[T]);
        double carried = g_last[of(g_last) + k * N + n], carried_size = std::fabs(carried);
        for (int64_t i = T - 1; i >= 0; --i) {
          const int64_t s = at(i);
          const double dt_t = dt[of(dt) + s * d + k], u_t = u[of(u) + s * d + k];
          const double b_t = b[of(b) + s * N + n], c_t = c[of(c) + s * N + n];
          const double g = g_y[of(g_y) + s * d + k];
          const double lambda = carried + g * c_t, sized = carried_size + std::fabs(g * c_t);
          const double z = dt_t * A, weight = p.zoh ? dt_t * Phi(z) : dt_t;
          const int64_t input = s * d + k, pair = s * N + n, state = of(da) + k * N + n;
          e_dc.AddSized(of(dc) + pair, g * h[i + 1], std::fabs(g) * size[i + 1]);
          e_db.AddSized(of(db) + pair, lambda * weight * u_t, sized * std::fabs(weight * u_t));
          e_du.AddSized(of(du) + input, lambda * weight * b_t, sized * std::fabs(weight * b_t));
          const double of_weight = lambda * u_t * b_t, of_size = sized * std::fabs(u_t * b_t);
          const double slope = p.zoh ? std::exp(z) : 1;
          e_ddt.AddSized(of(ddt) + input, of_weight * slope, of_size * slope);
          if (p.zoh) {
            const double by_a = dt_t * dt_t * PhiSlope(z);
            e_da.AddSized(state, of_weight * by_a, of_size * std::fabs(by_a));
          }
          carried = flags[s] ? 0 : e[i] * lambda;
          carried_size = flags[s] ? 0 : e[i] * sized;
          if (flags[s]) continue;
          e_ddt.AddSized(of(ddt) + input, carried * h[i] * A, carried_size * size[i] * std::fabs(A));
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
  p.dtype = Pick({0, 1}) ? Dtype::kF64 : Dtype::kF32;
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
  }
  for (int i = 0; i < problems; ++i) Check(RandomProblem());
  std::printf("%s: %d random problems, %d failures\n", fastscan::InstructionSet(), problems,
              failures);
  return failures == 0 ? 0 : 1;
}

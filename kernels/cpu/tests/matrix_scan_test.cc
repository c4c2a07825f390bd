// Random problems against the recurrence as it is written, in double, on several threads.
#include "../matrix_scan.h"

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
using fastscan::Job;
using Value = std::complex<double>;

std::mt19937 random_bits(1);

double Uniform(double low, double high) {
  return std::uniform_real_distribution<double>(low, high)(random_bits);
}
int64_t Pick(std::vector<int64_t> choices) {
  return choices[std::uniform_int_distribution<size_t>(0, choices.size() - 1)(random_bits)];
}
bool Chance(double probability) { return Uniform(0, 1) < probability; }

bool IsComplex(Dtype dtype) { return dtype == Dtype::kC64 || dtype == Dtype::kC128; }
bool IsSingle(Dtype dtype) { return dtype == Dtype::kF32 || dtype == Dtype::kC64; }

// An array whose storage ends where its data does, so that a sanitiser sees what reads beyond.
struct Buffer {
  Buffer() = default;
  Buffer(Dtype dtype, std::vector<int64_t> dims) : dtype(dtype), dims(std::move(dims)) {
    count = 1;
    for (const int64_t n : this->dims) count *= n;
    bytes.resize(count * (IsSingle(dtype) ? 4 : 8) * (IsComplex(dtype) ? 2 : 1));
  }

  Value Get(int64_t i) const {
    switch (dtype) {
      case Dtype::kF32:
        return reinterpret_cast<const float*>(bytes.data())[i];
      case Dtype::kF64:
        return reinterpret_cast<const double*>(bytes.data())[i];
      case Dtype::kC64:
        return Value(reinterpret_cast<const std::complex<float>*>(bytes.data())[i]);
      default:
        return reinterpret_cast<const Value*>(bytes.data())[i];
    }
  }
  void Set(int64_t i, Value x) {
    switch (dtype) {
      case Dtype::kF32:
        reinterpret_cast<float*>(bytes.data())[i] = static_cast<float>(x.real());
        break;
      case Dtype::kF64:
        reinterpret_cast<double*>(bytes.data())[i] = x.real();
        break;
      case Dtype::kC64:
        reinterpret_cast<std::complex<float>*>(bytes.data())[i] = std::complex<float>(x);
        break;
      default:
        reinterpret_cast<Value*>(bytes.data())[i] = x;
    }
  }
  void Fill(double scale) {
    for (int64_t i = 0; i < count; ++i) {
      Set(i, Value(Uniform(-scale, scale), IsComplex(dtype) ? Uniform(-scale, scale) : 0));
    }
  }
  Array array() { return {bytes.data(), dims.data()}; }

  // The element at these indices, of which those along axes of extent 1 do not count.
  int64_t At(const std::vector<int64_t>& index) const {
    int64_t at = 0;
    for (size_t i = 0; i < dims.size(); ++i) at = at * dims[i] + (dims[i] == 1 ? 0 : index[i]);
    return at;
  }

  Dtype dtype{};
  std::vector<int64_t> dims;
  int64_t count = 0;
  std::vector<char> bytes;
};

void RunJob(Job& job, int threads) {
  std::atomic<int64_t> next{0};
  std::vector<std::thread> crew;
  for (int i = 0; i < threads; ++i) {
    crew.emplace_back([&] {
      for (int64_t task = next++; task < job.tasks(); task = next++) job.Run(task);
    });
  }
  for (std::thread& thread : crew) thread.join();
  job.Finish();
}

using Matrix = std::vector<Value>;  // row by row

Matrix Times(const Matrix& a, const Matrix& b, int64_t rows, int64_t inner, int64_t columns) {
  Matrix c(rows * columns);
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = 0; j < inner; ++j) {
      for (int64_t k = 0; k < columns; ++k) c[i * columns + k] += a[i * inner + j] * b[j * columns + k];
    }
  }
  return c;
}

struct Problem {
  Dtype dtype;
  std::vector<int64_t> batch;
  int64_t T, S, n, m, r;
  bool factored, product, reverse;
  Buffer A, d, u, w, H0, reset, X, H, H_last, g, g_last;
  Buffer gradients[4], dX, dH0;  // of A, d, u, w

  std::vector<int64_t> Dims(std::vector<int64_t> core, bool broadcast) {
    std::vector<int64_t> dims;
    for (const int64_t extent : batch) dims.push_back(broadcast && Chance(0.3) ? 1 : extent);
    dims.insert(dims.end(), core.begin(), core.end());
    return dims;
  }
  int64_t Or1(int64_t extent) { return Chance(0.3) ? 1 : extent; }

  Problem() {
    dtype = std::vector<Dtype>{Dtype::kF32, Dtype::kF64, Dtype::kC64, Dtype::kC128}[Pick({0, 1, 2, 3})];
    batch = Chance(0.5) ? std::vector<int64_t>{Pick({1, 2, 5, 9, 20})}
                        : std::vector<int64_t>{Pick({1, 2}), Pick({1, 3, 9})};
    T = Pick({0, 1, 2, 5, 17});
    S = Pick({1, 1, 3});
    n = Pick({1, 2, 3, 4, 5, 8, 9, 17});
    m = Pick({1, 1, 2, 3, 4, 8, 13, 17, 33});
    if (Chance(0.05)) {  // enough for several threads to share a system
      T = 200;
      batch = {1};
      S = 1;
    }
    r = Pick({1, 2, 3});
    factored = Chance(0.5);
    if (Chance(0.2)) {  // which has loops of its own
      n = Pick({2, 3, 4});
      m = 1;
      factored = false;
    }
    product = factored && Chance(0.5);
    reverse = Chance(0.5);
    const double scale = (IsComplex(dtype) ? 0.7 : 1.0) / static_cast<double>(n);
    const int64_t times = Or1(T), systems = Or1(S);
    if (factored) {
      d = Buffer(dtype, Dims({Or1(T), Or1(S), Or1(n)}, true));
      u = Buffer(dtype, Dims({times, systems, r, n}, true));
      w = Buffer(dtype, Dims({times, Or1(S), r, n}, true));
    } else {
      A = Buffer(dtype, Dims({times, systems, n, n}, true));
    }
    A.Fill(scale);
    d.Fill(0.9);
    u.Fill(std::sqrt(scale));
    w.Fill(std::sqrt(scale));
    H0 = Buffer(dtype, Dims({S, n, m}, true));
    X = Buffer(dtype, Dims({T, S, n, m}, true));
    g = Buffer(dtype, Dims({T, S, n, m}, true));
    g_last = Buffer(dtype, Dims({S, n, m}, true));
    for (Buffer* buffer : {&H0, &X, &g, &g_last}) buffer->Fill(1);
    H = dX = Buffer(dtype, Dims({T, S, n, m}, false));
    H_last = dH0 = Buffer(dtype, Dims({S, n, m}, false));
    if (Chance(0.5)) {
      reset.dims = Dims({T, Or1(S)}, true);
      reset.count = 1;
      for (const int64_t extent : reset.dims) reset.count *= extent;
      reset.bytes.resize(reset.count);
      for (char& flag : reset.bytes) flag = Chance(0.3);
    }
    const Buffer* coefficients[] = {&A, &d, &u, &w};
    for (int c = 0; c < 4; ++c) {
      if (coefficients[c]->count == 0 || Chance(0.2)) continue;
      std::vector<int64_t> dims = coefficients[c]->dims;
      const std::vector<int64_t> own = Dims({}, true);
      std::copy(own.begin(), own.end(), dims.begin());
      gradients[c] = Buffer(dtype, dims);
    }
  }

  template <class Given>
  void Fill(Given& given) {
    given.dtype = dtype;
    given.batch = batch.data();
    given.batch_rank = static_cast<int>(batch.size());
    given.steps = T;
    given.systems = S;
    given.n = n;
    given.m = m;
    given.r = factored ? r : 0;
    given.reverse = reverse;
    given.product = product;
    if (factored) {
      given.d = d.array();
      given.u = u.array();
      given.w = w.array();
    } else {
      given.A = A.array();
    }
    given.H0 = H0.array();
    if (!reset.dims.empty()) given.reset = reset.array();
  }

  void Run(int threads) {
    fastscan::matrix::Scan scan;
    Fill(scan);
    scan.X = X.array();
    scan.H = H.array();
    scan.H_last = H_last.array();
    RunJob(*MakeJob(scan, threads), threads);
    fastscan::matrix::Backward backward;
    Fill(backward);
    backward.H = H.array();
    backward.g = g.array();
    backward.g_last = g_last.array();
    backward.dX = dX.array();
    backward.dH0 = dH0.array();
    Array* wanted[] = {&backward.dA, &backward.dd, &backward.du, &backward.dw};
    for (int c = 0; c < 4; ++c) {
      if (gradients[c].count > 0) *wanted[c] = gradients[c].array();
    }
    RunJob(*MakeJob(backward, threads), threads);
  }

  // The factors of a step as matrices, in the order in which they are applied.
  std::vector<Matrix> Factors(const std::vector<int64_t>& at) const {
    const auto element = [&](const Buffer& buffer, std::vector<int64_t> core) {
      std::vector<int64_t> index = at;
      index.insert(index.end(), core.begin(), core.end());
      return buffer.Get(buffer.At(index));
    };
    Matrix first(n * n);
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t j = 0; j < n; ++j) {
        if (!factored) first[i * n + j] = element(A, {i, j});
        if (factored && i == j) first[i * n + j] = element(d, {i});
      }
    }
    std::vector<Matrix> factors{first};
    for (int64_t term = 0; factored && term < r; ++term) {
      Matrix outer(n * n);
      for (int64_t i = 0; i < n; ++i) {
        for (int64_t j = 0; j < n; ++j) {
          outer[i * n + j] = -element(u, {term, i}) * element(w, {term, j});
          if (product && i == j) outer[i * n + j] += 1;
        }
      }
      if (product) {
        factors.push_back(outer);
      } else {
        for (int64_t i = 0; i < n * n; ++i) factors[0][i] += outer[i];
      }
    }
    return factors;
  }

  Matrix State(const Buffer& buffer, std::vector<int64_t> at) const {
    Matrix state(n * m);
    at.resize(at.size() + 2);
    for (int64_t i = 0; i < n * m; ++i) {
      at[at.size() - 2] = i / m;
      at[at.size() - 1] = i % m;
      state[i] = buffer.Get(buffer.At(at));
    }
    return state;
  }

  static Matrix Transposed(const Matrix& a, int64_t rows, int64_t columns) {
    Matrix out(a.size());
    for (int64_t i = 0; i < rows; ++i) {
      for (int64_t j = 0; j < columns; ++j) out[j * rows + i] = a[i * columns + j];
    }
    return out;
  }

  struct Expected {
    std::vector<Value> H, H_last, dX, dH0, gradients[4];
  };

  // Adds the gradient of factor k, which is dF, to those of the coefficients it is made of.
  void AddFactor(Expected& out, const std::vector<int64_t>& at, size_t k, const Matrix& dF) const {
    const auto add = [&](int c, std::vector<int64_t> core, Value x) {
      if (gradients[c].count == 0) return;
      std::vector<int64_t> index = at;
      index.insert(index.end(), core.begin(), core.end());
      out.gradients[c][gradients[c].At(index)] += x;
    };
    const auto of = [&](const Buffer& buffer, int64_t term, int64_t i) {
      std::vector<int64_t> index = at;
      index.insert(index.end(), {term, i});
      return buffer.Get(buffer.At(index));
    };
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t j = 0; j < n; ++j) {
        const Value x = dF[i * n + j];
        if (!factored) add(0, {i, j}, x);
        if (factored && k == 0 && i == j) add(1, {i}, x);
        for (int64_t term = 0; factored && term < r; ++term) {
          if (product ? static_cast<int64_t>(k) != term + 1 : k != 0) continue;
          add(2, {term, i}, -x * of(w, term, j));
          add(3, {term, j}, -x * of(u, term, i));
        }
      }
    }
  }

  Expected Expect() const {
    Expected out;
    out.H.resize(H.count);
    out.dX.resize(H.count);
    out.H_last.resize(H_last.count);
    out.dH0.resize(H_last.count);
    for (int c = 0; c < 4; ++c) out.gradients[c].resize(gradients[c].count);
    int64_t all = S;
    for (const int64_t extent : batch) all *= extent;
    for (int64_t system = 0; system < all; ++system) {
      std::vector<int64_t> front(batch.size());
      int64_t index = system / S;
      for (size_t i = batch.size(); i-- > 0; index /= batch[i]) front[i] = index % batch[i];
      const int64_t s = system % S;
      std::vector<int64_t> edge = front;
      edge.push_back(s);
      const auto at_step = [&](int64_t t) {
        std::vector<int64_t> at = front;
        at.insert(at.end(), {reverse ? T - 1 - t : t, s});
        return at;
      };
      const auto forgets = [&](int64_t t) {
        return !reset.dims.empty() && reset.bytes[reset.At(at_step(t))] != 0;
      };
      const auto put = [&](std::vector<Value>& to, const Buffer& like, std::vector<int64_t> at,
                           const Matrix& state) {
        at.insert(at.end(), {0, 0});
        const int64_t first = like.At(at);
        std::copy(state.begin(), state.end(), to.begin() + first);
      };
      std::vector<Matrix> states{State(H0, edge)};
      for (int64_t t = 0; t < T; ++t) {
        Matrix next = State(X, at_step(t));
        if (!forgets(t)) {
          Matrix past = states.back();
          for (const Matrix& factor : Factors(at_step(t))) past = Times(factor, past, n, n, m);
          for (int64_t i = 0; i < n * m; ++i) next[i] += past[i];
        }
        put(out.H, H, at_step(t), next);
        states.push_back(next);
      }
      put(out.H_last, H_last, edge, states.back());
      Matrix c = State(g_last, edge);
      for (int64_t t = T - 1; t >= 0; --t) {
        const Matrix g_t = State(g, at_step(t));
        for (int64_t i = 0; i < n * m; ++i) c[i] += g_t[i];
        put(out.dX, dX, at_step(t), c);
        if (forgets(t)) {
          c.assign(n * m, 0);
          continue;
        }
        const std::vector<Matrix> factors = Factors(at_step(t));
        std::vector<Matrix> before{states[t]};
        for (const Matrix& factor : factors) before.push_back(Times(factor, before.back(), n, n, m));
        for (size_t k = factors.size(); k-- > 0;) {
          AddFactor(out, at_step(t), k, Times(c, Transposed(before[k], n, m), n, m, n));
          c = Times(Transposed(factors[k], n, n), c, n, n, m);
        }
      }
      put(out.dH0, dH0, edge, c);
    }
    return out;
  }
};

bool Close(const char* what, const Buffer& got, const std::vector<Value>& expected, double bound) {
  double largest = 1, error = 0;
  for (const Value& x : expected) largest = std::max(largest, std::abs(x));
  for (int64_t i = 0; i < got.count; ++i) {
    const double difference = std::abs(got.Get(i) - expected[i]);
    error = std::max(error, std::isnan(difference) ? std::numeric_limits<double>::max() : difference);
  }
  if (error <= bound * largest) return true;
  std::printf("%s is off by %g of %g\n", what, error, largest);
  return false;
}

bool Check() {
  Problem problem;
  const int threads = static_cast<int>(Pick({1, 2, 4}));
  problem.Run(threads);
  const Problem::Expected expected = problem.Expect();
  const double bound = IsSingle(problem.dtype) ? 2e-5 : 2e-13;
  bool good = Close("H", problem.H, expected.H, bound) &&
              Close("H_last", problem.H_last, expected.H_last, bound) &&
              Close("dX", problem.dX, expected.dX, bound) &&
              Close("dH0", problem.dH0, expected.dH0, bound);
  const char* names[] = {"dA", "dd", "du", "dw"};
  for (int c = 0; c < 4; ++c) {
    good = good && Close(names[c], problem.gradients[c], expected.gradients[c], bound);
  }
  Problem again = problem;
  again.Run(threads);
  const auto same = [](const Buffer& a, const Buffer& b) { return a.bytes == b.bytes; };
  for (int c = 0; c < 4; ++c) {
    if (!same(problem.gradients[c], again.gradients[c])) {
      std::printf("%s has other bits the second time\n", names[c]);
      good = false;
    }
  }
  if (!same(problem.H, again.H) || !same(problem.dX, again.dX)) good = false;
  if (!good) {
    std::printf("dtype %d, batch %d axes, T %d, S %d, n %d, m %d, r %d, factored %d, product %d, "
                "reverse %d, threads %d\n",
                static_cast<int>(problem.dtype), static_cast<int>(problem.batch.size()),
                static_cast<int>(problem.T), static_cast<int>(problem.S),
                static_cast<int>(problem.n), static_cast<int>(problem.m),
                static_cast<int>(problem.r), problem.factored, problem.product, problem.reverse,
                threads);
  }
  return good;
}

}  // namespace

int main(int argc, char** argv) {
  const int count = argc > 1 ? std::atoi(argv[1]) : 1000;
  for (int i = 0; i < count; ++i) {
    if (!Check()) {
      std::printf("problem %d failed\n", i);
      return 1;
    }
  }
  std::printf("%d problems passed with %s\n", count, fastscan::InstructionSet());
  return 0;
}

// Random problems against the recurrence as it is written, in double, on several threads.
#include "../linear_scan.h"

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
using Value = std::complex<double>;

std::mt19937 random_bits(1);

double Uniform(double low, double high) {
  return std::uniform_real_distribution<double>(low, high)(random_bits);
}
int64_t Pick(std::vector<int64_t> choices) {
  return choices[std::uniform_int_distribution<size_t>(0, choices.size() - 1)(random_bits)];
}

int64_t Product(const std::vector<int64_t>& dims) {
  int64_t product = 1;
  for (const int64_t n : dims) product *= n;
  return product;
}

bool IsComplex(Dtype dtype) { return dtype == Dtype::kC64 || dtype == Dtype::kC128; }
bool IsHalf(Dtype dtype) { return dtype == Dtype::kF16 || dtype == Dtype::kBF16; }
Dtype StateDtype(Dtype dtype) { return IsHalf(dtype) ? Dtype::kF32 : dtype; }

int64_t Bytes(Dtype dtype) {
  switch (dtype) {
    case Dtype::kF16:
    case Dtype::kBF16:
      return 2;
    case Dtype::kF32:
      return 4;
    case Dtype::kF64:
    case Dtype::kC64:
      return 8;
    case Dtype::kC128:
      break;
  }
  return 16;
}

double Precision(Dtype dtype) {
  switch (dtype) {
    case Dtype::kF16:
      return 2e-3;
    case Dtype::kBF16:
      return 1.6e-2;
    case Dtype::kF32:
    case Dtype::kC64:
      return 1e-5;
    default:
      return 1e-12;
  }
}

// The value of a half from its fields, and back by search: independent of the kernels' own way.
double FromHalf(uint16_t bits) {
  const int exponent = (bits >> 10) & 31, mantissa = bits & 1023;
  double value = exponent == 0 ? std::ldexp(mantissa, -24) : std::ldexp(1024 + mantissa, exponent - 25);
  if (exponent == 31) value = mantissa ? std::nan("") : std::numeric_limits<double>::infinity();
  return bits & 0x8000 ? -value : value;
}
uint16_t ToHalf(double value) {
  const uint16_t sign = std::signbit(value) ? 0x8000 : 0;
  if (std::isnan(value)) return 0x7e00;
  const double magnitude = std::fabs(value);
  if (magnitude == 0) return sign;
  int exponent;
  std::frexp(magnitude, &exponent);
  const int unit = std::max(exponent - 11, -24);
  const double rounded = std::ldexp(std::nearbyint(std::ldexp(magnitude, -unit)), unit);
  if (rounded > 65504) return sign | 0x7c00;
  if (rounded < std::ldexp(1, -14)) return sign | static_cast<uint16_t>(std::ldexp(rounded, 24));
  std::frexp(rounded, &exponent);
  return sign | static_cast<uint16_t>(((exponent + 14) << 10) +
                                      (std::ldexp(rounded, 11 - exponent) - 1024));
}
double FromBfloat(uint16_t bits) {
  const uint32_t wide = static_cast<uint32_t>(bits) << 16;
  float value;
  std::memcpy(&value, &wide, 4);
  return value;
}
uint16_t ToBfloat(double value) {
  const float narrow = static_cast<float>(value);
  uint32_t bits;
  std::memcpy(&bits, &narrow, 4);
  if (std::isnan(narrow)) return 0x7fc0;
  return static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

Value Get(const void* data, Dtype dtype, int64_t i) {
  switch (dtype) {
    case Dtype::kF16:
      return FromHalf(static_cast<const uint16_t*>(data)[i]);
    case Dtype::kBF16:
      return FromBfloat(static_cast<const uint16_t*>(data)[i]);
    case Dtype::kF32:
      return static_cast<const float*>(data)[i];
    case Dtype::kF64:
      return static_cast<const double*>(data)[i];
    case Dtype::kC64:
      return Value(static_cast<const std::complex<float>*>(data)[i]);
    case Dtype::kC128:
      break;
  }
  return static_cast<const Value*>(data)[i];
}
void Set(void* data, Dtype dtype, int64_t i, Value value) {
  switch (dtype) {
    case Dtype::kF16:
      static_cast<uint16_t*>(data)[i] = ToHalf(value.real());
      break;
    case Dtype::kBF16:
      static_cast<uint16_t*>(data)[i] = ToBfloat(value.real());
      break;
    case Dtype::kF32:
      static_cast<float*>(data)[i] = static_cast<float>(value.real());
      break;
    case Dtype::kF64:
      static_cast<double*>(data)[i] = value.real();
      break;
    case Dtype::kC64:
      static_cast<std::complex<float>*>(data)[i] = std::complex<float>(value);
      break;
    case Dtype::kC128:
      static_cast<Value*>(data)[i] = value;
      break;
  }
}

// An array whose storage ends where its data does, so that a sanitiser sees what reads beyond.
struct Buffer {
  Buffer(Dtype dtype, std::vector<int64_t> dims)
      : dtype(dtype), dims(std::move(dims)), bytes(Product(this->dims) * Bytes(dtype)) {}
  Array array() { return {bytes.data(), dims.data()}; }
  int64_t count() const { return Product(dims); }
  void Fill(double low, double high) {
    for (int64_t i = 0; i < count(); ++i) {
      const double angle = Uniform(-3, 3);
      const Value phase = IsComplex(dtype) ? Value(std::cos(angle), std::sin(angle)) : Value(1);
      Set(bytes.data(), dtype, i, Uniform(low, high) * phase);
    }
  }
  // The element for an index of the problem, and where it lies.
  int64_t Offset(const std::vector<int64_t>& index) const {
    int64_t offset = 0;
    for (size_t i = 0; i < dims.size(); ++i) offset = offset * dims[i] + (dims[i] == 1 ? 0 : index[i]);
    return offset;
  }
  Value operator()(const std::vector<int64_t>& index) const {
    return Get(bytes.data(), dtype, Offset(index));
  }

  Dtype dtype;
  std::vector<int64_t> dims;
  std::vector<char> bytes;
};

void RunJob(fastscan::Job& job, int threads) {
  std::atomic<int64_t> next{0};
  const auto drain = [&] {
    for (int64_t i = next++; i < job.tasks(); i = next++) job.Run(i);
  };
  std::vector<std::thread> helpers;
  for (int i = 1; i < threads; ++i) helpers.emplace_back(drain);
  drain();
  for (std::thread& helper : helpers) helper.join();
  job.Finish();
}

int failures = 0;

void Compare(const std::string& what, const Buffer& got, const std::vector<Value>& expected,
             const std::vector<double>& scale, double precision) {
  for (int64_t i = 0; i < got.count(); ++i) {
    const Value value = Get(got.bytes.data(), got.dtype, i);
    const bool same = std::isfinite(std::abs(expected[i]))
                          ? std::abs(value - expected[i]) <= precision * (1 + scale[i])
                          : !std::isfinite(std::abs(value));
    if (same) continue;
    std::printf("%s: element %lld is %g%+gi, not %g%+gi\n", what.c_str(),
                static_cast<long long>(i), value.real(), value.imag(), expected[i].real(),
                expected[i].imag());
    ++failures;
    return;
  }
}

struct Problem {
  Dtype dtype;
  std::vector<int64_t> shape;
  int axis;
  bool reverse;
  bool with_reset, with_decay_gradient;
  std::vector<int64_t> a_dims, x_dims, h0_dims, reset_dims, g_dims, da_dims;
  int threads;
  bool poison;  // NaN before every reset
  double largest_decay;
};

std::string Describe(const Problem& p) {
  const auto list = [](const std::vector<int64_t>& dims) {
    std::string text = "(";
    for (const int64_t n : dims) text += std::to_string(n) + ",";
    return text + ")";
  };
  return "dtype " + std::to_string(static_cast<int>(p.dtype)) + " shape " + list(p.shape) +
         " axis " + std::to_string(p.axis) + (p.reverse ? " reverse" : "") + " a " +
         list(p.a_dims) + " x " + list(p.x_dims) + " reset " +
         (p.with_reset ? list(p.reset_dims) : "none") + " da " + list(p.da_dims) + " threads " +
         std::to_string(p.threads) + (p.poison ? " poisoned" : "");
}

void Check(const Problem& p) {
  const int64_t steps = p.shape[p.axis];
  std::vector<int64_t> edge = p.shape;
  edge[p.axis] = 1;
  const Dtype state = StateDtype(p.dtype);
  Buffer a(p.dtype, p.a_dims), x(p.dtype, p.x_dims), h0(state, p.h0_dims);
  Buffer h_last(state, edge), h(p.dtype, p.shape), g_last(state, edge), g(p.dtype, p.g_dims);
  Buffer da(p.dtype, p.da_dims), dx(p.dtype, p.shape), dh0(state, edge);
  a.Fill(-p.largest_decay, p.largest_decay);
  x.Fill(-1, 1);
  h0.Fill(-1, 1);
  g_last.Fill(-1, 1);
  g.Fill(-1, 1);
  Array reset;
  std::vector<uint8_t> flags(p.with_reset ? Product(p.reset_dims) : 0);
  for (uint8_t& flag : flags) flag = Uniform(0, 1) < 0.2;
  if (p.with_reset) reset = {flags.data(), p.reset_dims.data()};
  const auto is_reset = [&](const std::vector<int64_t>& index) {
    if (!p.with_reset) return false;
    int64_t offset = 0;
    for (size_t i = 0; i < index.size(); ++i) {
      offset = offset * p.reset_dims[i] + (p.reset_dims[i] == 1 ? 0 : index[i]);
    }
    return flags[offset] != 0;
  };

  // Visits every chain; `at` gives the index of its step i in the order of the scan.
  const auto for_chains = [&](const auto& visit) {
    std::vector<int64_t> index(p.shape.size());
    const int64_t chains = Product(edge);
    for (int64_t c = 0; c < chains; ++c) {
      int64_t rest = c;
      for (int64_t i = static_cast<int64_t>(edge.size()) - 1; i >= 0; --i) {
        index[i] = rest % edge[i];
        rest /= edge[i];
      }
      visit([&](int64_t i) {
        index[p.axis] = i < 0 ? 0 : p.reverse ? steps - 1 - i : i;
        return index;
      });
    }
  };

  if (p.poison && p.with_reset) {
    for_chains([&](const auto& at) {
      for (int64_t i = 1; i < steps; ++i) {
        if (is_reset(at(i)) && !is_reset(at(i - 1))) {
          Set(x.bytes.data(), p.dtype, x.Offset(at(i - 1)), std::nan(""));
        }
      }
    });
  }

  const std::string name = Describe(p);
  const fastscan::Shape shape{p.shape.data(), static_cast<int>(p.shape.size()), p.axis};
  const double precision = Precision(p.dtype);
  const auto forward = [&] {
    const auto job = fastscan::MakeJob(
        fastscan::Scan{p.dtype, shape, p.reverse, a.array(), x.array(), h0.array(), reset,
                       h_last.array(), h.array()},
        p.threads);
    RunJob(*job, p.threads);
  };
  forward();
  std::vector<Value> expected(h.count()), expected_last(h_last.count());
  std::vector<double> scale(h.count()), scale_last(h_last.count());
  for_chains([&](const auto& at) {
    Value value = h0(at(-1));
    double size = std::abs(value);
    for (int64_t i = 0; i < steps; ++i) {
      const std::vector<int64_t> index = at(i);
      const bool cut = is_reset(index);
      value = cut ? x(index) : a(index) * value + x(index);
      size = cut ? std::abs(x(index)) : std::abs(a(index)) * size + std::abs(x(index));
      expected[h.Offset(index)] = value;
      scale[h.Offset(index)] = size;
    }
    expected_last[h_last.Offset(at(-1))] = value;
    scale_last[h_last.Offset(at(-1))] = size;
  });
  Compare(name + " h", h, expected, scale, precision);
  Compare(name + " h_last", h_last, expected_last, scale_last, precision);
  const std::vector<char> first = h.bytes;
  forward();
  if (first != h.bytes) {
    std::printf("%s: h differs from run to run\n", name.c_str());
    ++failures;
  }

  // The adjoint reads h as the forward kernel has rounded it.
  const auto backward = [&] {
    const auto job = fastscan::MakeJob(
        fastscan::Backward{p.dtype, shape, p.reverse, g_last.array(), g.array(), a.array(),
                           p.with_decay_gradient ? h.array() : Array{},
                           p.with_decay_gradient ? h0.array() : Array{}, reset,
                           p.with_decay_gradient ? da.array() : Array{}, dx.array(), dh0.array()},
        p.threads);
    RunJob(*job, p.threads);
  };
  backward();
  std::vector<Value> expected_da(da.count()), expected_dx(dx.count()), expected_dh0(dh0.count());
  std::vector<double> scale_da(da.count()), scale_dx(dx.count()), scale_dh0(dh0.count());
  for_chains([&](const auto& at) {
    Value carried = g_last(at(-1));
    double size = std::abs(carried);
    for (int64_t i = steps - 1; i >= 0; --i) {
      const Value past = i > 0 ? h(at(i - 1)) : h0(at(-1));
      const std::vector<int64_t> index = at(i);
      const Value lambda = g(index) + carried;
      const double lambda_size = std::abs(g(index)) + size;
      expected_dx[dx.Offset(index)] = lambda;
      scale_dx[dx.Offset(index)] = lambda_size;
      carried = size = 0;
      if (is_reset(index)) continue;
      carried = a(index) * lambda;
      size = std::abs(a(index)) * lambda_size;
      expected_da[da.Offset(index)] += lambda * past;
      scale_da[da.Offset(index)] += lambda_size * std::abs(past);
    }
    expected_dh0[dh0.Offset(at(-1))] = carried;
    scale_dh0[dh0.Offset(at(-1))] = size;
  });
  Compare(name + " dx", dx, expected_dx, scale_dx, precision);
  Compare(name + " dh0", dh0, expected_dh0, scale_dh0, precision);
  if (!p.with_decay_gradient) return;
  Compare(name + " da", da, expected_da, scale_da, precision);
  const std::vector<char> first_da = da.bytes;
  backward();
  if (first_da != da.bytes) {
    std::printf("%s: da differs from run to run\n", name.c_str());
    ++failures;
  }
}

std::vector<int64_t> Broadcast(std::vector<int64_t> dims, double chance) {
  for (int64_t& n : dims) n = Uniform(0, 1) < chance ? 1 : n;
  return dims;
}

Problem RandomProblem() {
  Problem p;
  p.dtype = static_cast<Dtype>(Pick({0, 1, 2, 3, 4, 5}));
  const int leading = static_cast<int>(Pick({0, 1, 1, 2})), trailing = static_cast<int>(Pick({0, 1, 1, 2}));
  for (int i = 0; i < leading; ++i) p.shape.push_back(Pick({1, 2, 3, 9, 17}));
  p.shape.push_back(Pick({0, 1, 2, 3, 17, 40, 65}));
  for (int i = 0; i < trailing; ++i) p.shape.push_back(Pick({1, 2, 3, 5, 8, 15, 16, 33, 70}));
  if (Uniform(0, 1) < 0.03) p.shape[0] = 0;
  p.axis = leading;
  p.reverse = Pick({0, 1});
  p.with_reset = Pick({0, 1});
  p.with_decay_gradient = Pick({0, 1, 1, 1});
  p.a_dims = Broadcast(p.shape, 0.4);
  p.x_dims = Broadcast(p.shape, Uniform(0, 1) < 0.2 ? 0.5 : 0);
  p.g_dims = Broadcast(p.shape, Uniform(0, 1) < 0.2 ? 0.5 : 0);
  std::vector<int64_t> edge = p.shape;
  edge[p.axis] = 1;
  p.h0_dims = Broadcast(edge, 0.3);
  p.reset_dims = Broadcast(p.shape, 0.5);
  // A cotangent may keep an axis along which a itself is shared (vmap), but has time only with a.
  p.da_dims = p.a_dims;
  for (size_t i = 0; i < p.shape.size(); ++i) {
    if (static_cast<int>(i) != p.axis && Uniform(0, 1) < 0.1) p.da_dims[i] = p.shape[i];
  }
  p.threads = static_cast<int>(Pick({1, 2, 3, 8}));
  p.poison = p.with_reset && !IsComplex(p.dtype) && p.x_dims == p.shape && p.h0_dims == edge &&
             Uniform(0, 1) < 0.2;
  p.largest_decay = p.dtype == Dtype::kF16 ? 1 : Pick({1, 1, 1, 2});  // float16 ends at 65504
  return p;
}

// Few chains and many steps: time is split over the threads.
void CheckLong() {
  int turn = 0;  // the dtypes take turns
  for (const std::vector<int64_t>& shape :
       {std::vector<int64_t>{300001}, {100003, 3}, {70000, 16}, {1, 2, 70001, 5}}) {
    for (const bool reverse : {false, true}) {
      const int dtype = 1 + (turn + turn / 4) % 4;
      ++turn;
      const int axis = shape.size() == 4 ? 2 : 0;
      std::vector<int64_t> edge = shape, shared(shape.size(), 1), in_time(shape.size(), 1);
      edge[axis] = 1;
      in_time[axis] = shape[axis];
      const std::vector<int64_t> a_dims = reverse ? shape : dtype % 2 ? in_time : shared;
      Check({static_cast<Dtype>(dtype), shape, axis, reverse, !reverse, true, a_dims, shape, edge,
             in_time, shape, a_dims, 4, false, 1});
    }
  }
}

// Rows that lie between each other's steps and take turns, more of them than fit a cache.
void CheckTurns() {
  for (const Dtype dtype : {Dtype::kF32, Dtype::kC64}) {
    for (const std::vector<int64_t>& shape :
         {std::vector<int64_t>{37, 37, 133}, {75, 80, 16}, {9, 40, 700}, {130, 150, 2}}) {
      const int64_t steps = shape[0], rows = shape[1], lanes = shape[2];
      bool reverse = false;
      for (const std::vector<int64_t>& a_dims :
           {shape, {1, 1, lanes}, {steps, 1, lanes}, {steps, rows, 1}, {1, rows, 1}}) {
        Check({dtype, shape, 0, reverse, true, true, a_dims, shape, {1, rows, lanes},
               {steps, rows, 1}, shape, a_dims, 2, false, 1});
        reverse = !reverse;
      }
    }
  }
}

// Where products of decays overflow but states do not, the states are still right.
void CheckOverflow() {
  const int64_t steps = 400000, one = 1;
  for (const double h0 : {0.0, 1e-30}) {
    std::vector<float> a(steps, 1e3f), x(steps, 0.0f), h(steps);
    if (h0 != 0) std::fill(a.begin() + 10, a.end(), 1.0f);
    float start = static_cast<float>(h0), last = 1;
    const auto job = fastscan::MakeJob(
        fastscan::Scan{Dtype::kF32, {&steps, 1, 0}, false, {a.data(), &steps}, {x.data(), &steps},
                       {&start, &one}, {}, {&last, &one}, {h.data(), &steps}},
        4);
    RunJob(*job, 4);
    const double expected = h0 * 1e30;
    if (!(std::fabs(last - expected) <= 1e-4 * expected)) {
      std::printf("overflow: h_last is %g, not %g\n", static_cast<double>(last), expected);
      ++failures;
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  const int problems = argc > 1 ? std::atoi(argv[1]) : 1000;
  for (int i = 0; i < problems; ++i) Check(RandomProblem());
  CheckLong();
  CheckTurns();
  CheckOverflow();
  std::printf("%s: %d random problems, %d failures\n", fastscan::InstructionSet(), problems, failures);
  return failures == 0 ? 0 : 1;
}

// Random problems against the recurrence and its adjoint as they are written, in double, on several
// threads.
#include "../linear_attention.h"

#include <atomic>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <random>
#include <string>
#include <thread>
#include <vector>

namespace {

using fastscan::Array;
using fastscan::Dtype;
using Doubles = std::vector<double>;
using Dims = std::vector<int64_t>;

std::mt19937 random_bits(1);

double Uniform(double low, double high) {
  return std::uniform_real_distribution<double>(low, high)(random_bits);
}
int64_t Pick(const Dims& choices) {
  return choices[std::uniform_int_distribution<size_t>(0, choices.size() - 1)(random_bits)];
}
bool Coin() { return Pick({0, 1}) == 1; }

int64_t Product(const Dims& dims) {
  int64_t product = 1;
  for (const int64_t n : dims) product *= n;
  return product;
}

// An array whose storage ends where its data does, so that a sanitiser sees what reads beyond.
struct Buffer {
  Buffer() = default;
  Buffer(Dtype dtype, Dims dims)
      : dtype(dtype),
        dims(std::move(dims)),
        bytes(Product(this->dims) * (dtype == Dtype::kF32 ? 4 : 8)) {}
  Array array() { return dims.empty() ? Array{} : Array{bytes.data(), dims.data()}; }
  double Get(int64_t i) const {
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
    for (int64_t i = 0; i < Product(dims); ++i) Set(i, Uniform(low, high));
  }
  // Where the elements of a sequence begin: the two batch axes have the extent of `batch`, or 1.
  int64_t Begin(const Dims& batch, int64_t sequence) const {
    const int64_t i = dims[0] == 1 ? 0 : sequence / batch[1];
    const int64_t j = dims[1] == 1 ? 0 : sequence % batch[1];
    return (i * dims[1] + j) * (Product(dims) / (dims[0] * dims[1]));
  }

  Dtype dtype{};
  Dims dims;
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

struct Problem {
  Dtype dtype;
  Dims batch;
  int64_t steps, keys, values, decays;
  bool delta, reset, poison;
  int threads;
};

std::string Describe(const Problem& p) {
  return std::string(p.dtype == Dtype::kF32 ? "f32" : "f64") + " (" + std::to_string(p.batch[0]) +
         ", " + std::to_string(p.batch[1]) + ", " + std::to_string(p.steps) + ", " +
         std::to_string(p.keys) + ", " + std::to_string(p.values) + "), " +
         std::to_string(p.decays) + " decays" + (p.delta ? ", delta" : "") +
         (p.reset ? ", resets" : "") + (p.poison ? ", NaN" : "") + ", " +
         std::to_string(p.threads) + " threads";
}

int failures = 0;

// What is expected where a NaN comes from before a reset is not looked at: only that it is gone.
void Compare(const Problem& p, const char* name, const Buffer& got, int64_t begin,
             const Doubles& expected) {
  double largest = 1;
  for (const double value : expected) {
    if (std::isfinite(value)) largest = std::fmax(largest, std::fabs(value));
  }
  const double allowed = (p.dtype == Dtype::kF32 ? 2e-5 : 1e-12) * largest;
  for (size_t i = 0; i < expected.size(); ++i) {
    const double value = got.Get(begin + static_cast<int64_t>(i));
    const bool same = std::isfinite(expected[i]) ? std::fabs(value - expected[i]) <= allowed
                                                 : !std::isfinite(value);
    if (same) continue;
    std::printf("%s: %s[%zu] is %g, not %g\n", Describe(p).c_str(), name, i, value, expected[i]);
    ++failures;
    return;
  }
}

void Check(const Problem& p) {
  const int64_t T = p.steps, K = p.keys, V = p.values, sequences = Product(p.batch);
  const auto input = [&](Dims core, double low, double high) {
    Dims dims = {Coin() ? p.batch[0] : 1, Coin() ? p.batch[1] : 1};
    dims.insert(dims.end(), core.begin(), core.end());
    Buffer buffer(p.dtype, dims);
    buffer.Fill(low, high);
    return buffer;
  };
  const auto result = [&](Dims core) {
    core.insert(core.begin(), p.batch.begin(), p.batch.end());
    return Buffer(p.dtype, core);
  };
  const double size = 1 / std::sqrt(static_cast<double>(K));
  Buffer q = input({T, K}, -size, size), k = input({T, K}, -size, size);
  Buffer v = input({T, V}, -1, 1), S0 = input({K, V}, -1, 1);
  Buffer decay, beta;
  if (p.decays > 0) decay = input({T, p.decays}, 0.5, 1.01);
  if (p.delta) beta = input({T}, 0, 1);
  Buffer g = input({T, V}, -1, 1), g_last = input({K, V}, -1, 1);
  const int64_t chunks = (T + fastscan::attention::kChunk - 1) / fastscan::attention::kChunk;
  Buffer S_last = result({K, V}), y = result({T, V}), starts = result({chunks, K, V});
  Buffer dq = result({T, K}), dk = result({T, K}), dv = result({T, V}), dS0 = result({K, V});
  Buffer dlog_decay, dbeta;
  if (p.decays > 0) dlog_decay = result({T, p.decays});
  if (p.delta) dbeta = result({T});

  std::vector<char> reset(T);
  const Dims reset_dims = {1, 1, T};
  for (char& flag : reset) flag = p.reset && Uniform(0, 1) < 0.1;
  if (p.poison && T > 4) {  // nothing of this is to be seen from the reset on
    reset[T - 2] = 1;
    for (int64_t i = 0; i < Product(v.dims) / (T * V); ++i) v.Set(i * T * V + (T - 4) * V, NAN);
    for (int64_t i = 0; i < Product(g.dims) / (T * V); ++i) g.Set(i * T * V + (T - 3) * V, NAN);
    if (p.decays > 0) {
      for (int64_t i = 0; i < Product(decay.dims) / (T * p.decays); ++i) {
        decay.Set((i * T + T - 2) * p.decays, NAN);
      }
    }
  }

  fastscan::attention::Operands in;
  in.q = q.array(), in.k = k.array(), in.v = v.array();
  in.decay = decay.array(), in.beta = beta.array();
  if (p.reset) in.reset = {reset.data(), reset_dims.data()};
  const fastscan::attention::Shape shape = {p.batch.data(), 2, T, K, V, p.decays};
  RunJob(*MakeJob(fastscan::attention::Forward{p.dtype, shape, in, S0.array(), S_last.array(),
                                               y.array(), starts.array()},
                  p.threads),
         p.threads);
  RunJob(*MakeJob(fastscan::attention::Backward{
                      p.dtype, shape, in, starts.array(), g_last.array(), g.array(), dq.array(),
                      dk.array(), dv.array(), dS0.array(), dlog_decay.array(), dbeta.array()},
                  p.threads),
         p.threads);

  for (int64_t n = 0; n < sequences; ++n) {
    const auto at = [&](const Buffer& b, int64_t i) { return b.Get(b.Begin(p.batch, n) + i); };
    const auto decay_at = [&](int64_t t, int64_t i) {
      return p.decays == 0 ? 1.0 : at(decay, p.decays == 1 ? t : t * K + i);
    };
    // Z and S at every step, and what the delta rule writes.
    Doubles S(K * V), want_y(T * V);
    std::vector<Doubles> Zs(T), Ss(T), errors(T);
    for (int64_t i = 0; i < K * V; ++i) S[i] = at(S0, i);
    for (int64_t t = 0; t < T; ++t) {
      Doubles error(V);
      for (int64_t i = 0; i < K * V; ++i) S[i] = reset[t] ? 0 : decay_at(t, i / V) * S[i];
      Zs[t] = S;
      for (int64_t j = 0; j < V; ++j) {
        error[j] = at(v, t * V + j);
        for (int64_t i = 0; p.delta && i < K; ++i) error[j] -= at(k, t * K + i) * S[i * V + j];
      }
      const double b = p.delta ? at(beta, t) : 1;
      for (int64_t i = 0; i < K; ++i) {
        for (int64_t j = 0; j < V; ++j) {
          S[i * V + j] += at(k, t * K + i) * b * error[j];
          want_y[t * V + j] += at(q, t * K + i) * S[i * V + j];
        }
      }
      Ss[t] = S;
      errors[t] = error;
    }
    Compare(p, "S_last", S_last, n * K * V, S);
    Compare(p, "y", y, n * T * V, want_y);

    Doubles want_dq(T * K), want_dk(T * K), want_dv(T * V), want_dbeta(T), dS(K * V);
    Doubles want_dlog_decay(T * p.decays);
    for (int64_t i = 0; i < K * V; ++i) dS[i] = at(g_last, i);
    for (int64_t t = T - 1; t >= 0; --t) {
      const double b = p.delta ? at(beta, t) : 1;
      Doubles du(V);
      for (int64_t i = 0; i < K; ++i) {
        for (int64_t j = 0; j < V; ++j) {
          want_dq[t * K + i] += at(g, t * V + j) * Ss[t][i * V + j];
          dS[i * V + j] += at(q, t * K + i) * at(g, t * V + j);
          want_dk[t * K + i] += b * errors[t][j] * dS[i * V + j];
          du[j] += at(k, t * K + i) * dS[i * V + j];
        }
      }
      for (int64_t j = 0; j < V; ++j) {
        want_dv[t * V + j] = b * du[j];
        want_dbeta[t] += du[j] * errors[t][j];
      }
      for (int64_t i = 0; i < K; ++i) {
        for (int64_t j = 0; j < V; ++j) {
          double& dZ = dS[i * V + j];
          if (p.delta) {
            want_dk[t * K + i] -= b * du[j] * Zs[t][i * V + j];
            dZ -= b * du[j] * at(k, t * K + i);
          }
          if (p.decays > 0 && !reset[t]) {
            want_dlog_decay[p.decays == 1 ? t : t * K + i] += dZ * Zs[t][i * V + j];
          }
          dZ = reset[t] ? 0 : decay_at(t, i) * dZ;
        }
      }
    }
    Compare(p, "dq", dq, n * T * K, want_dq);
    Compare(p, "dk", dk, n * T * K, want_dk);
    Compare(p, "dv", dv, n * T * V, want_dv);
    Compare(p, "dS0", dS0, n * K * V, dS);
    if (p.decays > 0) Compare(p, "dlog_decay", dlog_decay, n * T * p.decays, want_dlog_decay);
    if (p.delta) Compare(p, "dbeta", dbeta, n * T, want_dbeta);
  }
}

}  // namespace

int main(int argc, char** argv) {
  const int problems = argc > 1 ? std::atoi(argv[1]) : 1000;
  std::printf("%s\n", fastscan::InstructionSet());
  for (int i = 0; i < problems; ++i) {
    Problem p;
    p.dtype = Coin() ? Dtype::kF32 : Dtype::kF64;
    p.batch = {Pick({1, 1, 2, 5}), Pick({1, 1, 3})};
    p.steps = Pick({0, 1, 2, 5, 17, 64, 65, 130});
    p.keys = Pick({1, 3, 8, 13, 16, 33});
    p.values = Pick({1, 2, 7, 8, 17, 40, 64});
    p.decays = Pick({0, 1, p.keys});
    p.delta = Coin();
    p.reset = Coin();
    p.poison = p.reset && Coin();
    p.threads = static_cast<int>(Pick({1, 2, 4}));
    Check(p);
  }
  // Enough values for several blocks, and to be cut among threads.
  for (const int64_t decays : {0, 1, 64}) {
    for (const bool delta : {false, true}) {
      Check({Dtype::kF32, {1, 1}, 200, 64, 100, decays, delta, true, false, 3});
    }
  }
  std::printf("%d problems failed of %d\n", failures, problems + 6);
  return failures == 0 ? 0 : 1;
}

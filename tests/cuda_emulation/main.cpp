// Runs the CUDA launchers under emulation and compares them with the CPU launchers, over random calls.
//
//   main combine|gram|residual|resample|superpose|shape|far|sums|all [calls per kind of call] [seed]
//
// combine, every elementwise result and all of resample must agree bit for bit, sums up to a bound on what another
// order of addition may change. Prints what differs; the exit status says whether anything did.
#include <sys/mman.h>

#include <cstdio>

#include "../../csrc/ops/combine.h"
#include "../../csrc/ops/gram.h"
#include "../../csrc/ops/reductions.h"
#include "../../csrc/ops/resample.h"
#include "../../csrc/ops/residual.h"
#include "../../csrc/ops/superpose.h"
#include "cases.h"

namespace emulation {

int failures = 0, calls = 0;
std::map<std::string, int> reported;

void report(const std::string& what, const std::string& text) {
  ++failures;
  if (++reported[what] <= 3) std::printf("FAILED %s: %s\n", what.c_str(), text.c_str());
}

bool same_value(double a, double b) { return a == b || (std::isnan(a) && std::isnan(b)); }

// Equal bytes, but any NaN for any other: also what lies between samples must be untouched.
bool same_memory(const Place& a, const Memory& b) {
  if (std::memcmp(a.memory.data(), b.data(), size_t(b.bytes())) == 0) return true;
  for (int64_t i = 0; i < b.bytes() / size_of(a.dtype); ++i)
    if (!same_value(element_of(a.memory.data(), a.dtype, i), element_of(b.data(), a.dtype, i))) return false;
  return true;
}

void vary(Random& random) {
  settings.order = random.one_of({Order::forward, Order::reverse, Order::shuffled});
  settings.resident_blocks = int(random.one_of<int64_t>({1, 2, 3, 8}));
}

// Doubles, exactly so many.
struct Doubles {
  Memory memory;
  explicit Doubles(int64_t count) : memory(count * 8, 0) {}
  double* data() const { return reinterpret_cast<double*>(memory.data()); }
  double operator[](int64_t i) const { return data()[i]; }
  int64_t count() const { return memory.bytes() / 8; }
};

// Runs on_cpu(y) and on_gpu(y) from the same start and compares what they leave in y.
template <class OnCpu, class OnGpu>
void compare_elementwise(const Case& c, const char* what, const OnCpu& on_cpu, const OnGpu& on_gpu) {
  const Memory before = c.result.memory.copy();
  on_cpu(c.result.output());
  const Memory expected = c.result.memory.copy();
  std::memcpy(c.result.memory.data(), before.data(), size_t(before.bytes()));
  on_gpu(c.result.output());
  if (!same_memory(c.result, expected)) report(what, c.text);
  std::memcpy(c.result.memory.data(), before.data(), size_t(before.bytes()));
}

// Sums of float64 products in two orders: each is within depth·2⁻⁵³·Σ|products| of the true sum.
void compare_sum(const Case& c, const char* what, double got, double expected, double absolute) {
  const double depth = double(c.batch.size) / 8 + 64;
  if (same_value(got, expected)) return;
  if (!(std::abs(got - expected) <= 2 * depth * 0x1p-53 * absolute))
    report(what, c.text + ": " + std::to_string(got) + " instead of " + std::to_string(expected));
}

// ---- The operations
// --------------------------------------------------------------------------------------------------

void test_combine(Random& random, const Case& c) {
  const Doubles workspace(combine_workspace(c.batch, c.device_c));
  compare_elementwise(
      c, "combine", [&](const Output& y) { combine_cpu(c.batch, c.host_c, y, {}); },
      [&](const Output& y) {
        vary(random);
        combine_cuda(c.batch, c.device_c, y, workspace.data(), nullptr);
      });
}

Doubles emulated_gram(Random& random, const Batch& batch, const Coefficients& c, const Output& y) {
  const Doubles G(batch.samples * batch.m * batch.m), workspace(gram_workspace(batch, c, y));
  vary(random);
  gram_cuda(batch, c, y, G.data(), workspace.data(), nullptr);
  return G;
}

// Sample b alone.
Batch only(const Batch& batch, int64_t b) {
  Batch one(batch);
  one.samples = 1;
  for (int j = 0; j < one.m; ++j) {
    Operand& u = one.u[j];
    if (!u.is_noise())
      u.data = static_cast<const char*>(u.data) + b * u.stride * size_of(u.dtype);
    else if (u.ids)
      u.ids += b * u.ids_stride;
    else
      u.first += uint64_t(b);
  }
  return one;
}

void test_gram(Random& random, const Case& c) {
  const Batch& batch = c.batch;
  const int64_t m = batch.m;
  const Doubles expected(batch.samples * m * m);
  gram_cpu(batch, c.host_c, Output{}, expected.data(), {});
  const Doubles G = emulated_gram(random, batch, c.device_c, Output{});

  for (int64_t b = 0; b < batch.samples; ++b) {
    std::vector<double> u(size_t(m * batch.size));
    for (int64_t j = 0; j < m; ++j)
      for (int64_t d = 0; d < batch.size; ++d) u[size_t(j * batch.size + d)] = value_of(batch.u[j], batch.size, b, d);
    for (int64_t i = 0; i < m; ++i) {
      for (int64_t j = 0; j <= i; ++j) {
        double absolute = 0;
        for (int64_t d = 0; d < batch.size; ++d)
          absolute += std::abs(u[size_t(i * batch.size + d)] * u[size_t(j * batch.size + d)]);
        const int64_t at = (b * m + i) * m + j, mirrored = (b * m + j) * m + i;
        compare_sum(c, "gram", G[at], expected[at], absolute);
        if (!same_value(G[at], G[mirrored])) report("gram is not symmetric", c.text);
      }
    }
  }

  // The same bits from another grid, with y, and for a sample alone.
  Doubles with_y(0);
  compare_elementwise(
      c, "combine_gram's y", [&](const Output& y) { combine_cpu(batch, c.host_c, y, {}); },
      [&](const Output& y) { with_y = emulated_gram(random, batch, c.device_c, y); });
  const int64_t b = random.below(batch.samples);
  const Doubles alone = emulated_gram(random, only(batch, b), c.device_c, Output{});
  for (int64_t i = 0; i < G.count(); ++i)
    if (!same_value(G[i], with_y[i])) return report("gram differs from combine_gram's", c.text);
  for (int64_t i = 0; i < m * m; ++i)
    if (!same_value(G[b * m * m + i], alone[i])) return report("gram depends on the batch", c.text);
}

void test_residual(Random& random, const Case& c) {
  const Batch& batch = c.batch;
  const int64_t B = batch.samples, m = batch.m;
  const Doubles expected_loss(B), expected_grad(B * m), loss(B), grad(B * m), loss_r(B), grad_r(B * m);
  const Doubles workspace(residual_workspace(batch, c.device_c));
  residual_cpu(batch, c.host_c, Output{}, expected_loss.data(), expected_grad.data(), {});
  vary(random);
  residual_cuda(batch, c.device_c, Output{}, loss.data(), grad.data(), workspace.data(), nullptr);

  for (int64_t b = 0; b < B; ++b) {
    std::vector<double> r(size_t(batch.size)), sums(size_t(1 + m));
    for (int64_t d = 0; d < batch.size; ++d) {
      for (int64_t j = 0; j < m; ++j) {
        const double c_j = c.host_c.data
                               ? element_of(c.host_c.data, c.host_c.dtype, b * c.host_c.stride + j * c.host_c.step)
                               : c.host_c.values[j];
        r[size_t(d)] = std::fma(c_j, value_of(batch.u[j], batch.size, b, d), r[size_t(d)]);
      }
      sums[0] += r[size_t(d)] * r[size_t(d)];
      for (int64_t j = 0; j < m; ++j)
        sums[size_t(1 + j)] += std::abs(value_of(batch.u[j], batch.size, b, d) * r[size_t(d)]);
    }
    compare_sum(c, "loss", loss[b], expected_loss[b], sums[0]);
    for (int64_t j = 0; j < m; ++j)
      compare_sum(c, "grad", grad[b * m + j], expected_grad[b * m + j], 2 * sums[size_t(1 + j)]);
  }

  // r itself, bit for bit, and the same sums beside it.
  compare_elementwise(
      c, "residual's r",
      [&](const Output& r) { residual_cpu(batch, c.host_c, r, expected_loss.data(), expected_grad.data(), {}); },
      [&](const Output& r) {
        vary(random);
        residual_cuda(batch, c.device_c, r, loss_r.data(), grad_r.data(), workspace.data(), nullptr);
      });
  for (int64_t i = 0; i < B; ++i)
    if (!same_value(loss[i], loss_r[i])) return report("loss depends on r being written", c.text);
  for (int64_t i = 0; i < B * m; ++i)
    if (!same_value(grad[i], grad_r[i])) return report("grad depends on r being written", c.text);
}

// Groups of particles whose log weights lie anyhow; some groups cannot be resampled.
void test_resample(Random& random, int64_t n) {
  const int64_t groups = random.one_of<int64_t>({1, 2, 3, 7});
  const Place place = some_place(random, some_type(random, Types::all), groups, n, true);
  const bool special = random.chance(0.2);
  for (int64_t i = 0; i < place.memory.bytes() / size_of(place.dtype); ++i)
    put(place.memory.data(), place.dtype, i, random.chance(0.1) ? -INFINITY : some_value(random, special));

  Resampling r;
  r.log_weights = place.data(), r.dtype = place.dtype, r.group_stride = place.stride;
  r.groups = groups, r.n = n;
  r.method = random.one_of(
      {ResampleMethod::systematic, ResampleMethod::stratified, ResampleMethod::residual, ResampleMethod::multinomial});
  r.threshold = random.one_of({double(INFINITY), 0.0, 0.3 * double(n)});
  r.seed = random.engine(), r.stream = random.engine(), r.first_group = uint64_t(random.below(1 << 20));
  r.in_batch = random.chance(0.5);
  const bool carries = random.chance(0.7);

  struct Results {
    Doubles ancestors, carried, log_sum, ess;  // ancestors: the bits of int64
    Results(int64_t groups, int64_t n) : ancestors(groups * n), carried(groups * n), log_sum(groups), ess(groups) {}
    Resampling into(Resampling r, bool carries) const {
      r.ancestors = reinterpret_cast<int64_t*>(ancestors.data());
      if (carries) r.carried = carried.data(), r.log_sum = log_sum.data(), r.ess = ess.data();
      return r;
    }
  };
  const Results expected(groups, n), got(groups, n);
  resample_cpu(expected.into(r, carries), {});
  vary(random);
  const Doubles workspace(resample_workspace(r));
  resample_cuda(got.into(r, carries), workspace.data(), nullptr);

  const auto compare = [&](const char* what, const Doubles& a, const Doubles& b) {
    const auto* left = reinterpret_cast<const int64_t*>(a.data());
    const auto* right = reinterpret_cast<const int64_t*>(b.data());
    for (int64_t i = 0; i < a.count(); ++i)
      if (left[i] != right[i] && !(std::isnan(a[i]) && std::isnan(b[i])))
        return report(what, "n=" + std::to_string(n) + " groups=" + std::to_string(groups) + " method " +
                                std::to_string(int(r.method)) + " at " + std::to_string(i));
  };
  compare("ancestors", got.ancestors, expected.ancestors);
  if (!carries) return;
  compare("log weights", got.carried, expected.carried);
  compare("log_sum", got.log_sum, expected.log_sum);
  compare("ess", got.ess, expected.ess);
}

// The small work of a superposition: one source for both, so the same bits.
void test_superpose(Random& random) {
  for (const int k : {1, 2, 4, 5, 16}) {
    for (const bool unconditional : {false, true}) {
      const int64_t B = 1 + random.below(140);
      Superposed p;
      p.k = k, p.n = k + unconditional, p.m = p.n + 2, p.x = p.n, p.z = p.n + 1;
      const auto value = [&] { return double(random.below(2001)) / 1000 - 1; };
      for (int j = 0; j < p.m; ++j) p.row[j] = uint8_t(j), p.a[j] = j < p.n ? value() : 1;
      for (int i = 0; i < p.n; ++i) p.b[i] = value();
      for (int i = 0; i < k; ++i) p.each[i] = value();
      p.noise = 1, p.eta = 0.5, p.root = 0.7, p.q = 0.25, p.w = unconditional ? 1.5 : 1, p.base = 1.2;
      p.cut = 1e-10, p.floor = 4e-15;
      const int64_t m = p.m, d = 20;
      const Doubles G(B * m * m), gained(B * k), tau(B * k), known(B * k);
      for (int64_t b = 0; b < B; ++b) {
        std::vector<double> u(size_t(m * d));
        for (double& u_jd : u) u_jd = value();
        for (int64_t i = 0; i < m; ++i)
          for (int64_t j = 0; j < m; ++j)
            for (int64_t e = 0; e < d; ++e)
              G.data()[(b * m + i) * m + j] += u[size_t(i * d + e)] * u[size_t(j * d + e)];
      }
      for (const Doubles* each : {&gained, &tau, &known})
        for (int64_t i = 0; i < each->count(); ++i) each->data()[i] = value();
      for (const Superpose what : {Superpose::weigh, Superpose::advance, Superpose::equalise}) {
        const Doubles kappa(B * k), c(B * m), next(B * k), kappa_gpu(B * k), c_gpu(B * m), next_gpu(B * k);
        SuperposeArrays at = {
            G.data(),   random.chance(0.5) ? tau.data() : nullptr, gained.data(), known.data(), kappa.data(), c.data(),
            next.data()};
        superpose_cpu(what, p, at, B, {});
        at.kappa = kappa_gpu.data(), at.c = c_gpu.data(), at.gained_next = next_gpu.data();
        vary(random);
        superpose_cuda(what, p, at, B, nullptr);
        const std::pair<const Doubles*, const Doubles*> results[] = {
            {&kappa, &kappa_gpu}, {&c, &c_gpu}, {&next, &next_gpu}};
        for (const auto& [expected, got] : results)
          for (int64_t i = 0; i < got->count(); ++i)
            if (!same_value((*got)[i], (*expected)[i])) report("superpose", "k=" + std::to_string(k));
        ++calls;
      }
    }
  }
}

// ---- Laws
// --------------------------------------------------------------------------------------------------------------

// The shape of the sums is the size's alone: neither the types nor the alignment of the same values change a bit.
void test_shape(Random& random) {
  for (const int64_t size : {1, 7, 8, 31, 137, 1024, 1031, 4096, 4103, 9001}) {
    const int m = 3;
    std::vector<Doubles> results;
    for (const DType dtype : {DType::bfloat16, DType::float32, DType::float64}) {
      for (const bool misaligned : {false, true}) {
        Random values{uint64_t(size)};
        Batch batch;
        batch.samples = 2, batch.size = size, batch.m = m;
        std::vector<Memory> owned;
        for (int j = 0; j < m; ++j) {
          const Memory& memory = owned.emplace_back(2 * size * size_of(dtype), misaligned ? size_of(dtype) : 0);
          for (int64_t i = 0; i < 2 * size; ++i) put(memory.data(), dtype, i, double(values.below(255)) / 128 - 1);
          batch.u[j].data = memory.data(), batch.u[j].stride = size, batch.u[j].dtype = dtype;
        }
        results.push_back(emulated_gram(random, batch, {}, Output{}));
        ++calls;
      }
    }
    for (const Doubles& result : results)
      for (int64_t i = 0; i < result.count(); ++i)
        if (result[i] != results[0][i]) report("gram depends on types or alignment", "D=" + std::to_string(size));
  }
}

// Samples further apart than 32 bits can count: a few pages of a large range of addresses.
void test_far(Random& random) {
  const int64_t size = 137, stride = (int64_t(1) << 32) + 8, samples = 3;
  const size_t bytes = size_t((samples - 1) * stride + size) * 2;
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) return;
  Case c;
  c.text = "samples 2^32 elements apart";
  c.batch.samples = samples, c.batch.size = size, c.batch.m = 1;
  c.batch.u[0].data = memory, c.batch.u[0].stride = stride, c.batch.u[0].dtype = DType::bfloat16;
  for (int64_t b = 0; b < samples; ++b)
    for (int64_t d = 0; d < size; ++d) put(memory, DType::bfloat16, b * stride + d, some_value(random, false));
  c.host_c.values[0] = c.device_c.values[0] = 1.5;
  c.result = some_place(random, DType::float32, samples, size, false);
  test_combine(random, c);
  test_gram(random, c);
  munmap(memory, bytes);
  ++calls;
}

// Sums by blocks, with and without a second stage: where threads share memory. Few, for ThreadSanitizer.
void test_sums(Random& random) {
  for (const int64_t size : {1100, 5000}) {
    for (const int m : {1, 4, 9}) {
      const Case c = some_case_of(random, 3, size, m, Types::all, any_number, false);
      test_gram(random, c);
      test_residual(random, c);
      calls += 2;
    }
  }
  for (int i = 0; i < 12; ++i, ++calls) test_resample(random, 100 + 50 * i);
}

// ---- All of it
// ---------------------------------------------------------------------------------------------------------

void run(const std::string& what, int repeats, uint64_t seed) {
  const bool all = what == "all";
  Random random(seed);
  for (const Types types : {Types::sixteen_bits, Types::up_to_float32, Types::all}) {
    for (const int m : {1, 2, 3, 4, 5, 6, 7, 8, 9, 17, 64}) {
      for (int i = 0; i < repeats; ++i) {
        const Case c = some_case(random, m, types, i < 2 && i < m ? i : any_number, random.chance(0.1));
        if (all || what == "combine") test_combine(random, c), ++calls;
        if (all || what == "gram") test_gram(random, c), ++calls;
        if (all || what == "residual") test_residual(random, c), ++calls;
      }
    }
  }
  if (all || what == "resample")
    for (int i = 0; i < repeats; ++i)
      for (const int64_t n : {1, 2, 3, 31, 32, 33, 64, 137, 256, 257, 1000, 3000}) test_resample(random, n), ++calls;
  if (all || what == "shape") test_shape(random);
  if (all || what == "far") test_far(random);
  if (all || what == "superpose") test_superpose(random);
  if (all || what == "sums") test_sums(random);
}

}  // namespace emulation

int main(int count, char** arguments) {
  using namespace emulation;
  const std::string what = count > 1 ? arguments[1] : "all";
  try {
    run(what, count > 2 ? std::atoi(arguments[2]) : 10, count > 3 ? std::strtoull(arguments[3], nullptr, 10) : 1);
  } catch (const std::exception& error) {
    std::printf("FAILED %s\n", error.what());
    return 1;
  }
  int never = 0;
  if (what == "all")
    for (const auto& [kernel, name] : kernels.known)
      if (!kernels.started.count(kernel)) std::printf("NEVER STARTED %s\n", name.c_str()), ++never;
  std::printf("%d calls, %zu kernels, %d failures\n", calls, kernels.started.size(), failures);
  return failures || never;
}

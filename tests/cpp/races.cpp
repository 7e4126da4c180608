// The CPU kernels under their pool, called by several threads at once: what they return is held against one thread's,
// bit for bit. Built with -fsanitize=thread it is also the search for data races (tests/test_races.py).
//
//   ./races ROUNDS    # prints how many calls were made, how many of them gave up, and how many differed
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <iterator>
#include <stdexcept>
#include <thread>
#include <vector>

#include "../../csrc/cpu/aside.h"
#include "../../csrc/cpu/isa.h"
#include "../../csrc/cpu/threads.h"
#include "../../csrc/ops/combine.h"
#include "../../csrc/ops/gram.h"
#include "../../csrc/ops/resample.h"
#include "../../csrc/ops/residual.h"
#include "../../csrc/ops/superpose.h"
#include "../../csrc/solve/simplex.h"

using namespace scorefusion;

namespace {

using Result = std::vector<double>;
using Call = std::function<Result(const Work&)>;

struct Shape {
  int64_t samples, size;
};

// Narrow, wide, one long row; each worth several threads.
constexpr Shape shapes[] = {{40000, 3}, {3000, 33}, {7, 16385}, {1, 70001}};

// Numbers that differ, made without state.
float number(uint64_t i) { return float(int64_t(i * 0x9E3779B97F4A7C15u >> 40) - (1 << 23)) * 0x1p-22f; }

// Two arrays, a noise with sample numbers and one without; y goes to float32 or back into an operand's type.
struct Data {
  Shape shape;
  std::vector<float> x;
  std::vector<double> v, c;
  std::vector<int64_t> ids;
  Batch batch;

  explicit Data(Shape s) : shape(s), x(s.samples * s.size), v(x.size()), c(4 * s.samples), ids(s.samples) {
    for (size_t i = 0; i < x.size(); ++i) x[i] = number(i), v[i] = number(3 * i + 1);
    for (size_t i = 0; i < c.size(); ++i) c[i] = number(5 * i + 2);
    for (size_t i = 0; i < ids.size(); ++i) ids[i] = int64_t(7 * i);
    batch.samples = s.samples, batch.size = s.size, batch.m = 4;
    batch.u[0].data = x.data(), batch.u[0].stride = s.size;
    batch.u[1].data = v.data(), batch.u[1].stride = s.size, batch.u[1].dtype = DType::float64;
    batch.u[2].seed = 1, batch.u[2].stream = 2, batch.u[2].ids = ids.data();
    batch.u[3].seed = 3;
  }
};

Coefficients coefficients(const Data& data, bool each) {
  Coefficients c;
  for (int j = 0; j < 4; ++j) c.values[j] = 0.5 - 0.25 * j;
  if (each) c.data = data.c.data(), c.stride = 4;
  return c;
}

Result joined(std::initializer_list<const Result*> parts) {
  Result all;
  for (const Result* part : parts) all.insert(all.end(), part->begin(), part->end());
  return all;
}

std::vector<Call> calls_on(const Data& data) {
  const int64_t B = data.shape.samples;
  const size_t elements = data.x.size();
  std::vector<Call> calls;
  for (const bool each : {false, true}) {
    calls.push_back([&data, each, elements](const Work& work) {
      Result y(elements);
      combine_cpu(data.batch, coefficients(data, each), {y.data(), data.shape.size, DType::float64}, work);
      return y;
    });
    calls.push_back([&data, each, elements, B](const Work& work) {
      Result y(elements), G(16 * B);
      gram_cpu(data.batch, coefficients(data, each), {y.data(), data.shape.size, DType::float64}, G.data(), work);
      return joined({&y, &G});
    });
    calls.push_back([&data, each, elements, B](const Work& work) {
      Result r(elements), loss(B), grad(4 * B);
      residual_cpu(data.batch, coefficients(data, each), {r.data(), data.shape.size, DType::float64}, loss.data(),
                   grad.data(), work);
      return joined({&r, &loss, &grad});
    });
  }
  for (const ResampleMethod method : {ResampleMethod::systematic, ResampleMethod::multinomial})
    calls.push_back([&data, method, elements, B](const Work& work) {
      std::vector<int64_t> ancestors(elements);
      Result carried(elements), log_sum(B), ess(B);
      Resampling r;
      r.log_weights = data.v.data(), r.groups = B, r.n = data.shape.size, r.group_stride = data.shape.size;
      r.method = method, r.threshold = 1e9, r.ancestors = ancestors.data();
      r.carried = carried.data(), r.log_sum = log_sum.data(), r.ess = ess.data();
      if (resample_cpu(r, work) >= 0) throw std::logic_error("a group has no weights");
      const Result places(ancestors.begin(), ancestors.end());
      return joined({&places, &carried, &log_sum, &ess});
    });
  return calls;
}

// The scores of two models, the state and the noise for many samples: κ of "and".
Result superposed(const Work& work) {
  constexpr int64_t B = 6000;
  Superposed p;
  p.k = p.n = 2, p.m = 4, p.x = 2, p.z = 3;
  for (int j = 0; j < 4; ++j) p.row[j] = uint8_t(j), p.a[j] = 1;
  for (double& b : p.b) b = 0.5;
  for (double& each : p.each) each = 0;
  p.noise = 1, p.eta = 0.1, p.root = 0.3, p.q = 0.05, p.base = 1, p.cut = 1e-10, p.floor = 1e-12;
  Result G(16 * B), gained(2 * B), kappa(2 * B), c(4 * B), next(2 * B);
  for (int64_t b = 0; b < B; ++b)
    for (int i = 0; i < 4; ++i)
      for (int j = 0; j < 4; ++j)  // of four vectors in the plane of a sample
        for (int d = 0; d < 5; ++d)
          G[16 * b + 4 * i + j] += double(number(b * 20 + 5 * i + d)) * number(b * 20 + 5 * j + d);
  superpose_cpu(Superpose::equalise, p,
                {G.data(), nullptr, gained.data(), nullptr, kappa.data(), c.data(), next.data()}, B, work);
  return joined({&kappa, &c, &next});
}

Result solved(const Work&) {
  constexpr size_t k = 20;
  Result Q(k * k), q(k);
  for (size_t i = 0; i < k; ++i) {
    q[i] = number(i);
    for (size_t j = 0; j < k; ++j)
      for (size_t d = 0; d < 30; ++d) Q[i * k + j] += double(number(31 * i + d)) * number(31 * j + d);
  }
  return solve::minimize_on_simplex({Q.data(), q.data(), k}, 1e-14).weights;
}

struct Patience {
  int asked = 0, most = 0;
  static bool ends(void* self) {
    auto& patience = *static_cast<Patience*>(self);
    return patience.asked++ >= patience.most;
  }
};

}  // namespace

int main(int argc, char** argv) {
  const int rounds = argc > 1 ? std::atoi(argv[1]) : 1;
  std::vector<Data> data;
  data.reserve(std::size(shapes));  // they hold pointers into themselves
  for (const Shape& shape : shapes) data.emplace_back(shape);
  std::vector<Call> calls{superposed, solved};
  for (const Data& each : data)
    for (Call& call : calls_on(each)) calls.push_back(call);

  set_num_threads(1);
  std::vector<Result> expected;
  for (const Call& call : calls) expected.push_back(call(Work{}));

  std::atomic<int> made{0}, given_up{0}, different{0};
  std::vector<std::thread> callers;
  for (int t = 0; t < 4; ++t)
    callers.emplace_back([&, t] {
      for (int round = 0; round < rounds; ++round)
        for (size_t i = 0; i < calls.size(); ++i) {
          const size_t chosen = (i + t * 11) % calls.size();
          set_num_threads(1 + (int(i) + t + round) % 5);  // also while others work
          Patience patience{0, int(i + round) % 3 ? 1 << 30 : 0};
          const Work work{Patience::ends, &patience};
          ++made;
          try {
            const Result got = calls[chosen](work);
            if (std::memcmp(got.data(), expected[chosen].data(), got.size() * sizeof(double)) != 0) ++different;
          } catch (const Interrupted&) {
            ++given_up;
          }
          // Two calls beside the caller's, which may wait for them, or leave them to be waited for by the end.
          const size_t other = (chosen + 1) % calls.size();
          Result first, second;
          {
            Aside aside;
            aside.add([&] { first = calls[chosen](Work{}); });
            aside.add([&] { second = calls[other](Work{}); });
            if (i % 2) aside.wait();
          }
          if (first != expected[chosen] || second != expected[other]) ++different;
        }
    });
  // What a body throws comes out of the call, whichever thread threw it.
  int thrown = 0;
  for (int round = 0; round < 20 * rounds; ++round) try {
      parallel_for(1000, true, Work{}, [&](int64_t i, int64_t) {
        if (i == 500 + round % 500) throw std::runtime_error("on purpose");
      });
    } catch (const std::runtime_error&) {
      ++thrown;
    }
  for (std::thread& caller : callers) caller.join();
  std::printf("{\"calls\": %d, \"given_up\": %d, \"different\": %d, \"thrown\": %d, \"isa\": \"%s\"}\n", made.load(),
              given_up.load(), different.load(), thrown - 20 * rounds, isa_name());
  return different || thrown != 20 * rounds;
}

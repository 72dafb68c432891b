// A small model through the executor, on every instruction set: its results do not depend on threads, on how tokens are
// batched or on what other slots hold; a file that was cut and bytes that do not fit are refused; the benchmark runs.
#include "executor.h"

#include <cstring>
#include <stdexcept>

#include "bench.h"
#include "isa.h"
#include "sources.h"

namespace harness {

using namespace lutra;

namespace {

constexpr uint32_t kWidth = 64, kHeads = 4, kKvHeads = 2, kHeadDim = 16, kHidden = 96, kVocabulary = 41, kContext = 40;
constexpr uint32_t kSlots = 2;

struct Model {
  std::vector<uint8_t> file;
  std::vector<Source> matrices, vectors;
  PlanData plan;
};

/// One block of a llama, its matrices of random types of codes, plain floats among them.
Model makeModel(Random& random) {
  Model model;
  const auto matrix = [&](uint32_t n, uint32_t k) {
    model.matrices.push_back(random.whole(0, 3)
                                 ? appendTiles(random, n, k, 32, model.file)
                                 : appendFloats(random, FloatFormat(random.whole(0, 2)), n, k, false, model.file));
    return uint32_t(model.matrices.size() - 1);
  };
  const auto vector = [&](uint32_t k) {
    model.vectors.push_back(appendFloats(random, FloatFormat::F32, 1, k, true, model.file));
    return int32_t(model.vectors.size() - 1);
  };
  enum : uint32_t { stream, q, k, v, attended, hidden, last, logits };
  model.matrices.push_back(appendFloats(random, FloatFormat::F32, kVocabulary, kWidth, false, model.file));
  model.plan.widths = {kWidth, kHeads * kHeadDim, kKvHeads * kHeadDim, kKvHeads * kHeadDim, kHeads * kHeadDim, kHidden,
                       kWidth, kVocabulary};
  model.plan.ropes = {{{1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001, 0.0003}, 1.0}};
  const GemmOp in{stream,
                  vector(kWidth),
                  1e-5f,
                  {{matrix(kHeads * kHeadDim, kWidth), vector(kHeads * kHeadDim), q},
                   {matrix(kKvHeads * kHeadDim, kWidth), -1, k},
                   {matrix(kKvHeads * kHeadDim, kWidth), -1, v}},
                  Epilogue::Store,
                  0};
  const GemmOp out{attended, -1, 0, {{matrix(kWidth, kHeads * kHeadDim), -1, stream}}, Epilogue::Add, stream};
  const GemmOp gate{stream,
                    vector(kWidth),
                    1e-5f,
                    {{matrix(kHidden, kWidth), -1, hidden}, {matrix(kHidden, kWidth), -1, hidden}},
                    Epilogue::SiluMul,
                    0};
  const GemmOp down{hidden, -1, 0, {{matrix(kWidth, kHidden), -1, stream}}, Epilogue::Add, stream};
  const GemmOp head{last, vector(kWidth), 1e-5f, {{matrix(kVocabulary, kWidth), -1, logits}}, Epilogue::Store, 0};
  model.plan.ops = {EmbedOp{0, stream},
                    in,
                    RopeOp{q, kHeads, kHeadDim, random.coin(), 0},
                    RopeOp{k, kKvHeads, kHeadDim, random.coin(), 0},
                    AttentionOp{0, q, k, v, attended, kHeads, kKvHeads, kHeadDim, 0.25f},
                    out,
                    gate,
                    down,
                    SelectOp{stream, last},
                    head};
  model.plan.logits = logits;
  model.plan.layers = 1;
  model.plan.cacheWidth = kKvHeads * kHeadDim;
  model.plan.context = kContext;
  model.plan.slots = kSlots;
  return model;
}

void setFile(Model& model, int fd) {
  for (Source& source : model.matrices) source.fd = fd;
  for (Source& source : model.vectors) source.fd = fd;
}

/// Logits of all rows, cut into steps of `atOnce` rows.
std::vector<float> run(const Kernels& kernels, const Model& model, uint32_t threads, const std::vector<Row>& rows,
                       size_t atOnce) {
  Pool pool(threads);
  std::atomic<uint64_t> loaded{0};
  std::vector<Source> matrices = model.matrices;
  for (Source& source : matrices)
    if (source.layout != Layout::Dot && !(source.layout == Layout::Ternary && kernels.tabulateFives))
      source.layout = kernels.lookup;
  Executor executor(pool, kernels, model.plan, matrices, model.vectors, loaded);
  check(executor.logitsWidth() == kVocabulary, "the width of the logits");
  std::vector<float> out(rows.size() * kVocabulary);
  for (size_t begin = 0; begin < rows.size(); begin += atOnce)
    executor.step({rows.begin() + long(begin), rows.begin() + long(std::min(begin + atOnce, rows.size()))},
                  &out[begin * kVocabulary]);
  return out;
}

bool isSame(const std::vector<float>& a, const std::vector<float>& b) {
  return !std::memcmp(a.data(), b.data(), a.size() * sizeof(float));
}

}  // namespace

void checkExecutor(Random& random) {
  for (int round = 0; round < 6; round++) {
    Model model = makeModel(random);
    const TemporaryFile file(model.file);
    setFile(model, file.descriptor());
    std::vector<Row> rows;  // two sequences, token by token in turn
    for (uint32_t position = 0; position < 20; position++)
      for (uint32_t slot = 0; slot < kSlots; slot++)
        rows.push_back({int32_t(random.whole(0, kVocabulary - 1)), slot, position, true});
    for (const Kernels* kernels : usableKernels()) {
      const std::string isa = kernels->isa;
      const std::vector<float> one = run(*kernels, model, 1, rows, rows.size());
      check(isSame(one, run(*kernels, model, 3, rows, rows.size())), isa + ": three threads give what one does");
      check(isSame(one, run(*kernels, model, 2, rows, 1)), isa + ": rows one by one give what all at once do");
      check(isSame(one, run(*kernels, model, 2, rows, 7)), isa + ": rows by sevens give what all at once do");
    }

    Pool pool(2);
    std::atomic<uint64_t> loaded{0};
    {
      Model given = model;
      for (Source& source : given.vectors) source.given = true;
      given.matrices[0].given = true;
      Executor executor(pool, scalarKernels, given.plan, given.matrices, given.vectors, loaded);
      const std::vector<uint8_t> bytes(kTileRows * kWidth * 4 + 1);
      const auto refused = [&](bool vector, uint32_t index, uint32_t tile, size_t length) {
        try {
          executor.give(vector, index, tile, bytes.data(), length);
        } catch (const std::out_of_range&) {
          return true;
        }
        return false;
      };
      check(!refused(false, 0, 0, kTileRows * kWidth * 4), "a whole tile is taken");
      check(refused(false, 0, 0, kTileRows * kWidth * 4 + 1), "a tile and a byte is refused");
      check(refused(false, 0, 1, 4), "a tile behind the last one is refused");
      check(refused(false, 99, 0, 4), "a matrix that is not there is refused");
      check(!refused(true, 0, 0, kWidth * 4), "a whole vector is taken");
      check(refused(true, 0, 0, kWidth * 4 + 1), "a vector and a byte is refused");
      check(refused(true, 99, 0, 4), "a vector that is not there is refused");
    }
    file.cut(model.file.size() / 2);
    std::string said;
    try {
      Executor executor(pool, scalarKernels, model.plan, model.matrices, model.vectors, loaded);
    } catch (const std::runtime_error& error) {
      said = error.what();
    }
    check(said.find("it has shrunk since it was opened") != std::string::npos, "a file that was cut: " + said);
  }
  Pool pool(2);
  for (const Kernels* kernels : usableKernels()) {
    BenchCase what{};
    what.bits = 4;
    what.group = 32;
    what.n = 100;
    what.k = 128;
    what.tokens = 9;
    what.blockGroups = 1;
    what.rounds = 2;
    what.poolBytes = 1 << 16;
    what.layout = kernels->lookup;
    const BenchTimes times = benchProduct(pool, *kernels, what);
    check(times.kernelUs.size() == 2 && times.readUs.size() == 3 && times.bytes > 0, "the benchmark's rounds");
  }
}

}  // namespace harness

// Loading on all workers, then the ops of a step: every worker walks the same list of parallel loops. Their pieces
// are rows of weights, tokens or heads, each computed alone, so that no result depends on who took which.
#include "executor.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <mutex>
#include <stdexcept>

namespace lutra {

namespace {

constexpr uint32_t kRows = 256;      // tokens of one pass over the weights
constexpr uint32_t kLoopsPerOp = 2;  // parallel loops at most

/// Pieces small enough that workers end a loop at about the same time, large enough that handing out costs nothing.
uint32_t grainOf(uint32_t total, uint32_t workers) { return std::clamp(total / (8 * workers), 1u, 64u); }

size_t aligned(size_t bytes) { return (bytes + 63) & ~size_t(63); }

/// Hands out parts of a memory block; with a null base it only counts.
struct Carver {
  uint8_t* base;
  size_t used = 0;

  template <class T>
  T* take(size_t count) {
    T* at = reinterpret_cast<T*>(base + used);
    used += aligned(count * sizeof(T));
    return at;
  }
};

size_t weightBytes(const std::vector<Source>& matrices, const std::vector<Source>& vectors) {
  size_t total = 0;
  for (const Source& s : matrices) total += aligned(planMatrix(s).bytes());
  for (const Source& s : vectors) total += aligned(size_t(s.k) * sizeof(float));
  return total;
}

}  // namespace

/// The rows of one pass, and those that the current op works on: all, or the wanted ones after a Select.
struct Executor::Batch {
  const Row* rows;
  uint32_t count;
  uint32_t wanted;
  bool selected = false;

  uint32_t live() const { return selected ? wanted : count; }
};

Executor::Executor(Pool& pool, const Kernels& kernels, PlanData plan, const std::vector<Source>& matrices,
                   const std::vector<Source>& vectors, std::atomic<uint64_t>& loaded)
    : pool_(pool),
      kernels_(kernels),
      plan_(std::move(plan)),
      weights_(lutra::weightBytes(matrices, vectors), true),
      cache_(size_t(2) * plan_.layers * plan_.slots * plan_.context * plan_.cacheWidth * sizeof(uint16_t)),
      scratch_((load(matrices, vectors, loaded), carve(nullptr))) {
  carve(scratch_.data());
}

void Executor::load(const std::vector<Source>& matrices, const std::vector<Source>& vectors,
                    std::atomic<uint64_t>& loaded) {
  Carver carver{weights_.data()};
  std::vector<uint32_t> firstTask{0};
  for (const Source& s : matrices) {
    matrices_.push_back(planMatrix(s));
    firstTask.push_back(firstTask.back() + matrices_.back().tiles());
  }
  // Matrices lie in the order in which a step reads them.
  const auto place = [&](uint32_t index) {
    Matrix& matrix = matrices_[index];
    if (!matrix.data) matrix.data = carver.take<uint8_t>(matrix.bytes());
  };
  for (const Op& op : plan_.ops) {
    if (const auto* embed = std::get_if<EmbedOp>(&op)) place(embed->weight);
    if (const auto* gemm = std::get_if<GemmOp>(&op))
      for (const LinearUse& use : gemm->linears) place(use.weight);
  }
  LoadRoom scratch;
  for (const Source& s : vectors) {
    float* to = carver.take<float>(s.k);
    if (!s.given) loadVector(s, to, scratch);
    vectorAt_.push_back(to);
    vectorSizes_.push_back(s.k);
  }

  std::vector<TileLoader> loaders;
  for (size_t i = 0; i < matrices.size(); i++) loaders.emplace_back(matrices[i], matrices_[i]);
  constexpr uint32_t kTilesAtOnce = 4;
  std::atomic<bool> failed{false};
  std::mutex mutex;
  std::string failure;
  pool_.run(1, [&](Worker& worker) {
    LoadRoom mine;
    worker.each(firstTask.back(), kTilesAtOnce, [&](uint32_t begin, uint32_t end) {
      uint32_t m = uint32_t(std::upper_bound(firstTask.begin(), firstTask.end(), begin) - firstTask.begin()) - 1;
      for (uint32_t task = begin; task < end && !failed; task++) {
        while (task >= firstTask[m + 1]) m++;
        if (matrices[m].given) continue;
        const Matrix& matrix = matrices_[m];
        const uint32_t tile = task - firstTask[m];
        try {
          loaders[m].load(tile, mine);
        } catch (const std::exception& error) {
          const std::lock_guard<std::mutex> lock(mutex);
          if (!failed.exchange(true)) failure = error.what();
        }
        loaded.fetch_add(matrix.bytes() / matrix.tiles(), std::memory_order_relaxed);
      }
    });
  });
  if (failed) throw std::runtime_error(failure);
}

void Executor::give(bool vector, uint32_t index, uint32_t tile, const uint8_t* bytes, size_t length) {
  if (vector) {
    if (index >= vectorAt_.size() || length > vectorSizes_[index] * sizeof(float)) throw std::out_of_range("vector");
    std::memcpy(const_cast<float*>(vectorAt_[index]), bytes, length);
    return;
  }
  if (index >= matrices_.size()) throw std::out_of_range("matrix");
  const Matrix& matrix = matrices_[index];
  if (matrix.packed() || tile >= matrix.tiles() || length > matrix.tileBytes()) throw std::out_of_range("tile");
  std::memcpy(const_cast<uint8_t*>(matrix.rows(tile)), bytes, length);
}

size_t Executor::carve(uint8_t* base) {
  Carver carver{base};
  at_ = Scratch{};
  for (const uint32_t width : plan_.widths) at_.values.push_back(carver.take<float>(size_t(kRows) * width));
  for (const RopeTable& table : plan_.ropes) {
    at_.cosines.push_back(carver.take<float>(kRows * table.frequencies.size()));
    at_.sines.push_back(carver.take<float>(kRows * table.frequencies.size()));
  }
  size_t widest = 0, headDim = 0;
  for (const Op& op : plan_.ops) {
    if (const auto* gemm = std::get_if<GemmOp>(&op)) widest = std::max<size_t>(widest, plan_.widths[gemm->input]);
    if (const auto* attention = std::get_if<AttentionOp>(&op)) headDim = std::max<size_t>(headDim, attention->headDim);
  }
  at_.normed = carver.take<float>(kRows * widest);
  Forms forms;
  for (const Matrix& m : matrices_) forms.add(m);
  const size_t values = size_t(kRows) * paddedTo(uint32_t(widest));
  at_.activations = {carver.take<uint8_t>(ActivationRoom::bytesFor(values, forms)), values, forms};
  for (uint32_t worker = 0; worker < pool_.threads(); worker++) {
    at_.scores.push_back(carver.take<float>(plan_.context));
    at_.queries.push_back(carver.take<float>(headDim));
  }
  return carver.used;
}

void Executor::step(const std::vector<Row>& rows, float* out) {
  for (size_t begin = 0; begin < rows.size(); begin += kRows) {
    Batch whole{&rows[begin], uint32_t(std::min<size_t>(kRows, rows.size() - begin)), 0};
    for (uint32_t r = 0; r < whole.count; r++) whole.wanted += whole.rows[r].wanted;
    fillRopeTables(whole);
    pool_.run(uint32_t(kLoopsPerOp * plan_.ops.size()), [&](Worker& worker) {
      Batch batch = whole;
      for (const Op& op : plan_.ops) {
        // After the Select there may be no row left, and then nothing of what follows is needed.
        if (batch.live() == 0) return;
        run(op, batch, worker);
      }
    });
    if (whole.wanted) std::memcpy(out, at_.values[plan_.logits], size_t(whole.wanted) * logitsWidth() * sizeof(float));
    out += size_t(whole.wanted) * logitsWidth();
  }
}

void Executor::run(const Op& op, Batch& batch, Worker& worker) {
  if (const auto* o = std::get_if<EmbedOp>(&op)) return embed(*o, batch, worker);
  if (const auto* o = std::get_if<SelectOp>(&op)) return select(*o, batch, worker);
  if (const auto* o = std::get_if<GemmOp>(&op)) return gemm(*o, batch, worker);
  if (const auto* o = std::get_if<RopeOp>(&op)) return rope(*o, batch, worker);
  attention(std::get<AttentionOp>(op), batch, worker);
}

void Executor::embed(const EmbedOp& op, const Batch& batch, Worker& worker) {
  const Matrix& matrix = matrices_[op.weight];
  worker.each(batch.count, grainOf(batch.count, pool_.threads()), [&](uint32_t begin, uint32_t end) {
    for (uint32_t r = begin; r < end; r++)
      gatherRow(matrix, uint32_t(batch.rows[r].token), at_.values[op.out] + size_t(r) * matrix.k);
  });
}

void Executor::select(const SelectOp& op, Batch& batch, Worker& worker) {
  const uint32_t width = plan_.widths[op.input];
  worker.each(1, 1, [&](uint32_t, uint32_t) {
    float* to = at_.values[op.out];
    for (uint32_t r = 0; r < batch.count; r++) {
      if (!batch.rows[r].wanted) continue;
      std::memcpy(to, at_.values[op.input] + size_t(r) * width, width * sizeof(float));
      to += width;
    }
  });
  batch.selected = true;
}

void Executor::prepareInput(const GemmOp& op, const Batch& batch, Worker& worker) {
  const uint32_t k = plan_.widths[op.input];
  Forms forms;
  for (const LinearUse& use : op.linears) forms.add(matrices_[use.weight]);
  worker.each(batch.live(), grainOf(batch.live(), pool_.threads()), [&](uint32_t begin, uint32_t end) {
    for (uint32_t r = begin; r < end; r++) {
      const float* x = at_.values[op.input] + size_t(r) * k;
      float* normed = at_.normed + size_t(r) * k;
      if (op.norm >= 0) kernels_.rmsNorm(x, vectorAt_[op.norm], op.eps, k, normed);
      at_.activations.put(kernels_, forms, r, op.norm >= 0 ? normed : x, k);
    }
  });
}

void Executor::gemm(const GemmOp& op, const Batch& batch, Worker& worker) {
  prepareInput(op, batch, worker);
  // Tiles of all linears in a row; the two of a gate are computed together.
  const bool gated = op.epilogue == Epilogue::SiluMul;
  const size_t columns = gated ? 1 : op.linears.size();
  uint32_t total = 0;
  for (size_t l = 0; l < columns; l++) total += matrices_[op.linears[l].weight].tiles();
  worker.each(total, grainOfTiles(total, pool_.threads()), [&](uint32_t begin, uint32_t end) {
    uint32_t base = 0;
    for (size_t l = 0; l < columns; l++) {
      const uint32_t tiles = matrices_[op.linears[l].weight].tiles();
      const uint32_t from = std::max(begin, base), to = std::min(end, base + tiles);
      if (from < to) gemmTiles(op, op.linears[l], from - base, to - base, batch.live());
      base += tiles;
    }
  });
}

/// Tiles [begin, end) of one linear (or of both of a gate) for all tokens, with bias and epilogue.
void Executor::gemmTiles(const GemmOp& op, const LinearUse& use, uint32_t begin, uint32_t end, uint32_t live) {
  const Operand input{at_.activations.rows(plan_.widths[op.input]), op.norm >= 0 ? at_.normed : at_.values[op.input]};
  const uint32_t tokensAtOnce = std::min(live, kProducts), tilesAtOnce = kProducts / tokensAtOnce;
  for (uint32_t tile = begin; tile < end; tile += tilesAtOnce)
    for (uint32_t token = 0; token < live; token += tokensAtOnce)
      gemmPiece(op, use, tile, std::min(tilesAtOnce, end - tile), input, token, std::min(tokensAtOnce, live - token));
}

void Executor::gemmPiece(const GemmOp& op, const LinearUse& use, uint32_t firstTile, uint32_t tiles,
                         const Operand& input, uint32_t first, uint32_t tokens) {
  alignas(64) float products[kProducts * kTileRows], second[kProducts * kTileRows];
  const uint32_t n = matrices_[use.weight].n;
  const auto compute = [&](const LinearUse& u, float* to) {
    multiply(kernels_, matrices_[u.weight], firstTile, tiles, input, first, tokens, to);
    if (u.bias < 0) return;
    for (uint32_t i = 0; i < tiles * tokens; i++)
      for (uint32_t r = 0, row = (firstTile + i / tokens) * kTileRows; r < kTileRows && row + r < n; r++)
        to[i * kTileRows + r] += vectorAt_[u.bias][row + r];
  };
  compute(use, products);
  if (op.epilogue == Epilogue::SiluMul) compute(op.linears[1], second);
  for (uint32_t i = 0; i < tiles * tokens; i++) {
    const uint32_t row = (firstTile + i / tokens) * kTileRows, count = std::min(kTileRows, n - row);
    const size_t place = size_t(first + i % tokens) * n + row;
    const float* p = products + i * kTileRows;
    float* to = at_.values[use.out] + place;
    switch (op.epilogue) {
      case Epilogue::Store:
        std::memcpy(to, p, count * sizeof(float));
        break;
      case Epilogue::Add:
        for (uint32_t r = 0; r < count; r++) to[r] = at_.values[op.from][place + r] + p[r];
        break;
      case Epilogue::SiluMul:
        kernels_.siluMul(p, second + i * kTileRows, count, to);
        break;
    }
  }
}

void Executor::fillRopeTables(const Batch& batch) {
  for (size_t i = 0; i < plan_.ropes.size(); i++) {
    const RopeTable& table = plan_.ropes[i];
    const size_t pairs = table.frequencies.size();
    for (uint32_t r = 0; r < batch.count; r++)
      for (size_t p = 0; p < pairs; p++) {
        const double angle = double(batch.rows[r].position) * table.frequencies[p];
        at_.cosines[i][r * pairs + p] = float(std::cos(angle) * table.magnitude);
        at_.sines[i][r * pairs + p] = float(std::sin(angle) * table.magnitude);
      }
  }
}

void Executor::rope(const RopeOp& op, const Batch& batch, Worker& worker) {
  const uint32_t pairs = uint32_t(plan_.ropes[op.table].frequencies.size());
  const uint32_t apart = op.adjacent ? 1 : pairs, next = op.adjacent ? 2 : 1;
  const uint32_t total = batch.count * op.heads;
  worker.each(total, grainOf(total, pool_.threads()), [&](uint32_t begin, uint32_t end) {
    for (uint32_t i = begin; i < end; i++) {
      const float* cosines = at_.cosines[op.table] + size_t(i / op.heads) * pairs;
      const float* sines = at_.sines[op.table] + size_t(i / op.heads) * pairs;
      float* head = at_.values[op.value] + size_t(i) * op.headDim;
      for (uint32_t p = 0; p < pairs; p++) {
        float& a = head[p * next];
        float& b = head[p * next + apart];
        const float x = a, y = b;
        a = x * cosines[p] - y * sines[p];
        b = x * sines[p] + y * cosines[p];
      }
    }
  });
}

uint16_t* Executor::cacheAt(const AttentionOp& op, bool values, uint32_t slot, uint32_t head) const {
  const size_t index = (size_t(op.layer) * 2 + values) * plan_.slots + slot;
  return reinterpret_cast<uint16_t*>(cache_.data()) + index * plan_.context * plan_.cacheWidth +
         size_t(head) * plan_.context * op.headDim;
}

void Executor::attention(const AttentionOp& op, const Batch& batch, Worker& worker) {
  const uint32_t d = op.headDim, keys = batch.count * op.kvHeads, queries = batch.count * op.heads;
  worker.each(keys, grainOf(keys, pool_.threads()), [&](uint32_t begin, uint32_t end) {
    for (uint32_t i = begin; i < end; i++) {
      const Row& row = batch.rows[i / op.kvHeads];
      const size_t place = size_t(row.position) * d;
      kernels_.toHalf(at_.values[op.k] + size_t(i) * d, d, cacheAt(op, false, row.slot, i % op.kvHeads) + place);
      kernels_.toHalf(at_.values[op.v] + size_t(i) * d, d, cacheAt(op, true, row.slot, i % op.kvHeads) + place);
    }
  });
  worker.each(queries, grainOf(queries, pool_.threads()), [&](uint32_t begin, uint32_t end) {
    for (uint32_t i = begin; i < end; i++) {
      const Row& row = batch.rows[i / op.heads];
      const uint32_t head = i % op.heads / (op.heads / op.kvHeads);
      float* query = at_.queries[worker.index];
      for (uint32_t j = 0; j < d; j++) query[j] = at_.values[op.q][size_t(i) * d + j] * op.scale;
      const KeyValues kv{cacheAt(op, false, row.slot, head), cacheAt(op, true, row.slot, head), row.position + 1, d};
      kernels_.attend(query, kv, at_.scores[worker.index], at_.values[op.out] + size_t(i) * d);
    }
  });
}

}  // namespace lutra

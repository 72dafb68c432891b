// The only file that knows JavaScript: turns the plain objects of src/cpu/backend.ts into a PlanData and Sources,
// and runs loading and steps on a thread of the libuv pool, which becomes worker 0.
#include <fcntl.h>
#include <napi.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <functional>
#include <memory>
#include <stdexcept>

#include "ablation.h"
#include "bench.h"
#include "executor.h"
#include "isa.h"

namespace {

using namespace lutra;

/// The pool and kernels of one backend; alive as long as any session of it.
struct EngineState {
  EngineState(uint32_t threads, const Kernels* kernels) : pool(threads), kernels(kernels) {}
  Pool pool;
  const Kernels* kernels;
};

struct SessionState {
  std::shared_ptr<EngineState> engine;
  std::unique_ptr<Executor> executor;
};

/// Runs `work` off the event loop, then `finish` on it; what `work` throws rejects the promise.
class Task : public Napi::AsyncWorker {
 public:
  static Napi::Promise start(Napi::Env env, std::function<void()> work, std::function<Napi::Value(Napi::Env)> finish) {
    auto* task = new Task(env, std::move(work), std::move(finish));
    const Napi::Promise promise = task->deferred_.Promise();
    task->Queue();
    return promise;
  }

 private:
  Task(Napi::Env env, std::function<void()> work, std::function<Napi::Value(Napi::Env)> finish)
      : AsyncWorker(env, "lutra"), deferred_(env), work_(std::move(work)), finish_(std::move(finish)) {}

  void Execute() override {
    try {
      work_();
    } catch (const std::bad_alloc&) {
      SetError("out of memory");
    } catch (const std::exception& error) {
      SetError(error.what());
    }
  }
  void OnOK() override { deferred_.Resolve(finish_(Env())); }
  void OnError(const Napi::Error& error) override { deferred_.Reject(error.Value()); }

  Napi::Promise::Deferred deferred_;
  std::function<void()> work_;
  std::function<Napi::Value(Napi::Env)> finish_;
};

// ---- from JavaScript objects (whose shapes backend.ts guarantees) ----

double number(const Napi::Object& o, const char* key) { return o.Get(key).ToNumber().DoubleValue(); }
uint32_t whole(const Napi::Object& o, const char* key) { return uint32_t(number(o, key)); }
std::string text(const Napi::Object& o, const char* key) { return o.Get(key).ToString().Utf8Value(); }

template <class T>
std::vector<T> listOf(const Napi::Value& value, const std::function<T(const Napi::Object&)>& one) {
  std::vector<T> out;
  const auto array = value.As<Napi::Array>();
  for (uint32_t i = 0; i < array.Length(); i++) out.push_back(one(array.Get(i).ToObject()));
  return out;
}

/// The numbers of an array; none where it is null.
template <class T>
std::vector<T> numbersOf(const Napi::Value& value) {
  std::vector<T> out;
  if (!value.IsArray()) return out;
  const auto array = value.As<Napi::Array>();
  for (uint32_t i = 0; i < array.Length(); i++) out.push_back(T(array.Get(i).ToNumber().DoubleValue()));
  return out;
}

FloatFormat formatOf(const std::string& name) {
  return name == "f16" ? FloatFormat::F16 : name == "bf16" ? FloatFormat::BF16 : FloatFormat::F32;
}

Codes codesOf(const Napi::Object& o) {
  return {listOf<Run>(o.Get("runs"),
                      [](const Napi::Object& r) {
                        return Run{whole(r, "first"),          whole(r, "count"), whole(r, "bit"),
                                   int32_t(number(r, "step")), whole(r, "width"), whole(r, "shift")};
                      }),
          whole(o, "bits"), whole(o, "flip")};
}

GroupNumber groupNumberOf(const Napi::Object& o) {
  const Napi::Object stands = o.Get("stands").ToObject();
  const std::string kind = text(stands, "kind");
  GroupNumber number{codesOf(o.Get("codes").ToObject()), std::nullopt, {}};
  if (kind == "float") number.format = formatOf(text(stands, "format"));
  if (kind == "table") number.table = numbersOf<double>(stands.Get("numbers"));
  return number;
}

Term termOf(const Napi::Object& o) {
  Term term{};
  term.field = int32_t(number(o, "field"));
  term.code = int32_t(number(o, "code"));
  term.multiplier = int32_t(number(o, "multiplier"));
  term.addend = int32_t(number(o, "addend"));
  if (o.Get("products").IsArray())
    term.products = listOf<Product>(o.Get("products"), [](const Napi::Object& p) {
      return Product{number(p, "constant"), numbersOf<uint32_t>(p.Get("factors"))};
    });
  return term;
}

Scales scalesOf(const std::string& kind) {
  if (kind == "nibbles") return Scales::Nibbles;
  return kind == "half" ? Scales::Half : kind == "two-level" ? Scales::TwoLevel : Scales::Float;
}

/// What is described is checked in src/cpu; what else comes was built from other sources than this file.
Napi::Error wrongVersion(Napi::Env env) {
  return Napi::Error::New(env, "the native backend is of another version than the program; run `npm run build`");
}

/// How a type's bytes are read: plain floats, or a tiling. See src/cpu/layout.ts.
struct Reading {
  bool given;
  FloatFormat format;
  std::optional<Tiling> tiling;
};

Reading readingOf(const Napi::Object& o) {
  if (text(o, "kind") == "rows") return {o.Get("converted").ToBoolean(), formatOf(text(o, "format")), std::nullopt};
  const Napi::Object product = o.Get("product").ToObject(), scales = o.Get("scales").ToObject();
  Tiling t{};
  t.blockSize = whole(o, "blockSize");
  t.blockBytes = whole(o, "blockBytes");
  t.parts = listOf<Part>(o.Get("parts"), [](const Napi::Object& p) {
    return Part{codesOf(p.Get("codes").ToObject()), whole(p, "lanes"), numbersOf<uint8_t>(p.Get("lane")),
                numbersOf<uint16_t>(p.Get("digits"))};
  });
  t.remap = numbersOf<uint8_t>(o.Get("remap"));
  t.bits = whole(o, "bits");
  t.group = whole(o, "group");
  t.integers = text(product, "kind") == "integer";
  if (t.integers) t.zero = float(number(product, "zero"));
  t.steps = numbersOf<uint8_t>(product.Get("steps"));
  t.table = numbersOf<float>(product.Get("table"));
  t.numbers = listOf<GroupNumber>(o.Get("numbers"), groupNumberOf);
  t.scales = scalesOf(text(scales, "kind"));
  t.scale = termOf(scales.Get("scale").ToObject());
  if (!scales.Get("offset").IsNull()) t.offset = termOf(scales.Get("offset").ToObject());
  t.factor = float(number(o, "factor"));
  const bool width = t.integers ? t.bits >= 1 && t.bits <= 8 && t.bits != 7 : t.bits == 2 || t.bits == 4 || t.bits == 8;
  if (!width || t.group == 0 || t.group % kActGroup != 0 || t.blockSize == 0 || t.parts.empty() || t.steps.size() > 16)
    throw wrongVersion(o.Env());
  return {false, FloatFormat::F32, std::move(t)};
}

/// The layout for the method of a kernel of src/cpu/tuner.ts.
Layout layoutOf(const Napi::Object& o, const Kernels& kernels) {
  const std::string method = text(o, "method");
  if (method == "dot") return Layout::Dot;
  if (method == "lookup" && kernels.lookup != Layout::Dot) return kernels.lookup;
  if (method == "ternary" && kernels.tabulateFives) return Layout::Ternary;
  throw wrongVersion(o.Env());
}

/// How many lookups are summed by an average, where the layout of lookups allows it; 0 where nothing is said.
uint32_t averageOf(const Napi::Object& o, Layout lookup) {
  const uint32_t average = o.Get("average").IsNumber() ? whole(o, "average") : 0;
  const bool is = average == 2 || average == 4 || average == 8;
  if (average != 0 && !(is && lookup == Layout::Lookup1)) throw wrongVersion(o.Env());
  return average;
}

/// Times as BenchTimes of native.ts has them.
Napi::Object toObject(Napi::Env env, const std::vector<double>& kernelUs, const std::vector<double>& readUs,
                      size_t bytes) {
  const auto list = [&](const std::vector<double>& from) {
    Napi::Array to = Napi::Array::New(env);
    for (uint32_t i = 0; i < from.size(); i++) to.Set(i, from[i]);
    return to;
  };
  Napi::Object out = Napi::Object::New(env);
  out.Set("kernelUs", list(kernelUs));
  out.Set("readUs", list(readUs));
  out.Set("bytes", double(bytes));
  return out;
}

/// `lookup`: the layout of lookups that the kernels have.
std::vector<Source> sourcesOf(const Napi::Value& list, const std::vector<Reading>& types, const Kernels& kernels) {
  return listOf<Source>(list, [&](const Napi::Object& o) {
    const Reading& type = types[whole(o, "type")];
    const Napi::Object kernel = o.Get("kernel").ToObject();
    const Layout layout = layoutOf(kernel, kernels);
    const bool plain = type.tiling && type.tiling->integers && type.tiling->steps.empty() && type.tiling->bits <= 4;
    const bool fives = plain && type.tiling->bits == 2 && type.tiling->group % kTernaryChunk == 0;
    if (!(layout == Layout::Dot || (layout == Layout::Ternary ? fives : plain))) throw wrongVersion(o.Env());
    return Source{text(o, "name"),
                  int(whole(o, "file")),
                  uint64_t(number(o, "byteOffset")),
                  whole(o, "n"),
                  whole(o, "k"),
                  type.given,
                  type.format,
                  type.tiling,
                  layout,
                  whole(kernel, "ahead"),
                  averageOf(kernel, kernels.lookup)};
  });
}

Op opOf(const Napi::Object& o) {
  const std::string kind = text(o, "kind");
  if (kind == "embed") return EmbedOp{whole(o, "weight"), whole(o, "out")};
  if (kind == "select") return SelectOp{whole(o, "input"), whole(o, "out")};
  if (kind == "rope")
    return RopeOp{whole(o, "value"), whole(o, "heads"), whole(o, "headDim"), text(o, "pairing") == "adjacent",
                  whole(o, "table")};
  if (kind == "attention")
    return AttentionOp{whole(o, "layer"),   whole(o, "q"),       whole(o, "k"),
                       whole(o, "v"),       whole(o, "out"),     whole(o, "heads"),
                       whole(o, "kvHeads"), whole(o, "headDim"), float(number(o, "scale"))};
  const Napi::Object epilogue = o.Get("epilogue").ToObject();
  const std::string end = text(epilogue, "kind");
  return GemmOp{whole(o, "input"),
                int32_t(number(o, "norm")),
                float(number(o, "eps")),
                listOf<LinearUse>(o.Get("linears"),
                                  [](const Napi::Object& l) {
                                    return LinearUse{whole(l, "weight"), int32_t(number(l, "bias")), whole(l, "out")};
                                  }),
                end == "add"        ? Epilogue::Add
                : end == "silu-mul" ? Epilogue::SiluMul
                                    : Epilogue::Store,
                end == "add" ? whole(epilogue, "from") : 0};
}

PlanData planOf(const Napi::Object& o) {
  PlanData plan{};
  plan.widths = numbersOf<uint32_t>(o.Get("widths"));
  plan.ops = listOf<Op>(o.Get("ops"), opOf);
  plan.ropes = listOf<RopeTable>(o.Get("ropes"), [](const Napi::Object& r) {
    return RopeTable{numbersOf<double>(r.Get("frequencies")), number(r, "magnitude")};
  });
  plan.logits = whole(o, "logits");
  const Napi::Object cache = o.Get("cache").ToObject();
  plan.layers = whole(cache, "layers");
  plan.cacheWidth = whole(cache, "width");
  plan.context = whole(cache, "context");
  plan.slots = whole(cache, "slots");
  return plan;
}

/// Files opened for one load, closed at its end whatever happens.
struct Files {
  std::vector<int> descriptors;
  explicit Files(const std::vector<std::string>& paths) {
    for (const std::string& path : paths) {
      const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
      if (fd < 0) {
        const std::string reason = std::strerror(errno);
        for (const int other : descriptors) close(other);
        throw std::runtime_error(path + ": cannot open: " + reason);
      }
      descriptors.push_back(fd);
    }
  }
  ~Files() {
    for (const int fd : descriptors) close(fd);
  }
  Files(const Files&) = delete;
  Files& operator=(const Files&) = delete;
};

class Session : public Napi::ObjectWrap<Session> {
 public:
  static Napi::Function define(Napi::Env env) {
    return DefineClass(env, "Session",
                       {InstanceMethod("step", &Session::step), InstanceMethod("close", &Session::close),
                        InstanceMethod("give", &Session::give), InstanceAccessor<&Session::bytes>("bytes")});
  }
  static Napi::Object wrap(Napi::Env env, std::shared_ptr<SessionState> state);

  explicit Session(const Napi::CallbackInfo& info) : ObjectWrap(info) {}

 private:
  /// step(rows: Int32Array of (token, slot, position, wanted), out: Float32Array of (wanted, vocab)): Promise<void>
  Napi::Value step(const Napi::CallbackInfo& info) {
    if (!state_) throw Napi::Error::New(info.Env(), "the session is closed");
    const auto flat = info[0].As<Napi::Int32Array>();
    std::vector<Row> rows(flat.ElementLength() / 4);
    for (size_t i = 0; i < rows.size(); i++)
      rows[i] = {flat[4 * i], uint32_t(flat[4 * i + 1]), uint32_t(flat[4 * i + 2]), flat[4 * i + 3] != 0};
    const auto out =
        std::make_shared<Napi::Reference<Napi::Float32Array>>(Napi::Persistent(info[1].As<Napi::Float32Array>()));
    float* to = info[1].As<Napi::Float32Array>().Data();
    return Task::start(
        info.Env(), [state = state_, rows = std::move(rows), to] { state->executor->step(rows, to); },
        [out](Napi::Env env) {
          out->Reset();
          return env.Undefined();
        });
  }

  /// give(isVector, index, tile, bytes: Uint8Array): rows of a weight that is converted; before any step.
  Napi::Value give(const Napi::CallbackInfo& info) {
    if (!state_) throw Napi::Error::New(info.Env(), "the session is closed");
    const auto bytes = info[3].As<Napi::Uint8Array>();
    try {
      state_->executor->give(info[0].ToBoolean(), info[1].ToNumber().Uint32Value(), info[2].ToNumber().Uint32Value(),
                             bytes.Data(), bytes.ByteLength());
    } catch (const std::out_of_range& error) {
      throw Napi::Error::New(info.Env(), std::string("rows that do not fit their ") + error.what());
    }
    return info.Env().Undefined();
  }

  /// Frees everything once a step under way has ended; closing twice is harmless.
  Napi::Value close(const Napi::CallbackInfo& info) {
    state_.reset();
    return info.Env().Undefined();
  }

  Napi::Value bytes(const Napi::CallbackInfo& info) {
    Napi::Object out = Napi::Object::New(info.Env());
    out.Set("weights", state_ ? double(state_->executor->weightBytes()) : 0);
    out.Set("cache", state_ ? double(state_->executor->cacheBytes()) : 0);
    out.Set("scratch", state_ ? double(state_->executor->scratchBytes()) : 0);
    return out;
  }

  std::shared_ptr<SessionState> state_;
};

struct Classes {
  Napi::FunctionReference session;
};

Napi::Object Session::wrap(Napi::Env env, std::shared_ptr<SessionState> state) {
  const Napi::Object object = env.GetInstanceData<Classes>()->session.New({});
  Unwrap(object)->state_ = std::move(state);
  return object;
}

class Engine : public Napi::ObjectWrap<Engine> {
 public:
  static Napi::Function define(Napi::Env env) {
    return DefineClass(env, "Engine",
                       {InstanceMethod("prepare", &Engine::prepare), InstanceMethod("close", &Engine::close),
                        InstanceMethod("bench", &Engine::bench), InstanceMethod("ablate", &Engine::ablate),
                        InstanceAccessor<&Engine::loaded>("loaded")});
  }

  /// new Engine(isa: one of isas(), threads >= 1)
  explicit Engine(const Napi::CallbackInfo& info) : ObjectWrap(info) {
    const std::string isa = info[0].ToString().Utf8Value();
    const uint32_t threads = info[1].ToNumber().Uint32Value();
    for (const Kernels* kernels : usableKernels()) {
      if (isa != kernels->isa) continue;
      try {
        state_ = std::make_shared<EngineState>(threads, kernels);
      } catch (const std::exception& error) {
        throw Napi::Error::New(info.Env(), std::to_string(threads) + " threads cannot be started: " + error.what());
      }
      return;
    }
    throw Napi::Error::New(info.Env(), "this processor does not have the instruction set " + isa);
  }

 private:
  /// prepare({plan, files, types, matrices, vectors}): Promise<Session>
  Napi::Value prepare(const Napi::CallbackInfo& info) {
    if (!state_) throw Napi::Error::New(info.Env(), "the backend is closed");
    const Napi::Object o = info[0].ToObject();
    auto plan = std::make_shared<PlanData>(planOf(o.Get("plan").ToObject()));
    const auto types = listOf<Reading>(o.Get("types"), readingOf);
    auto matrices = sourcesOf(o.Get("matrices"), types, *state_->kernels);
    auto vectors = sourcesOf(o.Get("vectors"), types, *state_->kernels);
    std::vector<std::string> paths;
    const auto files = o.Get("files").As<Napi::Array>();
    for (uint32_t i = 0; i < files.Length(); i++) paths.push_back(files.Get(i).ToString().Utf8Value());

    auto session = std::make_shared<SessionState>();
    session->engine = state_;
    *loaded_ = 0;
    return Task::start(
        info.Env(),
        [session, plan, paths, matrices, vectors, loaded = loaded_]() mutable {
          const Files opened(paths);
          for (auto* list : {&matrices, &vectors})
            for (Source& source : *list) source.fd = opened.descriptors[size_t(source.fd)];
          EngineState& engine = *session->engine;
          session->executor =
              std::make_unique<Executor>(engine.pool, *engine.kernels, std::move(*plan), matrices, vectors, *loaded);
        },
        [session](Napi::Env env) { return Session::wrap(env, session); });
  }

  /// bench(BenchCase of native.ts): Promise<{kernelUs, readUs, bytes}>
  Napi::Value bench(const Napi::CallbackInfo& info) {
    if (!state_) throw Napi::Error::New(info.Env(), "the backend is closed");
    const Napi::Object o = info[0].ToObject();
    BenchCase what{whole(o, "bits"),
                   whole(o, "group"),
                   whole(o, "n"),
                   whole(o, "k"),
                   whole(o, "tokens"),
                   o.Get("offset").ToBoolean(),
                   {},
                   {},
                   Scales::Half,
                   1,
                   layoutOf(o, *state_->kernels),
                   whole(o, "ahead"),
                   whole(o, "rounds"),
                   size_t(number(o, "poolBytes"))};
    what.average = averageOf(o, state_->kernels->lookup);
    what.halves = text(o, "activations") == "f16";
    if (o.Get("layout").IsObject()) {
      const Napi::Object layout = o.Get("layout").ToObject();
      what.steps = numbersOf<uint8_t>(layout.Get("steps"));
      what.table = numbersOf<float>(layout.Get("table"));
      what.scales = scalesOf(text(layout, "scales"));
      what.blockGroups = whole(layout, "blockGroups");
    }
    const auto times = std::make_shared<BenchTimes>();
    return Task::start(
        info.Env(), [=, engine = state_] { *times = benchProduct(engine->pool, *engine->kernels, what); },
        [times](Napi::Env env) -> Napi::Value { return toObject(env, times->kernelUs, times->readUs, times->bytes); });
  }

  /// ablate(AblationCase of native.ts): Promise<[{name, nmse, kernelUs, readUs, bytes}]>
  Napi::Value ablate(const Napi::CallbackInfo& info) {
    if (!state_) throw Napi::Error::New(info.Env(), "the backend is closed");
    const Napi::Object o = info[0].ToObject();
    const AblationCase what{whole(o, "bits"),
                            whole(o, "group"),
                            whole(o, "n"),
                            whole(o, "k"),
                            whole(o, "ahead"),
                            whole(o, "rounds"),
                            size_t(number(o, "poolBytes"))};
    if (what.bits < 1 || what.bits > 4 || what.group == 0 || what.group % kChunk != 0 || what.n == 0 || what.k == 0 ||
        what.k % what.group != 0)
      throw wrongVersion(info.Env());
    const auto times = std::make_shared<std::vector<AblationTimes>>();
    return Task::start(
        info.Env(), [=, engine = state_] { *times = lutra::ablate(engine->pool, *engine->kernels, what); },
        [times](Napi::Env env) -> Napi::Value {
          Napi::Array out = Napi::Array::New(env);
          for (const AblationTimes& one : *times) {
            Napi::Object object = toObject(env, one.kernelUs, one.readUs, one.bytes);
            object.Set("name", one.name);
            object.Set("nmse", one.nmse);
            out.Set(out.Length(), object);
          }
          return out;
        });
  }

  Napi::Value close(const Napi::CallbackInfo& info) {
    state_.reset();
    return info.Env().Undefined();
  }

  /// Bytes of weights in place so far, of the newest prepare.
  Napi::Value loaded(const Napi::CallbackInfo& info) { return Napi::Number::New(info.Env(), double(*loaded_)); }

  std::shared_ptr<EngineState> state_;
  std::shared_ptr<std::atomic<uint64_t>> loaded_ = std::make_shared<std::atomic<uint64_t>>(0);
};

Napi::Value isas(const Napi::CallbackInfo& info) {
  const auto usable = usableKernels();
  Napi::Array out = Napi::Array::New(info.Env());
  for (uint32_t i = 0; i < usable.size(); i++) out.Set(i, usable[i]->isa);
  return out;
}

Napi::Object init(Napi::Env env, Napi::Object exports) {
  auto* classes = new Classes{Napi::Persistent(Session::define(env))};
  env.SetInstanceData(classes);
  exports.Set("Engine", Engine::define(env));
  exports.Set("isas", Napi::Function::New(env, isas));
  return exports;
}

}  // namespace

NODE_API_MODULE(lutra, init)

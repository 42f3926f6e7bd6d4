// upfirdn2d on CPUs: one kernel per memory order.
//
// [N, H, W, C] (`Pixels`): an output pixel is a weighted sum of input pixels, each of them neighbouring channels.
//
// [N, C, H, W] (`Planes`): input rows are widened, padded and split by column modulo `down`; one such part is a line.
// Outputs are computed in `up` phases, o = up * i + phase: within a phase a tap meets an element of a line that moves on
// with i one by one, so every sum is one of shifted lines, whatever the factors are. A filter that is an outer product is
// applied to every input row once, and then to columns; any other filter in one sum. Rows that are still needed are kept
// in a ring. Rows of narrow planes are worked on side by side, as segments of a line.
#include "cpu_kernels.h"

#include <algorithm>
#include <type_traits>
#include <vector>

namespace zoo {
namespace {

#if defined(__AVX512F__)                // A vector that the processor does not have is worked on element by element.
constexpr int vector_bytes = 64, most_vectors = 4;
#elif defined(__AVX__)
constexpr int vector_bytes = 32, most_vectors = 8;
#else
constexpr int vector_bytes = 16, most_vectors = 8;
#endif
constexpr int usual_line = 512;         // Elements of a line that narrow planes are put together to.
constexpr int band_rows = 64;           // Output rows of one unit of work.

template <class S> constexpr int lanes = vector_bytes / sizeof(S);
template <class S> struct Vector {
    typedef S type __attribute__((vector_size(vector_bytes)));
    typedef uint32_t words __attribute__((vector_size(vector_bytes)));
    typedef uint16_t halves __attribute__((vector_size(vector_bytes / 2)));
};

// Elements, zero at first, that begin on a vector's boundary; there is room past the end for less than a vector.
template <class S> class Buffer {
    struct alignas(vector_bytes) Block { S elements[lanes<S>] = {}; };
    std::vector<Block> blocks;

public:
    explicit Buffer(int64_t size) : blocks(size / lanes<S> + 2) {}
    S* operator+(int64_t offset) { return blocks[0].elements + offset; }
};

// A weighted sum of arrays of T.
template <class T> struct Sum {
    using S = compute_t<T>;
    using V = typename Vector<S>::type;
    std::vector<const T*> sources;
    std::vector<S> weights;
    int terms = 0;

    explicit Sum(int most) : sources(most), weights(most) {}
    void clear() { terms = 0; }
    void add(const T* source, S weight) { sources[terms] = source, weights[terms++] = weight; }

    // Elements [i, i + vectors * lanes) of the sum into out[0], out[1], ...
    template <int vectors, class Out> void block(int64_t i, Out* out) const {
        V sum[vectors] = {};
        for (int t = 0; t < terms; ++t)
            for (int v = 0; v < vectors; ++v) sum[v] += weights[t] * load(sources[t] + i + v * lanes<S>);
        S sums[vectors * lanes<S>];
        memcpy(sums, sum, sizeof(sum));
        for (int k = 0; k < vectors * lanes<S>; ++k) narrow(sums[k], out[k]);
    }

    // As many of the elements [first, first + size) as make whole vectors; returns how many.
    template <class Out> int64_t vectors(int64_t first, int64_t size, Out* out) const {
        int64_t i = 0;
        for (; i + most_vectors * lanes<S> <= size; i += most_vectors * lanes<S>) block<most_vectors>(first + i, out + i);
        for (; i + lanes<S> <= size; i += lanes<S>) block<1>(first + i, out + i);
        return i;
    }

private:
    static V load(const T* source) {
        V values;
        if constexpr (std::is_same_v<T, S>) {
            memcpy(&values, source, sizeof(V));
        } else {                        // `widen` of a BFloat16, in a form that compilers vectorise.
            typename Vector<S>::halves bits;
            memcpy(&bits, source, sizeof(bits));
            const auto widened = __builtin_convertvector(bits, typename Vector<S>::words) << 16;
            memcpy(&values, &widened, sizeof(V));
        }
        return values;
    }
};

template <class S> std::vector<S> weights(const Resample& r, const float* f) {
    std::vector<S> taps;
    for (int ky = 0; ky < r.y.taps; ++ky)
        for (int kx = 0; kx < r.x.taps; ++kx) taps.push_back(weight(r, f, ky, kx));
    return taps;
}

// Output columns out, out + up, ..., `number` of them, in which the same taps meet samples, `down` columns further each time.
struct Stretch { int out, number; Span span; };

std::vector<Stretch> stretches(const Axis& axis) {
    std::vector<Stretch> result;
    for (int phase = 0; phase < axis.up; ++phase) {
        for (int out = phase; out < axis.out; out += axis.up) {
            const Span s = span(axis, out);
            const bool same = out != phase && s.tap == result.back().span.tap && s.count == result.back().span.count;
            if (same)
                ++result.back().number;
            else
                result.push_back({out, 1, s});
        }
    }
    return result;
}

// Output rows [top, bottom) of image n in [N, H, W, C].
template <class T> class Pixels {
    using S = compute_t<T>;

public:
    Pixels(const Resample& r, const T* x, const float* f, T* y, const Finish<T>* finish)
        : r(r), x(x), end(x + r.batch * r.y.in * r.x.in * r.channels), y(y), finish(finish), taps(weights<S>(r, f)),
          columns(stretches(r.x)), unfinished(finish ? r.x.out * r.channels : 0), sum(r.x.taps * r.y.taps) {}

    void band(int64_t n, int top, int bottom) {
        for (int out = top; out < bottom; ++out) {
            const Span rows = span(r.y, out);
            const int64_t pixel = (n * r.y.out + out) * r.x.out;
            T* const row = finish ? unfinished.data() : y + pixel * r.channels;
            for (const Stretch& stretch : columns) filter(n, rows, stretch, row + stretch.out * r.channels);
            if (!finish) continue;
            ScaleBiasActTensors<T> tensors = finish->tensors;
            tensors.x = row, tensors.first = pixel;
            scale_bias_act_cpu(finish->p, tensors, pixel, pixel + r.x.out);
        }
    }

private:
    void filter(int64_t n, const Span& rows, const Stretch& stretch, T* out) {
        sum.clear();
        for (int j = 0; j < rows.count; ++j) {
            const T* source = x + ((n * r.y.in + rows.sample + j) * r.x.in + stretch.span.sample) * r.channels;
            const S* tap = &taps[(rows.tap + j * r.y.up) * r.x.taps + stretch.span.tap];
            for (int i = 0; i < stretch.span.count; ++i) sum.add(source + i * r.channels, tap[i * r.x.up]);
        }
        if (r.x.up == 1 && r.x.down == 1) return store(0, r.channels * stretch.number, out);
        for (int k = 0; k < stretch.number; ++k)
            store(k * r.x.down * r.channels, r.channels, out + k * r.x.up * r.channels);
    }

    // Elements [first, first + size) of the sum. What is left over when it is cut into vectors is a vector, too, where
    // that does not leave the images.
    void store(int64_t first, int64_t size, T* out) {
        int64_t done = sum.vectors(first, size, out);
        if (done == size) return;
        if (sum.terms > 0 && sum.sources[sum.terms - 1] + first + done + lanes<S> <= end) {
            T results[lanes<S>];
            sum.template block<1>(first + done, results);
            for (int64_t i = 0; i < size - done; ++i) out[done + i] = results[i];
            return;
        }
        for (; done < size; ++done) {
            S single = 0;
            for (int t = 0; t < sum.terms; ++t) single += sum.weights[t] * widen(sum.sources[t][first + done]);
            narrow(single, out[done]);
        }
    }

    const Resample& r;
    const T *const x, *const end;
    T* const y;
    const Finish<T>* const finish;
    const std::vector<S> taps;
    const std::vector<Stretch> columns;
    std::vector<T> unfinished;          // A row.
    Sum<T> sum;
};

// A tap of a phase: it meets element i + shift of the part `part` of a row.
struct PhaseTap { int tap, part, shift; };

// How rows of a width are cut into lines and read from them.
struct Plan {
    std::vector<std::vector<PhaseTap>> phases;
    int lowest = 0, length = 1;         // Shifts, and with them elements, that a line must have.

    explicit Plan(const Axis& axis) : phases(axis.up) {
        int highest = 0;
        for (int phase = 0; phase < axis.up; ++phase) {
            const Span s = unbounded_span(axis, phase);
            for (int j = 0; j < s.count; ++j) {
                const int column = s.sample + j, shift = floor_div(column, axis.down);
                phases[phase].push_back({s.tap + j * axis.up, floor_mod(column, axis.down), shift});
                lowest = std::min(lowest, shift);
                highest = std::max(highest, shift);
            }
        }
        length = highest - lowest + (axis.out + axis.up - 1) / axis.up;
    }
};

// A filter as column times row, if to rounding it is one. Filters made of few small integers come out exactly.
template <class S> struct OuterProduct {
    std::vector<S> column, row;
    bool exists = true;

    OuterProduct(const std::vector<S>& taps, int width) {
        const int size = int(taps.size()), height = size / width;
        int pivot = 0;                                      // The smallest tap that is not zero.
        S largest = 0;
        for (int k = 0; k < size; ++k) {
            const S current = std::abs(taps[pivot]), candidate = std::abs(taps[k]);
            if (candidate != 0 && (current == 0 || candidate < current)) pivot = k;
            largest = std::max(largest, candidate);
        }
        for (int k = pivot % width; k < size; k += width) column.push_back(taps[k]);
        for (int k = 0; k < width; ++k) row.push_back(taps[pivot / width * width + k]);
        if (largest == 0) return;
        for (S& tap : width <= height ? row : column) tap /= taps[pivot];
        for (int k = 0; k < size; ++k)
            exists &= std::abs(column[k / width] * row[k % width] - taps[k]) <= S(4e-7) * largest;
    }
};

template <class T> class Planes {
    using S = compute_t<T>;

public:
    Planes(const Resample& r, const T* x, const float* f, T* y, int most_segments)
        : r(r), x(x), y(y), plan(r.x), taps(weights<S>(r, f)), product(taps, r.x.taps),
          parts(product.exists ? r.x.up : r.x.down), kept_rows(r.y.taps / r.y.up + 1),
          line_size((int64_t(plan.length) * most_segments + lanes<S> - 1) / lanes<S> * lanes<S>),
          split(r.x.down * line_size + plan.length), ring(kept_rows * parts * line_size + plan.length),
          results(r.x.up * line_size), sum(r.x.taps * r.y.taps) {}

    // Output rows [top, bottom) of `segments` planes from `plane` on.
    void band(int64_t plane, int segments_, int top, int bottom) {
        segments = segments_;
        int next = 0;                                       // The first input row that is not in the ring yet.
        for (int out = top; out < bottom; ++out) {
            const Span rows = span(r.y, out);
            for (next = std::max(next, rows.sample); next < rows.sample + rows.count; ++next)
                prepare(x + (plane * r.y.in + next) * r.x.in, next);
            for (int phase = 0; phase < r.x.up; ++phase) combine(rows, phase);
            for (int s = 0; s < segments; ++s)
                store(results + s * plan.length, y + ((plane + s) * r.y.out + out) * r.x.out);
        }
    }

private:
    S* kept(int row, int part) { return ring + (row % kept_rows * parts + part) * line_size; }
    S* split_into(int part) { return split + part * line_size; }
    void store_sum(S* out) { sum.vectors(0, (segments * plan.length + lanes<S> - 1) / lanes<S> * lanes<S>, out); }

    // Takes an input row into the ring.
    void prepare(const T* row, int index) {
        for (int part = 0; part < r.x.down; ++part) {
            S* line = product.exists ? split_into(part) : kept(index, part);
            for (int s = 0; s < segments; ++s)
                widen_part(row + s * int64_t(r.x.in) * r.y.in, part, line + s * plan.length);
        }
        if (!product.exists) return;
        for (int phase = 0; phase < r.x.up; ++phase) {
            sum.clear();
            for (const PhaseTap& tap : plan.phases[phase])
                sum.add(split_into(tap.part) + tap.shift - plan.lowest, product.row[tap.tap]);
            store_sum(kept(index, phase));
        }
    }

    // The columns part, part + down, ... of one row. What is left out on both sides of the line has been zero from the start.
    void widen_part(const T* row, int part, S* line) const {
        const int first = std::clamp(-plan.lowest, 0, plan.length);         // Where column `part` goes.
        const int last = std::clamp((r.x.in - 1 - part + r.x.down) / r.x.down - plan.lowest, first, plan.length);
        row += int64_t(plan.lowest + first) * r.x.down + part;
        line += first;
        const int count = last - first, step = r.x.down;
        if (step == 1)
            for (int i = 0; i < count; ++i) line[i] = widen(row[i]);
        else if (step == 2)
            for (int i = 0; i < count; ++i) line[i] = widen(row[2 * i]);
        else
            for (int i = 0; i < count; ++i) line[i] = widen(row[i * step]);
    }

    // One phase of an output row from the rows in the ring.
    void combine(const Span& rows, int phase) {
        sum.clear();
        for (int j = 0; j < rows.count; ++j) {
            const int row = rows.sample + j, ky = rows.tap + j * r.y.up;
            if (product.exists) {
                sum.add(kept(row, phase), product.column[ky]);
            } else {
                for (const PhaseTap& tap : plan.phases[phase])
                    sum.add(kept(row, tap.part) + tap.shift - plan.lowest, taps[ky * r.x.taps + tap.tap]);
            }
        }
        store_sum(results + phase * line_size);
    }

    // Rounds the results of one segment and interleaves the phases.
    void store(const S* result, T* row) const {
        if (r.x.up == 1) {
            for (int o = 0; o < r.x.out; ++o) narrow(result[o], row[o]);
        } else if (r.x.up == 2) {
            const S* odd = result + line_size;
            for (int i = 0; i < r.x.out / 2; ++i) {
                narrow(result[i], row[2 * i]);
                narrow(odd[i], row[2 * i + 1]);
            }
            if (r.x.out % 2) narrow(result[r.x.out / 2], row[r.x.out - 1]);
        } else {
            for (int o = 0; o < r.x.out; ++o) narrow(result[o % r.x.up * line_size + o / r.x.up], row[o]);
        }
    }

    const Resample& r;
    const T* const x;
    T* const y;
    const Plan plan;
    const std::vector<S> taps;
    const OuterProduct<S> product;
    const int parts, kept_rows;         // Lines of a row in the ring, and rows there.
    const int64_t line_size;
    Buffer<S> split, ring, results;     // Lines: one per part; [row, part]; one per phase.
    Sum<S> sum;
    int segments = 1;
};

int segments(const Resample& r) {
    return r.channels_last ? 1 : int(std::clamp<int64_t>(usual_line / Plan(r.x).length, 1, r.batch * r.channels));
}

int64_t planes(const Resample& r) { return r.channels_last ? r.batch : r.batch * r.channels; }
int bands(const Resample& r) { return (r.y.out + band_rows - 1) / band_rows; }

}  // namespace

int64_t upfirdn2d_cpu_units(const Resample& r) { return (planes(r) + segments(r) - 1) / segments(r) * bands(r); }

template <class T> void upfirdn2d_cpu(
        const Resample& r, const T* x, const float* f, T* y, int64_t begin, int64_t end, const Finish<T>* finish) {
    const auto for_bands = [&](auto band) {
        for (int64_t unit = begin; unit < end; ++unit) {
            const int top = int(unit % bands(r)) * band_rows;
            band(unit / bands(r) * segments(r), top, std::min(top + band_rows, r.y.out));
        }
    };
    if (r.channels_last) {
        Pixels<T> worker(r, x, f, y, finish);
        for_bands([&](int64_t n, int top, int bottom) { worker.band(n, top, bottom); });
    } else {
        Planes<T> worker(r, x, f, y, segments(r));
        for_bands([&](int64_t plane, int top, int bottom) {
            worker.band(plane, int(std::min<int64_t>(segments(r), planes(r) - plane)), top, bottom);
        });
    }
}

template void upfirdn2d_cpu(const Resample&, const float*, const float*, float*, int64_t, int64_t, const Finish<float>*);
template void upfirdn2d_cpu(const Resample&, const double*, const float*, double*, int64_t, int64_t, const Finish<double>*);
template void upfirdn2d_cpu(const Resample&, const BFloat16*, const float*, BFloat16*, int64_t, int64_t, const Finish<BFloat16>*);

}  // namespace zoo

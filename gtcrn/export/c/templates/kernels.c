/* ---- Kernels. A tensor is (bands, channels), channels first in memory; a number is scale x (code - zero point).
 *
 * Sums become codes in 64 bits: the upper half of sum x unit x factor + offset, shifted right. The offset holds bias, zero
 * point and the half that rounds. >> of a negative number has to keep its sign, as in every compiler of today.
 *
 * Weights of dense convolutions are filled up with zeros to fours, in the order 0, 2, 1, 3, in which the DSP extension of
 * Cortex-M4, M7 and M33 unpacks them. GTCRN_PLAIN leaves that extension alone; the codes are the same. ---- */

#if defined(__ARM_FEATURE_SIMD32) && !defined(GTCRN_PLAIN)
#define GTCRN_SIMD
#include <arm_acle.h>

static inline uint32_t four(const int8_t *codes)
{
    uint32_t word;
    memcpy(&word, codes, sizeof word);
    return word;
}

static inline int16x2_t two(const int16_t *numbers)
{
    int16x2_t word;
    memcpy(&word, numbers, sizeof word);
    return word;
}

static inline void put_two(int16_t *numbers, uint32_t word)
{
    memcpy(numbers, &word, sizeof word);
}
#endif

typedef struct {
    int32_t factor;
    int32_t shift;
    int64_t offset;
} rescaling;

/* A convolution: over so many frames, so far apart, and so many taps of frequency; what follows it is a table. */
typedef struct {
    const int8_t *weights; /* (out, taps x frames x in), see above; of a depthwise one (in, frames x taps) */
    const uint16_t *offsets; /* of a depthwise one: where the numbers are under its weights, filled up to threes */
    const rescaling *rescalings; /* of every output channel */
    const int8_t *activation; /* by code + 128, or NULL */
    int32_t unit; /* by which sums are multiplied, so that factors have 31 bits */
    uint16_t bands, in, step; /* of the input; a band's channels begin step after those of the band before */
    uint16_t frames, dilation, taps, stride, before, after; /* before and after: zeros beyond the outer bands */
    uint16_t out_bands, out, offset_count;
    int8_t zero, low; /* zero point of the input, lowest code of the output: its zero point where there is a ReLU */
} layer;

/* An operator of two tensors. */
typedef struct {
    const int8_t *activation;
    int32_t unit, factor, other_factor, shift;
    int64_t offset;
    int8_t zero, other_zero, low;
} pair;

/* A mean over the bands of a function of codes, given by its table. */
typedef struct {
    const int8_t *function;
    int64_t factor;
    int32_t unit, shift;
    uint16_t bands, channels;
    int8_t zero, out_zero;
} mean_of;

static inline int8_t coded(int64_t value, int32_t shift, int8_t low, const int8_t *activation)
{
    const int32_t code = (int32_t)(value >> 32) >> shift;
    const int8_t limited = (int8_t)(code < low ? low : code > 127 ? 127 : code);
    return activation ? activation[limited + 128] : limited;
}

static inline int8_t rescaled(int32_t sum, int32_t unit, const rescaling *r, int8_t low, const int8_t *activation)
{
    return coded((int64_t)(sum * unit) * r->factor + r->offset, r->shift, low, activation);
}

/* A frame's codes as numbers of 16 bits, with the zeros beyond the outer bands: the channels of one of so many frames,
 * then those of the next frame, then the next band. */
static void widen(const layer *l, const int8_t *x, int16_t *wide)
{
    const int in = l->in, skipped = (l->frames - 1) * in, step = l->step - in;
    const int8_t zero = l->zero;
    for (int band = l->before; band--; wide += skipped)
        for (int c = in; c--;)
            *wide++ = 0;
    for (int band = l->bands; band--; wide += skipped, x += step) {
        int c = in;
#ifdef GTCRN_SIMD
        for (const uint32_t zeros = (uint16_t)zero * 0x10001u; c >= 4; c -= 4, x += 4, wide += 4) {
            const uint32_t codes = four(x);
            const uint32_t even = __ssub16(__sxtb16(codes), zeros), odd = __ssub16(__sxtb16(codes >> 8), zeros);
            put_two(wide, (even & 0xffff) | odd << 16);
            put_two(wide + 2, even >> 16 | (odd & 0xffff0000));
        }
#endif
        for (; c; c--)
            *wide++ = (int16_t)(*x++ - zero);
    }
    for (int band = l->after; band--; wide += skipped)
        for (int c = in; c--;)
            *wide++ = 0;
}

static void dense(const layer *l, const int16_t *wide, int8_t *y)
{
    const int apart = l->stride * l->frames * l->in, length = (l->taps * l->frames * l->in + 3) & ~3, out = l->out;
    const int8_t *const weights = l->weights, *const activation = l->activation;
    const rescaling *const rescalings = l->rescalings;
    const int32_t unit = l->unit;
    const int8_t low = l->low;
    int bands = l->out_bands;
#ifdef GTCRN_SIMD
    for (; bands >= 4; bands -= 4, wide += 4 * apart, y += 4 * out) { /* since weights unpacked once serve four bands */
        const int8_t *w = weights;
        for (int o = 0; o < out; o++) {
            const int16_t *x0 = wide, *x1 = x0 + apart, *x2 = x1 + apart, *x3 = x2 + apart;
            int32_t sum0 = 0, sum1 = 0, sum2 = 0, sum3 = 0;
            for (const int8_t *end = w + length; w < end; w += 4) {
                const uint32_t codes = four(w), first = __sxtb16(codes), second = __sxtb16(codes >> 8);
                sum0 = __smlad(first, two(x0), sum0), x0 += 2;
                sum1 = __smlad(first, two(x1), sum1), x1 += 2;
                sum2 = __smlad(first, two(x2), sum2), x2 += 2;
                sum3 = __smlad(first, two(x3), sum3), x3 += 2;
                sum0 = __smlad(second, two(x0), sum0), x0 += 2;
                sum1 = __smlad(second, two(x1), sum1), x1 += 2;
                sum2 = __smlad(second, two(x2), sum2), x2 += 2;
                sum3 = __smlad(second, two(x3), sum3), x3 += 2;
            }
            const int32_t sums[4] = {sum0, sum1, sum2, sum3};
            for (int i = 0; i < 4; i++)
                y[i * out + o] = rescaled(sums[i], unit, rescalings + o, low, activation);
        }
    }
#endif
    for (; bands--; wide += apart) {
        const int8_t *w = weights;
        for (int o = 0; o < out; o++) {
            const int16_t *x = wide;
            int32_t sum = 0;
            for (const int8_t *end = w + length; w < end; w += 4, x += 4)
                sum += w[0] * x[0] + w[2] * x[1] + w[1] * x[2] + w[3] * x[3];
            *y++ = rescaled(sum, unit, rescalings + o, low, activation);
        }
    }
}

static void depthwise(const layer *l, const int16_t *wide, int8_t *y)
{
    const int channels = l->in, apart = l->stride * l->frames * l->in, count = l->offset_count;
    const uint16_t *const at = l->offsets;
    const int8_t *const activation = l->activation;
    const int32_t unit = l->unit;
    const int8_t low = l->low;
    for (int c = 0; c < channels; c++) {
        const int8_t *const w = l->weights + c * count;
        const rescaling *const r = l->rescalings + c;
        const int32_t w0 = w[0], w1 = w[1], w2 = w[2];
        const int16_t *x = wide + c, *x0 = x + at[0], *x1 = x + at[1], *x2 = x + at[2];
        int8_t *z = y + c;
        for (int bands = l->out_bands; bands--; x += apart, x0 += apart, x1 += apart, x2 += apart, z += channels) {
            int32_t sum = w0 * *x0 + w1 * *x1 + w2 * *x2;
            for (int i = 3; i < count; i += 3)
                sum += w[i] * x[at[i]] + w[i + 1] * x[at[i + 1]] + w[i + 2] * x[at[i + 2]];
            *z = rescaled(sum, unit, r, low, activation);
        }
    }
}

/* past: a ring of the frames before x, whose oldest is number *at and gives way to x; NULL without any. */
static void convolve(const layer *l, const int8_t *x, int8_t *past, uint16_t *at, int16_t *wide, int8_t *y)
{
    const int memory = (l->frames - 1) * l->dilation, size = l->bands * l->in;
    for (int t = 0; t < l->frames - 1; t++)
        widen(l, past + (*at + t * l->dilation) % memory * size, wide + t * l->in);
    widen(l, x, wide + (l->frames - 1) * l->in);
    if (memory) {
        memcpy(past + *at * size, x, (size_t)size);
        *at = (uint16_t)((*at + 1) % memory);
    }
    if (l->offsets)
        depthwise(l, wide, y);
    else
        dense(l, wide, y);
}

static void add(const pair *p, const int8_t *x, const int8_t *other, int count, int8_t *y)
{
    while (count--) {
        const int64_t sum = (int64_t)(*x++ * p->unit) * p->factor + (int64_t)(*other++ * p->unit) * p->other_factor;
        *y++ = coded(sum + p->offset, p->shift, p->low, p->activation);
    }
}

/* Multiplies every channel by a number of its own. */
static void multiply(const pair *p, const int8_t *x, const int8_t *gate, int bands, int channels, int8_t *y)
{
    while (bands--)
        for (int c = 0; c < channels; c++) {
            const int32_t product = (*x++ - p->zero) * (gate[c] - p->other_zero);
            *y++ = coded((int64_t)(product * p->unit) * p->factor + p->offset, p->shift, p->low, p->activation);
        }
}

/* Rounded twice, as TensorFlow Lite's kernel does it: to whole steps, halves up, then the shift, halves away from 0. */
static void mean(const mean_of *m, const int8_t *x, int8_t *y)
{
    for (int c = 0; c < m->channels; c++) {
        int32_t sum = 0;
        for (int band = 0; band < m->bands; band++)
            sum += m->function[x[band * m->channels + c] + 128] - m->zero;
        const int64_t steps = (sum * m->unit * m->factor + ((int64_t)1 << 30)) >> 31;
        const int64_t half = m->shift ? (int64_t)1 << (m->shift - 1) : 0;
        const int64_t shifted = steps < 0 ? -((half - steps) >> m->shift) : (steps + half) >> m->shift;
        const int32_t code = (int32_t)shifted + m->out_zero;
        y[c] = (int8_t)(code < -128 ? -128 : code > 127 ? 127 : code);
    }
}

/* x0, other0, x1, other1, …, the other one by a table that brings it to the same scale. */
static void interleave(const int8_t *x, const int8_t *other, int step, const int8_t *table, int bands, int half, int8_t *y)
{
    for (; bands--; other += step)
        for (int c = 0; c < half; c++) {
            *y++ = *x++;
            *y++ = table[other[c] + 128];
        }
}

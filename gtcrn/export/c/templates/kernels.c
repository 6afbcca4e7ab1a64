/* ---- Kernels. A tensor is (bands, channels), channels first in memory; a number is scale x (code - zero point).
 *
 * Sums become codes in 64 bits: the upper half of sum x unit x factor + offset, shifted right. The offset holds bias, zero
 * point and the half that rounds. >> of a negative number has to keep its sign, as in every compiler of today. ---- */

typedef struct {
    int32_t factor;
    int32_t shift;
    int64_t offset;
} rescaling;

/* A convolution: over so many frames, so far apart, and so many taps of frequency; what follows it is a table. */
typedef struct {
    const int8_t *weights; /* (out, frames, taps, in), of a depthwise one (frames, taps, in) */
    const rescaling *rescalings; /* of every output channel */
    const int8_t *activation; /* by code + 128, or NULL */
    int32_t unit; /* by which sums are multiplied, so that factors have 31 bits */
    uint16_t bands, in, step; /* of the input; a band's channels begin step after those of the band before */
    uint16_t frames, dilation, taps, stride, before, after; /* before and after: zeros beyond the outer bands */
    uint16_t out_bands, out;
    int8_t zero, low; /* zero point of the input, lowest code of the output: its zero point where there is a ReLU */
    uint8_t depthwise;
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

static inline int8_t channel(const layer *l, int o, int32_t sum)
{
    const rescaling *r = l->rescalings + o;
    return coded((int64_t)(sum * l->unit) * r->factor + r->offset, r->shift, l->low, l->activation);
}

/* Codes as numbers of 16 bits, with the zeros beyond the outer bands. Gives what follows them. */
static int16_t *widen(const layer *l, const int8_t *x, int16_t *wide)
{
    for (int i = 0; i < l->before * l->in; i++)
        *wide++ = 0;
    for (int band = 0; band < l->bands; band++, x += l->step)
        for (int c = 0; c < l->in; c++)
            *wide++ = (int16_t)(x[c] - l->zero);
    for (int i = 0; i < l->after * l->in; i++)
        *wide++ = 0;
    return wide;
}

static void dense(const layer *l, const int16_t *wide, int8_t *y)
{
    const int length = l->taps * l->in, frame = (l->before + l->bands + l->after) * l->in;
    for (int band = 0; band < l->out_bands; band++, wide += l->stride * l->in) {
        const int8_t *w = l->weights;
        for (int o = 0; o < l->out; o++) {
            int32_t sum = 0;
            for (int t = 0; t < l->frames; t++, w += length) {
                const int16_t *x = wide + t * frame;
                for (int i = 0; i < length; i++)
                    sum += w[i] * x[i];
            }
            *y++ = channel(l, o, sum);
        }
    }
}

static void depthwise(const layer *l, const int16_t *wide, int8_t *y)
{
    const int channels = l->in, frame = (l->before + l->bands + l->after) * channels;
    for (int c = 0; c < channels; c++)
        for (int band = 0; band < l->out_bands; band++) {
            const int8_t *w = l->weights + c;
            int32_t sum = 0;
            for (int t = 0; t < l->frames; t++) {
                const int16_t *x = wide + t * frame + band * l->stride * channels + c;
                for (int k = 0; k < l->taps; k++, x += channels, w += channels)
                    sum += *w * *x;
            }
            y[band * channels + c] = channel(l, c, sum);
        }
}

/* past: a ring of the frames before x, whose oldest is number *at and gives way to x; NULL without any. */
static void convolve(const layer *l, const int8_t *x, int8_t *past, uint16_t *at, int16_t *wide, int8_t *y)
{
    const int memory = (l->frames - 1) * l->dilation, size = l->bands * l->in;
    int16_t *end = wide;
    for (int t = 0; t < l->frames - 1; t++)
        end = widen(l, past + (*at + t * l->dilation) % memory * size, end);
    widen(l, x, end);
    if (memory) {
        memcpy(past + *at * size, x, (size_t)size);
        *at = (uint16_t)((*at + 1) % memory);
    }
    if (l->depthwise)
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

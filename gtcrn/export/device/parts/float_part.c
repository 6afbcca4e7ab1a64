#define N GTCRN_N_FFT
#define HALF (GTCRN_N_FFT / 2)

/* The square root of a Hann window of period N: sin(pi n / N). */
static float window(int n)
{
    return gtcrn_sine[n <= HALF ? n : N - n];
}

/* cos(2 pi k / N) and sin(2 pi k / N) for k from 0 to N / 2. */
static float cosine(int k)
{
    return 2 * k <= HALF ? gtcrn_sine[HALF - 2 * k] : -gtcrn_sine[2 * k - HALF];
}

static float sine(int k)
{
    return gtcrn_sine[2 * k <= HALF ? 2 * k : N - 2 * k];
}

/* Swaps every number with the one whose index has the same bits in reverse. */
static void reverse_bits(float *z)
{
    for (int i = 0, j = 0; i < HALF; i++) {
        if (i < j)
            for (int part = 0; part < 2; part++) {
                float kept = z[2 * i + part];
                z[2 * i + part] = z[2 * j + part];
                z[2 * j + part] = kept;
            }
        int bit = HALF / 2;
        for (; j & bit; bit /= 2)
            j -= bit;
        j += bit;
    }
}

/* FFT of N / 2 complex numbers in place, radix 2, decimated in time. sign: -1, or 1 for the inverse times N / 2. */
static void fft(float *z, float sign)
{
    reverse_bits(z);
    for (int reach = 1; reach < HALF; reach *= 2)
        for (int k = 0; k < reach; k++) {
            const float real = cosine(k * HALF / reach), imaginary = sign * sine(k * HALF / reach);
            for (int i = k; i < HALF; i += 2 * reach) {
                float *a = z + 2 * i, *b = a + 2 * reach;
                const float x = real * b[0] - imaginary * b[1], y = real * b[1] + imaginary * b[0];
                b[0] = a[0] - x;
                b[1] = a[1] - y;
                a[0] += x;
                a[1] += y;
            }
        }
}

/* From the spectrum z of x[0] + i x[1], x[2] + i x[3], … to that of the N real numbers x, and with sign 1 back:
 *     even = (z[k] + conj z[N/2 - k]) / 2, odd = (z[k] - conj z[N/2 - k]) / 2 (-sin + i sign cos)(2 pi k / N)
 *     z[k] = even + odd, z[N/2 - k] = conj(even - odd) */
static void split(float *z, float sign)
{
    for (int k = 0; 2 * k <= HALF; k++) {
        float *a = z + 2 * k, *b = z + 2 * (HALF - k);
        const float real = -sine(k), imaginary = sign * cosine(k);
        const float even_real = (a[0] + b[0]) / 2, even_imaginary = (a[1] - b[1]) / 2;
        const float x = (a[0] - b[0]) / 2, y = (a[1] + b[1]) / 2;
        const float odd_real = real * x - imaginary * y, odd_imaginary = real * y + imaginary * x;
        a[0] = even_real + odd_real;
        a[1] = even_imaginary + odd_imaginary;
        b[0] = even_real - odd_real;
        b[1] = odd_imaginary - even_imaginary;
    }
}

/* N real numbers in place to GTCRN_BINS complex ones. */
static void rfft(float *x)
{
    fft(x, -1);
    x[N] = x[0];
    x[N + 1] = x[1];
    split(x, -1);
}

/* The inverse, times N / 2. */
static void irfft(float *x)
{
    x[1] = x[N + 1] = 0; /* as of every real signal */
    split(x, 1);
    fft(x, 1);
}

static void to_bands(const float *spectrum, float *bands)
{
    memset(bands, 0, 3 * GTCRN_BANDS * sizeof *bands);
    for (int bin = 0; bin < GTCRN_BINS; bin++) {
        const float real = spectrum[2 * bin], imaginary = spectrum[2 * bin + 1];
        const float parts[3] = {sqrtf(real * real + imaginary * imaginary + 1e-12f), real, imaginary};
        float *band = bands + 3 * gtcrn_erb[bin].band;
        for (int part = 0; part < 3; part++) {
            band[part] += gtcrn_erb[bin].weight * parts[part];
            band[part + 3] += gtcrn_erb[bin].next_weight * parts[part];
        }
    }
}

/* To the nearest code. What is no number becomes the lowest: it has no conversion to an integer. */
static gtcrn_input_code rounded(float steps)
{
    float code = rintf(steps) + GTCRN_INPUT_ZERO;
    code = !(code > GTCRN_INPUT_MIN) ? GTCRN_INPUT_MIN : code < GTCRN_INPUT_MAX ? code : GTCRN_INPUT_MAX;
    return (gtcrn_input_code)code;
}

/* Every number has two codes: its own, and that of what this leaves, in steps GTCRN_RHO times as fine. */
static void quantize(const float *bands, gtcrn_input_code *input)
{
    for (int band = 0; band < GTCRN_BANDS; band++)
        for (int part = 0; part < 3; part++) {
            const float x = *bands++;
            gtcrn_input_code *high = input + 6 * band + part, *low = high + 3;
            *high = rounded(x / GTCRN_INPUT_SCALE);
            *low = rounded((x - (float)(*high - GTCRN_INPUT_ZERO) * GTCRN_INPUT_SCALE) * GTCRN_RHO / GTCRN_INPUT_SCALE);
        }
}

${linkage}void gtcrn_reset(gtcrn_host *host)
{
    memset(host->past, 0, sizeof host->past);
    memset(host->overlap, 0, sizeof host->overlap);
}

${linkage}void gtcrn_analyse(gtcrn_host *host, const float *samples)
{
    float *frame = host->spectrum;
    memcpy(frame, host->past, sizeof host->past);
    memcpy(frame + GTCRN_LATENCY, samples, GTCRN_HOP * sizeof *samples);
    memcpy(host->past, frame + GTCRN_HOP, sizeof host->past);
    for (int n = 0; n < N; n++)
        frame[n] *= window(n);
    rfft(frame);
    to_bands(host->spectrum, host->bands);
    quantize(host->bands, host->input);
}

${linkage}void gtcrn_apply_mask(gtcrn_host *host)
{
    for (int bin = 0; bin < GTCRN_BINS; bin++) {
        const gtcrn_mask_code *band = host->mask + 2 * gtcrn_erb[bin].band;
        float mask[2], *spectrum = host->spectrum + 2 * bin;
        for (int part = 0; part < 2; part++)
            mask[part] = GTCRN_MASK_SCALE * (gtcrn_erb[bin].weight * (float)(band[part] - GTCRN_MASK_ZERO) +
                                             gtcrn_erb[bin].next_weight * (float)(band[part + 2] - GTCRN_MASK_ZERO));
        const float real = spectrum[0], imaginary = spectrum[1];
        spectrum[0] = mask[0] * real - mask[1] * imaginary;
        spectrum[1] = mask[0] * imaginary + mask[1] * real;
    }
}

${linkage}void gtcrn_synthesise(gtcrn_host *host, float *enhanced)
{
    /* of the inverse FFT, and of the squared windows, whose overlapping sum is N / (2 hop) */
    const float gain = (2.0f / N) * (2.0f * GTCRN_HOP / N);
    float *frame = host->spectrum;
    irfft(frame);
    for (int n = 0; n < N; n++)
        frame[n] *= window(n) * gain;
    for (int n = 0; n < GTCRN_LATENCY; n++)
        frame[n] += host->overlap[n];
    memcpy(enhanced, frame, GTCRN_HOP * sizeof *enhanced);
    memcpy(host->overlap, frame + GTCRN_HOP, sizeof host->overlap);
}

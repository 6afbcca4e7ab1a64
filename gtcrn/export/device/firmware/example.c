/* A firmware's loop, to be built and heard on a computer: read a hop, process it, write it.
 *
 *     gcc -std=c99 -O2 -o example example.c gtcrn_host.c gtcrn_model.c -lm
 *     ./example noisy.wav same.wav
 *     python with_litert.py model.tflite ./example noisy.wav enhanced.wav
 *
 * The input is 16-bit PCM at GTCRN_SAMPLE_RATE, one channel: a WAV file, or samples without a header; so is the output,
 * in whole hops and later by GTCRN_LATENCY samples, as on a device. Without a third argument there is no network, and
 * all passes as it came; with one, codes go to stdout and masks come from stdin, or, if this is compiled with GTCRN_TFLM
 * defined and linked with gtcrn_tflm.cc, the network is in TensorFlow Lite Micro.
 *
 * On a device read_hop and write_hop wait for the buffers of microphone and loudspeaker.
 */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "gtcrn_host.h"

static uint32_t get(const unsigned char *bytes, int count)
{
    uint32_t value = 0;
    while (count--)
        value = value << 8 | bytes[count];
    return value;
}

static void put(unsigned char *bytes, int count, uint32_t value)
{
    for (; count--; value >>= 8)
        *bytes++ = (unsigned char)(value & 0xff);
}

/* How many bytes of samples a WAV file has, as its format chunk tells how to read them; 0 if not as needed here. Leaves
 * the file at the first. */
static uint32_t find_samples(FILE *file)
{
    unsigned char head[8], format[16] = {0};
    while (fread(head, 1, sizeof head, file) == sizeof head) {
        const uint32_t size = get(head + 4, 4);
        uint32_t rest = size + size % 2;
        if (!memcmp(head, "data", 4)) {
            const int is_pcm = get(format, 2) == 1 || get(format, 2) == 0xfffe;
            const int fits = is_pcm && get(format + 2, 2) == 1 && get(format + 14, 2) == 16;
            return fits && get(format + 4, 4) == GTCRN_SAMPLE_RATE ? size : 0;
        }
        if (!memcmp(head, "fmt ", 4) && size >= sizeof format)
            rest -= (uint32_t)fread(format, 1, sizeof format, file);
        if (fseek(file, (long)rest, SEEK_CUR))
            break;
    }
    return 0;
}

static void write_wav_header(FILE *file, uint32_t bytes)
{
    unsigned char head[44] = {0};
    memcpy(head, "RIFF", 4);
    put(head + 4, 4, (uint32_t)sizeof head - 8 + bytes);
    memcpy(head + 8, "WAVEfmt ", 8);
    put(head + 16, 4, 16); /* bytes of what follows */
    put(head + 20, 2, 1);  /* PCM */
    put(head + 22, 2, 1);  /* channels */
    put(head + 24, 4, GTCRN_SAMPLE_RATE);
    put(head + 28, 4, 2 * GTCRN_SAMPLE_RATE);
    put(head + 32, 2, 2);
    put(head + 34, 2, 16);
    memcpy(head + 36, "data", 4);
    put(head + 40, 4, bytes);
    fwrite(head, 1, sizeof head, file);
}

/* Gives how many samples there were; what is missing of a hop are zeros. */
static int read_hop(FILE *file, uint32_t *bytes, float *samples)
{
    unsigned char pcm[2 * GTCRN_HOP] = {0};
    const size_t read = fread(pcm, 1, *bytes < sizeof pcm ? *bytes : sizeof pcm, file);
    *bytes -= (uint32_t)read;
    for (int n = 0; n < GTCRN_HOP; n++)
        samples[n] = (float)(int16_t)get(pcm + 2 * n, 2) / 32768.0f;
    return (int)read / 2;
}

static int write_hop(FILE *file, const float *samples)
{
    unsigned char pcm[2 * GTCRN_HOP];
    for (int n = 0; n < GTCRN_HOP; n++) {
        const float code = samples[n] * 32768.0f;
        put(pcm + 2 * n, 2, (uint32_t)lrintf(code > 32767.0f ? 32767.0f : code < -32768.0f ? -32768.0f : code));
    }
    return fwrite(pcm, 1, sizeof pcm, file) == sizeof pcm;
}

#ifdef GTCRN_TFLM
#include "gtcrn_tflm.h"

static gtcrn_network choose_network(int asked)
{
    return asked && !gtcrn_tflm_reset() ? gtcrn_tflm : NULL;
}
#else
static int through_pipes(void *context, const gtcrn_input_code *input, gtcrn_mask_code *mask)
{
    (void)context;
    return fwrite(input, sizeof *input, GTCRN_INPUT_SIZE, stdout) != GTCRN_INPUT_SIZE || fflush(stdout) ||
           fread(mask, sizeof *mask, GTCRN_MASK_SIZE, stdin) != GTCRN_MASK_SIZE;
}

static gtcrn_network choose_network(int asked)
{
    return asked ? through_pipes : NULL;
}
#endif

/* The loop. Gives what went wrong, or NULL. */
static const char *enhance(FILE *input, uint32_t bytes, FILE *output, gtcrn_network network, uint32_t *written)
{
    static gtcrn_host host; /* not on the stack, which is small on a device */
    static float samples[GTCRN_HOP];
    gtcrn_reset(&host);
    for (*written = 0; read_hop(input, &bytes, samples); *written += 2 * GTCRN_HOP) {
        if (gtcrn_process(&host, network, NULL, samples, samples))
            return "the network failed";
        if (!write_hop(output, samples))
            return "the output can't be written to";
    }
    return NULL;
}

static int fail(const char *what, const char *why)
{
    fprintf(stderr, "%s: %s\n", what, why);
    return 1;
}

int main(int count, char **arguments)
{
    if (count < 3)
        return fail("usage", "example INPUT OUTPUT [-]");
    FILE *input = fopen(arguments[1], "rb");
    if (!input)
        return fail(arguments[1], "can't be opened");
    unsigned char head[12];
    const int is_wav = fread(head, 1, sizeof head, input) == sizeof head && !memcmp(head, "RIFF", 4);
    if (!is_wav)
        rewind(input);
    const uint32_t bytes = is_wav ? find_samples(input) : UINT32_MAX;
    if (!bytes)
        return fail(arguments[1], "holds no 16-bit PCM of one channel at the network's rate");
    const gtcrn_network network = choose_network(count > 3);
    if (count > 3 && !network)
        return fail(arguments[0], "the network can't be set up");
    FILE *output = fopen(arguments[2], "wb");
    if (!output)
        return fail(arguments[2], "can't be opened");
    uint32_t written;
    if (is_wav)
        write_wav_header(output, 0);
    const char *failure = enhance(input, bytes, output, network, &written);
    if (is_wav && !fseek(output, 0, SEEK_SET))
        write_wav_header(output, written);
    if (fclose(output) && !failure)
        failure = "the output can't be written to";
    return failure ? fail(arguments[0], failure) : 0;
}

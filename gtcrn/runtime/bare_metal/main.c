/* A C file of task=export on an emulated core. Compiled with MODEL, its path, NAME, which its functions begin with, and
 * CODES to run its network alone over codes first.
 *
 * Reads samples.bin, hops of float samples, through semihosting, and writes enhanced.bin (float) and enhanced_int16.bin,
 * and a line of numbers in JSON: instructions of a hop, bytes of state and stack. The first hop is not counted. With
 * CODES it reads codes.bin, codes of the bands for the network, too, and writes masks.bin, memory.bin and oldest.bin. */
#include "machine.h"

#include <math.h>
#include <string.h>

#include MODEL

#define JOINED(a, b) a##b
#define OF(a, b) JOINED(a, b)
#define HOP GTCRN_HOP

enum { OPEN = 1, CLOSE = 2, WRITE0 = 4, WRITE = 5, READ = 6, EXIT = 0x20 };
enum { READING = 1, WRITING = 5 };

static OF(NAME, _state) state;

void ended(int status)
{
    const uint32_t arguments[2] = {0x20026, (uint32_t)status}; /* the application's own exit */
    call(EXIT, arguments);
    for (;;)
        ;
}

static int opened(const char *name, int mode)
{
    const uint32_t arguments[3] = {(uint32_t)name, (uint32_t)mode, (uint32_t)strlen(name)};
    const int file = call(OPEN, arguments);
    if (file < 0)
        ended(3);
    return file;
}

static void closed(int file)
{
    const int arguments[1] = {file};
    call(CLOSE, arguments);
}

/* Whether all was read. */
static int take(int file, void *place, uint32_t bytes)
{
    const uint32_t arguments[3] = {(uint32_t)file, (uint32_t)place, bytes};
    return call(READ, arguments) == 0;
}

static void put(int file, const void *place, uint32_t bytes)
{
    const uint32_t arguments[3] = {(uint32_t)file, (uint32_t)place, bytes};
    if (call(WRITE, arguments))
        ended(4);
}

enum { PAINT = 0x5AFE57AC };

static __attribute__((noinline)) void paint(void)
{
    uint32_t *const here = (uint32_t *)__builtin_frame_address(0) - 16;
    for (volatile uint32_t *word = stack_begin; word < here; word++)
        *word = PAINT;
}

/* Bytes of stack below the caller that were used since the last paint. */
static __attribute__((noinline)) uint32_t used(void)
{
    const uint32_t *word = stack_begin;
    while (*word == PAINT)
        word++;
    return (uint32_t)((uint8_t *)__builtin_frame_address(0) - (uint8_t *)word);
}

static uint32_t larger(uint32_t a, uint32_t b)
{
    return a > b ? a : b;
}

static char *number(char *end, const char *name, uint32_t value)
{
    char digits[10];
    int count = 0;
    *end++ = '"';
    while (*name)
        *end++ = *name++;
    *end++ = '"';
    *end++ = ':';
    do
        digits[count++] = (char)('0' + value % 10);
    while (value /= 10);
    while (count)
        *end++ = digits[--count];
    *end++ = ',';
    return end;
}

#ifdef CODES
static void put_file(const char *name, const void *place, uint32_t bytes)
{
    const int file = opened(name, WRITING);
    put(file, place, bytes);
    closed(file);
}

static void run_codes(void)
{
    const int input = opened("codes.bin", READING), output = opened("masks.bin", WRITING);
    OF(NAME, _init)(&state);
    while (take(input, state.input, GTCRN_INPUT_SIZE)) {
        network(&state);
        put(output, state.mask, GTCRN_MASK_SIZE);
    }
    closed(input);
    closed(output);
    put_file("memory.bin", state.memory, sizeof state.memory);
    put_file("oldest.bin", state.at, sizeof state.at);
}
#endif

int main(void)
{
    static float samples[HOP];
    static int16_t pcm[HOP];
    uint32_t hops = 0, most = 0, stack = 0, stack_int16 = 0;

#ifdef CODES
    run_codes();
#endif
    int input = opened("samples.bin", READING), output = opened("enhanced.bin", WRITING);
    OF(NAME, _init)(&state);
    while (take(input, samples, sizeof samples)) {
        paint();
        begin_count();
        OF(NAME, _process)(&state, samples, samples);
        const uint32_t count = counted();
        most = hops++ ? larger(most, count) : 0;
        stack = larger(stack, used());
        put(output, samples, sizeof samples);
    }
    closed(input);
    closed(output);

    char line[256], *end = line;
    *end++ = '{';
    begin_count();
    network(&state); /* once more, with what the last hop left */
    end = number(end, "network", counted());
    input = opened("samples.bin", READING), output = opened("enhanced_int16.bin", WRITING);
    OF(NAME, _init)(&state);
    while (take(input, samples, sizeof samples)) {
        for (int n = 0; n < HOP; n++)
            pcm[n] = (int16_t)rintf(samples[n] * 32767.0f);
        paint();
        OF(NAME, _process_int16)(&state, pcm, pcm);
        stack_int16 = larger(stack_int16, used());
        put(output, pcm, sizeof pcm);
    }
    closed(input);
    closed(output);

    end = number(end, "hop", most);
    end = number(end, "state", sizeof state);
    end = number(end, "stack", stack);
    end = number(end, "stack_int16", stack_int16);
    end[-1] = '}';
    end[0] = '\n';
    end[1] = 0;
    call(WRITE0, line);
    return 0;
}

/* RISC-V of 32 bits: what runs before main, semihosting and the counter. Every fault ends the emulation. */
#include "machine.h"

__asm(".option arch, +zicsr"); /* the registers of faults and counters, which the file itself does without */

extern uint32_t data_source[], data_begin[], data_end[], bss_begin[], bss_end[];
void reset(void);
void fault(void);
void start(void);

__attribute__((aligned(4))) void fault(void)
{
    ended(2);
}

__attribute__((section(".vectors"), used, naked)) void reset(void)
{
    __asm volatile("la sp, stack_end\n la t0, fault\n csrw mtvec, t0\n j start");
}

void start(void)
{
    for (uint32_t *from = data_source, *to = data_begin; to < data_end;)
        *to++ = *from++;
    for (uint32_t *to = bss_begin; to < bss_end;)
        *to++ = 0;
    ended(main());
}

/* The three instructions have to be of four bytes each, and within one page. */
int call(int number, const void *arguments)
{
    register int a0 __asm("a0") = number;
    register const void *a1 __asm("a1") = arguments;
    __asm volatile(
        ".balign 16\n .option push\n .option norvc\n slli x0, x0, 31\n ebreak\n srai x0, x0, 7\n .option pop"
        : "+r"(a0)
        : "r"(a1)
        : "memory");
    return a0;
}

static uint32_t first;

static uint32_t retired(void)
{
    uint32_t count;
    __asm volatile("csrr %0, minstret" : "=r"(count));
    return count;
}

void begin_count(void)
{
    first = retired();
}

uint32_t counted(void)
{
    return retired() - first;
}

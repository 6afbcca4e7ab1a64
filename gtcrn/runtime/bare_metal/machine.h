/* What main.c asks of the machine that it runs on, see cortex_m.c and riscv.c. With -icount shift=0 an instruction takes
 * a nanosecond of the emulated time. */
#include <stdint.h>

extern uint32_t stack_begin[], stack_end[];

int main(void);
int call(int number, const void *arguments); /* by semihosting */
void ended(int status);
void begin_count(void);
uint32_t counted(void); /* instructions since then */

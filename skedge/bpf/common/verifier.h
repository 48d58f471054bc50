/* What is said to compiler and verifier, and does nothing. */
#ifndef SKEDGE_COMMON_VERIFIER_H
#define SKEDGE_COMMON_VERIFIER_H

/* Hide where a number comes from: or the compiler turns arithmetic back into a branch. */
#define OPAQUE(number) asm volatile("" : "+r"(number))

/* Blur what the verifier knows of a number (__u64), by an exclusive-or, twice, with the first word of what @context
 * points to: a packet's length, an address' family, a socket's device, or a map's value. It does not know that one, so it
 * takes the number for any of 32 bits. Where ways join that differ in a number it then walks what follows but once. */
#define BLUR(context, number) \
    do { \
        __u64 unknown; \
        asm volatile("%1 = *(u32 *)(%2 + 0)\n\t%0 ^= %1\n\t%0 ^= %1" : "+r"(number), "=&r"(unknown) : "r"(context)); \
    } while (0)

#endif

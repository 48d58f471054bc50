/* What makes bytecode that is loaded elsewhere: maps have names only (where they are pinned is the loader's to say), and
 * what depends on the running kernel is a constant that the loader fills in. The compiler's driver puts this file first;
 * with PIN_DIR the maps are pinned there at once. */
#ifndef SKEDGE_BYTECODE_H
#define SKEDGE_BYTECODE_H

#ifdef PIN_DIR
#define PINNED_SECTION(_type, _pinned) section("maps/" _type ":" _pinned)
#else
#define PINNED_SECTION(_type, _pinned) section("maps/" _type)
#undef BPF_TABLE_PINNED
#define BPF_TABLE_PINNED(_type, _key, _leaf, _name, _max_entries, _pinned, ...) \
    BPF_F_TABLE(_type, _key, _leaf, _name, _max_entries, 0 __VA_OPT__(+) __VA_ARGS__)
#endif

/* A number that the loader fills in, by its mark. The compiler knows nothing of it, so it cannot work it into another. */
#define kernel_constant(_marker) \
    ({ \
        __u64 _value; \
        asm("%0 = %1 ll" : "=r"(_value) : "i"(_marker)); \
        _value; \
    })

#endif

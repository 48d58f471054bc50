/* A flow in the making: what the programs that make it hand to one another. */
#ifndef SKEDGE_LAN_MAKING_H
#define SKEDGE_LAN_MAKING_H

/* How many flows towards one workload find a port within the tries: an eighth of the range stays unused. */
INLINE __u64 port_room(const struct nat_config *config)
{
    __u32 range = (__u32)config->high - config->low + 1;

    return range - range / 8;
}

/* Room for a flow in the making, one a processor: the stack is too small, and it is made by programs that call one
 * another, as the verifier has not the patience for all ways through them together. */
struct making {
    struct nat_flow flow; /* forward; flow.from and flow.to are chosen by the caller */
    struct nat_flow reply;
    struct nat_key answer; /* reply's key */
    struct nat_key ended;
    struct nat_key key; /* flow's key */
    struct affinity_key client; /* as aim() left it, for remember_at() */
    __u32 keeps;                /* the listener has affinity */
    __u32 service;
    __u32 kind;
    __u32 kept; /* the client's address stays, and its port too where that is free */
};
BPF_TABLE_PINNED("percpu_array", __u32, struct making, nat_making_v1, 1, PIN_DIR "/nat_making_v1");

INLINE struct making *made_before(void)
{
    __u32 zero = 0;

    return nat_making_v1.lookup(&zero);
}

INLINE struct making *make_room(void)
{
    struct making *making = made_before();

    if (making)
        __builtin_memset(making, 0, sizeof(*making));
    return making;
}

#endif
